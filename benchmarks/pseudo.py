"""Pseudo-labelling and evaluating a store, compared with only the model on windows that are in memory already.

    python benchmarks/pseudo.py [--records 8] [--rounds 3] [--only TABLE] [--set KEY=VALUE ...] [--cpu-time]

Tables:

- `labelling`: all frames of all records are read, predicted, rounded, compressed, summed and sealed.
- `scoring`: labelled frames of all records are read, predicted and counted, as for the hold-out of a run.
- `evaluation`: their contrails are separated and matched as well, as `contrail-train evaluate` does it. That depends on
  how many a mask has.
- `host`: the same tasks with a model that answers at once, as one on a GPU nearly does: what remains for the processor.
  `--variant`, `--device` and `--cpu-time` do not concern it.

The model predicts as many windows and returns them. Weights are random: its speed does not depend on them. The
threshold is one that a pixel of a thousand reaches, about as many as are labelled. --cpu-time measures the processor's
time, not the clock's, for a machine that other programs use.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import replace
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr

import timing
from contrail_data.build.build import build
from contrail_data.cli.common import print_table
from contrail_data.composites import COMPOSITES
from contrail_data.labels.predictor import Decision, Symmetries
from contrail_data.labels.write import write_labels
from contrail_data.sample import predictable_frames
from contrail_data.sources.open import open_source
from contrail_data.store.reader import open_store
from contrail_data.store.schema import Kind
from contrail_data.store.settings import StoreSettings
from contrail_train.config.presets import get_config
from contrail_train.config.schema import RunConfig
from contrail_train.config.settings import with_settings
from contrail_train.data.items import open_labelled
from contrail_train.evaluation.report import score_in_detail
from contrail_train.evaluation.score import score_predictor
from contrail_train.inference.detector import Prediction, single_network_detector, view_of
from contrail_train.inference.predictor import Predictor
from contrail_train.models.folding import prepare_for_cpu
from contrail_train.models.segmenter import build as build_model
from contrail_train.runs.distributed import choose_device
from timing import Run, make_parser, measure, medians, record_folder, run_main, spread, verdict

TARGET = 0.98
_TWO_FRAMES = ["data.frames=[-1,0]", "augment.time_reversal=0"]
VARIANTS: dict[str, tuple[str, list[str], Symmetries]] = {
    "2D": ("unet2d", [], Symmetries.NONE),
    "2D, flips": ("unet2d", [], Symmetries.FLIPS),
    "two frames": ("unet25d", _TWO_FRAMES, Symmetries.NONE),
    "2.5D": ("unet25d", [], Symmetries.NONE),
    "2.5D, flips": ("unet25d", [], Symmetries.FLIPS),
}
"""Preset, settings and symmetries by name."""
WINDOWS = 8
"""Windows that are predicted at once, as many as a record has frames."""


def untrained_predictor(
    config: RunConfig, store: xr.Dataset, device: torch.device, path: Path, symmetries: Symmetries
) -> Predictor:
    """Make a predictor for a store from a model with random weights."""
    torch.manual_seed(0)
    channels, frames = store.sizes["channel"], config.data.frames
    network = build_model(config.model, channels, frames).eval().to(device)
    if device.type == "cpu":
        prepare_for_cpu(network, torch.zeros(1, len(frames), channels, 64, 64))
    view = view_of(config, store.attrs["statistics"], device)
    options = {"top_k": 100, "mask_shift": (0.0, 0.0), "symmetries": symmetries}
    detector = single_network_detector(network, view, "mask", **options).eval()
    model = Predictor(
        path=path,
        detect=detector,
        offsets=detector.offsets,
        mask_shift=(0.0, 0.0),
        device=device,
        composite=store.attrs["composite"],
        label_shift=tuple(store.attrs["label_shift"]),
        decision=Decision(0.5, 0.0, 100, "sha256:untrained"),
        trained_records=frozenset(),
        calibrated_records=frozenset(),
        head="mask",
        native=False,
        pixel=2000.0,
        size=store.sizes["y"],
        dtype="uint8",
    )
    middle = store.sizes["time"] // 2
    probability = model.predict(model.window_reader(store)([(0, middle)])).probability
    return replace(model, decision=replace(model.decision, threshold=float(np.quantile(probability, 0.999))))


Batches = list[npt.NDArray[Any]]
Prepare = Callable[[xr.Dataset, Predictor, Path], tuple[Batches, Run]]
"""Returns the windows that a task predicts, in batches, and the task."""


def in_batches(store: xr.Dataset, model: Predictor, frames: Sequence[tuple[int, int]]) -> Batches:
    read = model.window_reader(store)
    return [read(frames[i : i + WINDOWS]) for i in range(0, len(frames), WINDOWS)]


def prepare_labelling(store: xr.Dataset, model: Predictor, out: Path) -> tuple[Batches, Run]:
    """Label the frames that have their neighbours, record by record."""
    samples = np.arange(store.sizes["sample"])
    frames = predictable_frames(model.offsets, store.sizes["time"])
    batches = [in_batches(store, model, [(sample, frame) for frame in frames])[0] for sample in samples.tolist()]
    options = {"kind": Kind.PSEUDO_LABELS, "samples": samples, "batch": 1}
    return batches, partial(write_labels, store, model.labeller_for(store), out, **options)


def prepare_scoring(store: xr.Dataset, model: Predictor, out: Path) -> tuple[Batches, Run]:
    """Score the labelled frames."""
    del out
    items = open_labelled([store], model.offsets)
    frames = list(zip(items.sample.tolist(), items.frame.tolist(), strict=True))
    return in_batches(store, model, frames), partial(score_predictor, model, items, WINDOWS)


def prepare_evaluation(store: xr.Dataset, model: Predictor, out: Path) -> tuple[Batches, Run]:
    """Evaluate the labelled frames."""
    batches, _ = prepare_scoring(store, model, out)
    items = open_labelled([store], model.offsets)
    return batches, partial(score_in_detail, model, store, items, WINDOWS)


TASKS = {"labelling": prepare_labelling, "scoring": prepare_scoring, "evaluation": prepare_evaluation}


def compare(name: str, options: argparse.Namespace) -> None:
    """Print a table: a task compared with only the model."""
    device = choose_device(options.device)
    rows = []
    with built_store(options) as store:
        out = Path(store.attrs["path"]).with_name("out.zarr")
        for variant in options.variant or VARIANTS:
            model = predictor_of(variant, store, device, options)
            batches, task = TASKS[name](store, model, out)

            def predict(model: Predictor = model, batches: Batches = batches) -> None:
                for window_btchw in batches:
                    model.predict(window_btchw)

            clear = partial(shutil.rmtree, out, ignore_errors=True)
            seconds = measure({"model": predict, "task": task}, options.rounds, after=clear)
            median, count = medians(seconds), sum(map(len, batches))
            share = median["model"] / median["task"]
            rates = [f"{count / median[which]:.1f}" for which in ("model", "task")]
            target = verdict(share, TARGET, at_least=True)
            rows.append([variant, *rates, f"{share:.3f}", target, spread(seconds["task"])])
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    of_what = "CPU time" if options.cpu_time else "time"
    title = f"{name}: {options.records} records of {options.side} px, {where}; {of_what}, medians of {options.rounds}"
    header = ["variant", "model alone, frames/s", f"{name}, frames/s", "share", "target", "rounds / median"]
    print_table(f"{title} shuffled rounds", header, rows)


def measure_host(options: argparse.Namespace) -> None:
    """Print the table `host`."""
    rows = []
    with built_store(options) as store:
        out = Path(store.attrs["path"]).with_name("out.zarr")
        model = predictor_of("2D", store, torch.device("cpu"), options)
        middle = store.sizes["time"] // 2
        window_btchw = model.window_reader(store)([(0, middle)] * WINDOWS)
        with torch.inference_mode():
            answer = model.detect(torch.from_numpy(window_btchw), None)
        at_once = replace(
            model,
            detect=lambda window_btchw, _: Prediction(*(part[: len(window_btchw)] for part in answer)),
            mask_shift=model.label_shift,
        )
        for name, prepare in TASKS.items():
            batches, task = prepare(store, at_once, out)
            frames = sum(map(len, batches))
            each = []
            for _ in range(options.rounds + 1):
                start, start_of_work = time.perf_counter(), time.process_time()
                task()
                each.append((time.perf_counter() - start, time.process_time() - start_of_work))
                shutil.rmtree(out, ignore_errors=True)
            seconds, work = (statistics.median(values) for values in zip(*each[1:], strict=True))
            figures = [f"{frames / seconds:.0f}", f"{work / frames * 1000:.2f}", f"{work / seconds:.2f}"]
            rows.append([name, *figures, spread([seconds for seconds, _ in each[1:]])])
    title = (
        f"host: {options.records} records of {options.side} px, a model that answers at once, {os.cpu_count()} cores"
    )
    print_table(title, ["task", "frames/s", "CPU ms a frame", "cores at work", "rounds / median"], rows)


@contextmanager
def built_store(options: argparse.Namespace) -> Iterator[xr.Dataset]:
    """Build a store of synthetic records."""
    ash = COMPOSITES["ash"]
    with record_folder(options.records) as (folder, raw), redirect_stderr(StringIO()):
        build(open_source(raw, "train", ash), StoreSettings(ash, size=options.side), folder / "s.zarr", workers=2)
        yield open_store(folder / "s.zarr")


def predictor_of(variant: str, store: xr.Dataset, device: torch.device, options: argparse.Namespace) -> Predictor:
    """Make the predictor of a variant."""
    preset, settings, symmetries = VARIANTS[variant]
    config = with_settings(get_config(preset), [*settings, *options.set])
    return untrained_predictor(config, store, device, Path(store.attrs["path"]).parent, symmetries)


TABLES = {**{name: partial(compare, name) for name in TASKS}, "host": measure_host}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, list(TABLES), rounds=3)
    parser.add_argument("--records", type=int, default=8, help="number of records (default 8)")
    parser.add_argument("--side", type=int, default=256, help="rows and columns of the images (default 256)")
    parser.add_argument(
        "--variant", action="append", choices=VARIANTS, help="measure only this one; can be given several times"
    )
    parser.add_argument("--cpu-time", action="store_true", help="measure the processor's time, not the clock's")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--set", action="append", default=[], help="a setting of the models", metavar="KEY=VALUE")
    options = parser.parse_args(arguments)
    if options.cpu_time:
        timing.clock = time.process_time
    for table in options.only or TABLES:
        TABLES[table](options)


if __name__ == "__main__":
    run_main(main, shares_cores=True)
