"""Pseudo-labelling a store, against the model alone on windows that are in memory already.

    python benchmarks/pseudo.py [--records 16] [--rounds 5] [--set KEY=VALUE ...]

Labelling reads, predicts, rounds, compresses, sums and seals; the model alone predicts as many windows and gives them
back. Weights are random: speed does not depend on them.
"""

from __future__ import annotations

import argparse
import shutil

import torch

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
from contrail_train.config.settings import with_settings
from contrail_train.inference.detector import single_network_detector, view_of
from contrail_train.inference.predictor import Predictor
from contrail_train.models.segmenter import build as build_model
from contrail_train.runs.device import choose_device
from timing import interleaved, medians, spread, verdict, workplace

TARGET = 0.95
WAYS = {
    "2D, every frame": ("unet2d", Symmetries.NONE),
    "2.5D, frames with both neighbours": ("unet25d", Symmetries.NONE),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--set", action="append", default=[], help="a setting of the models")
    options = parser.parse_args()
    device = choose_device(options.device)
    with workplace(options.records, None, "train") as (folder, root):
        recipe = COMPOSITES["ash"]
        build(open_source(root, "train", recipe), StoreSettings(recipe), folder / "s.zarr", workers=2)
        store = open_store(folder / "s.zarr")
        rows = []
        for name, (preset, symmetries) in WAYS.items():
            config = with_settings(get_config(preset), options.set)
            torch.manual_seed(0)
            net = build_model(config.model, len(recipe.channels), config.data.frames).eval().to(device)
            view = view_of(config, store.attrs["statistics"], device)
            detector = single_network_detector(
                net, view, "mask", top_k=100, mask_shift=(0.0, 0.0), symmetries=symmetries
            ).eval()
            decision = Decision(0.5, 0.0, 100, f"sha256:{name}")
            model = Predictor(
                path=folder,
                detect=detector,
                offsets=detector.offsets,
                mask_shift=(0.0, 0.0),
                device=device,
                composite=store.attrs["composite"],
                label_shift=tuple(store.attrs["label_shift"]),
                decision=decision,
                trained_records=frozenset(),
                calibrated_records=frozenset(),
                head="mask",
                native=False,
                pixel=2000.0,
                size=256,
                dtype="uint8",
            )
            windows = _windows(store, model, options.batch)
            count = sum(map(len, windows))

            def alone(model: Predictor = model, windows: list = windows) -> None:
                for window_btchw in windows:
                    model.predict(window_btchw)

            def label(model: Predictor = model) -> None:
                write_labels(
                    store,
                    model.labeller_for(store),
                    folder / "out.zarr",
                    kind=Kind.PSEUDO_LABELS,
                    batch=options.batch,
                )

            def clear() -> None:
                shutil.rmtree(folder / "out.zarr", ignore_errors=True)

            found = interleaved({"alone": alone, "label": label}, options.rounds, after=clear)
            middle = medians(found)
            share = middle["alone"] / middle["label"]
            rates = [f"{count / middle[which]:.1f}" for which in ("alone", "label")]
            told = verdict(share, TARGET, at_least=True)
            rows.append([name, *rates, f"{share:.3f}", told, spread(found["label"])])
    what = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    title = f"{options.records} records of 8 frames, 256 px, {what}; medians of {options.rounds} shuffled rounds"
    header = ["", "model alone, frames/s", "pseudo-label, frames/s", "share", "target", "rounds / median"]
    print_table(title, header, rows)


def _windows(store: object, model: Predictor, batch: int) -> list:
    """Batches (b, t, c, y, x) of every frame that has its neighbours, as `write_labels` makes them."""
    import numpy as np

    read = pixel_reader(store)  # type: ignore[arg-type]
    samples, frames = store["image"].shape[:2]  # type: ignore[index]
    able = range(-model.offsets[0], frames - model.offsets[-1])
    made = []
    for start in range(0, samples, batch):
        members = range(start, min(start + batch, samples))
        shape = (len(members) * len(able), len(model.offsets), *store["image"].shape[2:])  # type: ignore[index]
        window_btchw = np.empty(shape, np.uint8)
        for i, (sample, frame) in enumerate((s, f) for s in members for f in able):
            read(sample, [frame + offset for offset in model.offsets], window_btchw[i])
        made.append(window_btchw)
    return made


if __name__ == "__main__":
    main()
