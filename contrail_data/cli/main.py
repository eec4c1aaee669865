"""The `contrail-data` command: assembles the groups of commands."""

from __future__ import annotations

import typer

from contrail_data.cli import build, catalog, labels, look, share, splits
from contrail_data.cli.common import run

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Raw GOES bands to ash-RGB zarr stores that a team shares.",
)
for command in (
    build.synth,
    build.synth_scans,
    build.build_ash,
    build.append,
    build.subset,
    build.merge,
    look.diff,
    look.stats,
    look.inspect,
    look.preview,
    look.report,
    share.verify,
    share.pull,
    share.push,
    labels.pseudo_label,
    labels.propagate,
    labels.compare_labels,
    splits.splits,
    splits.audit,
):
    app.command()(command)
app.add_typer(catalog.app, name="catalog")


def main() -> None:
    """Run the command line."""
    run(app)
