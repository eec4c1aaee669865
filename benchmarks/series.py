"""What neighbouring frames are worth where only motion distinguishes contrails from lookalikes.

    python benchmarks/series.py OUT [--records 800] [--epochs 6] [--seeds 3] [--side 64] [--set KEY=VALUE ...]

In the scenery `moving` half of the lines at 64 px stand still in the wind and are not labelled. The notes' form mixes
seven frames by 3-D blocks with convolved shortcuts; the one mixed at half resolution has the same encoder, decoder,
frames and identity shortcuts. The fast form is the notes' at the two finest levels, up to which the other frames are
encoded. Each starts from the same model of one frame, trained for as many epochs, and is compared with that model
trained on. Tables: `series`, all forms compared with one frame; `forms`, compared with the notes' form. OUT keeps
stores and runs: the same command continues where it stopped. The records are synthetic.
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

FRAMES = ("data.frames=[-3,-2,-1,0,1,2,3]", "augment.time_reversal=0.5")
ONE_FRAME, NOTES, COARSE = "one frame", "seven frames, notes' form", "seven frames, mixed at half resolution"
FAST = "seven frames, fast form"
VARIANTS = {
    ONE_FRAME: [],
    NOTES: [*FRAMES, "model.mixer.shortcut=conv"],
    COARSE: [*FRAMES, "model.mixer.downscale=2"],
    FAST: [*FRAMES, "model.mixer.shortcut=conv", "model.mixer.levels=[0,1]", "model.mixer.neighbours=mixed"],
}


def count(experiment: Experiment, names: Sequence[str]) -> dict[str, list[Counts]]:
    """Return the pixel counts on unseen records by variant and seed, training what has not been trained yet."""
    counts: dict[str, list[Counts]] = {name: [] for name in names}
    for seed in range(experiment.seeds):
        start = experiment.out / "runs" / f"start-{seed}"
        fit(with_settings(get_config("unet2d"), experiment.settings_of(seed)), start)
        for name in names:
            out = experiment.out / "runs" / f"{list(VARIANTS).index(name)}-{seed}"
            settings = [*experiment.settings_of(seed), *VARIANTS[name], f"start={start}"]
            fit(with_settings(get_config("unet2d"), settings), out)
            model = load_model(out).for_store(experiment.unseen)
            items = open_labelled([experiment.unseen], model.offsets)
            counts[name].append(gated_counts(score_predictor(model, items), model.decision.gate))
    return counts


TABLES = {"series": (ONE_FRAME, NOTES, COARSE, FAST), "forms": (NOTES, COARSE, FAST)}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, list(TABLES))
    add_experiment_options(parser, records=800, epochs=6)
    parser.set_defaults(side=64, seeds=3, set=["model.encoder=test_resnet"])
    options = parser.parse_args(arguments)
    experiment = experiment_of(options, scenery="moving")
    tables = options.only or list(TABLES)
    counts = count(experiment, [name for name in VARIANTS if any(name in TABLES[table] for table in tables)])
    for table in tables:
        experiment.print_dice(table, {name: counts[name] for name in TABLES[table]})


if __name__ == "__main__":
    run_main(main)
