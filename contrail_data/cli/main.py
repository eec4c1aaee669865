"""The `contrail-data` command: assembles the groups of commands."""

import typer

from contrail_data.cli import build, catalog, composites, labels, look, recipes, share, splits, synth
from contrail_data.cli.common import add_command, run_app

GROUPS = {
    "Build": (build.build_ash, recipes.build, recipes.recipe, build.append, build.subset, build.merge),
    "Look": (look.inspect, look.stats, look.report, look.preview, look.diff),
    "Labels": (labels.pseudo_label, labels.propagate, labels.compare_labels),
    "Split": (splits.audit, splits.splits),
    "Share": (share.verify, share.pull, share.push),
    "Try out": (synth.synth, synth.synth_scans),
}

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Turn raw satellite bands into stores of composites (zarr) that a team shares.",
)
for panel, commands in GROUPS.items():
    for command in commands:
        add_command(app, command, panel=panel)
app.add_typer(composites.app, name="composites", rich_help_panel="Look")
app.add_typer(catalog.app, name="catalog", rich_help_panel="Share")


def main() -> None:
    """Run `contrail-data`."""
    run_app(app)
