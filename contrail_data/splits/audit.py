"""Audit stores for leaks, including those that only images and labels reveal, and write leaks as tables and CSV."""

from __future__ import annotations

import os
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.composites import dequantise
from contrail_data.progress import progress
from contrail_data.sample import reference_frame
from contrail_data.splits.leaks import (
    MAX_MINUTES,
    MIN_OVERLAP,
    LeakKind,
    Leaks,
    Pairs,
    RecordKeys,
    describe_pairs,
    find_leaks,
)
from contrail_data.storage.files import write_csv
from contrail_data.store.reader import pixel_reader, read_scalars
from contrail_data.store.samples import Floats

SIMILAR = 0.2
"""Share of hash bits in which similar images differ at most. Of 11,935 pairs of real frames all but one differ in more
than 0.3 (the exception, 0.13, is one scene at two times); synthetic records differ in more than 0.31. A frame differs
from the one 10 minutes later in 0.06 (median), from that 20 minutes later in 0.13, and from itself shifted by half a
pixel in at most 0.06."""
SAME_IMAGE = 0.03
"""Share of hash bits in which two copies of an image differ at most. Noise of 2 % of the channel's range changes no
more."""
_THUMBNAIL, _BITS = 32, 63


@dataclass(frozen=True)
class Hashes:
    """Perceptual hashes of the reference frames of a store."""

    bits: npt.NDArray[np.uint64]
    """(sample, channel) 63 bits each."""
    usable: npt.NDArray[np.bool_]
    """(sample) whether no channel is flat: a flat image resembles every other flat image."""


def image_hashes(store: xr.Dataset) -> Hashes:
    """Hash the reference frame of every sample.

    Each channel is shrunk to 32 x 32 pixels; the hash says which of the 63 lowest frequencies of its cosine transform,
    except the mean, are above their median.

    Args:
        store: Store of samples.

    Returns:
        The hashes.
    """
    from PIL import Image
    from scipy.fft import dctn

    read = pixel_reader(store)
    shape, dtype = store["image"].shape[2:], store["image"].dtype
    frames = reference_frame(read_scalars(store)["labelled_frame"].values, store.sizes["time"])

    def _thumbnail(sample: int) -> npt.NDArray[np.float32]:
        stored = np.empty((1, *shape), dtype)
        read(sample, [int(frames[sample])], stored)
        images = [Image.fromarray(plane) for plane in dequantise(stored[0])]
        return np.stack([np.asarray(i.resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX)) for i in images])

    thumbnails = np.empty((len(frames), shape[0], _THUMBNAIL, _THUMBNAIL), np.float32)
    with progress("images", len(frames)) as advance, ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for sample, thumbnail in enumerate(pool.map(_thumbnail, range(len(frames)))):
            thumbnails[sample] = thumbnail
            advance(1)
    waves = dctn(thumbnails, axes=(-2, -1), norm="ortho")[..., :8, :8]
    waves = waves.reshape(*thumbnails.shape[:2], _BITS + 1)[..., 1:]
    above = waves > np.median(waves, -1, keepdims=True)
    bits = (above.astype(np.uint64) << np.arange(_BITS, dtype=np.uint64)).sum(-1, dtype=np.uint64)
    return Hashes(bits, (thumbnails.std((-2, -1)) > 1 / 255).all(1))


def similar_pairs(a: Hashes, b: Hashes | None = None, most: float = SIMILAR) -> tuple[Pairs, Floats]:
    """Find pairs of similar images.

    Args:
        a: Hashes of A.
        b: Hashes of B. None finds pairs within A.
        most: Largest share of bits in which the hashes may differ.

    Returns:
        The pairs, and the share of bits in which each differs.
    """
    within, b = b is None, a if b is None else b
    rows, columns = np.flatnonzero(a.usable), np.flatnonzero(b.usable)
    total = _BITS * a.bits.shape[1]
    blocks = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    bits_b = b.bits[columns]
    for start in range(0, len(rows), 256):
        block = rows[start : start + 256]
        differing = np.zeros((len(block), len(columns)), np.uint16)
        for channel in range(bits_b.shape[1]):
            differing += np.bitwise_count(a.bits[block, channel, np.newaxis] ^ bits_b[np.newaxis, :, channel])
        i, j = np.nonzero(differing <= most * total)
        first, second, share = block[i], columns[j], differing[i, j] / total
        keep = (first < second) | (not within)
        blocks.append((first[keep], second[keep], share[keep]))
    first, second, share = (np.concatenate(column) for column in zip(*blocks, strict=True))
    return (first, second), share


def audit_stores(
    store_a: xr.Dataset,
    store_b: xr.Dataset | None = None,
    *,
    minutes: float = MAX_MINUTES,
    overlap: float = MIN_OVERLAP,
    images: bool = True,
) -> Leaks:
    """Find the records of one store that leak into another, and labels that contradict each other.

    Labels are compared where two records show the same image: the same id or raw data, the same tile and time, or
    hashes that differ in at most `SAME_IMAGE`.

    Args:
        store_a: Store of samples.
        store_b: Another. None finds pairs within A.
        minutes: Maximum time between two sequences of overlapping tiles for them to count as related.
        overlap: Share of the smaller footprint above which two footprints overlap.
        images: Also find similar images, if both stores hold the same composite.

    Returns:
        Pairs of all kinds.
    """
    stores = [store_a] if store_b is None else [store_a, store_b]
    records = [read_scalars(store) for store in stores]
    leaks = find_leaks(records[0], None if store_b is None else records[1], minutes, overlap)
    if images and stores[0].attrs["composite"]["channels"] == stores[-1].attrs["composite"]["channels"]:
        hashes = [image_hashes(store) for store in stores]
        pairs, distance = similar_pairs(hashes[0], None if store_b is None else hashes[1])
        keys = [RecordKeys.of(scalars) for scalars in records]
        similar = describe_pairs(keys[0], keys[-1], LeakKind.IMAGE, pairs)
        leaks = Leaks.concatenate([leaks, replace(similar, distance=distance)])
    same_tile = (leaks.overlap > 0.99) & (leaks.minutes == 0)
    same_image = np.isin(leaks.kind, [LeakKind.ID, LeakKind.DATA]) | same_tile | (leaks.distance <= SAME_IMAGE)
    for scalars, index in ((records[0], leaks.a), (records[-1], leaks.b)):
        same_image &= (scalars["label_source"].values == "human")[index]
    all_pairs, number = np.unique(np.stack([leaks.a, leaks.b], 1), axis=0, return_inverse=True)
    compared, first = np.unique(number[same_image], return_index=True)
    if not len(compared) or stores[0]["mask"].shape[1:] != stores[-1]["mask"].shape[1:]:
        return leaks
    dice, differ = np.full(len(all_pairs), np.nan), np.zeros(len(all_pairs), bool)
    dice[compared], differ[compared] = _compare_masks(stores[0], stores[-1], all_pairs[compared].tolist())
    leaks = replace(leaks, dice=dice[number])
    contradicting = leaks[np.flatnonzero(same_image)[first][differ[compared]]]
    kind = np.full(len(contradicting), LeakKind.LABEL.value, "<U9")
    return Leaks.concatenate([leaks, replace(contradicting, kind=kind)])


def _compare_masks(
    store_a: xr.Dataset, store_b: xr.Dataset, pairs: list[list[int]]
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """(pair) Dice coefficient of the two masks, NaN where both are empty, and whether they differ in any pixel."""
    masks = [np.empty((1, *store_a["mask"].shape[1:]), np.uint8) for _ in range(2)]
    readers = [pixel_reader(store, "mask") for store in (store_a, store_b)]
    dice, differ = np.full(len(pairs), np.nan), np.zeros(len(pairs), bool)
    for row, samples in enumerate(pairs):
        for read, sample, mask in zip(readers, samples, masks, strict=True):
            read(sample, [0], mask)
        if marked := int(masks[0].sum(dtype=np.int64) + masks[1].sum(dtype=np.int64)):
            dice[row] = 2 * int((masks[0] & masks[1]).sum(dtype=np.int64)) / marked
        differ[row] = bool((masks[0] != masks[1]).any())
    return dice, differ


def leak_table(
    leaks: Leaks, within: bool, kinds: Collection[LeakKind] = tuple(LeakKind)
) -> tuple[list[str], list[list[str]]]:
    """Count leaks by kind for a table.

    Args:
        leaks: The leaks.
        within: Whether they are within one set of records.
        kinds: The kinds that were looked for; a kind without leaks gets a row as well.

    Returns:
        Header and rows: what is shared, number of pairs, and number of records in them, of A and of B separately
        unless `within`.
    """
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
        if kind in kinds:
            some = leaks[(leaks.kind == kind.value) & condition]
            sides = [np.concatenate([some.a, some.b])] if within else [some.a, some.b]
            rows.append([name, f"{len(some):,}", *(f"{len(np.unique(side)):,}" for side in sides)])
    return ["leak", "pairs", *(["records"] if within else ["records of A", "records of B"])], rows


def write_leaks(out: Path, leaks: Leaks, records_a: xr.Dataset, records_b: xr.Dataset) -> None:
    """Write leaks as CSV.

    One line per pair and kind: kind, record_a, record_b, overlap (share of the smaller footprint), minutes (between the
    labelled frames), gap (minutes between the sequences, 0 if they share time), distance (share of hash bits), dice.
    Unknown values are empty.

    Args:
        out: The file.
        leaks: The leaks.
        records_a: Scalars of A.
        records_b: Scalars of B, or of A again.
    """
    ids_a, ids_b = records_a["record_id"].values[leaks.a], records_b["record_id"].values[leaks.b]
    columns = {"overlap": 4, "minutes": 1, "gap": 1, "distance": 4, "dice": 4}  # digits after the decimal point
    numbers = [
        ["" if np.isnan(value) else f"{value:.{digits}f}" for value in getattr(leaks, name)]
        for name, digits in columns.items()
    ]
    rows = zip(leaks.kind, ids_a, ids_b, *numbers, strict=True)
    write_csv(out, ["kind", "record_a", "record_b", *columns], rows)
