"""The training loop, read top to bottom.

Everything random is a function of (seed, step): the order of samples, augmentation, dropout. So a run that was
killed goes on from its last checkpoint to the very weights it would have had, bit for bit on CPU.

One process a device. Under `torchrun` each takes its share of every step's batch; losses are those of the whole batch.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from timm.utils.model_ema import ModelEmaV3
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from contrail_data.errors import ContrailError
from contrail_data.progress import progress
from contrail_data.storage.files import write_atomically
from contrail_train.config.advice import without_effect
from contrail_train.config.schema import PseudoConfig, RunConfig
from contrail_train.data import augment
from contrail_train.data.loader import Batch, epoch_order, load, share_of, step_rows, steps_per_epoch
from contrail_train.data.training_data import open_training_data
from contrail_train.evaluation.calibrate import calibrate, known_of_holdout
from contrail_train.evaluation.score import Reading, holdout_dice, parts_of, score
from contrail_train.inference.detector import normalise, onto_labels, single, view_of
from contrail_train.models.decoders import widths_used
from contrail_train.models.encoder import check_encoder
from contrail_train.models.segmenter import build
from contrail_train.runs.checkpoint import (
    file_digest,
    load_checkpoint,
    load_weights,
    save_batch,
    save_checkpoint,
    save_mean,
    save_weights,
)
from contrail_train.runs.device import choose_device
from contrail_train.runs.directory import CALIBRATION, WEIGHTS, Log, begin_run, finished, hold
from contrail_train.runs.distributed import Ranks, join, leave, sync_batch_norms, total, wait
from contrail_train.training.losses import total_loss
from contrail_train.training.optim import freeze, make_optimiser, set_learning_rate, train_mode
from contrail_train.training.start import start_from, weights_file

CANDIDATES = "candidates"
FEW_GROUPS = 10
LOG_EVERY = 10  # steps; the losses of the steps between stay on the device until then


def fit(
    config: RunConfig,
    out: Path,
    checkpoint_minutes: float = 5.0,
    command: Sequence[str] = (),
    stop_after: int | None = None,
) -> dict[str, Any]:
    """Train, or go on training, into the run directory `out`; returns its calibration.

    stop_after: end after so many steps, as a kill would, and return {}. Raises ContrailError for data that does not
    fit, an `out` that holds another run, or a loss that is not finite.
    """
    # ---- where -------------------------------------------------------------------------------------------------
    device = choose_device(config.device)
    ranks, device = join(device)

    def say(text: str) -> None:
        if ranks.first:
            print(text, file=sys.stderr, flush=True)

    bf16 = config.precision == "bf16" or (
        config.precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported()
    )
    check_encoder(config.model.encoder, config.model.pretrained)  # before minutes may go into stores
    if config.start is not None:
        weights_file(Path(config.start))
    say(f"device {device}, {'bf16 autocast' if bf16 else 'float32'}, {torch.get_num_threads()} CPU threads")

    # ---- data --------------------------------------------------------------------------------------------------
    data = open_training_data(config.data)
    label_shift = data.label_shift if config.augment.label_shift is None else config.augment.label_shift
    view = view_of(config, data.statistics, device)
    steps_an_epoch = steps_per_epoch(len(data.train), config.batch_size)
    total_steps = config.epochs * steps_an_epoch
    if data.without_neighbours:
        say(f"{data.without_neighbours} labelled frames left out: not all of frames {config.data.frames} around them")
    if data.leaking:
        say(f"{data.leaking} frames left out: their records leak into held-out ones")
    pseudo, groups = data.pseudo_labelled, len(set(data.holdout.group))
    say(
        f"{len(data.train)} frames to train on{f', {pseudo} of them pseudo-labelled' if pseudo else ''}; "
        f"{len(data.holdout)} held out in {groups} groups; batches of {min(config.batch_size, len(data.train))}: "
        f"{config.epochs} epochs x {steps_an_epoch} steps = {total_steps} steps"
    )
    if 0 < groups < FEW_GROUPS:
        say(f"warning: {groups} held-out groups (site, day) are too few to tell epochs or thresholds apart by")
    if not data.train.positive.any():
        say("warning: none of the frames to train on has a contrail: the model will learn that there are none")
    if config.batch_size > len(data.train):
        say(f"note: batch_size={config.batch_size} is more than there is: a step takes all {len(data.train)} frames")

    # ---- model, optimiser, average -----------------------------------------------------------------------------
    torch.manual_seed(config.seed)
    model = build(config.model, len(data.composite["channels"]), config.data.frames)
    started = start_from(Path(config.start), model) if config.start is not None else None
    if started is not None:
        for line in started.report:
            say(line)
        if leaked := set(started.trained_records) & set(data.holdout.record_id.tolist()):
            say(f"warning: {len(leaked)} held-out records were trained on in {config.start}: hold-out scores flatter")
    if ranks.world > 1:
        sync_batch_norms(model, device)
    model.to(device)
    if device.type == "cuda" or not has_thin_strided_pointwise(model):
        model.to(memory_format=torch.channels_last)  # half the time of a step on CPU
    freeze(model, config)
    average = ModelEmaV3(model, decay=config.optim.ema, use_warmup=True)
    optimiser = make_optimiser(model, config.optim)
    stepped: nn.Module = model
    if config.compile:
        stepped = torch.compile(model, dynamic=False)  # type: ignore[assignment]
    if ranks.world > 1:
        stepped = DistributedDataParallel(stepped, [device.index] if device.type == "cuda" else None)
    if not data.pseudo_labelled and config.data.pseudo != PseudoConfig():
        say("note: data.pseudo has no effect: data.train names no pseudo-labels")
    for line in without_effect(config, widths_used(config.model, model.encoder.strides)):
        say(f"note: {line}")
    parameters = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for group in optimiser.param_groups for p in group["params"])
    partly = "" if trained == parameters else f" ({trained / 1e6:.2f} M of them trained)"
    say(f"{describe(config)}, {parameters / 1e6:.2f} M parameters{partly}, label shift {tuple(label_shift)} px")
    if config.compile:
        say("compiling: the first step takes a minute or more")

    # ---- the run directory -------------------------------------------------------------------------------------
    if ranks.first:
        digests = data.digests | ({config.start: started.digest} if config.start and started else {})
        begin_run(out, config, digests, device, command, ranks.world)
        held = hold(out)  # noqa: F841 - until this process ends
        (out / CANDIDATES).mkdir(exist_ok=True)
    wait(ranks)
    if (calibration := finished(out)) is not None:
        say(f"{out}: finished already")
        return calibration

    # ---- resume ------------------------------------------------------------------------------------------------
    step, micro, best = 0, config.micro_batch or config.batch_size, list[tuple[float, int]]()
    if (facts := load_checkpoint(out / "checkpoints", model, average.module, optimiser)) is not None:
        step, micro, best = facts["step"], facts["micro_batch"], [(dice, at) for dice, at in facts["best"]]
        say(f"resumed at step {step}")
    log = Log(out, step, ranks.first)

    # what the network learns to tell lies on the image, but for as much of the labels' shift as it was not shown
    off = data.label_shift[0] - label_shift[0], data.label_shift[1] - label_shift[1]
    detector = single(average.module, view, config.model.head, top_k=config.top_k, off=off, symmetries="none")
    reading = Reading(device, config.batch_size, config.data.threads, None, ranks)
    parts = parts_of(data.holdout)

    def checkpoint() -> None:
        if ranks.first:
            kept = {"best": best, "micro_batch": micro}
            save_checkpoint(out / "checkpoints", step, model, average.module, optimiser, kept)

    def backward(batch: Batch, draw: augment.Draw, share: float) -> torch.Tensor:
        """Add `share` of a micro-batch's gradient to the parameters'; returns as much of its loss."""
        moved = augment.augment_batch(
            normalise(batch.image_btchw, view),
            batch.target_b1hw.float() / 255,
            batch.positive_b1,
            draw,
            config.augment,
            label_shift,
            view.size,
            None if batch.valid_b1hw is None else batch.valid_b1hw.float(),
        )
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            output = stepped(moved.image_btchw, moved.target_b1hw.shape[-2:])
        target = moved.target_b1hw, moved.positive_b1, batch.weight_b
        loss = share * total_loss(output, *target, config.loss, moved.valid_b1hw, total)
        loss.backward()
        return loss.detach()

    def gradients(batch: Batch, rows: npt.NDArray[np.int64]) -> torch.Tensor:
        """Leave the gradient of a whole step on the parameters; returns its loss, still on the device.

        `rows` are those of all processes, `batch` this one's share of them, which goes through the model `micro`
        samples at a time.
        """
        optimiser.zero_grad(set_to_none=True)
        own = share_of(len(rows), ranks.rank, ranks.world)
        batch.weight_b[len(range(ranks.rank, len(rows), ranks.world)) :] = 0  # repeated to make up the numbers
        height, width = batch.target_b1hw.shape[-2:]
        draw = augment.draw(config.augment, len(rows), height, width, config.seed, step)[own]
        weight, losses = data.train.weight[rows], []
        for start in range(0, len(own), micro):
            part, everywhere = slice(start, start + micro), slice(start * ranks.world, (start + micro) * ranks.world)
            share = float(weight[everywhere].sum() / max(weight.sum(), 1e-12))
            wait_for_more = isinstance(stepped, DistributedDataParallel) and start + micro < len(own)
            with stepped.no_sync() if wait_for_more else contextlib.nullcontext():  # type: ignore[operator]
                losses.append(backward(batch[part], draw[part], share))
        return torch.stack(losses).sum()

    def check_finite(losses: list[torch.Tensor]) -> float:
        """Their mean; waits for the device. Raises ContrailError, with the batch saved, where one is no number."""
        values = torch.stack(losses).cpu()
        if values.isfinite().all():
            return float(values.mean())
        bad = step - len(losses) + int((~values.isfinite()).nonzero()[0])
        path = out / f"nonfinite-step-{bad}.safetensors"
        if ranks.first:
            rows = rows_of(bad)
            batch = next(iter(load(data.train, [rows], torch.device("cpu"), 1, 1)))
            facts = {"step": bad, "record_ids": data.train.record_id[rows].tolist(), "seed": config.seed}
            save_batch(path, vars(batch), facts)
        wait(ranks)
        raise ContrailError(
            f"{out}: the loss of step {bad} is {values[~values.isfinite()][0]}: its batch is in {path.name}; lower "
            "optim.lr or look at the batch, and start anew"
        )

    def rows_of(at: int) -> npt.NDArray[np.int64]:
        epoch, within = divmod(at, steps_an_epoch)
        return step_rows(epoch_order(data.train.frequency, config.seed, epoch), within, config.batch_size)

    # ---- the loop ----------------------------------------------------------------------------------------------
    losses: list[torch.Tensor] = []
    log_start, last_checkpoint, note = time.monotonic(), time.monotonic(), ""
    last_step = min(total_steps, stop_after or total_steps)
    bar = progress("train", last_step, step, unit="steps") if ranks.first else contextlib.nullcontext(lambda *_: None)
    with bar as advance:
        while step < last_step:
            epoch, first = divmod(step, steps_an_epoch)
            steps = [rows_of(epoch * steps_an_epoch + s) for s in range(first, steps_an_epoch)]
            own = [rows[share_of(len(rows), ranks.rank, ranks.world)] for rows in steps]
            train_mode(model, config)
            for rows, batch in zip(
                steps, load(data.train, own, device, config.data.threads, config.data.prefetch), strict=True
            ):
                torch.manual_seed((config.seed * 1_000_003 + step) * ranks.world + ranks.rank)  # dropout, drop-path
                set_learning_rate(optimiser, config.optim, step, total_steps)
                while True:
                    try:
                        loss = gradients(batch, rows)
                        break
                    except torch.OutOfMemoryError:
                        micro = halved(min(micro, len(rows)), ranks)
                        say(f"out of memory at step {step}: {micro} samples at once from here, the same batch a step")
                    except ValueError as error:
                        if "more than 1 value per channel" not in str(error):
                            raise
                        raise ContrailError(
                            f"{out}: a part of step {step} is one sample, which this model's batch norms cannot take: "
                            "set another batch_size or micro_batch, and another --out"
                        ) from None
                norm = nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip)
                optimiser.step()
                step += 1
                average.update(model, step=step)

                losses.append(loss)
                due = time.monotonic() - last_checkpoint > 60 * checkpoint_minutes and step % steps_an_epoch > 0
                if step % LOG_EVERY == 0 or step % steps_an_epoch == 0 or due or step <= 3:
                    mean_loss = check_finite(losses)  # the one wait for the device in LOG_EVERY steps
                    rate = len(losses) * min(config.batch_size, len(data.train)) / (time.monotonic() - log_start)
                    lr = max(group["lr"] for group in optimiser.param_groups)
                    log(step, loss=mean_loss, lr=lr, grad_norm=float(norm), samples_per_s=rate)
                    note = f"epoch {epoch + 1}/{config.epochs} loss {mean_loss:.4g}"
                    note += f" best hold-out Dice {best[0][0]:.3f}" if best and len(data.holdout) else ""
                    losses, log_start = [], time.monotonic()
                advance(1, note)
                if due:
                    checkpoint()
                    last_checkpoint = time.monotonic()
                if step == last_step < total_steps:
                    log.close()
                    return {}

            # ---- the end of an epoch: is it among the best so far? -------------------------------------------------
            average.module.eval()
            scores = score(onto_labels(detector, label_shift), data.holdout, reading, 0.5, parts)
            dice = holdout_dice(scores)
            if dice is not None:
                log(step, holdout_dice=dice)
            # without held-out positives all are equal, and the last count
            best = sorted([*best, (dice or 0.0, step)], reverse=True)[: config.optim.average_best]
            candidates = {at: out / CANDIDATES / f"step-{at:08d}.safetensors" for _, at in best}
            if ranks.first:
                if step in candidates:
                    save_weights(candidates[step], average.module, {"step": step, "holdout_dice": dice})
                checkpoint()
                for old in set((out / CANDIDATES).iterdir()) - set(candidates.values()):
                    old.unlink()
            log_start = last_checkpoint = time.monotonic()
    log.close()

    # ---- calibrate: threshold and gate from the held-out part, stored with the model -----------------------------
    if ranks.first:
        facts = {
            "steps": [at for _, at in best],
            "holdout_dice": [dice if len(data.holdout) else None for dice, _ in best],
        }
        averaged = [out / CANDIDATES / f"step-{at:08d}.safetensors" for _, at in best]
        if all(path.exists() for path in averaged):  # else the mean was taken before, and its calibration lost
            save_mean(out / WEIGHTS, averaged, facts)
    wait(ranks)
    load_weights(out / WEIGHTS, average.module)
    average.module.eval()
    fitted = calibrate(detector, label_shift, data.holdout, reading, [detector.mask], [detector.gate])
    seen = {
        *data.train.record_id.tolist(),
        *data.holdout.record_id.tolist(),
        *(started.seen_records if started else ()),
        *data.labellers_saw,
    }
    calibration = {
        "threshold": fitted.choice.threshold if fitted else 0.5,
        "gate": fitted.choice.gate if fitted else 0.0,
        "top_k": config.top_k,
        **known_of_holdout(fitted, data.holdout),
        "seen_records": sorted(seen),
        "statistics": data.statistics,
        "composite": data.composite,
        "label_shift": list(data.label_shift),
        "off": list(off),
        "grid": data.grid,
        "stores": data.digests,
        "weights": file_digest(out / WEIGHTS),
    }
    if ranks.first:
        write_atomically(out / CALIBRATION, [json.dumps(calibration, indent=1).encode()])
        shutil.rmtree(out / CANDIDATES)
    leave(ranks)
    return calibration


def describe(config: RunConfig) -> str:
    model, frames = config.model, len(config.data.frames)
    parts = [model.encoder]
    if frames > 1 and model.mixer != "none":
        parts.append(f"{frames} frames by {model.mixer}")
    if model.head != "record":
        parts.append(model.decoder)
    if model.head != "mask":
        parts.append("record classifier")
    return ", ".join(parts)


def halved(micro: int, ranks: Ranks) -> int:
    """Half the samples at once. Raises ContrailError where that cannot be, or the other processes would not know."""
    if micro == 1 or ranks.world > 1:
        raise ContrailError(
            "out of memory: set a lower micro_batch"
            if micro > 1
            else "out of memory with one sample: set a smaller model"
        ) from None
    return -(-micro // 2)


def has_thin_strided_pointwise(model: nn.Module) -> bool:
    """Whether a strided 1×1 convolution has fewer than 16 input channels, as in RepVGG's stem.

    On CPU, torch 2.15's backward of those in channels-last layout writes past its buffers and crashes.
    """
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    return any(c.kernel_size == (1, 1) and c.stride != (1, 1) and c.in_channels // c.groups < 16 for c in convolutions)
