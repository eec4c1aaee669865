"""A training step: by preset, by form of the temporal mixing, by part, compiled or not, from a store or from memory.

    python benchmarks/step.py [--side 128] [--batch 4] [--rounds 5] [--only TABLE] [--no-compile] [--cpu-time]

Tables: `presets`, `mixing`, `parts`, `feeding`, `augmentation`. A step is what the trainer does with a batch: uint8 to
floats on the device, augmentation, forward, loss, backward, clipping, AdamW, weight average. `resident`: one batch that
is on the device already; `from the store`: batches of the loader, from the page cache. On a GPU, if there is one, with
bf16.

`mixing` has the notes' network, whose plain 3-D blocks pass all frames through nn.Conv3d and nn.BatchNorm3d, as the
reference. The cone differs from it in training only by the frames that its batch norms see, and not at all in
evaluation. The fast form (`resnetrs50_all_soft_fast`) is the cone at the two finest levels, up to which the other
frames than the labelled one are encoded. `parts` has the seconds of encoder, mixing and decoder (with the loss),
forward and backward, and the memory of what the forward pass keeps for the backward pass; the optimiser's include
clipping and the average of the weights.

`augmentation` has the share of `unet2d`'s step that uint8 to floats, draws and everything that moves or changes pixels
take, with its own settings and with more of them.

--cpu-time counts the processor's time instead of the clock's, for a machine that other programs use; give one thread
then (OMP_NUM_THREADS=1).
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import partial
from io import StringIO
from itertools import count
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

import timing
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
from contrail_train.data.normalise import normalise
from contrail_train.data.training_data import TrainingData, open_training_data
from contrail_train.inference.detector import view_of
from contrail_train.models.segmenter import Segmenter
from contrail_train.models.segmenter import build as build_model
from contrail_train.models.temporal import Blocks3d
from contrail_train.runs.distributed import choose_device
from contrail_train.training.losses import total_loss
from contrail_train.training.optimiser import make_optimiser
from timing import make_parser, measure, medians, record_folder, run_main, spread, verdict

PRESETS = ("unet2d", "unet25d", "resnetrs50_2d", "resnetrs50_all", "resnetrs50_classifier")
FAST_TARGET, FAST_TARGET_ON_GPU = 2.0, 1.4
FED_TARGET, FED_TARGET_ON_GPU, AUGMENTATION_TARGET = 0.95, 0.98, 0.1
NOTES, CONE, FAST = "notes' form, plain", "notes' form, cone", "fast form"
FORMS: dict[str, list[str]] = {
    NOTES: [],
    CONE: [],
    "identity shortcuts": ["model.mixer.shortcut=identity"],
    FAST: ["model.mixer.levels=[0,1]", "model.mixer.neighbours=mixed"],
    "mixed at half resolution": ["model.mixer.shortcut=identity", "model.mixer.downscale=2"],
}
"""Settings of the forms of `resnetrs50_all` that the tables `mixing` and `parts` compare."""
AUGMENTATIONS: dict[str, list[str]] = {
    "flips, quarter turns, label shift": [],
    "affine maps too": ["augment.affine.probability=1"],
    "contrast, blur and noise too": [
        *("augment.affine.probability=1", "augment.brightness_contrast.probability=1"),
        *("augment.blur.probability=1", "augment.noise.probability=1"),
    ],
}
"""Settings of `unet2d` that the table `augmentation` compares; the first ones are its own."""
PARTS = ("loader", "augmentation", "encoder", "mixing", "decoder", "optimiser")


class Plain(nn.Module):
    """The notes' residual 3-D blocks of a level, which compute every frame."""

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
        self.shortcuts = nn.ModuleList(
            nn.Sequential(nn.Conv3d(channels, channels, 1, bias=False), nn.BatchNorm3d(channels)) for _ in cone.blocks
        )

    def forward(self, x_tbchw: Tensor) -> Tensor:
        """Return the labelled frame (b, c, y, x)."""
        x_bcthw = x_tbchw.permute(1, 2, 0, 3, 4).contiguous()
        for shortcut, block in zip(self.shortcuts, self.blocks, strict=True):
            x_bcthw = shortcut(x_bcthw) + block(x_bcthw)
        return x_bcthw[:, :, self.labelled]


def with_plain_blocks(model: Segmenter) -> Segmenter:
    """Replace the cones of a model by plain blocks."""
    for level, mixer in model.mixers.items():
        if isinstance(mixer, Blocks3d):
            model.mixers[level] = Plain(mixer, model.encoder.channels[int(level)])
    return model


class Watch:
    """A watch that attributes the time since its last mark to a part of a step.

    Args:
        model: The model, whose parts it watches. The gradient passes the decoder first, then the mixers, then the
            encoder.
        device: Its device.
    """

    def __init__(self, model: Segmenter, device: torch.device):
        self.device = device
        self.parts = dict.fromkeys(PARTS, 0.0)
        self.last = timing.clock()
        assert model.decoder is not None
        model.encoder.register_forward_hook(lambda _, __, features: self._passed("encoder", "mixing", features))
        for mixer in model.mixers.values():
            mixer.register_forward_hook(lambda *_: self.mark("mixing"))
        model.decoder.register_forward_pre_hook(lambda _, inputs: self._passed("mixing", "decoder", inputs[0]))

    def mark(self, part: str) -> None:
        """Attribute the time since the last mark to a part."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        now = timing.clock()
        self.parts[part] += now - self.last
        self.last = now

    def _passed(self, forward: str, backward: str, features: Sequence[Tensor]) -> None:
        """Mark the end of a part now, and that of the next part's backward pass when it reaches the features."""
        self.mark(forward)
        for x_bchw in features:
            if x_bchw.requires_grad:
                x_bchw.register_hook(lambda _: self.mark(backward))


def stepper(
    config: RunConfig,
    data: TrainingData,
    change: Callable[[Segmenter], nn.Module] = lambda model: model,
    *,
    bf16: bool | None = None,
    watches: list[Watch] | None = None,
    layout: torch.memory_format = torch.channels_last,
    fused: bool = False,
) -> Callable[[Batch], None]:
    """Return a function that takes a training step with its own model, and returns when the device is done.

    Args:
        config: Settings.
        data: Data to train on.
        change: Applied to the model.
        bf16: Whether to compute in bf16. None: on a GPU.
        watches: A watch of the step is appended to it.
        layout: Order of the model's weights in memory.
        fused: Whether AdamW updates all weights in one kernel.
    """
    device = choose_device(config.device)
    view = view_of(config, data.statistics, device)
    torch.manual_seed(0)
    model = build_model(config.model, len(data.composite["channels"]), config.data.frames)
    model.to(memory_format=layout)
    stepped = change(model).to(device)
    model.train()
    average, optimiser = ModelEmaV3(model, decay=config.optim.ema), make_optimiser(model, config.optim)
    if fused:
        for group in optimiser.param_groups:
            group |= {"fused": True, "foreach": False}
    steps = count()
    half = device.type == "cuda" if bf16 is None else bf16
    watch = None
    if watches is not None:
        watch = Watch(model, device)
        watches.append(watch)

    def mark(part: str) -> None:
        if watch is not None:
            watch.mark(part)

    def step(batch: Batch) -> None:
        height, width = batch.target_bkhw.shape[-2:]
        drawn = draw(config.augment, len(batch.weight_b), height, width, seed=0, step=next(steps))
        x_btchw, target_bkhw = normalise(batch.image_btchw, view), batch.target_bkhw.float() / 255
        given = Batch(x_btchw, target_bkhw, batch.positive_b1, batch.weight_b, None)
        moved = augment_labels(given, drawn, config.augment, data.label_shift)
        x_btchw = augment_images(x_btchw, drawn, config.augment, (height, width), view.size, labels=moved)
        mark("augmentation")
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            output = stepped(x_btchw, (height, width))
        optimiser.zero_grad(set_to_none=True)
        loss = total_loss(output, moved.target_bkhw, moved.positive_b1, batch.weight_b, config.loss)
        mark("decoder")
        loss.backward()
        mark("encoder")
        nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip)
        optimiser.step()
        average.update(model)
        mark("optimiser")
        if device.type == "cuda":
            torch.cuda.synchronize()

    return step


def batches(data: TrainingData, config: RunConfig, size: int) -> Iterator[Batch]:
    """Yield batches without end."""
    rows = list(np.random.default_rng(0).integers(0, len(data.train), (100_000, size)))
    return load(data.train, rows, choose_device(config.device), config.data.threads, config.data.prefetch)


@dataclass(frozen=True)
class Measurement:
    """A store to train on, and how to measure."""

    store: Path
    options: argparse.Namespace

    def prepare(self, preset: str, changes: Sequence[str] = ()) -> tuple[RunConfig, TrainingData, Batch]:
        """Return a preset's config, its data and one batch."""
        settings = [f"data.train={self.store}", "model.pretrained=false", *self.options.set, *changes]
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


def form_of(
    measurement: Measurement, name: str, **options: Any
) -> tuple[Callable[[Batch], None], Batch, Iterator[Batch]]:
    """Return a step with a form of `resnetrs50_all`, a batch, and batches without end."""
    config, data, batch = measurement.prepare("resnetrs50_all", FORMS[name])
    endless = batches(data, config, measurement.options.batch)
    return stepper(config, data, with_plain_blocks if name == NOTES else lambda model: model, **options), batch, endless


def compare_mixing(measurement: Measurement) -> None:
    """Print the table `mixing`."""
    steps = {}
    for name in FORMS:
        step, batch, _ = form_of(measurement, name)
        steps[name] = partial(step, batch)
    target = FAST_TARGET_ON_GPU if choose_device("auto").type == "cuda" else FAST_TARGET
    measurement.print_table("mixing", steps, NOTES, {FAST: target})


def compare_parts(measurement: Measurement) -> None:
    """Print the table `parts`. The plain form is not measured in bf16: a run of this table with it ended in a crash."""
    steps, watches, endless = {}, {}, {}
    for name, precision in ((NOTES, "float32"), (CONE, "bf16"), (FAST, "float32"), (FAST, "bf16")):
        key, own = f"{name}, {precision}", []
        steps[key], _, endless[key] = form_of(measurement, name, bf16=precision == "bf16", watches=own)
        watches[key] = own[0]

    def run(key: str) -> None:
        watches[key].last = timing.clock()
        batch = next(endless[key])
        watches[key].mark("loader")
        steps[key](batch)

    kept = {key: kept_bytes(partial(run, key)) for key in steps}
    for watch in watches.values():
        watch.parts = dict.fromkeys(PARTS, 0.0)
    for _ in range(measurement.options.rounds):
        for key in steps:
            run(key)
    rows = []
    for key, watch in watches.items():
        seconds = [watch.parts[part] / measurement.options.rounds for part in PARTS]
        rate = f"{measurement.options.batch / sum(seconds):.2f}"
        rows.append([key, *(f"{s:.2f}" for s in (*seconds, sum(seconds))), rate, f"{kept[key] / 2**20:.0f}"])
    header = ["variant", *PARTS, "step", "samples/s", "kept, MiB"]
    size = f"batches of {measurement.options.batch}, {measurement.options.side} px"
    print_table(f"parts: seconds, {size}; means of {measurement.options.rounds} rounds", header, rows)


def kept_bytes(run: Callable[[], None]) -> int:
    """Count the bytes that a step keeps for its backward pass, including parameters."""
    sizes: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        run()
    return sum(sizes.values())


def compare_feeding(measurement: Measurement) -> None:
    """Print the table `feeding`."""
    config, data, batch = measurement.prepare("unet2d")
    fed, resident, compiled = "unet2d, from the store", "unet2d, resident batch", "unet2d, compiled"
    step, endless = stepper(config, data), batches(data, config, measurement.options.batch)
    steps = {resident: partial(step, batch), fed: lambda: step(next(endless))}
    if not measurement.options.no_compile:
        steps[compiled] = partial(stepper(config, data, torch.compile), batch)
    target = FED_TARGET_ON_GPU if choose_device("auto").type == "cuda" else FED_TARGET
    measurement.print_table("feeding", steps, resident, {fed: target})


def compare_augmentation(measurement: Measurement) -> None:
    """Print the table `augmentation`."""
    steps, watches = {}, {}
    for name, changes in AUGMENTATIONS.items():
        config, data, batch = measurement.prepare("unet2d", changes)
        own: list[Watch] = []
        steps[name] = partial(stepper(config, data, watches=own), batch)
        (watches[name],) = own
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in steps}
    for number in range(measurement.options.rounds + 1):
        for name, watch in watches.items():
            watch.parts, watch.last = dict.fromkeys(PARTS, 0.0), timing.clock()
            steps[name]()
            if number:  # the first step is slower
                rounds[name].append(watch.parts)
    rows = []
    for name, parts in rounds.items():
        shares = [each["augmentation"] / sum(each.values()) for each in parts]
        seconds = [statistics.median(each["augmentation"] for each in parts)]
        seconds.append(statistics.median(sum(each.values()) for each in parts))
        share = statistics.median(shares)
        judged = "" if rows else verdict(share, AUGMENTATION_TARGET, at_least=False)
        rows.append([name, *(f"{1e3 * s:.1f}" for s in seconds), f"{share:.3f}", judged, spread(shares)])
    size = f"batches of {measurement.options.batch}, {measurement.options.side} px"
    header = ["variant", "augmentation, ms", "step, ms", "share", "target", "rounds / median"]
    print_table(f"augmentation: unet2d, {size}; medians of {measurement.options.rounds} rounds", header, rows)


TABLES = {
    "presets": compare_presets,
    "mixing": compare_mixing,
    "parts": compare_parts,
    "feeding": compare_feeding,
    "augmentation": compare_augmentation,
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, list(TABLES), rounds=5)
    parser.add_argument("--side", type=int, default=128, help="pixels (128); presets of 512 px take twice that")
    parser.add_argument("--samples", type=int, default=32, help="number of records (default 32)")
    parser.add_argument("--batch", type=int, default=4, help="samples of a step (default 4)")
    parser.add_argument("--presets", nargs="+", default=PRESETS, help="presets to compare, each with the first")
    parser.add_argument("--set", action="append", default=[], help="a setting of all models", metavar="KEY=VALUE")
    parser.add_argument("--cpu-time", action="store_true", help="measure the processor's time, not the clock's")
    parser.add_argument("--no-compile", action="store_true", help="leave out the compiled step, which takes 100 s")
    options = parser.parse_args(arguments)
    if options.cpu_time:
        timing.clock = process_time
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
