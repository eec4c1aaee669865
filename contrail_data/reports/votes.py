"""How annotators agree: their votes on each record, counted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.progress import progress
from contrail_data.store.reader import pixel_reader


@dataclass(frozen=True)
class Votes:
    """Votes on one record by two or more annotators, in pixels of the store."""

    marked_by: npt.NDArray[np.int64]
    """Number of pixels that exactly k annotators marked, (9): k is the index."""
    annotators: int
    together: npt.NDArray[np.int64]
    """Number of pixels that annotators r and s both marked, (8, 8); on the diagonal those that r marked."""

    @property
    def marked(self) -> int:
        """Number of pixels that any annotator marked."""
        return int(self.marked_by[1:].sum())

    @property
    def disputed(self) -> int:
        """Number of pixels that some annotators marked and others did not."""
        return int(self.marked_by[1 : self.annotators].sum())


def count_votes(store: xr.Dataset, records: xr.Dataset) -> dict[int, Votes]:
    """Count the votes on all records with two or more annotators.

    Args:
        store: A store of samples.
        records: The scalars of the store.

    Returns:
        Votes by sample; empty if the store has no individual masks.
    """
    annotators = records["annotator_count"].values
    samples = np.flatnonzero((annotators >= 2) & ("annotators" in store.variables))
    votes = {}
    bits = (np.arange(256)[:, np.newaxis] >> np.arange(8)) & 1  # who voted for a pixel, by the value of its bit field
    for sample, plane in read_planes(store, "annotators", samples, "votes"):
        pixels = np.bincount(plane.ravel(), minlength=256)
        marked_by = np.bincount(bits.sum(1), weights=pixels, minlength=9).astype(np.int64)
        votes[sample] = Votes(marked_by, int(annotators[sample]), bits.T @ (bits * pixels[:, np.newaxis]))
    return votes


def read_planes(
    store: xr.Dataset, name: str, samples: npt.NDArray[np.int64], title: str
) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Read an array without a time axis, sample by sample, with a progress display.

    Args:
        store: A store of samples.
        name: `mask` or `annotators`.
        samples: Indices of the samples.
        title: Title of the progress display.

    Yields:
        The sample and its plane, (y, x) as stored. The next step overwrites the plane.
    """
    if not len(samples):
        return
    plane_1yx, read = np.empty((1, *store[name].shape[1:]), store[name].dtype), pixel_reader(store, name)
    with progress(title, len(samples)) as advance:
        for sample in samples.tolist():
            read(sample, [0], plane_1yx)
            yield sample, plane_1yx[0]
            advance(1)
