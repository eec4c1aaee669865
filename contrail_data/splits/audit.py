"""Audit stores for leaks, including those that only images and labels reveal, and write leaks as tables and CSV."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xarray as xr
from scipy.sparse import csr_array

from contrail_data.splits.copies import LargeGroup
from contrail_data.splits.images import similar_records
from contrail_data.splits.leaks import Checked, LeakKind, Leaks, find_leaks, large_groups
from contrail_data.splits.pairs import LISTED, MAX_MINUTES, MIN_OVERLAP
from contrail_data.storage.files import write_csv
from contrail_data.store.reader import pixel_reader
from contrail_data.store.samples import Floats, Ints, label_of

SAME_IMAGE = 0.99
"""Correlation above which two images that are not shifted are copies, whose labels should agree. Noise of 2 % of the
channels' range changes no more; a frame 10 minutes later correlates by .82 to .98."""
_IN_COMMON = {
    LeakKind.ID: "id",
    LeakKind.DATA: "raw data",
    LeakKind.FOOTPRINT: "place and time",
    LeakKind.IMAGE: "image",
}
_PAIRS = 4096  # whose masks are compared at a time, which bounds memory


@dataclass(frozen=True)
class Audit:
    """What an audit found and what it could compare."""

    leaks: Leaks
    """Pairs of all kinds."""
    checked: list[Checked]
    """By set, how many of its records were compared, by what."""
    kinds: dict[LeakKind, list[int]]
    """By kind that was asked for, the same, and how many have labels."""
    groups: dict[LeakKind, list[LargeGroup]]
    """By kind, groups of records of which not all pairs are among the leaks, only those with the first one."""

    def notes(self, records: Sequence[xr.Dataset]) -> list[str]:
        """Say of which groups not all pairs are listed.

        Args:
            records: Scalars of each set.

        Returns:
            A sentence for each.
        """
        ids = records[0]["record_id"].values
        sentences = []
        for kind, groups in self.groups.items():
            for group in groups:
                count = f"{group.of_a:,} records" + (f" of A and {group.of_b:,} of B" if group.of_b else "")
                sentences.append(
                    f"{count} have the same {_IN_COMMON[kind]}, the first being {ids[group.first]}: of these "
                    "pairs only those with a first record are counted and listed"
                )
        return sentences


def audit(
    stores: Sequence[xr.Dataset | None],
    records: Sequence[xr.Dataset],
    *,
    minutes: float = MAX_MINUTES,
    overlap: float = MIN_OVERLAP,
    images: bool = True,
) -> Audit:
    """Find the records that leak within one set or from one into another, and labels that contradict each other.

    Labels are compared where two records show the same image: the same id or raw data, the same tile and time, or
    images in place that correlate by more than `SAME_IMAGE`. Where more than `LISTED` records have one id, raw data,
    place and time, or image, only pairs with a first one of them are found, which shows all of the records.

    Args:
        stores: One or two stores of samples; None for a metadata file.
        records: Scalars of each.
        minutes: Maximum time between two sequences of overlapping tiles for them to count as related.
        overlap: Share of the smaller footprint above which two footprints overlap.
        images: Also find similar images.

    Returns:
        Pairs of all kinds, and what was compared.
    """
    last = len(stores) - 1
    similar = similar_records(stores, records, combinations=[(0, last)] if images else [], placed=True, listed=LISTED)
    checked = [Checked.of(own, compared) for own, compared in zip(records, similar.compared, strict=True)]
    a, b = stores[0], stores[-1]
    same_grid = a is not None and b is not None and a["mask"].shape[1:] == b["mask"].shape[1:]
    kinds = {
        LeakKind.ID: [own.id for own in checked],
        LeakKind.DATA: [own.data for own in checked],
        LeakKind.FOOTPRINT: [own.footprint for own in checked],
        LeakKind.IMAGE: [own.image for own in checked],
        LeakKind.LABEL: [int((label_of(own) >= 0).sum()) * same_grid for own in records],
    }
    if not images:
        del kinds[LeakKind.IMAGE]
    matches = similar.between(0, last)
    other = records[1] if last else None
    leaks = find_leaks(records[0], other, minutes, overlap, matches, LISTED)
    groups = large_groups(records[0], other, LISTED)
    if copied := similar.groups.get((0, last)):
        groups[LeakKind.IMAGE] = copied
    if a is None or b is None or not same_grid:
        return Audit(leaks, checked, kinds, groups)
    in_place = leaks.similarity > SAME_IMAGE
    in_place[leaks.of(LeakKind.IMAGE)] &= ~matches.moved
    same_tile = (leaks.overlap > 0.99) & (leaks.minutes == 0)
    same_image = np.flatnonzero(leaks.of(LeakKind.ID, LeakKind.DATA) | same_tile | in_place)
    for scalars, index in ((records[0], leaks.a), (records[-1], leaks.b)):
        same_image = same_image[(scalars["label_source"].values == "human")[index[same_image]]]
    if not len(same_image):
        return Audit(leaks, checked, kinds, groups)
    pair = leaks.a * b.sizes["sample"] + leaks.b
    compared, first = np.unique(pair[same_image], return_index=True)
    dice, differ = _compare_masks(a, b, *np.divmod(compared, b.sizes["sample"]))
    place = np.minimum(np.searchsorted(compared, pair), len(compared) - 1)
    leaks = replace(leaks, dice=np.where(compared[place] == pair, dice[place], np.nan))
    contradicting = leaks[same_image[first][differ]].as_kind(LeakKind.LABEL)
    return Audit(Leaks.concatenate([leaks, contradicting]), checked, kinds, groups)


def _compare_masks(store_a: xr.Dataset, store_b: xr.Dataset, i: Ints, j: Ints) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """(pair) Dice coefficient of the two masks, NaN where both are empty, and whether they differ in any pixel."""
    (one, row), (two, column) = (_masks(store, samples) for store, samples in ((store_a, i), (store_b, j)))
    marked_a, marked_b = one.sum(1)[row], two.sum(1)[column]
    common = np.zeros(len(i), np.int64)
    for start in range(0, len(i), _PAIRS):
        block = slice(start, start + _PAIRS)
        common[block] = one[row[block]].multiply(two[column[block]]).sum(1)
    marked = marked_a + marked_b
    dice = np.divide(2 * common, marked, out=np.full(len(i), np.nan), where=marked > 0)
    return dice, (common != marked_a) | (common != marked_b)


def _masks(store: xr.Dataset, samples: Ints) -> tuple[csr_array, Ints]:
    """The different masks among those of samples as (mask, pixel) 0 or 1, and (sample) which one each has."""
    different, number = np.unique(samples, return_inverse=True)
    read = pixel_reader(store, "mask")
    pixels = []
    for sample in different:
        mask = np.empty((1, *store["mask"].shape[1:]), np.uint8)
        read(int(sample), [0], mask)
        pixels.append(np.flatnonzero(mask))
    ends = np.cumsum([0, *map(len, pixels)])
    marked = np.concatenate(pixels)
    shape = len(different), int(np.prod(store["mask"].shape[1:]))
    return csr_array((np.ones(len(marked), np.int64), marked, ends), shape=shape), number


def leak_table(audited: Audit) -> tuple[list[str], list[list[str]]]:
    """Count leaks by kind for a table.

    Args:
        audited: The leaks, and what was compared.

    Returns:
        Header and rows: what is shared, number of pairs, number of records in them, and number of records that were
        compared by it, of A and of B separately if there are two sets. A kind by which no record was compared has no
        numbers of pairs.
    """
    leaks, within = audited.leaks, len(audited.checked) == 1
    lines: list[tuple[LeakKind, str, npt.NDArray[np.bool_] | bool]] = [
        (LeakKind.ID, "same record id", True),
        (LeakKind.DATA, "same raw data", True),
        (LeakKind.FOOTPRINT, "overlapping footprint and time", True),
        (LeakKind.FOOTPRINT, "  of these, over half of the area", leaks.overlap > 0.5),
        (LeakKind.FOOTPRINT, "  of these, sequences that share time", leaks.gap == 0),
        (LeakKind.FOOTPRINT, "  of these, labelled at the same time", leaks.minutes == 0),
        (LeakKind.IMAGE, "similar image", True),
        (LeakKind.LABEL, "contradicting labels", True),
        (LeakKind.LABEL, "  of these, one mask empty", leaks.dice == 0),
    ]
    rows = []
    for kind, name, condition in lines:
        if (compared := audited.kinds.get(kind)) is not None:
            some = np.flatnonzero(leaks.of(kind) & condition)
            sides = [leaks.a[some], leaks.b[some]]
            if within:
                sides = [np.concatenate(sides)]
            counts = [f"{len(some):,}", *(f"{np.count_nonzero(np.bincount(side)):,}" for side in sides)]
            if not all(compared):
                counts = ["not compared"] + ["-"] * len(sides)
            rows.append([name, *counts, *map("{:,}".format, compared)])
    columns = ["records", "compared"] if within else ["records of A", "records of B", "compared of A", "compared of B"]
    return ["leak", "pairs", *columns], rows


def write_leaks(out: Path, leaks: Leaks, records_a: xr.Dataset, records_b: xr.Dataset) -> None:
    """Write leaks as CSV.

    One line per pair and kind: kind, record_a, record_b, overlap (share of the smaller footprint), minutes (between the
    labelled frames), gap (minutes between the sequences, 0 if they share time), similarity (of the images), dice.
    Unknown values are empty.

    Args:
        out: The file.
        leaks: The leaks.
        records_a: Scalars of A.
        records_b: Scalars of B, or of A again.
    """
    ids_a, ids_b = records_a["record_id"].values[leaks.a], records_b["record_id"].values[leaks.b]
    columns = {"overlap": 4, "minutes": 1, "gap": 1, "similarity": 4, "dice": 4}  # digits after the decimal point
    numbers = [
        ["" if np.isnan(value) else f"{value:.{digits}f}" for value in getattr(leaks, name)]
        for name, digits in columns.items()
    ]
    rows = zip(leaks.kind, ids_a, ids_b, *numbers, strict=True)
    write_csv(out, ["kind", "record_a", "record_b", *columns], rows)
