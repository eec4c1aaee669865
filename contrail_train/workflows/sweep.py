"""A search for better settings: trials are runs, chosen by optuna and recorded in an SQLite file of the sweep.

Several processes may share a sweep's folder. A trial belongs to the process that holds its lock; one whose process has
ended is taken over by the next one and resumes from its checkpoint.
"""

import contextlib
import fcntl
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from contrail_data.errors import ContrailError
from contrail_data.settings.strict import plain
from contrail_data.storage.files import write_atomically, write_csv
from contrail_train.config.sweep import Range, SweepConfig, trial_config
from contrail_train.evaluation.score import EpochScores
from contrail_train.runs.distributed import ALONE
from contrail_train.training.fit import fit
from contrail_train.workflows.sweep_folder import LOCK, TRIALS, begin_sweep, locked

if TYPE_CHECKING:  # optuna is the extra `sweep`
    import optuna

STUDY = "study.db"
TABLE, PICTURE = "trials.csv", "sweep.png"
"""Files in the folder of a sweep."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A trial of a sweep."""

    number: int
    state: str
    """complete, running, pruned or fail."""
    dice: float | None
    """Dice of the held-out records; None unless it is complete."""
    chosen: dict[str, Any]
    """Values of the searched settings by dotted key."""


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """The trials of a sweep, and what they show."""

    trials: list[Trial]
    """The best ones first, those without a score last."""
    importance: dict[str, float]
    """Share of each setting in the spread of Dice, the largest first; empty with fewer than four complete trials."""


class _Pruned(Exception):
    """A trial is not worth its remaining epochs."""


def run_sweep(config: SweepConfig, out: Path, device: str = "auto") -> SweepResult:
    """Run the trials of a sweep that no other process has begun, resuming those that were interrupted.

    Args:
        config: The sweep.
        out: Its folder.
        device: Device to train on.

    Returns:
        All trials so far.
    """
    begin_sweep(config, out)
    study = _open_study(config, out)
    while (claimed := _claim(study, config, out)) is not None:
        number, lock = claimed
        with lock:
            _run_trial(study, config, out, number, device)
        write_result(result_of(study), out)
    return result_of(study)


def _open_study(config: SweepConfig, out: Path) -> "optuna.Study":
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
    if config.prune is not None:
        pruner = optuna.pruners.MedianPruner(config.prune.trials, n_warmup_steps=config.prune.epochs)
    with locked(out / LOCK):  # creates the tables
        storage = optuna.storages.RDBStorage(
            f"sqlite:///{out / STUDY}", engine_kwargs={"connect_args": {"timeout": 60}}
        )
        return optuna.create_study(
            storage=storage, study_name="sweep", direction="maximize", pruner=pruner, load_if_exists=True
        )


def _claim(study: "optuna.Study", config: SweepConfig, out: Path) -> tuple[int, IO[str]] | None:
    """Take over an abandoned trial or begin one, and lock it until the file is closed; None if there is none left."""
    import optuna

    with locked(out / LOCK):
        for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            if (lock := _try_lock(out / TRIALS / f"{trial.number:04}.lock")) is not None:
                return trial.number, lock
        count = len(study.get_trials(deepcopy=False))
        if count >= config.trials:
            return None
        # each trial has a seed of its own, so that processes do not draw the same values
        study.sampler = optuna.samplers.TPESampler(seed=config.seed + count, constant_liar=True)
        number = study.ask({key: _distribution(values) for key, values in config.search.items()}).number
        lock = _try_lock(out / TRIALS / f"{number:04}.lock")
        assert lock is not None  # only a process that has the lock of the sweep takes those of trials
        return number, lock


def _distribution(values: Range | list[Any]) -> "optuna.distributions.BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(values, list):
        return CategoricalDistribution([json.dumps(value) for value in values])  # which takes no lists as they are
    if values.is_whole:
        return IntDistribution(int(values.low), int(values.high), log=values.log, step=int(values.step or 1))
    return FloatDistribution(values.low, values.high, log=values.log, step=values.step)


def _run_trial(study: "optuna.Study", config: SweepConfig, out: Path, number: int, device: str) -> None:
    """Train the run of a trial, or resume it, and record how it ended."""
    import optuna

    begun = study.get_trials(deepcopy=False)[number]
    trial, reported = optuna.Trial(study, begun._trial_id), set(begun.intermediate_values)
    folder, chosen = out / TRIALS / f"{number:04}", _decoded(begun.params)

    def report(epoch: int, scores: EpochScores) -> None:
        if scores.dice is not None and epoch not in reported:
            trial.report(scores.dice, epoch)
        if trial.should_prune():
            raise _Pruned

    ALONE.say(f"---- trial {number}: {', '.join(f'{key}={plain(value)}' for key, value in chosen.items())}")
    try:
        run = trial_config(config, chosen).model_copy(update={"device": device})
        calibration = fit(run, folder, on_epoch=report if config.prune is not None else None)
        scores = None if calibration is None else calibration["holdout"]
        if scores is None:
            raise ContrailError(f"{folder}: no held-out record has a contrail, so the trial has no score")
        study.tell(number, scores["dice"])
    except _Pruned:
        ALONE.say(f"trial {number}: ended early, as its Dice is below the median")
        study.tell(number, state=optuna.trial.TrialState.PRUNED)
    except ContrailError as error:
        ALONE.say(f"trial {number}: set aside: {error}")
        study.tell(number, state=optuna.trial.TrialState.FAIL)


def _decoded(values: dict[str, Any]) -> dict[str, Any]:
    """Values of settings, of which those chosen from a list are JSON, see `_distribution`."""
    return {key: json.loads(value) if isinstance(value, str) else value for key, value in values.items()}


def result_of(study: "optuna.Study") -> SweepResult:
    """Summarise the trials of a study.

    Args:
        study: The study of a sweep.

    Returns:
        The trials and what mattered in them.
    """
    import optuna

    trials = []
    for one in study.get_trials(deepcopy=False):
        dice = one.value if one.state == optuna.trial.TrialState.COMPLETE else None
        trials.append(Trial(number=one.number, state=one.state.name.lower(), dice=dice, chosen=_decoded(one.params)))
    importance: dict[str, float] = {}
    if len({trial.dice for trial in trials if trial.dice is not None}) >= 4:
        with contextlib.suppress(ValueError, RuntimeError):  # where a setting never changed
            importance = optuna.importance.get_param_importances(study)
    trials.sort(key=lambda trial: (trial.dice is None, -(trial.dice or 0), trial.number))
    return SweepResult(trials=trials, importance=importance)


def write_result(result: SweepResult, out: Path) -> None:
    """Write a table of the trials, and a picture of their scores and of the importance of the settings.

    Args:
        result: The trials.
        out: Folder of the sweep.
    """
    keys = list(dict.fromkeys(key for trial in result.trials for key in trial.chosen))
    rows: list[list[object]] = []
    for trial in result.trials:
        dice = "" if trial.dice is None else repr(trial.dice)
        values = [plain(trial.chosen[key]) if key in trial.chosen else "" for key in keys]
        rows.append([trial.number, trial.state, dice, *values])
    write_csv(out / TABLE, ["trial", "state", "dice", *keys], rows)
    scored = sorted((trial.number, trial.dice) for trial in result.trials if trial.dice is not None)
    if scored:
        _draw(scored, result.importance).savefig(png := io.BytesIO(), format="png", dpi=150)
        write_atomically(out / PICTURE, [png.getvalue()])


def _draw(scored: list[tuple[int, float]], importance: dict[str, float]) -> Figure:
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    numbers, dices = zip(*scored, strict=True)
    best = [max(dices[: i + 1]) for i in range(len(dices))]
    left.plot(numbers, dices, "o", color="#8fa3b8", label="a trial")
    left.step(numbers, best, where="post", color="#0072b2", label="best so far")
    left.set(xlabel="trial", ylabel="Dice of held-out records", title="Trials")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.legend(frameon=False)
    if importance:
        names = list(importance)[::-1]
        right.barh(names, [importance[name] for name in names], color="#0072b2")
        right.set(xlabel="share of the spread of Dice", title="Importance", xlim=(0, 1))
    else:
        right.text(0.5, 0.5, "importance: from four complete trials", ha="center", va="center")
        right.set_axis_off()
    return figure


def _try_lock(path: Path) -> IO[str] | None:
    """The open file if no process holds its lock, which is released when it is closed."""
    file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file
