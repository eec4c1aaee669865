"""The command `sweep`."""

from pathlib import Path
from typing import Annotated

import typer

from contrail_data.cli import options
from contrail_data.cli.common import print_fields, print_table
from contrail_data.errors import ExitCode
from contrail_train.cli.common import path_argument


def sweep(
    space: Annotated[Path, path_argument(help="A YAML file that names what to search.", metavar="SPACE.yaml")],
    out: Annotated[Path, options.local_output("-o", "--out", help="Folder to write; the same command resumes in it.")],
    device: options.Device = "auto",
) -> None:
    """Search for better settings: train runs with settings that optuna chooses by the scores of earlier ones.

    Each trial is a run, in OUT/trials. The command can be interrupted and repeated, and several processes may work on
    one sweep at once: run it again with the same arguments, on another --device. Trials with settings that contradict
    each other are set aside, and the exit code is 3. Needs the extra 'sweep'.

    The best trial's Dice is too high, as it was chosen by the held-out records that it is scored on: evaluate it on
    others.
    """
    from contrail_train.config.sweep import read_sweep
    from contrail_train.workflows.sweep_folder import TRIALS, begin_sweep, check_trials

    config = read_sweep(space)
    check_trials(config)
    begin_sweep(config, out)

    from contrail_train.workflows.sweep import PICTURE, TABLE, run_sweep, write_result

    result = run_sweep(config, out, device)
    write_result(result, out)
    keys = list(dict.fromkeys(key for trial in result.trials for key in trial.chosen))
    rows = []
    for trial in result.trials:
        dice = "" if trial.dice is None else f"{trial.dice:.4f}"
        rows.append([str(trial.number), trial.state, dice, *(_value(trial.chosen.get(key)) for key in keys)])
    print_table(f"{out}: trials, the best first", ["trial", "state", "Dice", *keys], rows, text_columns=(1,))
    if result.importance:
        print("Share of each setting in the spread of Dice")
        print_fields({f"  {key}": f"{share:.2f}" for key, share in result.importance.items()})
    best = result.trials[0]
    written = {"table": f"{out / TABLE}", "picture": f"{out / PICTURE}"}
    if best.dice is not None:
        written["next"] = f"contrail-train evaluate {out / TRIALS / f'{best.number:04}'} STORE"
    print_fields(written)
    if any(trial.state == "fail" for trial in result.trials):
        raise typer.Exit(ExitCode.SET_ASIDE)


def _value(value: object) -> str:
    from contrail_data.settings.strict import plain

    return f"{value:.4g}" if isinstance(value, float) else plain(value)
