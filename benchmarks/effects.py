"""What single choices are worth on the embedded data, at one fixed budget, over seeds.

    python benchmarks/effects.py OUT [--records 160] [--epochs 6] [--seeds 1] [--set KEY=VALUE ...]

Each variant is the base with one change; all are scored on the same unseen records, at the threshold of their own
hold-out. The difference is that of global Dice with the counts of all seeds summed, its interval a paired bootstrap
over (site, day) groups. OUT keeps stores and runs: the same command continues where it stopped. The records are
synthetic: an effect that shows here need not show on real ones, and vice versa. At the default size this takes a few
minutes and shows little; README.md states the size of its figures.
"""

from __future__ import annotations

from collections.abc import Sequence

from contrail_train.config.presets import get_config
from contrail_train.config.settings import with_settings
from contrail_train.data.items import open_labelled
from contrail_train.evaluation.score import gated_counts, score_predictor
from contrail_train.inference.load import load_model
from contrail_train.training.fit import fit
from embedded import Counts, Experiment, add_experiment_options, experiment_of
from timing import make_parser, run_main

VARIANTS = {
    "base: 2D, hard labels, label shift": [],
    "label shift off": ["augment.label_shift=[0,0]"],
    "soft labels, twice the mean": ["data.target=clip2"],
    "2.5D, one frame either side": ["data.frames=[-1,0,1]", "model.mixer.kind=conv3d", "augment.time_reversal=0.5"],
    "soft labels, the annotators' mean": ["data.target=mean"],
}


def compare_effects(experiment: Experiment) -> None:
    """Print the table `effects`."""
    counts: dict[str, list[Counts]] = {name: [] for name in VARIANTS}
    for seed in range(experiment.seeds):
        for number, (name, changes) in enumerate(VARIANTS.items()):
            out = experiment.out / "runs" / f"{number}-{seed}"
            fit(with_settings(get_config("unet2d"), [*experiment.settings_of(seed), *changes]), out)
            model = load_model(out).for_store(experiment.unseen)
            items = open_labelled([experiment.unseen], model.offsets)
            counts[name].append(gated_counts(score_predictor(model, items), model.decision.gate))
    experiment.print_dice("effects", counts)


TABLES = {"effects": compare_effects}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, list(TABLES))
    add_experiment_options(parser, records=160, epochs=6)
    options = parser.parse_args(arguments)
    experiment = experiment_of(options)
    for table in options.only or TABLES:
        TABLES[table](experiment)


if __name__ == "__main__":
    run_main(main)
