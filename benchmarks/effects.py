"""What our choices are worth on the embedded data, at one fixed budget, over seeds.

    python benchmarks/effects.py OUT [--records 800] [--epochs 12] [--seeds 3] [--set KEY=VALUE ...]

Each variant is the base with one thing changed; all are scored on the same unseen records, at the threshold of their
own hold-out. The difference is that of global Dice with the counts of all seeds summed, its interval a paired bootstrap
over (site, day) groups. OUT keeps stores and runs: the command goes on where it was. Synthetic records: what shows here
need not show on real ones, and the other way round.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from contrail_data.build.build import build
from contrail_data.cli.common import print_table
from contrail_data.composites import COMPOSITES
from contrail_data.sources.open import open_source
from contrail_data.store.reader import open_store
from contrail_data.store.settings import StoreSettings
from contrail_data.synthetic.records import write_records
from contrail_train.config.presets import get_config
from contrail_train.config.settings import with_settings
from contrail_train.data.items import open_labelled
from contrail_train.evaluation.metrics import bootstrap_difference, dice
from contrail_train.evaluation.score import gated_counts, score_predictor
from contrail_train.inference.load import load_predictor
from contrail_train.training.fit import fit

SIDE = 128
BASE = [
    *("model.decoder.channels=[128,64,32,32,16]", "loss.pos_weight=3", "optim.lr=2e-3", "batch_size=8"),
    *("augment.affine=0", "data.threads=1"),
]
"""2D, hard labels, full flips and quarter turns with the label shift. Cross-entropy alone: from random weights, global
Dice leaves some seeds on a plateau for longer than this budget."""
VARIANTS = {
    "base: 2D, hard labels, label shift": [],
    "label shift off": ["augment.label_shift=[0,0]"],
    "soft labels, twice the mean": ["data.target=clip2"],
    "2.5D, one frame either side": ["data.frames=[-1,0,1]", "model.mixer=conv3d", "augment.time_reversal=0.5"],
    "soft labels, the annotators' mean": ["data.target=mean"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--records", type=int, default=800)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], help="a setting of every run")
    options = parser.parse_args()

    raw = options.out / "raw"
    write_records(raw, options.records, validation_fraction=0.4, size=SIDE)
    for split in ("train", "validation"):
        settings = StoreSettings(COMPOSITES["ash"], size=SIDE)
        build(open_source(raw, split, settings.composite), settings, options.out / f"{split}.zarr", workers=2)
    base = [*BASE, f"epochs={options.epochs}", f"data.train={options.out / 'train.zarr'}", *options.set]
    unseen = open_store(options.out / "validation.zarr")

    counts: dict[str, list[np.ndarray]] = {name: [] for name in VARIANTS}
    for seed in range(options.seeds):
        for number, (name, changed) in enumerate(VARIANTS.items()):
            out = options.out / "runs" / f"{number}-{seed}"
            fit(with_settings(get_config("unet2d"), [*base, *changed, f"seed={seed}"]), out)
            model = load_predictor(out).for_store(unseen)
            items = open_labelled([unseen], model.offsets)
            counts[name].append(gated_counts(score_predictor(model, items), model.decision.gate))

    reference = np.sum(counts[next(iter(VARIANTS))], axis=0)
    rows = []
    for name, by_seed in counts.items():
        together = np.sum(by_seed, axis=0)
        gain = float(dice(*together.sum(1)) - dice(*reference.sum(1)))
        low, high = bootstrap_difference(reference, together, items.group)
        each = ", ".join(f"{float(dice(*c.sum(1))):.3f}" for c in by_seed)
        differs = "" if name.startswith("base") else f"{gain:+.3f} ({low:+.3f} to {high:+.3f})"
        rows.append([name, each, f"{float(dice(*together.sum(1))):.3f}", differs])
    title = f"global Dice on {len(items)} unseen synthetic records of {SIDE} px, {options.epochs} epochs"
    print_table(title, ["variant", "by seed", "together", "less base (95 %)"], rows)


if __name__ == "__main__":
    main()
