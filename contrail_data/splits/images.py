"""Find records that show one scene by their images: copies, also shifted, mirrored, resized or as other composites.

Images are compared as thumbnails of `SIDE` x `SIDE` cells without coarse structure, which unrelated images share.
Candidates have windows whose lowest frequencies correlate, at shifts of up to a quarter of the side, or of half a step
if mirrored or turned. Unless they do so almost perfectly, they are compared again, cell by cell, at the best shift.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
import xxhash
from threadpoolctl import threadpool_limits

from contrail_data.composites import dequantise
from contrail_data.progress import progress
from contrail_data.sample import reference_frame
from contrail_data.splits.copies import NO_COPY, Copies, LargeGroup, find_copies
from contrail_data.splits.keys import Pairs, RecordKeys
from contrail_data.splits.leaks import NO_MATCHES, Matches
from contrail_data.store.reader import PixelReader, pixel_reader
from contrail_data.store.samples import Floats, Ints

SIMILAR = 0.7
"""Correlation above which two images show one scene."""
SIDE, CHANNELS = 32, 3
"""Cells along a side of a thumbnail, and its channels at most, which bounds time and memory."""
FEW = 512
"""Images that are compared without threads, which would take longer."""
_CANDIDATE, _SURE = 0.65, 0.9
_WINDOW, _STEP, _WAVES = 24, 2, 6  # of a thumbnail that are compared, between two shifts, and frequencies of a window
_FINEST, _COARSEST, _FLAT = 0.8, 2.0, 0.001  # standard deviations of the two blurs in cells; least contrast
_COSINES = np.cos(np.pi / _WINDOW * np.outer(np.arange(_WAVES), np.arange(_WINDOW) + 0.5)).astype(np.float32)
_SQUARES = np.add.outer(np.arange(_WAVES) ** 2, np.arange(_WAVES) ** 2).reshape(-1)
_LOW = (_SQUARES > 0) & (_SQUARES < _WAVES**2)
_ROWS, _COLUMNS = 512, 2048  # of the blocks of pairs, which stay in the processor's cache

Bools = npt.NDArray[np.bool_]
Images = npt.NDArray[np.float32]
_MIRRORS = [*product((False, True), repeat=3)]
"""Whether rows and columns are exchanged, rows reversed, and columns reversed; the first is the image as it is."""


@dataclass(frozen=True)
class Thumbnails:
    """Thumbnails of the reference frames of a store."""

    images: Images
    """(record, channel, SIDE, SIDE) of mean square 1, or 0 where a channel is flat."""
    bands: tuple[tuple[int, int | None], ...]
    """Of each channel, the band and the one subtracted from it; band 13 counts as its neighbour 14."""


@dataclass(frozen=True)
class Similar:
    """Records of several stores whose images show one scene."""

    compared: list[Bools]
    """By store, (sample) whether the record has an image that was compared."""
    matches: dict[tuple[int, int], Matches]
    """By the indices of two stores."""
    groups: dict[tuple[int, int], list[LargeGroup]] = field(default_factory=dict)
    """By the indices of two stores, records with the same thumbnail of which not all pairs are among the matches."""

    def between(self, first: int, second: int) -> Matches:
        """Return the pairs of two stores.

        Args:
            first: Index of the one store.
            second: Index of the other, or the same one.

        Returns:
            The pairs; none if the stores were not compared.
        """
        return self.matches.get((first, second), NO_MATCHES)

    def joined(self) -> Pairs:
        """Return all pairs.

        Returns:
            Pairs as indices into the records of all stores in order.
        """
        starts = np.cumsum([0, *map(len, self.compared)])
        pairs = [np.stack([own.a + starts[k], own.b + starts[m]]) for (k, m), own in self.matches.items()]
        first, second = np.concatenate([np.zeros((2, 0), np.int64), *pairs], axis=1)
        return first, second


def similar_records(
    stores: Sequence[xr.Dataset | None],
    records: Sequence[xr.Dataset],
    *,
    combinations: Iterable[tuple[int, int]] | None = None,
    placed: bool = False,
    listed: int | None = None,
    open_reader: Callable[..., PixelReader] = pixel_reader,
) -> Similar:
    """Find the pairs of records whose images show one scene.

    Args:
        stores: Stores of samples; None for a metadata file, which has no images.
        records: Scalars of each.
        combinations: Indices of the stores to compare with one another. None compares all, also each with itself.
        placed: Also compare two records that both have place and time, which say better whether they are related.
        listed: Where more records than this have the same thumbnail, list only pairs of each with a first one. None
            lists all.
        open_reader: Opens a variable of a store, `image` by default.

    Returns:
        The pairs.
    """
    chosen = [*combinations] if combinations is not None else [(k, m) for m in range(len(stores)) for k in range(m + 1)]
    queried = [~RecordKeys.of(own).placed | placed for own in records]
    needed = {n for k, m in chosen for n in (k, m) if queried[k].any() or queried[m].any()}
    thumbnails = {
        n: _thumbnails(store, own, open_reader)
        for n, (store, own) in enumerate(zip(stores, records, strict=True))
        if store is not None and n in needed
    }
    similar = Similar([np.zeros(own.sizes["sample"], bool) for own in records], {})
    for k, m in chosen:
        if k in thumbnails and m in thumbnails:
            a, b = _comparable(thumbnails[k], thumbnails[m])
            for n, images in ((k, a), (m, b)):
                similar.compared[n][:] |= images.any((1, 2, 3))
            both = queried[k], queried[m]
            copies = find_copies(*_codes(a, b), *both, within=k == m, listed=listed)
            matches = _similar_pairs(a, b, *both, copies)
            similar.matches[k, m] = _with_copies(matches, *both, copies) if copies.groups else matches
            similar.groups[k, m] = copies.groups
    return similar


def _thumbnails(store: xr.Dataset, records: xr.Dataset, open_reader: Callable[..., PixelReader]) -> Thumbnails:
    """Shrink the reference frame of every sample, in the channels closest to band 14."""
    same = {13: 14}
    bands = [
        (same.get(c["band"], c["band"]), same.get(c["minus"], c["minus"])) for c in store.attrs["composite"]["channels"]
    ]
    channels = sorted(range(len(bands)), key=lambda c: abs(bands[c][0] - 14))
    channels = [c for c in channels if bands.index(bands[c]) == c][:CHANNELS]
    read, shape, dtype = open_reader(store), store["image"].shape[2:], store["image"].dtype
    read_valid = open_reader(store, "valid") if "valid" in store.variables else None
    frames = reference_frame(records["labelled_frame"].values, store.sizes["time"])
    images = np.empty((len(frames), len(channels), SIDE, SIDE), np.float32)

    def shrink(sample: int) -> None:
        stored, valid = np.empty((1, *shape), dtype), np.ones((1, *shape[1:]), np.uint8)
        read(sample, [int(frames[sample])], stored)
        if read_valid is not None:
            read_valid(sample, [int(frames[sample])], valid)
        images[sample] = thumbnail(dequantise(stored[0, channels]), valid[0] > 0)

    with progress("images", len(frames)) as advance, ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for _ in pool.map(shrink, range(len(frames))):
            advance(1)
    return Thumbnails(images, tuple(bands[c] for c in channels))


def thumbnail(image: Images, valid: Bools) -> Images:
    """Shrink an image to what is compared.

    Args:
        image: (channel, y, x) values in [0, 1].
        valid: (y, x) where pixels are present.

    Returns:
        (channel, SIDE, SIDE), the difference of two Gaussian blurs, of mean square 1, or 0 if it is flat or if less
        than half of the pixels are present.
    """
    from PIL import Image
    from scipy.ndimage import gaussian_filter

    out = np.zeros((len(image), SIDE, SIDE), np.float32)
    if valid.mean() < 0.5:
        return out
    complete = valid.all()
    for plane, cells in zip(image, out, strict=True):
        filled = plane if complete else np.where(valid, plane, plane[valid].mean())  # what is missing has no structure
        shrunk = np.asarray(Image.fromarray(filled).resize((SIDE, SIDE), Image.Resampling.BOX))
        fine = gaussian_filter(shrunk, _FINEST, mode="nearest")
        fine -= gaussian_filter(fine, _COARSEST, mode="nearest")
        contrast = np.sqrt((fine**2).mean())
        if contrast > _FLAT:
            cells[:] = fine / contrast
    return out


def _comparable(a: Thumbnails, b: Thumbnails) -> tuple[Images, Images]:
    """The channels that both have, or the single bands closest to band 14; none if there is no such channel."""
    shared = [key for key in a.bands if key in b.bands]
    if shared:
        return a.images[:, [*map(a.bands.index, shared)]], b.images[:, [*map(b.bands.index, shared)]]
    single = [[i for i, (_, minus) in enumerate(of.bands) if minus is None][:1] for of in (a, b)]
    both_single = all(single)
    return a.images[:, single[0] if both_single else []], b.images[:, single[1] if both_single else []]


def _codes(a: Images, b: Images) -> Pairs:
    """Number the thumbnails of two sets so that equal ones have one number; those that resemble nothing have none."""
    digests = [xxhash.xxh3_128_digest(np.ascontiguousarray(image).data) for images in (a, b) for image in images]
    code = np.unique(np.array(digests, "V16"), return_inverse=True)[1].reshape(-1)
    code[~np.concatenate([images.any((1, 2, 3)) for images in (a, b)])] = NO_COPY
    return code[: len(a)], code[len(a) :]


def _with_copies(matches: Matches, queried_a: Bools, queried_b: Bools, copies: Copies) -> Matches:
    """Add the pairs of copies of which one is queried."""
    first, second, row = copies.expand(matches.a, matches.b)
    # the last element is that of a copy and its image
    score, moved = np.append(matches.correlation, 1.0)[row], np.append(matches.moved, False)[row]
    queried = queried_a[first] | queried_b[second]
    return Matches(first[queried], second[queried], score[queried], moved[queried])


def _similar_pairs(a: Images, b: Images, queried_a: Bools, queried_b: Bools, copies: Copies) -> Matches:
    """Pairs of similar images of which one is queried, each once, among those that stand for themselves."""
    within, (chosen_a, chosen_b) = copies.within, copies.chosen
    usable_a, usable_b = a.any((1, 2, 3)) & chosen_a, b.any((1, 2, 3)) & chosen_b
    parts = [(queried_a, queried_b), (queried_a, ~queried_b)] + [(~queried_a, queried_b)] * (not within)
    matches = []
    for number, (some_a, some_b) in enumerate(parts):
        rows, columns = np.flatnonzero(some_a & usable_a), np.flatnonzero(some_b & usable_b)
        if len(rows) and len(columns):
            matches.append(_search(a, b, rows, columns, later=within and number == 0))
    if not matches:
        return NO_MATCHES
    i, j, score, moved = (np.concatenate(column) for column in zip(*matches, strict=True))
    first, second = (np.minimum(i, j), np.maximum(i, j)) if within else (i, j)
    order = np.lexsort((second, first))
    return Matches(first[order], second[order], score[order], moved[order])


def _search(a: Images, b: Images, rows: Ints, columns: Ints, *, later: bool) -> tuple[Ints, Ints, Floats, Bools]:
    """Similar pairs of a row and a column (`later`: one behind it), each once: a, b, correlation, moved."""
    reach = range(_WINDOW - SIDE, SIDE - _WINDOW + 1, _STEP)
    matches = []
    # Threads of BLAS, in addition to ours, would wait for one another in each of many small products.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        each = pool.map if len(rows) + len(columns) > FEW else map
        for mirror in _MIRRORS:
            mirrored = _mirrored(b, mirror)
            shifts = np.array([(0, 0)] if any(mirror) else [*product(reach, repeat=2)])
            hits = []
            for k, shift in enumerate(shifts):
                waves_a, waves_b = each(partial(_waves, shift=shift), (a, mirrored), (rows, columns), (0, 1))
                blocks = each(partial(_candidates, waves_a, waves_b, later), range(0, len(rows), _ROWS))
                pairs, score = (np.concatenate(column) for column in zip(*blocks, strict=True))
                hits.append((pairs, score, np.full(len(pairs), k)))
            pairs, score, number = (np.concatenate(column) for column in zip(*hits, strict=True))
            chosen = _best(pairs, score)
            pairs, score, shift = pairs[chosen], score[chosen], shifts[number[chosen]]
            i, j = rows[pairs // len(columns)], columns[pairs % len(columns)]
            moved, unsure = shift.any(1), np.flatnonzero(score < _SURE)
            score[unsure], moved[unsure] = _correlations(a, mirrored, i[unsure], j[unsure], shift[unsure])
            matches.append((pairs, score, moved | any(mirror)))
    pairs, score, moved = (np.concatenate(column) for column in zip(*matches, strict=True))
    chosen = _best(pairs, score)
    chosen = chosen[score[chosen] > SIMILAR]
    return rows[pairs[chosen] // len(columns)], columns[pairs[chosen] % len(columns)], score[chosen], moved[chosen]


def _best(pairs: Ints, score: Floats) -> Ints:
    """Indices of the highest score of each pair."""
    order = np.lexsort((-score, pairs))
    return order[np.unique(pairs[order], return_index=True)[1]]


def _mirrored(images: Images, mirror: tuple[bool, ...]) -> Images:
    exchange, down, across = mirror
    images = images.swapaxes(-1, -2) if exchange else images
    return images[..., :: -1 if down else 1, :: -1 if across else 1]


def _origin(shift: npt.NDArray[Any], side: int) -> npt.NDArray[Any]:
    """First row and column of the window of A (side 0) or B (side 1); those of A lie at those of B plus the shift."""
    of_a = (SIDE - _WINDOW + shift) // 2
    return of_a - shift if side else of_a


def _waves(images: Images, samples: Ints, side: int, shift: npt.NDArray[Any]) -> Images:
    """(sample, wave) cosine transform (DCT-II) of a window at low frequencies, of norm 1."""
    top, left = _origin(shift, side)
    windows = images[:, :, top : top + _WINDOW, left : left + _WINDOW][samples]
    waves = (_COSINES @ windows @ _COSINES.T).reshape(*windows.shape[:2], -1)[..., _LOW].reshape(len(windows), -1)
    return waves / np.maximum(np.linalg.norm(waves, axis=1, keepdims=True), 1e-6)


def _candidates(waves_a: Images, waves_b: Images, later: bool, start: int) -> tuple[Ints, Images]:
    """Pairs of a block of rows that correlate, as row times number of columns plus column, and their correlation."""
    rows, count = waves_a[start : start + _ROWS], len(waves_b)
    pairs, scores = [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
    for first in range(start // _COLUMNS * _COLUMNS if later else 0, count, _COLUMNS):
        score = rows @ waves_b[first : first + _COLUMNS].T
        row, column = np.divmod(np.flatnonzero(score > _CANDIDATE), score.shape[1])
        keep = column + first > row + start if later else slice(None)
        row, column = row[keep], column[keep]
        pairs.append((row + start) * count + column + first)
        scores.append(score[row, column])
    return np.concatenate(pairs), np.concatenate(scores)


def _correlations(a: Images, b: Images, i: Ints, j: Ints, shift: npt.NDArray[Any]) -> tuple[Floats, Bools]:
    """(pair) correlation of the windows at the best shift up to a cell off, and whether that is not 0."""
    best, moved = np.zeros(len(i)), np.zeros(len(i), bool)
    cells = np.arange(_WINDOW)

    def windows(images: Images, samples: Ints, at: npt.NDArray[Any], side: int) -> Images:
        rows, columns = (_origin(at, side)[:, axis, np.newaxis] + cells for axis in (0, 1))
        return images[samples[:, None, None], :, rows[:, :, None], columns[:, None, :]]  # (pair, row, column, channel)

    for start, move in product(range(0, len(i), _ROWS), product((-1, 0, 1), repeat=2)):
        block = slice(start, start + _ROWS)
        at = np.clip(shift[block] + move, _WINDOW - SIDE, SIDE - _WINDOW)
        x, y = windows(a, i[block], at, 0), windows(b, j[block], at, 1)
        power = np.einsum("nrck,nrck->n", x, x) * np.einsum("nrck,nrck->n", y, y)
        score = np.einsum("nrck,nrck->n", x, y) / np.sqrt(np.maximum(power, 1e-6))
        moved[block] = np.where(score > best[block], at.any(1), moved[block])
        best[block] = np.maximum(best[block], score)
    return best, moved
