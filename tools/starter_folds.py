"""Folds of labelled frames, runs that do not see one of them, and what these runs predict there: for `starter.py`.

Everything lies in the current folder under fixed names, and what is there already is used.
"""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from contrail_data.build.build import build
from contrail_data.composites import COMPOSITES
from contrail_data.labels.predictor import Symmetries
from contrail_data.process import end_with_parent
from contrail_data.sources.kept_frames import keep_frames
from contrail_data.sources.open import open_source
from contrail_data.sources.stores import from_stores
from contrail_data.splits.folds import make_folds
from contrail_data.store.reader import open_store
from contrail_data.store.samples import as_text
from contrail_data.store.settings import StoreSettings
from contrail_train.config.presets import get_config
from contrail_train.config.settings import with_settings
from contrail_train.data.items import Items, SampleStores, open_labelled
from contrail_train.evaluation.score import EvaluationOptions, labelled_batches
from contrail_train.inference.detector import Weights
from contrail_train.inference.load import load_run
from contrail_train.inference.predictor import Predictor
from contrail_train.training.fit import fit

SOURCES = (("opencontrails", "train"), ("opencontrails", "validation"), ("ash_frames", "train"))
"""Folder and split of each source. Of a record that is in several, the first is taken."""
FOLDS = 3
PRESET = "unet2d_dice"
STARTER = Path("all")
CPU = torch.device("cpu")
NETWORK = "run"
"""Name of the only network of a run's detector."""


def write_folds(data: Path) -> None:
    """Write a store of the labelled frames of each fold, unless they exist.

    Args:
        data: Folder of the real data.
    """
    if fold_store(FOLDS - 1).exists():
        return
    composite = COMPOSITES["ash"]
    settings = StoreSettings(composite)
    opened = []
    for name, split in SOURCES:
        place = Path(f"{name}-{split}.zarr")
        build(keep_frames(open_source(data / name, split, composite), (0,)), settings, place, workers=1)
        opened.append(open_store(place))
    samples = SampleStores(opened)
    record_id = np.concatenate([as_text(scalars["record_id"].values) for scalars in samples.scalars])
    human = np.concatenate([scalars["label_source"].values == "human" for scalars in samples.scalars])
    positive = np.concatenate([scalars["positive_pixels"].values > 0 for scalars in samples.scalars])
    first = np.isin(np.arange(len(record_id)), np.unique(record_id, return_index=True)[1])
    chosen = human & first
    fold = np.full(len(record_id), -1)
    fold[chosen] = make_folds(np.concatenate(samples.groups)[chosen], positive[chosen], FOLDS)
    ends = np.cumsum([store.sizes["sample"] for store in opened])[:-1]
    for k in range(FOLDS):
        parts = [np.flatnonzero(part == k) for part in np.split(fold, ends)]
        selections = [(store, part) for store, part in zip(opened, parts, strict=True) if len(part)]
        build(from_stores(selections), settings, fold_store(k), workers=1)


def fold_store(fold: int) -> Path:
    """Return the store of a fold."""
    return Path(f"fold-{fold}.zarr")


def train(name: str, folds: Sequence[int], settings: Sequence[str]) -> None:
    """Train a run on some folds, with one thread, unless it is finished.

    Args:
        name: Its directory.
        folds: The folds that it sees.
        settings: What differs from the preset.
    """
    torch.set_num_threads(1)
    stores = ",".join(str(fold_store(fold)) for fold in folds)
    fit(with_settings(get_config(PRESET), [*settings, f"data.train=[{stores}]"]), Path(name))


def train_all(settings: Sequence[str], workers: int) -> None:
    """Train a run for each fold that it does not see, which then predicts it, and one of all frames.

    Args:
        settings: What differs from the preset.
        workers: Runs at the same time.
    """
    seen = {f"without-{k}": [other for other in range(FOLDS) if other != k] for k in range(FOLDS)}
    seen[str(STARTER)] = [*range(FOLDS)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, end_with_parent) as pool:
        for job in [pool.submit(train, name, folds, settings) for name, folds in seen.items()]:
            job.result()
        for job in [pool.submit(predict, k, symmetries) for symmetries in Symmetries for k in range(FOLDS)]:
            job.result()


def held_out(fold: int) -> Items:
    """Open the frames of a fold, in groups that no other fold has."""
    items = open_labelled([open_store(fold_store(fold))])
    return replace(items, group=np.char.add(f"{fold} ", items.group))


def load_blind(fold: int, symmetries: Symmetries = Symmetries.NONE) -> Predictor:
    """Load the run that did not see a fold."""
    return load_run(Path(f"without-{fold}"), CPU, symmetries)


def _predictions_file(fold: int, symmetries: Symmetries) -> Path:
    return Path(f"predicted-{fold}-{symmetries}.npz")


def predict(fold: int, symmetries: Symmetries) -> None:
    """Predict a fold by the run that did not see it, unless that is done.

    Args:
        fold: The fold.
        symmetries: Transformed copies of an image to average over.
    """
    file = _predictions_file(fold, symmetries)
    if file.exists():
        return
    torch.set_num_threads(1)
    detector, keys, masks, scores = load_blind(fold, symmetries).detect, [], [], []
    for batch in labelled_batches(held_out(fold), EvaluationOptions(CPU, title=f"predict {fold} {symmetries}")):
        with torch.inference_mode():
            mask, score = detector.network_outputs(batch.window_btchw, batch.valid_bhw)  # type: ignore[attr-defined]
        keys += [_key(window) for window in batch.window_btchw]
        masks.append(mask[NETWORK].numpy())
        scores.append(score[NETWORK].numpy())
    unfinished = file.with_suffix(".part.npz")
    np.savez_compressed(unfinished, key=keys, mask=np.concatenate(masks), score=np.concatenate(scores))
    unfinished.replace(file)


def _key(window_tchw: Tensor) -> str:
    return hashlib.sha256(window_tchw.numpy().tobytes()).hexdigest()


@dataclass(frozen=True)
class Recorded:
    """A detector that repeats what another one answered, because averaging over symmetries takes minutes."""

    answers: dict[str, tuple[Tensor, Tensor]]
    """Mask and score by image."""
    mask: Weights
    gate: Weights

    def network_outputs(
        self, window_btchw: Tensor, valid_bhw: Tensor | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Look up what the network predicted.

        Args:
            window_btchw: Windows of stored frames.
            valid_bhw: Not used, as nothing is missing in these frames.

        Returns:
            Masks (b, h, w) and record scores (b), both by network.
        """
        masks, scores = zip(*(self.answers[_key(window)] for window in window_btchw), strict=True)
        return {NETWORK: torch.stack(masks)}, {NETWORK: torch.stack(scores)}


def recorded(fold: int, symmetries: Symmetries) -> Recorded:
    """Read what `predict` wrote.

    Args:
        fold: The fold.
        symmetries: Transformed copies of an image that were averaged over.

    Returns:
        A detector for this fold only.
    """
    stored = np.load(_predictions_file(fold, symmetries))
    masks, scores = torch.from_numpy(stored["mask"]), torch.from_numpy(stored["score"])
    weights = {NETWORK: 1.0}
    return Recorded(dict(zip(stored["key"].tolist(), zip(masks, scores, strict=True), strict=True)), weights, weights)
