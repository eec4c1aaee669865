"""The training loop, read top to bottom.

Everything random is a function of (seed, step): the order of samples, augmentation, dropout. So a run that was
killed goes on from its last checkpoint to the very weights it would have had, bit for bit on CPU.

Does one process on one device; does not accumulate gradients.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from timm.utils.model_ema import ModelEmaV3
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from contrail_data.errors import ContrailError
from contrail_data.places import write_atomically
from contrail_data.progress import progress
from contrail_train import augment
from contrail_train.checkpoint import load_checkpoint, load_weights, save_checkpoint, save_weights
from contrail_train.config import RunConfig, read_config, to_yaml
from contrail_train.evaluate import Scores, calibrate, report, score
from contrail_train.loader import TrainingData, epoch_order, load, open_training_data, step_rows, steps_per_epoch
from contrail_train.losses import segmentation_loss
from contrail_train.metrics import best_threshold
from contrail_train.models import build
from contrail_train.predict import (
    CALIBRATION,
    CONFIG,
    WEIGHTS,
    choose_device,
    normalise,
    probabilities,
    statistics_tensors,
)

ENVIRONMENT = "environment.json"
METRICS = "metrics.jsonl"
LOG_EVERY = 10  # steps; the losses of the steps between stay on the device until then


def fit(config: RunConfig, out: Path, checkpoint_minutes: float = 5.0, command: Sequence[str] = ()) -> dict[str, Any]:
    """Train, or go on training, into the run directory `out`; returns its calibration.

    Raises ContrailError for data that does not fit, an `out` that holds another run, or a loss that is not finite.
    """
    # ---- where -------------------------------------------------------------------------------------------------
    device = choose_device(config.device)
    bf16 = config.precision == "bf16" or (
        config.precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported()
    )
    say(f"device {device}, {'bf16 autocast' if bf16 else 'float32'}, {torch.get_num_threads()} CPU threads")

    # ---- data --------------------------------------------------------------------------------------------------
    data = open_training_data(config.data)
    label_shift = data.label_shift if config.augment.label_shift is None else config.augment.label_shift
    steps_an_epoch = steps_per_epoch(len(data.train), config.batch_size)
    total_steps = config.epochs * steps_an_epoch
    say(
        f"{len(data.train)} frames to train on ({(data.train.weight < 1).sum()} with weight below 1), "
        f"{len(data.holdout)} held out in {len(set(data.holdout.group))} groups; batches of {config.batch_size}: "
        f"{config.epochs} epochs x {steps_an_epoch} steps = {total_steps} steps"
    )
    mean_c, std_c = statistics_tensors(data.statistics, device)

    # ---- the run directory -------------------------------------------------------------------------------------
    begin_run(out, config, data, device, command)
    if (out / CALIBRATION).is_file():
        say(f"{out}: finished already")
        return dict(json.loads((out / CALIBRATION).read_bytes()))

    # ---- model, optimiser, average -----------------------------------------------------------------------------
    torch.manual_seed(config.seed)
    model = build(config.model, len(data.composite["channels"])).to(device)
    if device.type == "cuda" or not has_thin_strided_pointwise(model):
        model.to(memory_format=torch.channels_last)  # half the time of a step on CPU
    average = ModelEmaV3(model, decay=config.optim.ema, use_warmup=True)
    decay = [p for p in model.parameters() if p.ndim > 1]
    no_decay = [p for p in model.parameters() if p.ndim <= 1]  # norms and biases
    optimiser = torch.optim.AdamW(
        [{"params": decay, "weight_decay": config.optim.weight_decay}, {"params": no_decay, "weight_decay": 0.0}],
        lr=config.optim.lr,
    )
    parameters = sum(p.numel() for p in model.parameters())
    say(f"{config.model.encoder} UNet, {parameters / 1e6:.2f} M parameters, label shift {tuple(label_shift)} px")

    smallest = len(data.train) % config.batch_size or config.batch_size
    if smallest == 1 and max(data.train.shape_tchw[-2:]) <= model.encoder.strides[-1]:
        raise ContrailError("batch_size leaves a batch of one 1 x 1 feature, which cannot be normalised: change it")

    # ---- resume ------------------------------------------------------------------------------------------------
    facts = load_checkpoint(out / "checkpoints", model, average.module, optimiser)
    step = 0
    best_dice: float | None = None
    if facts is not None:
        step, best_dice = facts["step"], facts["best_dice"]
        say(f"resumed at step {step}")
    keep_metrics_before(out / METRICS, step)
    board = SummaryWriter(str(out / "tensorboard"), purge_step=step)

    def holdout_scores(scored: nn.Module, threshold: float) -> Scores:
        scored.eval()
        return score(
            lambda x_btchw: probabilities(scored, x_btchw, mean_c, std_c, label_shift),
            data.holdout,
            device=device,
            threshold=threshold,
            top_k=config.top_k,
            batch=config.batch_size,
            threads=config.data.threads,
            name=None,
        )

    def checkpoint() -> None:
        save_checkpoint(out / "checkpoints", step, model, average.module, optimiser, {"best_dice": best_dice})

    # ---- the loop ----------------------------------------------------------------------------------------------
    log_losses: list[torch.Tensor] = []
    log_start, last_checkpoint, note = time.monotonic(), time.monotonic(), ""
    with progress("train", total_steps, step, unit="steps") as advance:
        while step < total_steps:
            epoch, first = divmod(step, steps_an_epoch)
            order = epoch_order(len(data.train), config.seed, epoch)
            rows = [step_rows(order, s, config.batch_size) for s in range(first, steps_an_epoch)]
            model.train()
            for batch in load(data.train, rows, device, config.data.threads, config.data.prefetch):
                torch.manual_seed(config.seed * 1_000_003 + step)  # dropout, drop-path
                for group in optimiser.param_groups:
                    group["lr"] = learning_rate(config, step, total_steps)

                height, width = batch.image_btchw.shape[-2:]
                matrix = augment.draw(config.augment, len(batch.weight_b), height, width, config.seed, step)
                x_btchw = normalise(batch.image_btchw, mean_c, std_c)
                target_b1hw = batch.target_b1hw.float() / 255
                x_btchw, target_b1hw = augment.augment_batch(x_btchw, target_b1hw, matrix, label_shift)

                with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                    logits_b1hw = model(x_btchw)["logits_b1hw"]
                loss = segmentation_loss(logits_b1hw, target_b1hw, batch.weight_b, config.loss)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                norm = nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip)
                optimiser.step()
                step += 1
                average.update(model, step=step)

                log_losses.append(loss.detach())
                if step % LOG_EVERY == 0 or step % steps_an_epoch == 0:
                    mean_loss = float(torch.stack(log_losses).mean())  # the one sync in LOG_EVERY steps
                    if not math.isfinite(mean_loss):
                        raise ContrailError(f"{out}: the loss is {mean_loss} near step {step}: lower optim.lr")
                    rate = len(log_losses) * config.batch_size / (time.monotonic() - log_start)
                    log(out, board, step, loss=mean_loss, lr=group["lr"], grad_norm=float(norm), samples_per_s=rate)
                    note = f"epoch {epoch + 1}/{config.epochs} loss {mean_loss:.4f}"
                    note += "" if best_dice is None else f" best hold-out Dice {best_dice:.3f}"
                    log_losses, log_start = [], time.monotonic()
                advance(1, note)
                if time.monotonic() - last_checkpoint > 60 * checkpoint_minutes and step % steps_an_epoch:
                    checkpoint()
                    last_checkpoint = time.monotonic()

            # ---- the end of an epoch: is it the best so far? ---------------------------------------------------
            dice = holdout_dice(holdout_scores(average.module, 0.5)) if len(data.holdout) else None
            if dice is not None:
                log(out, board, step, holdout_dice=dice)
            if dice is None or best_dice is None or dice > best_dice:
                best_dice = dice
                save_weights(out / WEIGHTS, average.module, {"step": step, "holdout_dice": dice})
            checkpoint()
            log_start = last_checkpoint = time.monotonic()
    board.close()

    # ---- calibrate: threshold and gate from the held-out part, stored with the model -----------------------------
    load_weights(out / WEIGHTS, average.module)
    fitted = None
    if len(data.holdout):
        fitted = calibrate(lambda threshold: holdout_scores(average.module, threshold), data.holdout)
    threshold, gate, scores = fitted or (0.5, 0.0, None)
    if scores is None:
        say("no held-out positives: the threshold stays at 0.5, uncalibrated")
    calibration = {
        "threshold": threshold,
        "gate": gate,
        "top_k": config.top_k,
        "holdout": report(scores, data.holdout, threshold, gate) if scores is not None else None,
        "holdout_records": data.holdout.record_id.tolist(),
        "seen_records": sorted({*data.train.record_id.tolist(), *data.holdout.record_id.tolist()}),
        "statistics": data.statistics,
        "composite": data.composite,
        "label_shift": list(label_shift),
        "stores": data.digests,
    }
    write_atomically(out / CALIBRATION, [json.dumps(calibration, indent=1).encode()])
    return calibration


def has_thin_strided_pointwise(model: nn.Module) -> bool:
    """Whether a strided 1×1 convolution has fewer than 16 input channels, as in RepVGG's stem.

    On CPU, torch 2.15's backward of those in channels-last layout writes past its buffers and crashes.
    """
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    return any(c.kernel_size == (1, 1) and c.stride != (1, 1) and c.in_channels // c.groups < 16 for c in convolutions)


def learning_rate(config: RunConfig, step: int, total_steps: int) -> float:
    """Linear warm-up, then a cosine to 0."""
    warmup = max(1, round(config.optim.warmup * total_steps))
    if step < warmup:
        return config.optim.lr * (step + 1) / warmup
    return config.optim.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total_steps - warmup)))


def holdout_dice(scores: Scores) -> float | None:
    """Best Dice over all thresholds, what epochs are compared by; None without a positive pixel."""
    return best_threshold(scores.histogram)[1] if scores.histogram[1].sum() else None


def begin_run(out: Path, config: RunConfig, data: TrainingData, device: torch.device, command: Sequence[str]) -> None:
    """Write config and environment before the first step, or check that they are those of the run begun here.

    A run that ended before its first checkpoint, by a mistake in its settings say, is begun anew.
    """
    begun = (out / CONFIG).is_file()
    if begun and list((out / "checkpoints").glob("step-*")):
        if (before := read_config(out / CONFIG)) != config:
            ours, theirs = config.model_dump(), before.model_dump()
            differs = [k for k in ours if ours[k] != theirs[k]]
            raise ContrailError(f"{out}: holds a run with another {', '.join(differs)}: choose another --out")
        try:
            stores = json.loads((out / ENVIRONMENT).read_bytes())["stores"]
        except (OSError, ValueError, KeyError, TypeError):
            raise ContrailError(
                f"{out / ENVIRONMENT}: missing or damaged: restore it, or choose another --out"
            ) from None
        if stores != data.digests:
            raise ContrailError(f"{out}: was begun on stores with other digests: restore them, or choose another --out")
        return
    if not begun and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ContrailError(f"{out}: exists and is no run directory: choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    environment = {
        "command": list(command),
        "stores": data.digests,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cpu_threads": torch.get_num_threads(),
        "git": git_revision(),
        "python": sys.version.split()[0],
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("contrail", "torch", "timm", "segmentation-models-pytorch", "numpy", "zarr", "xarray")
        },
    }
    write_atomically(out / ENVIRONMENT, [json.dumps(environment, indent=1).encode()])
    write_atomically(out / CONFIG, [to_yaml(config).encode()])  # last: with it the directory is a run


def git_revision() -> str | None:
    """Revision of the checkout this code runs from, `+` when it has changes; None outside one."""
    here = Path(__file__).parent
    try:
        told = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+"], cwd=here, capture_output=True, text=True
        )
    except OSError:
        return None
    return told.stdout.strip() or None


def log(out: Path, board: SummaryWriter, step: int, **values: float) -> None:
    with (out / METRICS).open("a") as file:
        file.write(json.dumps({"step": step, **values}) + "\n")
    for name, value in values.items():
        board.add_scalar(name, value, step)


def keep_metrics_before(path: Path, step: int) -> None:
    """Drop what a killed run logged after its last checkpoint: it will be logged again."""
    if path.exists():
        lines = path.read_text().splitlines()
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
        write_atomically(path, ["".join(line + "\n" for line in kept).encode()])


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
