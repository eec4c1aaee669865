"""Which line each pixel of a mask belongs to, where lines cross, touch, run side by side or are broken.

Each region is thinned to a skeleton, which is cut into pieces at forks and sharp bends. Pieces that continue each other
are linked to lines, within a region and over gaps between regions. Each pixel then belongs to the nearest line of its
region. Lines side by side that the mask joins are parted where the probability has a valley between them.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import scipy  # which imports its submodules at their first use
from scipy import ndimage

from contrail_train.contrails.centre_line import centre_line
from contrail_train.contrails.cleaning import EIGHT_CONNECTED, Labels, Mask
from contrail_train.contrails.linking import Linking, Part, link
from contrail_train.contrails.pixel_graph import Indices, indices_yx, parts_of
from contrail_train.contrails.polyline import Points, densified, length_of
from contrail_train.contrails.regions import pixels_of
from contrail_train.contrails.skeleton import pieces_of

_SMALL = 9
"""Pixels below which a region is not cut."""
_SHARPEST = 35.0
"""Bend in degrees above which two contrails touch at their ends."""
_SLENDER = 2.25
"""Ratio of length to width that a part of a region needs to be a contrail of its own."""
_VALLEY, _DEPTH, _LONG = 5, 0.15, 4
"""A valley between two lines is narrower than this (pixel), lower by this share, and has this many pixels."""
COVERED = 0.7
"""Share of a line above which it is what longer lines share."""
_NEAR = 2.0
"""Pixels by which a small region may lie beside a gap that it is part of."""


def separate_lines(
    mask_yx: Mask, probability_yx: npt.NDArray[np.floating], linking: Linking
) -> tuple[Labels, list[Indices], list[Points]]:
    """Separate a mask into lines.

    Args:
        mask_yx: Mask, bool (y, x).
        probability_yx: Probability of a contrail, same shape.
        linking: When pieces are linked.

    Returns:
        Number of the line that each pixel of the mask belongs to, from 1, int32 (y, x); rows and columns of the pixels
        of each line (pixel, 2); and of points along its middle (vertex, 2). Lines are numbered in order of their first
        pixels.
    """
    regions = pixels_of(ndimage.label(mask_yx, EIGHT_CONNECTED)[0])
    pieces: list[Points] = []
    region_of: list[int] = []
    for region, pixels in enumerate(regions):
        origin = pixels.min(0)
        for piece in _pieces(pixels - origin, probability_yx[pixels[:, 0], pixels[:, 1]]):
            pieces.append(piece + origin)
            region_of.append(region)
    chains = link(pieces, mask_yx, linking)
    in_region: dict[int, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for number, chain in enumerate(chains):
        for part in chain:
            in_region[region_of[part.piece]][number] += length_of(part.points) + 1
    drawn = [densified(np.concatenate([points for _, points in chain])) for chain in chains]
    _absorb_dots(in_region, chains, drawn, linking)
    labels_yx = np.zeros(mask_yx.shape, np.int32)
    for region, pixels in enumerate(regions):
        labels_yx[pixels[:, 0], pixels[:, 1]] = _assign(pixels, in_region[region], drawn)
    return _lines(labels_yx, drawn)


def _pieces(pixels: Indices, probability: npt.NDArray[np.floating]) -> list[Points]:
    """The pieces of one region, whose first row and column are 0."""
    if len(pixels) < _SMALL:
        return [densified(centre_line(pixels))]
    inside_yx = np.zeros(pixels.max(0) + 1, bool)
    probability_yx = np.zeros(inside_yx.shape, probability.dtype)
    inside_yx[pixels[:, 0], pixels[:, 1]], probability_yx[pixels[:, 0], pixels[:, 1]] = True, probability
    pieces = pieces_of(inside_yx & ~_valleys(probability_yx, inside_yx), _SHARPEST)
    return pieces if sum(map(len, pieces)) >= _SMALL else [densified(centre_line(pixels))]


def _valleys(p_yx: npt.NDArray[np.floating], inside_yx: Mask) -> Mask:
    """Pixels between two lines, whose probability is lower than on both sides."""
    smooth = ndimage.gaussian_filter(p_yx, 0.6)
    filled = ndimage.grey_closing(smooth, (_VALLEY, _VALLEY))
    low_yx = inside_yx & (filled - smooth > _DEPTH * filled)
    if not low_yx.any():
        return low_yx
    labels, count = ndimage.label(low_yx, EIGHT_CONNECTED)
    long = np.bincount(labels.ravel(), minlength=count + 1) >= _LONG
    long[0] = False
    return np.asarray(long[labels])


def _absorb_dots(
    in_region: dict[int, dict[int, float]], chains: Sequence[Sequence[Part]], drawn: Sequence[Points], linking: Linking
) -> None:
    """Give regions too small for a direction to the line in whose gap they lie."""
    gaps = [
        (number, densified(np.concatenate([chain[i].points[-1:], chain[i + 1].points[:1]])))
        for number, chain in enumerate(chains)
        for i in range(len(chain) - 1)
    ]
    if not gaps:
        return
    tree = scipy.spatial.cKDTree(np.concatenate([points for _, points in gaps]))
    owner = np.repeat([number for number, _ in gaps], [len(points) for _, points in gaps])
    for numbers in in_region.values():
        if len(numbers) == 1 and length_of(drawn[only := next(iter(numbers))]) < linking.shortest:
            distance, index = tree.query(drawn[only].mean(0))
            if distance <= _NEAR:
                del numbers[only]
                numbers[int(owner[index])] = 1.0


def _assign(pixels: Indices, lengths: dict[int, float], drawn: Sequence[Points]) -> npt.NDArray[np.int32] | int:
    """The line, from 1, of each pixel, or of all pixels, of a region with lines of these lengths inside it."""
    if len(lengths) == 1:
        return next(iter(lengths)) + 1
    first, *others = sorted(lengths, key=lambda line: (-len(drawn[line]), line))
    width = len(pixels) / sum(lengths.values())
    slender = [first, *(line for line in others if lengths[line] >= _SLENDER * width)]
    if len(slender) > 1:
        slender = [slender[number] for number in not_covered([drawn[line] for line in slender], max(1.5, width / 2))]
    if len(slender) == 1:
        return first + 1
    tree = scipy.spatial.cKDTree(np.concatenate([drawn[line] for line in slender]))
    owner = np.repeat(slender, [len(drawn[line]) for line in slender])
    return (owner[tree.query(pixels)[1]] + 1).astype(np.int32)


def not_covered(drawn: Sequence[Points], reach: float) -> list[int]:
    """Choose lines that show something of their own.

    Args:
        drawn: Points along each line, (point, 2), the most important line first.
        reach: Distance (pixel) within which a line covers the points of another one.

    Returns:
        Indices of the first line, and of each line of which the lines kept before it cover less than `COVERED`.
    """
    points = np.concatenate(drawn)
    is_covered = np.zeros(len(points), bool)
    end = np.cumsum([len(line) for line in drawn])
    kept: list[int] = []
    for number, line in enumerate(drawn):
        if kept and is_covered[end[number] - len(line) : end[number]].mean() >= COVERED:
            continue
        kept.append(number)
        near = np.flatnonzero(((points >= line.min(0) - reach) & (points <= line.max(0) + reach)).all(1))
        # points beyond the bound, which need not be measured, are infinitely far
        distance, _ = scipy.spatial.cKDTree(line).query(points[near], distance_upper_bound=2 * reach)
        is_covered[near] |= distance <= reach
    return kept


def _lines(labels_yx: Labels, drawn: Sequence[Points]) -> tuple[Labels, list[Indices], list[Points]]:
    """Number the lines in order of their first pixels, and refine each to the middle of its pixels."""
    of_lines = [(pixels, line) for pixels, line in zip(pixels_of(labels_yx), drawn, strict=False) if len(pixels)]
    of_lines.sort(key=lambda one: one[0][0].tolist())
    for number, (pixels, _) in enumerate(of_lines, 1):
        labels_yx[pixels[:, 0], pixels[:, 1]] = number
    return labels_yx, [pixels for pixels, _ in of_lines], [_refined(*one) for one in of_lines]


def _refined(pixels: Indices, line: Points) -> Points:
    """The centre line of pixels that a line joins over gaps and crossings."""
    joined = np.concatenate([pixels, np.rint(line).astype(np.intp)])
    origin, columns = joined.min(0), np.ptp(joined[:, 1]) + 1
    flat = (joined - origin) @ np.array([columns, 1])
    inside = np.unique(flat)  # by rows, each pixel once
    joined = np.stack(np.divmod(inside, columns), -1)
    part = parts_of(joined, indices_yx(joined), np.zeros(len(joined), np.intp))
    of_line = part[np.searchsorted(inside, flat[-1])]  # a dot beside a gap is a part of its own
    return centre_line(joined[part == of_line]) + origin
