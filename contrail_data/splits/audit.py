"""What two stores share beyond metadata: frames that look alike, masks of one image that contradict; as tables."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.composites import dequantise
from contrail_data.progress import progress
from contrail_data.sample import reference_frame
from contrail_data.splits.leaks import KINDS, LEAST_OVERLAP, WINDOW, Leaks, facts_of, joined, leaking, leaks_of
from contrail_data.store.reader import pixel_reader
from contrail_data.store.samples import Floats, Ints, as_text

SIMILAR = 0.2
"""Share of hash bits: of 11,935 pairs of real frames all but one differ in over 0.3 (that one, 0.13, is one scene at
two times), of synthetic records in over 0.31; the frame 10 minutes later in 0.06 (median), 20 minutes later in 0.13,
the image shifted by half a pixel in at most 0.06."""
SAME_IMAGE = 0.03
"""Share of hash bits: noise of 2 % of the channel's range changes no more."""
_THUMB, _BITS = 32, 63


@dataclass(frozen=True)
class Hashes:
    """Perceptual hashes of labelled frames."""

    bits: npt.NDArray[np.uint64]
    """(sample, channel): 63 bits each."""
    told: npt.NDArray[np.bool_]
    """(sample) whether every channel has something to tell: flat images are like all flat ones."""


def image_hashes(store: xr.Dataset, records: xr.Dataset) -> Hashes:
    """Hash the reference frame of every sample: of each channel, shrunk to 32 x 32, the 63
    lowest frequencies of its cosine transform but the mean, by whether they are over their median.
    """
    from PIL import Image
    from scipy.fft import dctn

    read = pixel_reader(store)
    shape, dtype = store["image"].shape[2:], store["image"].dtype
    frames = reference_frame(records["labelled_frame"].values, store.sizes["time"])

    def thumb(sample: int) -> npt.NDArray[np.float32]:
        stored = np.empty((1, *shape), dtype)
        read(sample, [int(frames[sample])], stored)
        size = (_THUMB, _THUMB)
        planes = dequantise(stored[0])
        return np.stack([np.asarray(Image.fromarray(p).resize(size, Image.Resampling.BOX)) for p in planes])

    thumbs = np.empty((len(frames), shape[0], _THUMB, _THUMB), np.float32)
    with progress("images", len(frames)) as advance, ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for sample, found in enumerate(pool.map(thumb, range(len(frames)))):
            thumbs[sample] = found
            advance(1)
    waves = dctn(thumbs, axes=(-2, -1), norm="ortho")[..., :8, :8].reshape(*thumbs.shape[:2], _BITS + 1)[..., 1:]
    over = waves > np.median(waves, -1, keepdims=True)
    bits = (over.astype(np.uint64) << np.arange(_BITS, dtype=np.uint64)).sum(-1, dtype=np.uint64)
    return Hashes(bits, (thumbs.std((-2, -1)) > 1 / 255).all(1))


def similar(a: Hashes, b: Hashes | None = None, most: float = SIMILAR) -> tuple[Ints, Ints, Floats]:
    """The pairs whose hashes differ in at most `most` of their bits, and that share; without `b`, pairs within `a`."""
    other = a if b is None else b
    rows, columns = np.flatnonzero(a.told), np.flatnonzero(other.told)
    total = _BITS * a.bits.shape[1]
    left: list[Ints] = [np.zeros(0, np.int64)]
    right: list[Ints] = [np.zeros(0, np.int64)]
    apart: list[Floats] = [np.zeros(0)]
    theirs = other.bits[columns]
    for start in range(0, len(rows), 256):
        some = rows[start : start + 256]
        differ = np.zeros((len(some), len(columns)), np.uint16)
        for channel in range(theirs.shape[1]):
            differ += np.bitwise_count(a.bits[some, channel, np.newaxis] ^ theirs[np.newaxis, :, channel])
        i, j = np.nonzero(differ <= most * total)
        first, second, share = some[i], columns[j], differ[i, j] / total
        keep = first < second if b is None else np.ones(len(first), bool)
        left.append(first[keep])
        right.append(second[keep])
        apart.append(share[keep])
    return np.concatenate(left), np.concatenate(right), np.concatenate(apart)


def audit(
    store_a: xr.Dataset,
    records_a: xr.Dataset,
    store_b: xr.Dataset | None = None,
    records_b: xr.Dataset | None = None,
    *,
    minutes: float = WINDOW,
    overlap: float = LEAST_OVERLAP,
    images: bool = True,
) -> Leaks:
    """What `leaking` finds, and with `images` frames that look alike; then those of one image whose masks differ.

    Images are compared where both stores hold the same composite. One image: the same id, raw data, tile and time, or
    hashes that differ in at most SAME_IMAGE.
    """
    other, records = (store_a, records_a) if store_b is None or records_b is None else (store_b, records_b)
    within = store_b is None
    parts = [leaking(records_a, None if within else records, minutes, overlap)]
    if images and store_a.attrs["composite"]["channels"] == other.attrs["composite"]["channels"]:
        hashes = image_hashes(store_a, records_a)
        i, j, distance = similar(hashes, None if within else image_hashes(other, records))
        a, b = facts_of(records_a), None if within else facts_of(records)
        parts.append(replace(leaks_of(a, b, "image", (i, j)), distance=distance))
    found = joined(parts)
    same_tile = (found.overlap > 0.99) & (found.minutes == 0)
    one_image = np.isin(found.kind, ("id", "data")) | same_tile | (found.distance <= SAME_IMAGE)
    labelled_a, labelled_b = (r["label_source"].values == "human" for r in (records_a, records))
    one_image &= labelled_a[found.a] & labelled_b[found.b]
    _, once = np.unique(np.stack([found.a, found.b], 1)[one_image], axis=0, return_index=True)
    pairs = found[np.flatnonzero(one_image)[once]]
    if not len(pairs) or store_a["mask"].shape[1:] != other["mask"].shape[1:]:
        return found
    dice, differ = _masks_differ(store_a, other, pairs)
    found_dice = dict(zip(zip(pairs.a.tolist(), pairs.b.tolist(), strict=True), dice.tolist(), strict=True))
    keys = zip(found.a.tolist(), found.b.tolist(), strict=True)
    told = replace(found, dice=np.array([found_dice.get(key, np.nan) for key in keys]))
    labels = replace(pairs, kind=np.full(len(pairs), "label", "<U9"), dice=dice)[differ]
    return joined([told, labels])


def _masks_differ(store_a: xr.Dataset, store_b: xr.Dataset, pairs: Leaks) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """(pair) Dice of the two masks, NaN where both are empty, and whether they differ in any pixel."""
    masks = [np.empty((1, *store_a["mask"].shape[1:]), np.uint8) for _ in range(2)]
    read = [pixel_reader(store, "mask") for store in (store_a, store_b)]
    dice, differ = np.full(len(pairs), np.nan), np.zeros(len(pairs), bool)
    for row, samples in enumerate(zip(pairs.a.tolist(), pairs.b.tolist(), strict=True)):
        for one, sample, mask in zip(read, samples, masks, strict=True):
            one(sample, [0], mask)
        marked = int(masks[0].sum(dtype=np.int64) + masks[1].sum(dtype=np.int64))
        if marked:
            dice[row] = 2 * int((masks[0] & masks[1]).sum(dtype=np.int64)) / marked
        differ[row] = bool((masks[0] != masks[1]).any())
    return dice, differ


def tally(leaks: Leaks, kinds: Collection[str] = KINDS) -> list[tuple[str, Leaks]]:
    """The leaks by kind and what is worth telling apart, with what each is called; of `kinds`, those that were looked
    for, empty ones too.
    """
    rows: list[tuple[str, str, npt.NDArray[np.bool_] | bool]] = [
        ("id", "same record id", True),
        ("data", "same raw data", True),
        ("footprint", "overlapping footprint and time", True),
        ("footprint", "  of these by over half of the area", leaks.overlap > 0.5),
        ("footprint", "  of these with sequences that share time", leaks.gap == 0),
        ("footprint", "  of these labelled at the same time", leaks.minutes == 0),
        ("image", "similar image", True),
        ("label", "labels that contradict", True),
        ("label", "  of these with one mask empty", leaks.dice == 0),
    ]
    return [(told, leaks[(leaks.kind == kind) & which]) for kind, told, which in rows if kind in kinds]


def tally_table(leaks: Leaks, within: bool, kinds: Collection[str] = KINDS) -> tuple[list[str], list[list[str]]]:
    """Header and rows of `tally`: pairs, and the records of A and B in them, or of the one set where `within`."""
    rows = []
    for name, some in tally(leaks, kinds):
        sides = [np.concatenate([some.a, some.b])] if within else [some.a, some.b]
        rows.append([name, f"{len(some):,}", *(f"{len(np.unique(side)):,}" for side in sides)])
    return ["leak", "pairs", *(["records"] if within else ["records of A", "records of B"])], rows


def leaks_csv(leaks: Leaks, records_a: xr.Dataset, records_b: xr.Dataset) -> bytes:
    """A line a pair and kind: kind, record_a, record_b, overlap (share of the smaller footprint), minutes (between the
    labelled frames), gap (minutes between the sequences, 0 where they share time), distance (share of hash bits), dice;
    what is not known is left empty.
    """
    a, b = as_text(records_a["record_id"].values), as_text(records_b["record_id"].values)
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(["kind", "record_a", "record_b", "overlap", "minutes", "gap", "distance", "dice"])
    for row in range(len(leaks)):
        numbers = (leaks.overlap[row], leaks.minutes[row], leaks.gap[row], leaks.distance[row], leaks.dice[row])
        told = ["" if np.isnan(n) else f"{n:.{digits}f}" for n, digits in zip(numbers, (4, 1, 1, 4, 4), strict=True)]
        rows.writerow([leaks.kind[row], a[leaks.a[row]], b[leaks.b[row]], *told])
    return out.getvalue().encode()
