"""Compare two stores of labels that were derived from the same parent, frame by frame."""

from dataclasses import dataclass

import numpy as np
import xarray as xr

from contrail_data.errors import ContrailError
from contrail_data.store import logits
from contrail_data.store.reader import pixel_reader, read_scalars
from contrail_data.store.samples import Floats
from contrail_data.store.schema import Kind, require_kind


@dataclass(frozen=True)
class Agreement:
    """Agreement of two stores, A and B, on the frames at one offset from the labelled frame.

    Frames that a human labelled in either store are left out.
    """

    offset: int
    frames: int
    pixels_a: int
    """Contrail pixels in A's masks."""
    pixels_b: int
    dice: float
    """Dice coefficient of the two masks."""
    soft_dice: float
    """Dice coefficient of the two probabilities: 2 x sum of minima / sum."""
    unmoved_dice: float | None
    """Dice coefficient of B's mask and the human label left where it is: what a carried label has to beat. None if no
    frame here is of a record with such a label."""


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
    stores = _Labels(a), _Labels(b)
    sums_of: dict[int, Floats] = {}
    for record, offset in sorted(stores[0].frames.keys() & stores[1].frames.keys()):
        if any((record, offset) in labels.human for labels in stores):
            continue
        sums = sums_of.setdefault(offset, np.zeros(9))
        (mask_a, soft_a), (mask_b, soft_b) = (labels.read(record, offset) for labels in stores)
        sums[:4] += 1, mask_a.sum(), mask_b.sum(), (mask_a * mask_b).sum()
        sums[4:6] += np.minimum(soft_a, soft_b).sum(), soft_a.sum() + soft_b.sum()
        if (human := next((labels for labels in stores if (record, 0) in labels.human), None)) is not None:
            unmoved, _ = human.read(record, 0)
            sums[6:] += 1, (unmoved * mask_b).sum(), unmoved.sum() + mask_b.sum()
    if not sums_of:
        raise ContrailError(f"{paths}: share no frame without a human label; there is nothing to compare")
    return [
        Agreement(
            *(offset, int(frames), int(in_a), int(in_b)),
            dice=2 * both / max(in_a + in_b, 1),
            soft_dice=2 * minima / max(total, 1e-9),
            unmoved_dice=2 * stayed / max(marked, 1) if humans else None,
        )
        for offset, (frames, in_a, in_b, both, minima, total, humans, stayed, marked) in sorted(sums_of.items())
    ]


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
        human_nt = records["frame_source"].values == "human"
        self.human = {key for key, place in self.frames.items() if human_nt[place]}
        self._store = store
        self._readers = {name: pixel_reader(store, name) for name in ("frame_mask", "logit")}

    def read(self, record: str, offset: int) -> tuple[Floats, Floats]:
        # Mask and probability, (y, x)
        sample, column = self.frames[record, offset]
        planes = {name: np.empty((1, *self._store[name].shape[2:]), self._store[name].dtype) for name in self._readers}
        for name, read in self._readers.items():
            read(sample, [column], planes[name])
        return planes["frame_mask"][0].astype(np.float64), logits.decode(planes["logit"][0])
