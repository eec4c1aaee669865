"""Which records a contact sheet or a page shows, and how their annotators agree."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.composites import dequantise
from contrail_data.errors import ContrailError
from contrail_data.progress import progress
from contrail_data.reports.choices import Sheet
from contrail_data.reports.pictures import SampleViewer, check_viewable
from contrail_data.store.reader import pixel_reader, read_scalars

_AGREED_PRIOR = 100  # pixels


@dataclass(frozen=True)
class Selection:
    """Records chosen for a sheet."""

    ranks: dict[int, str]
    """What ranks each record, by sample in the order of the sheet; empty text on a random sheet."""
    candidates: int
    """Number of records there were to choose from."""


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


def choose(
    store: xr.Dataset, sheet: Sheet, count: int, seed: int = 0, votes: dict[int, Votes] | None = None
) -> Selection:
    """Choose records for a sheet.

    - positives: most labelled pixels first.
    - disagreed: by the share of disputed pixels (marked by some annotators, not by all) among those that any annotator
      marked. The share is taken as if 100 more pixels were agreed on, so that a disputed speck ranks below a disputed
      contrail. Reads the votes of all records unless they are given.
    - brightest: by the mean of the brightest 5 % of the pixels of the labelled frame in the difference to 8.4 µm
      (b14 - b11 or b13 - b11), or in the first channel if there is no such difference. This finds scenes in which
      contrails show, not contrails. Reads the images of all records, but no labels. On 155 real frames, half of them
      positive, 19 of the first 24 were positive (area under the curve 0.75); the 12.3 µm difference and line filters
      did no better.
    - random: without replacement.

    Args:
        store: A store of samples.
        sheet: How to choose.
        count: Largest number of records.
        seed: Seed of the random sheet.
        votes: Votes by sample, if they have been counted before.

    Returns:
        The chosen records.

    Raises:
        ContrailError: If the store has no such record, or no images.
    """
    check_viewable(store, None)
    records = read_scalars(store)
    if sheet == Sheet.RANDOM:
        order = np.random.default_rng(seed).permutation(records.sizes["sample"]).tolist()
        return Selection(dict.fromkeys(order[:count], ""), len(order))
    if sheet == Sheet.POSITIVES:
        pixels = records["positive_pixels"].values
        order = np.argsort(-pixels, kind="stable")[: int((pixels > 0).sum())].tolist()
        ranks = {sample: f"{pixels[sample]} px" for sample in order[:count]}
    elif sheet == Sheet.DISAGREED:
        votes = count_votes(store, records) if votes is None else votes
        score = {i: v.disputed / (v.marked + _AGREED_PRIOR) for i, v in votes.items() if v.disputed}
        order = sorted(score, key=lambda sample: -score[sample])
        ranks = {i: f"{votes[i].disputed} of {votes[i].marked} px disputed" for i in order[:count]}
    else:
        brightness = _brightness(store, records)
        order = np.argsort(-brightness, kind="stable").tolist()
        ranks = {sample: f"brightest 5 %: {brightness[sample]:.3f}" for sample in order[:count]}
    if not order:
        missing = "positive record" if sheet == Sheet.POSITIVES else "record on which annotators disagree"
        raise ContrailError(f"{store.attrs['path']}: holds no {missing}; choose another --sheet, such as random")
    return Selection(ranks, len(order))


def _brightness(store: xr.Dataset, records: xr.Dataset) -> npt.NDArray[np.float64]:
    viewer, channels = SampleViewer(store, records), store.attrs["composite"]["channels"]
    index = next((i for i, c in enumerate(channels) if c["band"] in (13, 14) and c["minus"] == 11), 0)
    brightness = np.empty(records.sizes["sample"])
    with progress("images", len(brightness)) as advance:
        for sample in range(len(brightness)):
            values = dequantise(viewer.image(sample, viewer.reference_frame(sample))[index]).ravel()
            count = max(1, values.size // 20)
            brightness[sample] = np.partition(values, values.size - count)[-count:].mean()
            advance(1)
    return brightness


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
