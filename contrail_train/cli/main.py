"""The `contrail-train` command: assembles the groups of commands."""

import logging

import typer

from contrail_data.cli.common import add_command, run_app
from contrail_train.cli import predict, runs, score, sweep, train

GROUPS = {
    "Train": (train.run, train.pipeline, train.rounds, train.soup, sweep.sweep),
    "Evaluate": (score.evaluate, score.compare, score.compare_masks),
    "Predict": (predict.predict, predict.predict_scans, score.submit, predict.export),
}

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train contrail detectors on contrail-data stores, evaluate them, and predict.",
)
presets = typer.Typer(no_args_is_help=True, help="Named runs and pipelines.")
app.add_typer(presets, name="presets", rich_help_panel="Train")
for name, listing in (("ls", train.list_presets), ("pipelines", train.list_pipelines), ("show", train.show_preset)):
    add_command(presets, listing, name=name)
run_directories = typer.Typer(no_args_is_help=True, help="Runs in a folder: state, settings and scores.")
app.add_typer(run_directories, name="runs", rich_help_panel="Evaluate")
for name, command in (("ls", runs.list_runs), ("show", runs.show_run)):
    add_command(run_directories, command, name=name)
for panel, commands in GROUPS.items():
    for command in commands:
        add_command(app, command, panel=panel)


def main() -> None:
    """Run `contrail-train`."""
    log = logging.getLogger("contrail_train")
    log.setLevel(logging.INFO)
    log.handlers = [logging.StreamHandler()]  # to stderr
    run_app(app)
