"""Commands on run directories: `runs ls` and `runs show`."""

import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from contrail_data.cli import options
from contrail_data.cli.common import print_fields, print_note, print_set_aside, print_table
from contrail_data.cli.labels import WHERE_MODELS_LIE
from contrail_data.errors import ExitCode
from contrail_train.cli.common import path_argument


def list_runs(
    folder: Annotated[Path, path_argument(help="A folder with runs, at any depth.", metavar="DIR")],
    as_json: options.AsJson = False,
) -> None:
    """List the runs in a folder with their state, scores and the settings in which they differ, the best first.

    The table leaves out settings that are those of the preset; --json has them.

    Dice is that of the held-out records: of the finished run, or of its best epoch so far (~). Runs that held out other
    records cannot be compared by it; `compare` scores two of them on one store.
    """
    from contrail_data.settings.strict import plain
    from contrail_train.runs.listing import changed_settings, find_runs, settings_that_differ

    runs, problems = find_runs(folder)
    runs.sort(key=lambda run: -1.0 if run.dice is None else run.dice, reverse=True)
    differing = settings_that_differ(runs)
    if as_json:
        documents = [_document(run) | {"settings": own} for run, own in zip(runs, differing, strict=True)]
        print(json.dumps(documents, indent=1))
    elif runs:
        rows = []
        for run, own in zip(runs, differing, strict=True):
            mark = "" if run.scores or run.dice is None else "~"
            scores = run.scores or {key.removeprefix("holdout_"): value for key, value in run.best.items()}
            shown = [_number(scores.get(key)) for key in ("dice", "precision", "recall")]
            changed = changed_settings(run)  # the rest follows from the preset, which the table shows
            settings = ", ".join(f"{key}={plain(value)}" for key, value in own.items() if key in changed)
            name = str(run.path.relative_to(folder)) if run.path != folder else "."
            epochs = f"{len(run.epochs)}/{run.config.epochs}" if _keeps_epochs(run) else str(run.config.epochs)
            rows.append([name, run.config.preset, run.state, epochs, mark + shown[0], *shown[1:], settings])
        header = ["run", "preset", "state", "epochs", "Dice", "precision", "recall", "differs in"]
        print_table("", header, rows, text_columns=(0, 1, 2, 7))
    else:
        print_note(f"{folder}: holds no run")
    print_set_aside(*problems)
    if problems:
        raise typer.Exit(ExitCode.SET_ASIDE)


def show_run(
    run: Annotated[
        str,
        typer.Argument(help=f"A run directory, finished or not, or a model folder: {WHERE_MODELS_LIE}", metavar="RUN"),
    ],
    as_json: options.AsJson = False,
) -> None:
    """Show a run: its state, what it was made with, the settings that differ from its preset, and its epochs."""
    from contrail_data.model_folders.manifest import CARD, MANIFEST
    from contrail_data.settings.strict import plain
    from contrail_train.runs.address import local_model
    from contrail_train.runs.listing import State, changed_settings, summarise

    path = local_model(run)
    summary = summarise(path)
    if as_json:
        print(json.dumps(_document(summary) | {"settings": summary.config.model_dump(mode="json")}, indent=1))
        return
    changed = [f"{key}={plain(value)}" for key, value in changed_settings(summary).items()]
    environment, command = summary.environment, summary.environment.get("command")
    dice, low, high = (summary.scores.get(key) for key in ("dice", "dice_low", "dice_high"))
    interval = "" if low is None or high is None else f" (95 %: {low:.4f} to {high:.4f})"
    fields = {
        "state": f"{summary.state}, {summary.config.epochs} epochs",
        "settings": f"{summary.config.preset}, {', '.join(changed)}" if changed else summary.config.preset,
        "made with": f"{environment.get('device')}, contrail-kit {environment.get('versions', {}).get('contrail-kit')}",
    }
    if _keeps_epochs(summary):
        fields["state"] = f"{summary.state}, {len(summary.epochs)} of {summary.config.epochs} epochs scored"
    if command is not None:
        fields["command"] = shlex.join(command) if isinstance(command, list) else str(command)
    if dice is not None:
        fields["hold-out Dice"] = f"{dice:.4f}{interval}"
    if (path / MANIFEST).is_file():
        fields["card"] = str(path / CARD)
    print(run)
    print_fields(fields)
    keys = ("epoch_loss", "holdout_loss", "holdout_dice", "holdout_precision", "holdout_recall", "holdout_auc_pr")
    rows = [
        [str(number), *(_number(epoch.get(key)) for key in keys), "best" if epoch is summary.best else ""]
        for number, epoch in enumerate(summary.epochs, 1)
    ]
    if rows:
        header = ["epoch", "loss", "hold-out loss", "Dice", "precision", "recall", "AUC-PR", ""]
        print_table("", header, rows, text_columns=(7,))
    if summary.state in (State.STOPPED, State.BEGUN):
        print_note("it resumes when its command is run again")


def _keeps_epochs(run: Any) -> bool:
    """Whether the scores of epochs lie beside it. Publishing leaves them out."""
    from contrail_train.runs.listing import State

    return bool(run.epochs) or run.state is not State.FINISHED


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _document(run: Any) -> dict[str, Any]:
    """A summary as plain data."""
    about = {"run": str(run.path), "preset": run.config.preset, "state": str(run.state), "dice": run.dice}
    return about | {"epochs": list(run.epochs), "scores": dict(run.scores), "stores": run.environment.get("stores", {})}
