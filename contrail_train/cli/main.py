"""The `contrail-train` command: assembles the groups of commands."""

import logging

from contrail_data.cli.common import add_command, new_app, new_group, run_app
from contrail_data.messages import MessageHandler
from contrail_train.cli import predict, publish, runs, score, sweep, train
from contrail_train.cli.examples import EXAMPLES

GROUPS = {
    "Train": (train.run, train.pipeline, train.rounds, train.soup, sweep.sweep),
    "Evaluate": (score.evaluate, score.compare, score.compare_masks),
    "Predict": (predict.predict, predict.predict_scans, score.submit, predict.export),
    "Share": (publish.publish,),
}

app = new_app("contrail-train", "Train contrail detectors on contrail-data stores, evaluate them, and predict.")
presets = new_group("Named runs and pipelines.")
app.add_typer(presets, name="presets", rich_help_panel="Train")
for name, listing in (("ls", train.list_presets), ("pipelines", train.list_pipelines), ("show", train.show_preset)):
    add_command(presets, listing, name=name, examples=EXAMPLES.get(f"presets {name}", ()))
run_directories = new_group("Runs in a folder: state, settings and scores.")
app.add_typer(run_directories, name="runs", rich_help_panel="Evaluate")
for name, inspection in (("ls", runs.list_runs), ("show", runs.show_run)):
    add_command(run_directories, inspection, name=name, examples=EXAMPLES.get(f"runs {name}", ()))
for panel, commands in GROUPS.items():
    for command in commands:
        name = command.__name__.replace("_", "-")
        add_command(app, command, panel=panel, examples=EXAMPLES.get(name, ()))


def main() -> None:
    """Run `contrail-train`."""
    log = logging.getLogger("contrail_train")
    log.setLevel(logging.INFO)
    log.handlers = [MessageHandler()]
    run_app(app)
