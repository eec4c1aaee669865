"""What a GPU does in a training step and in labelling, in one command of less than eight minutes.

    python benchmarks/gpu.py [--side 256] [--batch 32] [--rounds 5] [--only TABLE] [--cpu]

Tables, with the name of the card, from a store in the page cache:

- `step`: steps of `unet2d` in bf16 on a batch that is on the card already, each other row with one change. `from the
  store` takes batches of the loader; the share of augmentation follows from `without augmentation`.
- `frames`: steps of the notes' network `resnetrs50_all`, with a quarter of the batch: its plain form, ours, and ours
  with activations computed again in the backward pass.
- `labelling`: that table of `pseudo.py`.

Peak memory is what torch has allocated at most. Without a GPU the command lists what it would measure; with --cpu it
measures that on the CPU, to try the program.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from functools import partial
from io import StringIO

import torch
from torch import nn

import pseudo
from contrail_data.build.build import build
from contrail_data.cli.common import print_table
from contrail_data.composites import COMPOSITES
from contrail_data.sources.open import open_source
from contrail_data.store.settings import StoreSettings
from step import FAST, FORMS, NOTES, Measurement, batches, stepper, with_plain_blocks
from timing import make_parser, measure, medians, record_folder, run_main, spread, verdict

BASE, FED = "resident batch, bf16", "from the store"
FED_TARGET, FRAMES_TARGET = 0.98, 1.4
STEPS = (BASE, FED, "without augmentation", "float32", "contiguous layout", "fused AdamW", "compiled")
RECOMPUTED = f"{FAST}, activations recomputed"
FRAMES = (NOTES, FAST, RECOMPUTED)
NO_AUGMENTATION = ("augment.flip=0", "augment.rot90=0", "augment.affine=null", "augment.label_shift=[0,0]")


def without_compiled(options: argparse.Namespace) -> list[str]:
    """Return the rows of the table `step`."""
    return [name for name in STEPS if name != "compiled" or not options.no_compile]


def compare_steps(measurement: Measurement) -> None:
    """Print the table `step`."""
    config, data, batch = measurement.prepare("unet2d")
    plain, _, _ = measurement.prepare("unet2d", NO_AUGMENTATION)
    endless = batches(data, config, measurement.options.batch)
    step = stepper(config, data, bf16=True)
    steps: dict[str, Callable[[], None]] = {
        BASE: partial(step, batch),
        FED: lambda: step(next(endless)),
        "without augmentation": partial(stepper(plain, data, bf16=True), batch),
        "float32": partial(stepper(config, data, bf16=False), batch),
        "contiguous layout": partial(stepper(config, data, bf16=True, layout=torch.contiguous_format), batch),
        "fused AdamW": partial(stepper(config, data, bf16=True, fused=True), batch),
    }
    if not measurement.options.no_compile:
        steps["compiled"] = partial(stepper(config, data, torch.compile, bf16=True), batch)
    print_steps("step: unet2d", measurement, steps, {FED: FED_TARGET})


def compare_frames(measurement: Measurement) -> None:
    """Print the table `frames`."""
    steps: dict[str, Callable[[], None]] = {}
    for name in FRAMES:
        changes = [*FORMS[FAST if name == RECOMPUTED else name]]
        changes += ["model.checkpoint_activations=true"] if name == RECOMPUTED else []
        config, data, batch = measurement.prepare("resnetrs50_all", changes)
        change: Callable[..., nn.Module] = with_plain_blocks if name == NOTES else lambda model: model
        steps[name] = partial(stepper(config, data, change, bf16=True), batch)
    print_steps("frames: resnetrs50_all", measurement, steps, {FAST: FRAMES_TARGET})


def print_steps(
    title: str, measurement: Measurement, steps: Mapping[str, Callable[[], None]], targets: Mapping[str, float]
) -> None:
    """Measure steps, and print their rates and memory; the first one is the reference."""
    options = measurement.options
    seconds = measure(steps, options.rounds, shortest=options.shortest)
    median = medians(seconds)
    reference = next(iter(steps))
    rows = []
    for name, run in steps.items():
        ratio = median[reference] / median[name]
        judged = verdict(ratio, targets[name], at_least=True) if name in targets else ""
        rate = f"{options.batch / median[name]:,.1f}"
        rows.append([name, rate, f"{ratio:.3f}", judged, peak_memory(run), spread(seconds[name])])
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    size = f"batches of {options.batch}, {options.side} px, {where}"
    header = ["variant", "samples/s", "ratio", "target", "peak, MiB", "rounds / median"]
    print_table(f"{title}; {size}; medians of {options.rounds} shuffled rounds", header, rows)


def peak_memory(run: Callable[[], None]) -> str:
    """Return the most memory that torch allocates in a step, beyond what was allocated before; empty on a CPU."""
    if not torch.cuda.is_available():
        return ""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    return f"{(torch.cuda.max_memory_allocated() - before) / 2**20:,.0f}"


def compare_labelling(measurement: Measurement) -> None:
    """Print the table `labelling` of `pseudo.py`."""
    options = measurement.options
    arguments = ["--only", "labelling", "--records", options.samples, "--side", options.side]
    arguments += ["--rounds", options.rounds]
    pseudo.main([*map(str, arguments), *(part for setting in options.set for part in ("--set", setting))])


TABLES = {"step": compare_steps, "frames": compare_frames, "labelling": compare_labelling}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, list(TABLES), rounds=5)
    parser.add_argument("--side", type=int, default=256, help="rows and columns of the images (default 256)")
    parser.add_argument("--samples", type=int, default=64, help="number of records (default 64)")
    parser.add_argument("--batch", type=int, default=32, help="samples of a step (default 32)")
    parser.add_argument("--set", action="append", default=[], help="a setting of all models", metavar="KEY=VALUE")
    parser.add_argument("--no-compile", action="store_true", help="leave out the compiled step")
    parser.add_argument("--cpu", action="store_true", help="measure on the CPU if there is no GPU")
    options = parser.parse_args(arguments)
    tables = options.only or list(TABLES)
    if not (torch.cuda.is_available() or options.cpu):
        rows = {"step": without_compiled(options), "frames": FRAMES, "labelling": pseudo.VARIANTS}
        print("No GPU: nothing is measured. On a GPU this command would measure")
        for table in tables:
            print(f"  {table}: {'; '.join(rows[table])}")
        return
    ash = COMPOSITES["ash"]
    with record_folder(options.samples) as (folder, raw):
        with redirect_stderr(StringIO()):
            settings = StoreSettings(ash, size=options.side)
            build(open_source(raw, "train", ash), settings, folder / "train.zarr", workers=2)
        for table in tables:
            batch = max(1, options.batch // 4) if table == "frames" else options.batch
            TABLES[table](Measurement(folder / "train.zarr", argparse.Namespace(**{**vars(options), "batch": batch})))


if __name__ == "__main__":
    run_main(main)
