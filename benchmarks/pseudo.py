"""Pseudo-labelling a store, compared with only the model on windows that are in memory already.

    python benchmarks/pseudo.py [--records 16] [--rounds 5] [--set KEY=VALUE ...]

Labelling reads, predicts, rounds, compresses, sums and seals; the model predicts as many windows and returns them.
Weights are random: speed does not depend on them.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from contextlib import redirect_stderr
from functools import partial
from io import StringIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr

from contrail_data.build.build import build
from contrail_data.cli.common import print_table
from contrail_data.composites import COMPOSITES
from contrail_data.labels.predictor import Decision, Symmetries
from contrail_data.labels.write import write_labels
from contrail_data.sources.open import open_source
from contrail_data.store.reader import open_store, pixel_reader
from contrail_data.store.schema import Kind
from contrail_data.store.settings import StoreSettings
from contrail_train.config.presets import get_config
from contrail_train.config.schema import RunConfig
from contrail_train.config.settings import with_settings
from contrail_train.inference.detector import single_network_detector, view_of
from contrail_train.inference.predictor import Predictor
from contrail_train.models.folding import prepare_for_cpu
from contrail_train.models.segmenter import build as build_model
from contrail_train.runs.distributed import choose_device
from timing import make_parser, measure, medians, record_folder, run_main, spread, verdict

TARGET = 0.95
PRESETS = {"2D, every frame": "unet2d", "2.5D, frames with both neighbours": "unet25d"}


def untrained_predictor(config: RunConfig, store: xr.Dataset, device: torch.device, path: Path) -> Predictor:
    """Make a predictor for a store from a model with random weights."""
    torch.manual_seed(0)
    channels, frames = store.sizes["channel"], config.data.frames
    network = build_model(config.model, channels, frames).eval().to(device)
    if device.type == "cpu":
        prepare_for_cpu(network, torch.zeros(1, len(frames), channels, 64, 64))
    view = view_of(config, store.attrs["statistics"], device)
    none = Symmetries.NONE
    detector = single_network_detector(network, view, "mask", top_k=100, mask_shift=(0.0, 0.0), symmetries=none).eval()
    return Predictor(
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


def windows_of(store: xr.Dataset, model: Predictor, batch: int) -> list[npt.NDArray[np.uint8]]:
    """Read all windows in batches (b, t, c, y, x), of every frame that has its neighbours, as `write_labels` does."""
    read = pixel_reader(store)
    samples, frames = store["image"].shape[:2]
    usable = range(-model.offsets[0], frames - model.offsets[-1])
    batches = []
    for start in range(0, samples, batch):
        members = range(start, min(start + batch, samples))
        shape = (len(members) * len(usable), len(model.offsets), *store["image"].shape[2:])
        window_btchw = np.empty(shape, np.uint8)
        for i, (sample, frame) in enumerate((s, f) for s in members for f in usable):
            read(sample, [frame + offset for offset in model.offsets], window_btchw[i])
        batches.append(window_btchw)
    return batches


def compare_labelling(options: argparse.Namespace) -> None:
    """Print the table `labelling`."""
    device = choose_device(options.device)
    ash = COMPOSITES["ash"]
    rows = []
    with record_folder(options.records) as (folder, raw), redirect_stderr(StringIO()):
        build(open_source(raw, "train", ash), StoreSettings(ash, size=options.side), folder / "s.zarr", workers=2)
        store, out = open_store(folder / "s.zarr"), folder / "out.zarr"
        for name, preset in PRESETS.items():
            config = with_settings(get_config(preset), options.set)
            model = untrained_predictor(config, store, device, folder)
            windows = windows_of(store, model, options.batch)

            def predict(model: Predictor = model, windows: list[npt.NDArray[np.uint8]] = windows) -> None:
                for window_btchw in windows:
                    model.predict(window_btchw)

            label = partial(write_labels, store, model.labeller_for(store), out)
            runs = {"model": predict, "label": partial(label, kind=Kind.PSEUDO_LABELS, batch=options.batch)}
            seconds = measure(runs, options.rounds, after=partial(shutil.rmtree, out, ignore_errors=True))
            median = medians(seconds)
            count = sum(map(len, windows))
            share = median["model"] / median["label"]
            rates = [f"{count / median[which]:.1f}" for which in runs]
            target = verdict(share, TARGET, at_least=True)
            rows.append([name, *rates, f"{share:.3f}", target, spread(seconds["label"])])
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    title = (
        f"labelling: {options.records} records of 8 frames, {options.side} px, {where}; "
        f"medians of {options.rounds} shuffled rounds"
    )
    header = ["variant", "model alone, frames/s", "pseudo-label, frames/s", "share", "target", "rounds / median"]
    print_table(title, header, rows)


TABLES = {"labelling": compare_labelling}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, list(TABLES), rounds=5)
    parser.add_argument("--records", type=int, default=16, help="number of records (default 16)")
    parser.add_argument("--side", type=int, default=256, help="rows and columns of the images (default 256)")
    parser.add_argument("--batch", type=int, default=4, help="records predicted at once (default 4)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--set", action="append", default=[], help="a setting of the models", metavar="KEY=VALUE")
    options = parser.parse_args(arguments)
    for table in options.only or TABLES:
        TABLES[table](options)


if __name__ == "__main__":
    run_main(main)
