"""Predictors with known results, and stores of their pseudo-labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from contrail_data.labels.predictor import Decision, Labeller, Predicted
from contrail_data.labels.write import write_labels
from contrail_data.store.reader import open_store
from contrail_data.store.schema import Kind


def mean_red(samples: list[int], x_btchw: np.ndarray, valid_bhw: np.ndarray | None) -> Predicted:
    """Predict the frame's mean red for every pixel, so that tests notice mixed-up frames."""
    mean_b = (x_btchw[:, 0, 0].mean((1, 2)) / 255).astype(np.float32)
    shape = (len(x_btchw), *x_btchw.shape[3:])
    return Predicted(np.broadcast_to(mean_b[:, None, None], shape), mean_b, np.ones(len(mean_b), np.float32))


def pseudo_of(store: Path, out: Path, trained: tuple[str, ...] = ()) -> Path:
    """Write a store of pseudo-labels by `mean_red`."""
    labeller = Labeller(predict=mean_red, decision=Decision(0.3, 0.0, 100, "sha256:test"), trained_records=trained)
    write_labels(open_store(store), labeller, out, kind=Kind.PSEUDO_LABELS)
    return out


def uniform(samples: list[int], x_btchw: np.ndarray, valid_bhw: np.ndarray | None) -> Predicted:
    count = len(x_btchw)
    agreement = np.linspace(0, 1, count).astype(np.float32)
    return Predicted(np.full((count, *x_btchw.shape[3:]), 0.9, np.float32), np.ones(count, np.float32), agreement)


def labels_of(parent: Path, out: Path, trained: tuple[str, ...] = ()) -> Path:
    labeller = Labeller(predict=uniform, decision=Decision(0.5, 0.0, 10, "sha256:m"), trained_records=trained)
    write_labels(open_store(parent), labeller, out, kind=Kind.PSEUDO_LABELS)
    return out
