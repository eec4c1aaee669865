"""The `contrail-data` command: assembles the groups of commands."""

from contrail_data.cli import build, cache, catalog, composites, derive, labels, look, recipes, share, splits, synth
from contrail_data.cli.common import add_command, new_app, run_app
from contrail_data.cli.examples import EXAMPLES

GROUPS = {
    "Make": (
        *(build.build_ash, recipes.build, derive.append, derive.subset, derive.merge),
        *(synth.synth, synth.synth_scans),
    ),
    "Look": (look.inspect, look.stats, look.report, look.preview, recipes.recipe),
    "Check": (share.verify, look.diff, splits.audit, splits.splits),
    "Label": (labels.pseudo_label, labels.propagate, labels.compare_labels),
    "Share": (share.pull, share.push),
}

app = new_app("contrail-data", "Turn raw satellite bands into stores of composites (zarr) that a team shares.")
for panel, commands in GROUPS.items():
    for command in commands:
        name = command.__name__.replace("_", "-")
        add_command(app, command, panel=panel, examples=EXAMPLES.get(name, ()))
app.add_typer(composites.app, name="composites", rich_help_panel="Look")
app.add_typer(cache.app, name="cache", rich_help_panel="Share")
app.add_typer(catalog.app, name="catalog", rich_help_panel="Share")


def main() -> None:
    """Run `contrail-data`."""
    run_app(app)
