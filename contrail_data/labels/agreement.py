"""Compare two stores of labels that were derived from the same parent, frame by frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.errors import ContrailError
from contrail_data.store.reader import pixel_reader, read_scalars
from contrail_data.store.schema import Kind, require_kind


@dataclass
class Agreement:
    """Agreement of two stores, A and B, on the frames at one offset from the labelled frame.

    Frames that a human labelled in either store are left out.
    """

    offset: int
    frames: int = 0
    pixels_a: int = 0
    """Contrail pixels in A's masks."""
    pixels_b: int = 0
    pixels_both: int = 0
    probability_minimum: float = 0.0
    """Sum over the pixels of the smaller probability."""
    probability_total: float = 0.0
    """Sum over the pixels of both probabilities."""
    unmoved_both: int | None = None
    """Pixels of B's mask that also lie in the human label of the record; None if no frame here has such a label."""
    unmoved_total: int = 0
    """Pixels of B's masks and of the human labels."""

    @property
    def dice(self) -> float:
        """Dice coefficient of the two masks."""
        return 2 * self.pixels_both / max(self.pixels_a + self.pixels_b, 1)

    @property
    def soft_dice(self) -> float:
        """Dice coefficient of the two probabilities: 2 x sum of minima / sum."""
        return 2 * self.probability_minimum / max(self.probability_total, 1e-9)

    @property
    def unmoved_dice(self) -> float | None:
        """Dice coefficient of B's mask and the human label left where it is: what a carried label has to beat."""
        return None if self.unmoved_both is None else 2 * self.unmoved_both / max(self.unmoved_total, 1)


def compare_label_stores(a: xr.Dataset, b: xr.Dataset) -> list[Agreement]:
    """Compare two stores of labels of the same parent.

    Args:
        a: Pseudo-labels or predictions.
        b: Pseudo-labels or predictions.

    Returns:
        The agreement for each offset from the labelled frame, ascending.

    Raises:
        ContrailError: If the stores hold no labels, have different parents, or share no frame without a human label.
    """
    paths = f"{a.attrs['path']} and {b.attrs['path']}"
    for store in (a, b):
        require_kind(store, Kind.PSEUDO_LABELS, Kind.PREDICTIONS, remedy="give two stores of labels")
    if a.attrs["parent"] != b.attrs["parent"]:
        raise ContrailError(f"{paths}: are labels of different stores; there is nothing to compare")
    labels_a, labels_b = _Labels(a), _Labels(b)
    by_offset: dict[int, Agreement] = {}
    for record, offset in sorted(labels_a.frames.keys() & labels_b.frames.keys()):
        if labels_a.is_human(record, offset) or labels_b.is_human(record, offset):
            continue
        total = by_offset.setdefault(offset, Agreement(offset))
        mask_a, mask_b = (labels.plane("frame_mask", record, offset) for labels in (labels_a, labels_b))
        probabilities = [labels.plane("probability", record, offset) / 255 for labels in (labels_a, labels_b)]
        total.frames += 1
        total.pixels_a += int(mask_a.sum())
        total.pixels_b += int(mask_b.sum())
        total.pixels_both += int((mask_a * mask_b).sum())
        total.probability_minimum += float(np.minimum(*probabilities).sum())
        total.probability_total += sum(float(p.sum()) for p in probabilities)
        if (human := next((labels for labels in (labels_a, labels_b) if labels.is_human(record, 0)), None)) is not None:
            unmoved = human.plane("frame_mask", record, 0)
            total.unmoved_both = (total.unmoved_both or 0) + int((unmoved * mask_b).sum())
            total.unmoved_total += int(unmoved.sum() + mask_b.sum())
    if not by_offset:
        raise ContrailError(f"{paths}: share no frame without a human label; there is nothing to compare")
    return [total for _, total in sorted(by_offset.items())]


class _Labels:
    """The labelled frames of a store, by record id and offset from the labelled frame.

    Args:
        store: Pseudo-labels or predictions.
    """

    def __init__(self, store: xr.Dataset) -> None:
        records = read_scalars(store)
        offset_nt = records["frame"].values.astype(int) - records["labelled_frame"].values.astype(int)[:, np.newaxis]
        self.frames = {
            (str(record_id), int(offset)): (sample, column)
            for sample, (record_id, offset_t) in enumerate(zip(records["record_id"].values, offset_nt, strict=True))
            for column, offset in enumerate(offset_t)
        }
        self._human_nt = records["frame_source"].values == "human"
        self._shape = store["frame_mask"].shape[2:]
        self._readers = {name: pixel_reader(store, name) for name in ("frame_mask", "probability")}

    def is_human(self, record: str, offset: int) -> bool:
        position = self.frames.get((record, offset))
        return position is not None and bool(self._human_nt[position])

    def plane(self, name: str, record: str, offset: int) -> npt.NDArray[np.float64]:
        # (y, x) stored values
        sample, column = self.frames[record, offset]
        stored = np.empty((1, *self._shape), np.uint8)
        self._readers[name](sample, [column], stored)
        return stored[0].astype(np.float64)
