"""The `contrail-train` command: assembles the groups of commands."""

from __future__ import annotations

import logging

import typer

from contrail_data.cli.common import run
from contrail_train.cli import predict, presets, score, train

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Contrail segmentation models, trained straight from contrail-data stores.",
)
app.add_typer(presets.app, name="presets")
for command in (
    train.run,
    train.pipeline,
    train.soup,
    train.rounds,
    score.evaluate,
    score.compare,
    predict.predict,
    score.submit,
    predict.export,
):
    app.command()(command)


def main() -> None:
    """Run the command line."""
    log = logging.getLogger("contrail_train")
    log.setLevel(logging.INFO)
    log.handlers = [logging.StreamHandler()]  # to stderr
    run(app)
