"""MISSING DOCSTRING."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.errors import ContrailError
from contrail_data.store.reader import pixel_reader, read_scalars
from contrail_data.store.schema import kind


def compared(a: xr.Dataset, b: xr.Dataset) -> list[dict[str, Any]]:
    """How two stores of labels of one parent agree, by frames from the labelled one.

    Of each offset: `frames` that both have and neither has from a human, `a` and `b` pixels, `dice` of the masks,
    `soft` the same of probabilities (2 sum of least over sum), and `unmoved`: Dice of b and the human label where it
    was drawn, what a carried label has to beat; None where no frame of theirs is a human's. Raises ContrailError for
    stores of other parents, or without a frame in common.
    """
    for store in (a, b):
        if kind(store) not in ("pseudo-labels", "predictions"):
            raise ContrailError(f"{store.attrs['path']}: holds {kind(store)}: name labels that a model or flow made")
    if a.attrs["parent"] != b.attrs["parent"]:
        raise ContrailError(
            f"{a.attrs['path']} and {b.attrs['path']}: are labels of different stores: nothing to compare"
        )
    tables = [_frames_of(store) for store in (a, b)]
    sums: defaultdict[int, Counter[str]] = defaultdict(Counter)
    readers = {(i, name): pixel_reader(s, name) for i, s in enumerate((a, b)) for name in ("frame_mask", "probability")}
    shape = a["frame_mask"].shape[2:]

    def plane(store: int, name: str, at: tuple[int, int]) -> npt.NDArray[np.float64]:
        held = np.empty((1, *shape), np.uint8)
        readers[store, name](at[0], [at[1]], held)
        return held[0] / (255 if name == "probability" else 1)

    for key in sorted(tables[0].keys() & tables[1].keys()):
        here, there = tables[0][key], tables[1][key]
        if here[2] or there[2]:
            continue
        masks = [plane(i, "frame_mask", at[:2]) for i, at in enumerate((here, there))]
        probabilities = [plane(i, "probability", at[:2]) for i, at in enumerate((here, there))]
        drawn = next((i for i in (0, 1) if tables[i].get((key[0], 0), (0, 0, False))[2]), None)
        unmoved = None if drawn is None else plane(drawn, "frame_mask", tables[drawn][key[0], 0][:2])
        found = sums[key[1]]
        found.update(frames=1, a=masks[0].sum(), b=masks[1].sum(), both=(masks[0] * masks[1]).sum())
        found.update(least=np.minimum(*probabilities).sum(), total=sum(p.sum() for p in probabilities))
        if unmoved is not None:
            found.update(drawn=1, still=(unmoved * masks[1]).sum(), either=unmoved.sum() + masks[1].sum())
    if not sums:
        raise ContrailError(
            f"{a.attrs['path']} and {b.attrs['path']}: share no frame without a human label: nothing to compare"
        )
    return [
        {
            "offset": offset,
            **{name: int(s[name]) for name in ("frames", "a", "b")},
            "dice": 2 * s["both"] / max(s["a"] + s["b"], 1),
            "soft": 2 * s["least"] / max(s["total"], 1e-9),
            "unmoved": 2 * s["still"] / max(s["either"], 1) if s["drawn"] else None,
        }
        for offset, s in sorted(sums.items())
    ]


def _frames_of(store: xr.Dataset) -> dict[tuple[str, int], tuple[int, int, bool]]:
    """(sample, column, whether a human labelled it) by (record id, frames from the labelled one)."""
    records = read_scalars(store)
    offset = records["frame"].values.astype(int) - records["labelled_frame"].values.astype(int)[:, np.newaxis]
    human = records["frame_source"].values == "human"
    ids = [str(record_id) for record_id in records["record_id"].values]
    return {
        (ids[i], int(offset[i, j])): (i, j, bool(human[i, j])) for i in range(len(ids)) for j in range(offset.shape[1])
    }
