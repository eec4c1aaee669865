"""A training step: by preset, the cone of 3-D blocks against plain ones, compiled against eager, from a store or not.

    python benchmarks/step.py [--side 128] [--batch 4] [--rounds 5] [--presets NAME ...] [--no-compile]

A step is what the trainer does with a batch: uint8 to the device's floats, augmentation, forward, loss, backward, clip,
AdamW, weight average. `resident`: one batch that is there already; `store`: batches of the loader, from the page cache.
Plain 3-D blocks are those of the notes: all frames through nn.Conv3d and nn.BatchNorm3d, from which the cone differs in
training by the frames that its batch norms see, evaluated not at all. On a GPU, where there is one, with bf16.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
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
from contrail_train.data.augment import augment_batch
from contrail_train.data.draw import draw
from contrail_train.data.loader import Batch, load
from contrail_train.data.training_data import TrainingData, open_training_data
from contrail_train.inference.detector import view_of
from contrail_train.inference.predictor import normalise
from contrail_train.models.segmenter import Segmenter
from contrail_train.models.segmenter import build as build_model
from contrail_train.models.temporal import Blocks3d
from contrail_train.runs.device import choose_device
from contrail_train.training.losses import total_loss
from contrail_train.training.optim import make_optimiser
from timing import interleaved, medians, spread, verdict, workplace

PRESETS = ("unet2d", "unet25d", "ours", "resnetrs50_2d", "resnetrs50_all", "resnetrs50_classifier")
CONE_TARGET, FED_TARGET = 1.8, 0.97


class Plain(nn.Module):
    """A level's residual 3-D blocks as the notes wrote them."""

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
        x_bcthw = x_tbchw.permute(1, 2, 0, 3, 4).contiguous()
        for block in self.blocks:
            x_bcthw = x_bcthw + block(x_bcthw)
        return x_bcthw[:, :, self.labelled]


def with_plain_blocks(model: Segmenter) -> Segmenter:
    for level, mixer in model.mixers.items():
        if isinstance(mixer, Blocks3d):
            model.mixers[level] = Plain(mixer, model.encoder.channels[int(level)])
    return model


def stepper(
    config: RunConfig, data: TrainingData, change: Callable[[Segmenter], nn.Module] = lambda model: model
) -> Callable[[Batch], None]:
    """`step(batch)` of a model of its own; returns when the device is done."""
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
        height, width = batch.target_b1hw.shape[-2:]
        drawn = draw(config.augment, len(batch.weight_b), height, width, seed=0, step=next(steps))
        x_btchw, target_b1hw = normalise(batch.image_btchw, view), batch.target_b1hw.float() / 255
        moved = augment_batch(
            x_btchw,
            target_b1hw,
            batch.positive_b1,
            drawn,
            config.augment,
            label_shift=data.label_shift,
            size=view.size,
        )
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            output = stepped(moved.image_btchw, (height, width))
        optimiser.zero_grad(set_to_none=True)
        total_loss(output, moved.target_b1hw, moved.positive_b1, batch.weight_b, config.loss).backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip)
        optimiser.step()
        average.update(model)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return step


def batches(data: TrainingData, config: RunConfig, size: int) -> Iterator[Batch]:
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, len(data.train), size) for _ in range(100_000)]
    return load(data.train, rows, choose_device(config.device), config.data.threads, config.data.prefetch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=128, help="pixels; presets of 512 px take twice that")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--presets", nargs="*", default=PRESETS)
    parser.add_argument("--no-compile", action="store_true")
    options = parser.parse_args()
    device = choose_device("auto")
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"

    with workplace(32, None, "train") as (folder, raw):
        store = make_store(raw, folder / "train.zarr", options.side)

        def prepared(preset: str, *settings: str) -> tuple[RunConfig, TrainingData, Batch]:
            config = with_settings(get_config(preset), [f"data.train={store}", "model.pretrained=false", *settings])
            if config.model.image_size is not None:
                config.model.image_size = 2 * options.side
            data = open_training_data(config.data)
            return config, data, next(batches(data, config, options.batch))

        def measured(title: str, steps: dict[str, Callable[[], None]], judge: Callable[..., list[str]]) -> None:
            seconds = interleaved(steps, options.rounds)
            middle = medians(seconds)
            rows = [
                [name, f"{options.batch / middle[name]:.2f}", *judge(name, middle), spread(seconds[name])]
                for name in steps
            ]
            print(
                f"{title}: batches of {options.batch}, {options.side} px, {where}; medians of {options.rounds} rounds"
            )
            print_table("", ["what", "samples/s", "ratio", "target", "rounds / median"], rows)

        steps = {}
        for name in options.presets:
            config, data, batch = prepared(name)
            steps[name] = partial(stepper(config, data), batch)
        first = next(iter(steps))
        measured("presets", steps, lambda name, middle: [f"{middle[first] / middle[name]:.3f}", ""])
        steps.clear()

        config, data, batch = prepared("resnetrs50_all")
        cone, plain = "2.5D step, cone", "2.5D step, plain 3-D form"
        steps = {
            cone: partial(stepper(config, data), batch),
            plain: partial(stepper(config, data, with_plain_blocks), batch),
        }
        measured(
            "cone",
            steps,
            lambda name, middle: (
                [
                    f"{middle[plain] / middle[name]:.2f}",
                    verdict(middle[plain] / middle[name], CONE_TARGET, at_least=True),
                ]
                if name == cone
                else ["1.00", ""]
            ),
        )
        steps.clear()

        config, data, batch = prepared("unet2d")
        fed, resident, compiled = "unet2d, from the store", "unet2d, resident batch", "unet2d, compiled"
        step, endless = stepper(config, data), batches(data, config, options.batch)
        steps = {resident: partial(step, batch), fed: lambda: step(next(endless))}
        if not options.no_compile:
            steps[compiled] = partial(stepper(config, data, torch.compile), batch)
        measured(
            "feeding and compiling",
            steps,
            lambda name, middle: [
                f"{middle[resident] / middle[name]:.3f}",
                verdict(middle[resident] / middle[name], FED_TARGET, at_least=True) if name == fed else "",
            ],
        )


def make_store(raw: Path, out: Path, side: int) -> Path:
    settings = StoreSettings(COMPOSITES["ash"], size=side)
    build(open_source(raw, "train", settings.composite), settings, out, workers=2)
    return out


if __name__ == "__main__":
    main()
