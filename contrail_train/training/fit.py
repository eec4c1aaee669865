"""The training loop, read top to bottom.

Everything random is a function of (seed, step): the order of samples, augmentation, dropout. So a run that was killed
resumes from its last checkpoint and ends with the weights it would have had anyway, bit for bit on the CPU. SIGTERM and
Ctrl-C end a run with a checkpoint.

There is one process per device. Under `torchrun` each takes its share of every step's batch; losses are those of the
whole batch.
"""

import contextlib
import itertools
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from contrail_data.errors import ContrailError
from contrail_data.messages import Kind
from contrail_data.progress import duration, progress
from contrail_train.config.schema import RunConfig
from contrail_train.data.loader import Batch, load, share_of, split_steps
from contrail_train.data.unlabelled import unlabelled_rows
from contrail_train.evaluation.calibrate import GRID_WHEN, HeldOut, calibrate
from contrail_train.evaluation.held_out import load_without_symmetries
from contrail_train.evaluation.metrics import best_threshold
from contrail_train.evaluation.score import EpochScores, Scores, epoch_scores, score
from contrail_train.inference.detector import on_label_grid
from contrail_train.models.raft import read_raft
from contrail_train.runs.begun import locked_directory
from contrail_train.runs.calibration import Calibration, Grid, find_calibration, finish
from contrail_train.runs.checkpoint import TrainingState, file_digest, load_weights, save_mean, save_tensors
from contrail_train.runs.directory import begin_run
from contrail_train.runs.distributed import gather, is_first, leave, wait
from contrail_train.runs.names import CONFIG, FLOW_WEIGHTS, WEIGHTS
from contrail_train.training.borrowed import with_borrowed_thresholds
from contrail_train.training.epoch import EpochPace, epoch_line
from contrail_train.training.loggers import RunLog, check_loggers, follow
from contrail_train.training.precision import check_scale
from contrail_train.training.setup import Setup
from contrail_train.training.step import train_step
from contrail_train.training.stopping import stop_deferred
from contrail_train.training.teacher import TEACHER

OnEpoch = Callable[[int, EpochScores], None]
"""Receives the number of an epoch and its scores."""
CANDIDATES = "candidates"
LOG_EVERY = 10  # steps; the losses of the steps between stay on the device until then


def fit(
    config: RunConfig,
    out: Path,
    checkpoint_minutes: float = 5.0,
    *,
    stop_after: int | None = None,
    on_epoch: OnEpoch | None = None,
) -> Calibration | None:
    """Train a run into its directory, or resume it there.

    Args:
        config: Settings of the run.
        out: Run directory.
        checkpoint_minutes: Time between checkpoints within an epoch; there is one at the end of each epoch too.
        stop_after: Stop after so many steps as if the process had been killed.
        on_epoch: Called with the number of each epoch, from 1, and its scores; what it raises ends the run.

    Returns:
        The calibration of the finished run, or None if `stop_after` stopped it earlier.

    Raises:
        ContrailError: If the data does not fit, `out` holds something else, or a loss is not finite.
    """
    check_loggers(config.loggers)
    with locked_directory(out, CONFIG, "run directory") if is_first() else contextlib.nullcontext():
        setup = Setup(config)
        ranks = setup.ranks
        if ranks.first:
            begin_run(
                out,
                config,
                setup.digests,
                setup.device,
                places=setup.data.places,
                checked=setup.data.checked,
                processes=ranks.world,
            )
            if config.data.flow.method == "raft":  # a run directory has all that its predictions need
                save_tensors(out / FLOW_WEIGHTS, read_raft(config.data.flow.weights), {})
        wait(ranks)
        if (calibration := find_calibration(out)) is not None:
            ranks.say(f"{out}: already finished")
            return calibration
        setup.ask_teacher(out / TEACHER)
        (out / CANDIDATES).mkdir(exist_ok=True)
        state = TrainingState(config.micro_batch or config.batch_size)
        if state.load(out, setup.trained, partial(ranks.say, kind=Kind.WARNING)):
            ranks.say(f"resumed at step {state.step}")
        last_step = min(setup.total_steps, stop_after or setup.total_steps)
        with follow(out, config, state.step, ranks) as log:
            seconds = 60 * checkpoint_minutes
            train(setup, state, out, log, last_step=last_step, checkpoint_seconds=seconds, on_epoch=on_epoch)
            if last_step < setup.total_steps and not _is_over(setup, state):
                return None
            ranks.say(f"{out}: trained in {duration(state.seconds)}")
            calibration = _calibrate(setup, state, out)
            log.finish(calibration["holdout"] or {})
        if ranks.first:
            finish(out, calibration)
            shutil.rmtree(out / CANDIDATES)
            shutil.rmtree(out / TEACHER, ignore_errors=True)
    leave(ranks)
    return calibration


def train(
    setup: Setup,
    state: TrainingState,
    out: Path,
    log: RunLog,
    *,
    last_step: int,
    checkpoint_seconds: float,
    on_epoch: OnEpoch | None = None,
) -> None:
    """Take steps, and score each epoch.

    Args:
        setup: The run.
        state: Where it stands; changed with each step.
        out: Run directory.
        log: Receives losses and scores.
        last_step: Step to stop after.
        checkpoint_seconds: Time between checkpoints within an epoch; there is one at the end of each epoch too.
        on_epoch: See `fit`.
    """
    silent = contextlib.nullcontext(lambda _, __: None)
    with progress("train", last_step, state.step, unit="steps") if setup.ranks.first else silent as advance:
        while (state.step < last_step and not _is_over(setup, state)) or state.unscored:
            pace = None
            if not state.unscored:
                pace = _train_epoch(
                    setup, state, out, log, advance, last_step=last_step, checkpoint_seconds=checkpoint_seconds
                )
                if state.step == last_step < setup.total_steps:
                    return
            scores = _end_epoch(setup, state, out, log, pace)
            if on_epoch is not None:
                on_epoch(state.step // setup.steps_per_epoch, scores)
    if _is_over(setup, state):
        setup.ranks.say(f"{out}: ended by patience={setup.config.patience}, as the hold-out Dice has stopped rising")


def _is_over(setup: Setup, state: TrainingState) -> bool:
    """Whether the hold-out Dice has not risen for as many epochs as `patience` allows."""
    patience = setup.config.patience
    return patience is not None and not state.unscored and state.step - state.gained >= patience * setup.steps_per_epoch


def _train_epoch(
    setup: Setup,
    state: TrainingState,
    out: Path,
    log: RunLog,
    advance: Callable[[int, str], None],
    *,
    last_step: int,
    checkpoint_seconds: float,
) -> EpochPace:
    """Take the remaining steps of an epoch, up to `last_step` or a signal to stop."""
    config, ranks = setup.config, setup.ranks
    losses: list[Tensor] = []
    start = log_start = last_checkpoint = time.monotonic()
    first_step, total_loss = state.step, 0.0
    note, epoch = "", state.step // setup.steps_per_epoch
    setup.begin_epoch(epoch)
    with stop_deferred() as stop:
        for rows, batch, unlabelled in _batches(setup, state.step):
            loss, norm = train_step(setup, state, batch, rows, unlabelled)
            losses.append(loss)
            state.unscored = state.step % setup.steps_per_epoch == 0
            is_due = time.monotonic() - last_checkpoint > checkpoint_seconds and not state.unscored
            is_logged = state.step % LOG_EVERY == 0 or state.unscored
            # processes agree on it where they wait for one another anyway, so that all stop after the same step
            stops = (is_logged or ranks.world == 1) and any(gather(stop.is_set(), ranks))
            if is_logged or is_due or stops or state.step <= 3:
                mean_loss = _mean_loss(setup, state, losses, out)  # the one wait for the device in LOG_EVERY steps
                rate = len(losses) * min(config.batch_size, len(setup.data.epochs)) / (time.monotonic() - log_start)
                lr = max(group["lr"] for group in setup.optimiser.param_groups)
                scale = check_scale(setup.scaler, state.step)
                log.write(
                    state.step, loss=mean_loss, lr=lr, grad_norm=float(norm), samples_per_s=rate, loss_scale=scale
                )
                note = f"epoch {epoch + 1}/{config.epochs} loss {mean_loss:.4g}"
                if state.best and len(setup.data.holdout):
                    note += f" best hold-out Dice {state.best[0][0]:.3f}"
                total_loss += mean_loss * len(losses)
                losses, log_start = [], time.monotonic()
            advance(1, note)
            if is_due or stops:
                _save(setup, state, out)
                last_checkpoint = time.monotonic()
            if stops:
                stop.set()
                ranks.say(f"{out}: stopped after step {state.step}, of which there is a checkpoint")
            if stops or state.step == last_step:
                break
    steps = state.step - first_step
    return EpochPace(loss=total_loss / steps, steps_per_s=steps / (time.monotonic() - start))


def _save(setup: Setup, state: TrainingState, out: Path) -> None:
    if setup.ranks.first:
        state.save(out, setup.trained)


def _rows_of_epoch(setup: Setup, epoch: int) -> list[npt.NDArray[np.int64]]:
    """Rows of each step, over all processes."""
    return split_steps(setup.data.epochs.rows(setup.config.seed, epoch), setup.config.batch_size)


def _batches(setup: Setup, step: int) -> Iterator[tuple[npt.NDArray[np.int64], Batch, Batch | None]]:
    """For each step from `step` to the end of its epoch, the rows of all processes and this one's batches.

    The second one has as many unlabelled frames; None if there are none.
    """
    ranks, data = setup.ranks, setup.config.data
    epoch, first = divmod(step, setup.steps_per_epoch)
    steps = _rows_of_epoch(setup, epoch)[first:]
    together = setup.config.augment.together
    shares = [share_of(len(rows), ranks.rank, ranks.world, together)[0] for rows in steps]
    read = partial(load, device=setup.device, threads=data.threads, prefetch=data.prefetch)
    own = [rows[share] for rows, share in zip(steps, shares, strict=True)]
    batches = read(setup.data.train, own, ahead=setup.ahead)
    without: Iterable[Batch | None] = itertools.repeat(None, len(steps))
    if (unlabelled := setup.data.unlabelled) is not None:
        order = unlabelled_rows(len(unlabelled), len(setup.data.epochs), setup.config.seed, epoch)
        others = split_steps(order, setup.config.batch_size)[first:]
        own = [rows[share] for rows, share in zip(others, shares, strict=True)]
        without = read(unlabelled, own, ahead=setup.ahead_unlabelled)
    yield from zip(steps, batches, without, strict=True)


def _mean_loss(setup: Setup, state: TrainingState, losses: list[Tensor], out: Path) -> float:
    """The mean of the latest losses; if one is not finite, its batch is saved and training ends."""
    values = torch.stack(losses).cpu()
    if values.isfinite().all():
        return float(values.mean())
    bad = state.step - len(losses) + int((~values.isfinite()).nonzero()[0])
    path = out / f"nonfinite-step-{bad}.safetensors"
    if setup.ranks.first:
        epoch, within = divmod(bad, setup.steps_per_epoch)
        rows = _rows_of_epoch(setup, epoch)[within]
        batch = next(load(setup.data.train, [rows], torch.device("cpu"), 1, 1))
        tensors = {name: tensor for name, tensor in vars(batch).items() if tensor is not None}
        record_ids = setup.data.train.record_id[rows].tolist()
        save_tensors(path, tensors, {"step": bad, "record_ids": record_ids, "seed": setup.config.seed})
    wait(setup.ranks)
    raise ContrailError(
        f"{out}: the loss of step {bad} is {values[~values.isfinite()][0]}; lower optim.lr or inspect its batch, saved "
        f"as {path.name}, and train again with another --out"
    )


def _end_epoch(setup: Setup, state: TrainingState, out: Path, log: RunLog, pace: EpochPace | None) -> EpochScores:
    """Score the averaged weights on the hold-out, keep them if they are among the best, and save a checkpoint."""
    model = setup.average.module.eval()
    detect, holdout = on_label_grid(setup.detector, setup.label_shift), setup.data.holdout
    try:
        counts = score(detect, holdout, setup.evaluation, 0.5)
        scores = epoch_scores(counts)
        _show(setup, state, log, counts)
    except (KeyboardInterrupt, SystemExit):
        _save(setup, state, out)  # scoring is repeated when the run is resumed
        raise
    with stop_deferred():
        values = {f"holdout_{name}": value for name, value in scores._asdict().items()}
        epoch = state.step // setup.steps_per_epoch
        log.write(state.step, epoch=epoch, epoch_loss=None if pace is None else pace.loss, **values)
        if scores.dice is not None and (not state.best or scores.dice > state.best[0][0]):
            state.gained = state.step
        before, dice = _candidates(out, state).values(), scores.dice
        # without held-out positives all are equal, and the last ones are kept
        state.best = sorted([*state.best, (dice or 0.0, state.step)], reverse=True)[: setup.config.optim.average_best]
        state.unscored = False
        if setup.ranks.first:
            candidates = _candidates(out, state)
            if state.step in candidates:
                save_tensors(candidates[state.step], model.state_dict(), {"step": state.step, "holdout_dice": dice})
            _save(setup, state, out)
            # those of the checkpoint before this one are kept, as the run may have to fall back to it
            for old in {*(out / CANDIDATES).iterdir()} - {*before, *candidates.values()}:
                old.unlink()
        setup.ranks.say(epoch_line(setup, state, scores, pace))
    return scores


def _show(setup: Setup, state: TrainingState, log: RunLog, counts: Scores) -> None:
    """Let loggers show the curve of the held-out records, and pictures of some."""
    if not log.shows:
        return
    histogram, pictures = counts.histogram.sum(0), {}
    if setup.config.model.decoder is not None and setup.config.loggers.pictures:
        from contrail_train.training.pictures import (
            held_out_pictures,
        )  # matplotlib delays the first step by half a second

        threshold = best_threshold(histogram)[0] if histogram[1].any() else 0.5
        pictures = held_out_pictures(setup, setup.config.loggers.pictures, threshold)
    log.show(state.step, histogram, pictures)


def _candidates(out: Path, state: TrainingState) -> dict[int, Path]:
    """The files of the best epochs' weights, by step."""
    return {step: out / CANDIDATES / f"step-{step:08d}.safetensors" for _, step in state.best}


def _calibrate(setup: Setup, state: TrainingState, out: Path) -> Calibration:
    """Write the mean of the best epochs' weights; fit threshold and gate on the hold-out with them."""
    data, config, ranks = setup.data, setup.config, setup.ranks
    candidates = list(_candidates(out, state).values())
    if ranks.first and all(path.exists() for path in candidates):  # else the mean exists and its calibration was lost
        dices = [dice if len(data.holdout) else None for dice, _ in state.best]
        save_mean(out / WEIGHTS, candidates, {"steps": [step for _, step in state.best], "holdout_dice": dices})
    wait(ranks)
    load_weights(out / WEIGHTS, setup.average.module)
    setup.average.module.eval()
    grid_when = GRID_WHEN[config.calibration.label_grid]
    held_out = HeldOut(setup.detector, data.holdout, setup.label_shift)
    calibrated = calibrate([held_out], setup.evaluation, grid_when=grid_when)
    unlabelled = [] if data.unlabelled is None else data.unlabelled.record_id.tolist()
    seen = {*unlabelled, *data.train.record_id.tolist(), *data.holdout.record_id.tolist(), *data.labellers_saw}
    calibration: Calibration = {
        "threshold": calibrated.choice.threshold,
        "gate": calibrated.choice.gate,
        "top_k": config.top_k,
        **calibrated.holdout,
        "seen_records": sorted(seen.union(setup.start.seen_records if setup.start else ())),
        "statistics": data.statistics,
        "composite": data.composite,
        "label_shift": list(data.label_shift),
        "off": list(setup.detector.mask_shift),
        "label_grid": calibrated.choice.label_grid,
        "grid": Grid(native=data.native, pixel=data.pixel, size=data.size, dtype=data.dtype),
        "stores": data.digests,
        "weights": file_digest(out / WEIGHTS),
    }
    if names := config.calibration.from_:
        ranks.say(f"fitting the threshold on the held-out records of {', '.join(names)}")
        lenders = [load_without_symmetries(name, str(setup.device)) for name in names]
        return with_borrowed_thresholds(calibration, lenders, setup.evaluation, grid_when)
    return calibration
