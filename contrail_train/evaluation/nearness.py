"""How near evaluated records are to those that a model was trained on: at the same site and time, or the same site.

A model may know a place by its coastlines, and a moment by a neighbouring record. Dice by nearness shows how much of a
score is due to that.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import xarray as xr

from contrail_data.errors import ContrailError
from contrail_data.splits.images import similar_records
from contrail_data.splits.keys import RecordKeys
from contrail_data.splits.leaks import LeakKind, Matches, find_leaks
from contrail_data.store.reader import read_scalars
from contrail_data.store.samples import Floats, Ints, as_text
from contrail_train.evaluation.held_out import stores_of
from contrail_train.inference.predictor import Predictor

SAME_SITE = 0.5
"""Share of the smaller footprint above which two footprints are one site."""


class Near(IntEnum):
    """How near a record is to the nearest training record."""

    SITE_AND_TIME = 0
    """Related as the leak rules say: id, raw data, overlapping footprints within 70 minutes, or scene."""
    SITE = 1
    """Its site at another time."""
    NEITHER = 2

    @property
    def title(self) -> str:
        """Its name in tables."""
        return ("same site and time", "same site", "neither")[self]


@dataclass(frozen=True)
class Nearness:
    """How near the records of a store are to training records."""

    near: Floats
    """(sample) values of `Near`; NaN if unknown."""
    notes: list[str]
    """What is not known, a sentence each."""


def nearness_to_training(model: Predictor, store: xr.Dataset) -> Nearness:
    """Find how near the records of a store are to those that a model was trained on.

    Args:
        model: The model.
        store: A store of samples.

    Returns:
        The nearness of each sample; unknown if the stores that the model was trained on cannot be read.
    """
    records = read_scalars(store)
    try:
        stores = list(_training_stores(model).values())
    except ContrailError as error:
        return Nearness(np.full(records.sizes["sample"], np.nan), [f"nearness to training is not known: {error}"])
    training = [read_scalars(one) for one in stores]
    pairs = [(0, number) for number in range(1, len(stores) + 1)]
    similar = similar_records([store, *stores], [records, *training], combinations=pairs)
    return nearness(records, training, model.trained_records, [similar.between(*pair) for pair in pairs])


def nearness(
    records: xr.Dataset, training: Sequence[xr.Dataset], trained: Collection[str], images: Sequence[Matches]
) -> Nearness:
    """Find how near records are to training records.

    Args:
        records: Scalars of a store.
        training: Scalars of each store with training records.
        trained: Ids of the training records.
        images: For each store with training records, the pairs of `records` with it whose images show one scene.

    Returns:
        The nearness of each record.
    """
    near = np.where(RecordKeys.of(records).placed, float(Near.NEITHER), np.nan)
    sites, rows, site_of = _sites(records)
    seen, unplaced = set[str](), 0
    for theirs, same_scene in zip(training, images, strict=True):
        ids = as_text(theirs["record_id"].values)
        is_trained = np.isin(ids, sorted(trained))
        seen.update(ids[is_trained].tolist())
        unplaced += int((is_trained & ~RecordKeys.of(theirs).placed).sum())
        their_sites, *_ = _sites(theirs.isel(sample=np.flatnonzero(is_trained)))
        at_any_time = find_leaks(sites, their_sites, minutes=np.inf, overlap=SAME_SITE)
        at_site = rows[np.isin(site_of, at_any_time.a[at_any_time.of(LeakKind.FOOTPRINT)])]
        near[at_site] = np.fmin(near[at_site], Near.SITE)
        related = find_leaks(records, theirs, images=same_scene)
        near[related.a[is_trained[related.b]]] = Near.SITE_AND_TIME
    notes = []
    if unplaced:
        notes.append(
            f"{unplaced:,} of {len(seen):,} training records lack place or time: only their images show whether they "
            "are near"
        )
    if absent := len(set(trained) - seen):
        notes.append(
            f"nearness to {absent:,} of {len(trained):,} records that influenced the model is not known, as they are "
            "not in its stores"
        )
    return Nearness(near, notes)


def _sites(records: xr.Dataset) -> tuple[xr.Dataset, Ints, Ints]:
    """One record of each footprint; the records with place and time, and the site of each. Records repeat sites."""
    keys = RecordKeys.of(records)
    rows = np.flatnonzero(keys.placed)
    places = keys.place[rows].reshape(-1, 10)
    _, first, site_of = np.unique(places, axis=0, return_index=True, return_inverse=True)
    return records.isel(sample=rows[first]), rows, site_of.ravel()


def _training_stores(model: Predictor) -> dict[str, xr.Dataset]:
    """The stores that a model was trained and validated on."""
    if model.path.is_file():
        raise ContrailError(
            f"{model.path}: an exported file does not name its training stores; evaluate the run or pipeline that it "
            "was exported from"
        )
    return stores_of(model.path)
