"""Which records a contact sheet or a page shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.composites import dequantise
from contrail_data.errors import ContrailError
from contrail_data.progress import progress
from contrail_data.reports.pictures import SampleViewer, check_viewable
from contrail_data.reports.sheets import Sheet
from contrail_data.reports.votes import Votes, count_votes
from contrail_data.store.reader import read_scalars

_AGREED_PRIOR = 100  # pixels


@dataclass(frozen=True)
class Selection:
    """Records chosen for a sheet."""

    ranks: dict[int, str]
    """What ranks each record, by sample in the order of the sheet; empty text on a random sheet."""
    candidates: int
    """Number of records there were to choose from."""


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
