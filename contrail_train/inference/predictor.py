"""A trained run, pipeline or exported file as a predictor: stored composite in, probability on the labels' grid out."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr

from contrail_data.errors import ContrailError
from contrail_data.labels.predictor import Decision, Predicted
from contrail_data.labels.write import label_store
from contrail_data.store.schema import kind
from contrail_train.inference.detector import Detect, Shift, onto_labels

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Predictor:
    path: Path
    """Of the run, pipeline or file."""
    detect: Detect
    offsets: tuple[int, ...]
    """Frames that it looks at, from the one that it tells of."""
    off: Shift
    """How far what it tells lies off the image."""
    device: torch.device
    composite: dict[str, Any]
    label_shift: Shift
    """How far the labels' grid lies off the image."""
    decision: Decision
    trained_records: frozenset[str]
    calibrated_records: frozenset[str]
    """Records held out, by which epochs, thresholds and weights were chosen."""
    head: str
    """As in `ModelConfig`."""
    native: bool
    """Trained on windows of an imager's own grid, not on UTM tiles."""
    pixel: float
    """Metres, of the tiles it was trained on."""
    size: int
    """Pixels of their side."""
    dtype: str
    """Of the stored images."""

    @property
    def on_labels(self) -> Detect:
        """What it tells, on the labels' grid."""
        return onto_labels(self.detect, (self.label_shift[0] - self.off[0], self.label_shift[1] - self.off[1]))

    def for_store(self, store: xr.Dataset) -> Predictor:
        """This predictor for the labels' grid of a store, which may lie otherwise than the training data's.

        Raises ContrailError for a store of another composite, or one without images.
        """
        self.check_store(store)
        if (side := store.sizes["y"]) != self.size:
            log.warning(
                "warning: %s has tiles of %d pixels, the model was trained on %d: is a contrail as wide as it learnt?",
                *(store.attrs["path"], side, self.size),
            )
        return replace(self, label_shift=tuple(store.attrs["label_shift"]))

    def for_masks(self) -> Predictor:
        """This predictor, if it has masks to give. Raises ContrailError for a classifier of records."""
        if self.head == "record":
            raise ContrailError(
                f"{self.path}: tells records, not pixels: name a run with model.head=mask or both, or "
                "`contrail-train predict -o NAME.csv` for its probabilities of records"
            )
        return self

    @torch.inference_mode()
    def predict(self, window_btchw: npt.NDArray[Any], valid_bhw: npt.NDArray[np.bool_] | None = None) -> Predicted:
        """Windows of stored frames (b, len(offsets), c, y, x), and where the frame that is told of has pixels → what is
        told of it, on the labels' grid. No score counts what is told where there is no pixel.
        """
        valid = None if valid_bhw is None else torch.from_numpy(valid_bhw).to(self.device)
        told = self.on_labels(torch.from_numpy(window_btchw).to(self.device), valid)
        return Predicted(*(part.cpu().numpy() for part in told))

    def label(
        self, store: xr.Dataset, out: str | Path, store_kind: Literal["pseudo-labels", "predictions"], **how: Any
    ) -> tuple[str, int]:
        """`label_store` by this predictor, with what that store will tell of it; `how`: frames, samples, batch ..."""
        own = self.for_masks().for_store(store)
        known = {"offsets": own.offsets, "trained_records": own.trained_records}
        return label_store(store, own.predict, own.decision, out, store_kind=store_kind, **known, **how)

    def check_store(self, store: xr.Dataset) -> None:
        """Raises ContrailError for a store of another composite, or one without images."""
        path = store.attrs["path"]
        if kind(store) != "samples":
            raise ContrailError(f"{path}: holds {kind(store)}, no images: name the store it came from")
        ours, theirs = self.composite["channels"], store.attrs["composite"]["channels"]
        if ours != theirs:
            name = self.composite["name"]
            raise ContrailError(
                f"{path}: composite {store.attrs['composite']['name']!r}, the model was trained on {name!r}: "
                f"build the store with --composite {name}"
            )
