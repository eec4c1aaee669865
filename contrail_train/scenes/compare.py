"""Masks of two files compared pixel by pixel, where their grids and times meet."""

from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from contrail_data.errors import ContrailError
from contrail_data.sources.mask_files import Axis, MaskFile, Times

_LARGEST_OFFSET = 1.0
"""Pixels by which the stated centres of a pair of pixels may differ. Google's axes reach the outer edges of a scan, so
that at its limb they are off by most of a pixel."""
_NOTED_OFFSET = 0.1
_SECOND = np.timedelta64(1, "s")
_Mask = tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]


@dataclass(frozen=True)
class Counts:
    """Pixels of both masks, with A as the truth."""

    tp: int
    """Pixels that are contrail in both."""
    fp: int
    """Pixels that are contrail only in B."""
    fn: int
    """Pixels that are contrail only in A."""
    pixels: int
    """Pixels that neither file lacks."""

    @property
    def dice(self) -> float | None:
        """Dice coefficient, None if no pixel is contrail."""
        total = 2 * self.tp + self.fp + self.fn
        return 2 * self.tp / total if total else None

    @property
    def agreement(self) -> float | None:
        """Share of pixels with the same answer, None if there are no pixels."""
        return 1 - (self.fp + self.fn) / self.pixels if self.pixels else None

    def as_json(self) -> dict[str, Any]:
        """Express the counts and scores as JSON.

        Returns:
            Numbers by name.
        """
        return {**asdict(self), "dice": self.dice, "agreement": self.agreement}

    def __add__(self, other: Self) -> Self:
        return type(self)(*(getattr(self, key) + getattr(other, key) for key in ("tp", "fp", "fn", "pixels")))


@dataclass(frozen=True)
class Pair:
    """Two masks of the same scan."""

    time: np.datetime64 | None
    """Start of the scan in A; None if the file does not state it."""
    later_s: float | None
    """Seconds by which the scan starts later in B."""
    counts: Counts

    def as_json(self) -> dict[str, Any]:
        """Express the times as JSON.

        Returns:
            `time` (ISO 8601, UTC) and `later_s`, null where not stated.
        """
        return {"time": None if self.time is None else _text(self.time), "later_s": self.later_s}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The result of `compare_masks`."""

    pairs: list[Pair]
    offset: float
    """Largest distance between the stated centres of a pair of pixels, in pixels."""
    unmatched: list[str]
    """One line for each time of a file that the other one lacks."""
    notes: list[str]


@dataclass(frozen=True)
class _Overlap:
    """Where an axis of A and one of B meet."""

    a: slice
    b: slice
    offset: float


def compare_masks(a: MaskFile, b: MaskFile, *, tolerance: float = 5.0, threshold: float = 0.5) -> Comparison:
    """Compare the masks of two files where their grids overlap, at the times that both have.

    Args:
        a: The file that counts as the truth.
        b: The other file.
        tolerance: Minutes by which the starts of a scan may differ.
        threshold: Value from which a pixel is contrail.

    Returns:
        Counts for each pair of times.

    Raises:
        ContrailError: If the grids differ or do not overlap, no time is in both files, or a file does not hold masks.
    """
    files = f"{a.path} and {b.path}"
    if a.view != b.view:
        raise ContrailError(
            f"{files}: the projections differ ({a.view_text}; {b.view_text}); compare files of one satellite, .nc or "
            ".zarr, on its own grid"
        )
    rows, columns = (_overlap(files, name, getattr(a, name), getattr(b, name)) for name in ("y", "x"))
    offset = max(rows.offset, columns.offset)
    notes = []
    if offset > _NOTED_OFFSET:
        notes.append(f"the centres of pixels differ by up to {offset:.2f} pixel between the files")
    matches, unmatched = _matched(a, b, tolerance)
    if a.times is None or b.times is None:
        notes.append("one of the files states no time: its mask is taken to be of the other one's time")
    pairs = []
    for i, j in matches:
        masks = [_mask(a, i, rows.a, columns.a, threshold), _mask(b, j, rows.b, columns.b, threshold)]
        later = None if a.times is None or b.times is None else float((b.times[j] - a.times[i]) / _SECOND)
        pairs.append(Pair(None if a.times is None else a.times[i], later, _counts(*masks)))
    return Comparison(pairs=pairs, offset=offset, unmatched=unmatched, notes=notes)


def _overlap(files: str, name: str, a: Axis, b: Axis) -> _Overlap:
    """Where two axes of the same direction meet; the pixels of B are those of A, moved by a whole number."""
    if a.size > b.size:
        swapped = _overlap(files, name, b, a)
        return _Overlap(swapped.b, swapped.a, swapped.offset)
    last = a.first + a.step * (a.size - 1)
    begin, end = ((edge - b.first) / b.step for edge in (a.first, last))  # fractional pixels of B
    move = round((begin + end - (a.size - 1)) / 2)
    first, stop = max(0, -move), min(a.size, b.size - move)
    if first >= stop:
        raise ContrailError(f"{files}: show different parts of the disk ({name}); compare files that overlap")
    drift = (end - begin) / max(a.size - 1, 1)
    offset = max(abs(begin + drift * k - (k + move)) for k in (first, stop - 1))
    if offset >= _LARGEST_OFFSET:
        raise ContrailError(
            f"{files}: the grids differ in {name} (steps {abs(a.step):.6g} and {abs(b.step):.6g}); compare files of "
            "one resolution"
        )
    return _Overlap(slice(first, stop), slice(first + move, stop + move), offset)


def _matched(a: MaskFile, b: MaskFile, tolerance: float) -> tuple[list[tuple[int, int]], list[str]]:
    """Pairs of times that are nearest to each other, and the others."""
    if a.times is None or b.times is None:
        if any(file.times is not None and len(file.times) > 1 for file in (a, b)):
            untimed, other = (a, b) if a.times is None else (b, a)
            raise ContrailError(
                f"{untimed.path}: states no time, and {other.path} has several; compare it with a file of its time"
            )
        return [(0, 0)], []
    apart = np.abs(a.times[:, np.newaxis] - b.times[np.newaxis])
    nearest_b, nearest_a = apart.argmin(1), apart.argmin(0)
    limit = np.timedelta64(round(60 * tolerance), "s")
    matches = [
        (i, int(j)) for i, j in enumerate(nearest_b) if nearest_a[j] == i and apart[i, j] <= limit
    ]  # each time once
    if not matches:
        raise ContrailError(
            f"{a.path} and {b.path}: no time is in both ({_span(a.times)}; {_span(b.times)}); compare files of the "
            "same scans, or raise --tolerance"
        )
    unmatched = []
    for file, other, times, used in ((a, b, a.times, 0), (b, a, b.times, 1)):
        matched = {match[used] for match in matches}
        unmatched += [
            f"{file.path}: {_text(time)} has no counterpart in {other.path} within {tolerance:g} minutes"
            for number, time in enumerate(times)
            if number not in matched
        ]
    return matches, unmatched


def _mask(file: MaskFile, number: int, rows: slice, columns: slice, threshold: float) -> _Mask:
    """Where pixels are contrail, and where they are not missing."""
    values = file.read(number, rows, columns)
    valid = ~np.isnan(values)
    lowest, highest = (float(limit.reduce(values, axis=None)) for limit in (np.fmin, np.fmax))
    if lowest < 0 or highest > 1:
        raise ContrailError(
            f"{file.path}: holds values from {lowest:g} to {highest:g}, not masks or probabilities; choose another file"
        )
    return valid & (values >= threshold), valid


def _counts(a: _Mask, b: _Mask) -> Counts:
    (contrail_a, valid_a), (contrail_b, valid_b) = a, b
    valid = valid_a & valid_b
    both = contrail_a & contrail_b & valid
    numbers = (both, contrail_b & ~contrail_a & valid, contrail_a & ~contrail_b & valid, valid)
    return Counts(*(int(np.count_nonzero(number)) for number in numbers))


def _text(time: np.datetime64) -> str:
    return str(np.datetime_as_string(time, "s"))


def _span(times: Times) -> str:
    return " to ".join(dict.fromkeys((_text(times.min()), _text(times.max()))))
