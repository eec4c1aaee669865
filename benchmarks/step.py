"""A training step: by preset, with cones of 3-D blocks or plain ones, compiled or not, from a store or from memory.

    python benchmarks/step.py [--side 128] [--batch 4] [--rounds 5] [--only TABLE] [--presets NAME ...] [--no-compile]

Tables: `presets`, `cone`, `feeding`. A step is what the trainer does with a batch: uint8 to floats on the device,
augmentation, forward, loss, backward, clipping, AdamW, weight average. `resident`: one batch that is on the device
already; `from the store`: batches of the loader, from the page cache. Plain 3-D blocks pass all frames through
nn.Conv3d and nn.BatchNorm3d. The cone differs from them in training only by the frames that its batch norms see, and
not at all in evaluation. On a GPU, if there is one, with bf16.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import partial
from io import StringIO
from itertools import count
from pathlib import Path

import numpy as np
import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

from contrail_data.build.build import build
from contrail_data.cli.common import print_table
from contrail_data.composites import COMPOSITES
from contrail_data.sources.open import open_source
from contrail_data.store.settings import StoreSettings
from contrail_train.config.presets import get_config
from contrail_train.config.schema import RunConfig
from contrail_train.config.settings import with_settings
from contrail_train.data.augment import augment_images, augment_labels
from contrail_train.data.draw import draw
from contrail_train.data.loader import Batch, load
from contrail_train.data.training_data import TrainingData, open_training_data
from contrail_train.inference.detector import normalise, view_of
from contrail_train.models.segmenter import Segmenter
from contrail_train.models.segmenter import build as build_model
from contrail_train.models.temporal import Blocks3d
from contrail_train.runs.distributed import choose_device
from contrail_train.training.losses import total_loss
from contrail_train.training.setup import make_optimiser
from timing import make_parser, measure, medians, record_folder, run_main, spread, verdict

PRESETS = ("unet2d", "unet25d", "resnetrs50_2d", "resnetrs50_all", "resnetrs50_classifier")
CONE_TARGET, FED_TARGET = 1.8, 0.97


class Plain(nn.Module):
    """Residual 3-D blocks of a level that compute every frame."""

    def __init__(self, cone: Blocks3d, channels: int):
        super().__init__()
        narrow = channels // 4
        self.labelled = cone.labelled
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv3d(channels, narrow, 1, bias=False),
                nn.BatchNorm3d(narrow),
                nn.ReLU(inplace=True),
                nn.Conv3d(narrow, narrow, 1, bias=False),
                nn.Conv3d(narrow, narrow, 3, padding=1, groups=narrow, bias=False),
                nn.BatchNorm3d(narrow),
                nn.ReLU(inplace=True),
                nn.Conv3d(narrow, channels, 1, bias=False),
                nn.BatchNorm3d(channels),
            )
            for _ in cone.blocks
        )

    def forward(self, x_tbchw: Tensor) -> Tensor:
        """Return the labelled frame (b, c, y, x)."""
        x_bcthw = x_tbchw.permute(1, 2, 0, 3, 4).contiguous()
        for block in self.blocks:
            x_bcthw = x_bcthw + block(x_bcthw)
        return x_bcthw[:, :, self.labelled]


def with_plain_blocks(model: Segmenter) -> Segmenter:
    """Replace the cones of a model by plain blocks."""
    for level, mixer in model.mixers.items():
        if isinstance(mixer, Blocks3d):
            model.mixers[level] = Plain(mixer, model.encoder.channels[int(level)])
    return model


def stepper(
    config: RunConfig, data: TrainingData, change: Callable[[Segmenter], nn.Module] = lambda model: model
) -> Callable[[Batch], None]:
    """Return a function that takes a training step with its own model, and returns when the device is done."""
    device = choose_device(config.device)
    view = view_of(config, data.statistics, device)
    torch.manual_seed(0)
    model = build_model(config.model, len(data.composite["channels"]), config.data.frames)
    model.to(memory_format=torch.channels_last)
    stepped = change(model).to(device)
    model.train()
    average, optimiser = ModelEmaV3(model, decay=config.optim.ema), make_optimiser(model, config.optim)
    steps = count()

    def step(batch: Batch) -> None:
        height, width = batch.target_bkhw.shape[-2:]
        drawn = draw(config.augment, len(batch.weight_b), height, width, seed=0, step=next(steps))
        x_btchw, target_bkhw = normalise(batch.image_btchw, view), batch.target_bkhw.float() / 255
        given = Batch(x_btchw, target_bkhw, batch.positive_b1, batch.weight_b, None)
        x_btchw = augment_images(x_btchw, drawn, config.augment, (height, width), view.size)
        moved = augment_labels(given, drawn, config.augment, data.label_shift)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            output = stepped(x_btchw, (height, width))
        optimiser.zero_grad(set_to_none=True)
        total_loss(output, moved.target_bkhw, moved.positive_b1, batch.weight_b, config.loss).backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip)
        optimiser.step()
        average.update(model)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return step


def batches(data: TrainingData, config: RunConfig, size: int) -> Iterator[Batch]:
    """Yield batches without end."""
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, len(data.train), size) for _ in range(100_000)]
    return load(data.train, rows, choose_device(config.device), config.data.threads, config.data.prefetch)


@dataclass(frozen=True)
class Measurement:
    """A store to train on, and how to measure."""

    store: Path
    options: argparse.Namespace

    def prepare(self, preset: str) -> tuple[RunConfig, TrainingData, Batch]:
        """Return a preset's config, its data and one batch."""
        settings = [f"data.train={self.store}", "model.pretrained=false", *self.options.set]
        config = with_settings(get_config(preset), settings)
        if config.model.image_size is not None:
            config.model.image_size = 2 * self.options.side
        data = open_training_data(config.data)
        return config, data, next(batches(data, config, self.options.batch))

    def print_table(
        self, title: str, steps: Mapping[str, Callable[[], None]], reference: str, targets: Mapping[str, float]
    ) -> None:
        """Measure steps and print their rates.

        Args:
            title: Name of the table.
            steps: What to measure, by the name of its row.
            reference: The row whose rate the others' rates are divided by.
            targets: Lowest ratio, by the name of its row.
        """
        device = choose_device("auto")
        on_gpu = device.type == "cuda"
        where = torch.cuda.get_device_name(device) if on_gpu else f"CPU, {torch.get_num_threads()} threads"
        seconds = measure(steps, self.options.rounds)
        median = medians(seconds)
        rows = []
        for name in steps:
            ratio = median[reference] / median[name]
            judged = verdict(ratio, targets[name], at_least=True) if name in targets else ""
            rows.append(
                [name, f"{self.options.batch / median[name]:.2f}", f"{ratio:.3f}", judged, spread(seconds[name])]
            )
        size = f"batches of {self.options.batch}, {self.options.side} px, {where}"
        header = ["variant", "samples/s", "ratio", "target", "rounds / median"]
        print_table(f"{title}: {size}; medians of {self.options.rounds} shuffled rounds", header, rows)


def compare_presets(measurement: Measurement) -> None:
    """Print the table `presets`."""
    steps = {}
    for name in measurement.options.presets:
        config, data, batch = measurement.prepare(name)
        steps[name] = partial(stepper(config, data), batch)
    measurement.print_table("presets", steps, next(iter(steps)), {})


def compare_cones(measurement: Measurement) -> None:
    """Print the table `cone`."""
    config, data, batch = measurement.prepare("resnetrs50_all")
    cone, plain = "2.5D step, cone", "2.5D step, plain 3-D form"
    steps = {
        cone: partial(stepper(config, data), batch),
        plain: partial(stepper(config, data, with_plain_blocks), batch),
    }
    measurement.print_table("cone", steps, plain, {cone: CONE_TARGET})


def compare_feeding(measurement: Measurement) -> None:
    """Print the table `feeding`."""
    config, data, batch = measurement.prepare("unet2d")
    fed, resident, compiled = "unet2d, from the store", "unet2d, resident batch", "unet2d, compiled"
    step, endless = stepper(config, data), batches(data, config, measurement.options.batch)
    steps = {resident: partial(step, batch), fed: lambda: step(next(endless))}
    if not measurement.options.no_compile:
        steps[compiled] = partial(stepper(config, data, torch.compile), batch)
    measurement.print_table("feeding", steps, resident, {fed: FED_TARGET})


TABLES = {"presets": compare_presets, "cone": compare_cones, "feeding": compare_feeding}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, list(TABLES), rounds=5)
    parser.add_argument("--side", type=int, default=128, help="pixels (128); presets of 512 px take twice that")
    parser.add_argument("--samples", type=int, default=32, help="number of records (default 32)")
    parser.add_argument("--batch", type=int, default=4, help="samples of a step (default 4)")
    parser.add_argument("--presets", nargs="+", default=PRESETS, help="presets to compare, each with the first")
    parser.add_argument("--set", action="append", default=[], help="a setting of all models", metavar="KEY=VALUE")
    parser.add_argument("--no-compile", action="store_true", help="leave out the compiled step, which takes 100 s")
    options = parser.parse_args(arguments)
    ash = COMPOSITES["ash"]
    with record_folder(options.samples) as (folder, raw):
        with redirect_stderr(StringIO()):
            settings = StoreSettings(ash, size=options.side)
            build(open_source(raw, "train", ash), settings, folder / "train.zarr", workers=2)
        measurement = Measurement(folder / "train.zarr", options)
        for table in options.only or TABLES:
            TABLES[table](measurement)


if __name__ == "__main__":
    run_main(main)
