"""Separating contrails: ours, connected regions, and line kernels.

    python benchmarks/instances.py [--scenes 60] [--frames FOLDER]

Tables: `drawn`, pairs of drawn lines that cross, touch, run side by side or are broken, whose truth is known;
`labels`, labelled contrails of two frames laid over each other, those that touch one of the other frame, where each
frame says which pixels are one contrail. FOLDER has real frames: .npy files (y, x, channel) whose last channel is a
0/1 label; without it they are synthetic. Line kernels are those of Mannstein et al. (1999): the image is filtered by a
line of 19 pixels in 16 directions, and connected pixels with a response in about one direction are a contrail if they
are long enough; of those that overlap the stronger one is kept. Scores are the harmonic mean F1 of precision and
recall, and both, of contrails that match at an intersection over union of 0.5 with a tolerance of 2 pixels. All
methods separate the same probability at the same threshold.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from contrail_data.cli.common import print_table
from contrail_data.errors import ContrailError
from contrail_data.synthetic.scene import synthesize
from contrail_train.contrails.cleaning import EIGHT_CONNECTED
from contrail_train.contrails.instances import Instances, connected, measured, separate
from contrail_train.evaluation.instance_scores import join, match
from timing import make_parser, run_main

Probability = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int32]
Scene = tuple[Probability, Labels]
THRESHOLD = 0.4
SIDE = 160
KINDS = ("single", "crossing", "shallow crossing", "side by side", "touching", "broken", "all of them")


def draw(rng: np.random.Generator, start: Sequence[float], angle: float, length: float) -> Probability:
    """Draw a slightly bent line of a random width, with soft edges, from a point in a direction (radian)."""
    y, x = np.mgrid[:SIDE, :SIDE] - np.array(start)[:, np.newaxis, np.newaxis]
    along, across = y * np.sin(angle) + x * np.cos(angle), y * np.cos(angle) - x * np.sin(angle)
    across = across - rng.normal(0, 0.02) * length * (2 * along / length - 1) ** 2
    half = rng.uniform(1.0, 2.5)
    ends = np.clip(along + 1, 0, 1) * np.clip(length - along + 1, 0, 1)
    return (ends * np.clip(half + 0.75 - np.abs(across), 0, 1.5) / 1.5).astype(np.float32)


def lines_of(rng: np.random.Generator, kind: str) -> list[Probability]:
    """Draw the contrails of a scene."""
    if kind == KINDS[-1]:
        return [line for kind in KINDS[:-1] for line in lines_of(rng, kind) if rng.random() < 0.7]
    angle, length, turned = rng.uniform(0, np.pi), rng.uniform(50, 110), rng.choice([-1, 1])
    middle = rng.uniform(0.35, 0.65, 2) * SIDE
    unit, normal = np.array([np.sin(angle), np.cos(angle)]), np.array([np.cos(angle), -np.sin(angle)])
    start = middle - unit * length / 2
    line = draw(rng, start, angle, length)
    if kind == "broken":
        along = np.einsum("i,iyx->yx", unit, np.mgrid[:SIDE, :SIDE] - start[:, np.newaxis, np.newaxis])
        for share in (0.3, 0.65):
            line *= np.abs(along - share * length) > rng.uniform(2, 6)
        return [line]
    if kind == "side by side":
        apart = rng.uniform(5, 7)
        return [line, draw(rng, start + turned * apart * normal + rng.normal(0, 8) * unit, angle, length)]
    if kind in ("crossing", "shallow crossing"):
        other = angle + turned * np.radians(rng.uniform(30, 90) if kind == "crossing" else rng.uniform(10, 25))
        there = middle + rng.uniform(-0.2, 0.2) * length * unit
        return [line, draw(rng, there - np.array([np.sin(other), np.cos(other)]) * length * 0.45, other, length * 0.9)]
    if kind == "touching":
        return [
            line,
            draw(rng, start + rng.uniform(0.2, 1) * length * unit, angle + turned * rng.uniform(0.8, 2.2), 45),
        ]
    return [line]


def drawn_scenes(rng: np.random.Generator, kind: str, count: int) -> Iterator[Scene]:
    """Draw scenes: a noisy probability, and the number of the contrail of each pixel."""
    for _ in range(count):
        lines = np.stack(lines_of(rng, kind) or [np.zeros((SIDE, SIDE), np.float32)])
        truth = np.where(lines.max(0) >= THRESHOLD, lines.argmax(0) + 1, 0)
        yield noisy(rng, lines.max(0)), renumbered(truth)


def noisy(rng: np.random.Generator, shape: npt.NDArray[np.float32]) -> Probability:
    """Blur a map and change its contrast from place to place."""
    factor = 1 + 0.15 * ndimage.gaussian_filter(rng.normal(size=shape.shape), 2) * np.sqrt(4 * np.pi) * 2
    return np.clip(ndimage.gaussian_filter(shape, 0.5) * factor, 0, 1).astype(np.float32)


def frames_of(folder: Path | None) -> list[npt.NDArray[np.bool_]]:
    """Read the labels of real frames, or make up synthetic ones."""
    if folder is None:
        scenes = (synthesize(seed, 0, size=256, bands=(14,), label_shift=(0.0, 0.0)) for seed in range(12))
        return [scene.mask[..., 0] > 0 for scene in scenes]
    paths = sorted(folder.glob("pos_*.npy")) or sorted(folder.glob("*.npy"))
    if len(paths) < 2:
        raise ContrailError(f"{folder}: has fewer than two .npy files; give a folder of ash frames")
    return [np.load(path)[..., -1] > 0.5 for path in paths]


def laid_over_each_other(
    rng: np.random.Generator, frames: Sequence[npt.NDArray[np.bool_]], count: int
) -> Iterator[Scene]:
    """Lay the labelled contrails of two frames over each other, turned at random, and keep those that touch."""
    while count:
        chosen = rng.choice(len(frames), 2, replace=False)
        pair = [long_regions(np.rot90(frames[i], rng.integers(4))) for i in chosen]
        union, _ = ndimage.label((pair[0] > 0) | (pair[1] > 0), EIGHT_CONNECTED)
        touching = np.intersect1d(union[pair[0] > 0], union[pair[1] > 0])
        if not len(touching):
            continue
        number = np.where(pair[0] > 0, pair[0], np.where(pair[1] > 0, pair[1] + pair[0].max(), 0))
        number[~np.isin(union, touching)] = 0
        count -= 1
        yield noisy(rng, (number > 0).astype(np.float32)), renumbered(number)


def renumbered(labels: npt.NDArray[np.integer]) -> Labels:
    """Number the contrails of a label image without missing numbers; 0 stays 0."""
    return np.asarray(np.unique(np.append(labels, 0), return_inverse=True)[1][:-1].reshape(labels.shape), np.int32)


def long_regions(label: npt.NDArray[np.bool_]) -> Labels:
    """The regions of a label that are one contrail beyond doubt: long, and along a line that bends once at most."""
    found = connected(label, label.astype(np.float32))
    kept = [0] * (len(found.instances) + 1)
    for instance in found.instances:
        if instance.pixels < 20 or instance.length < 5 * instance.width:
            continue
        points = np.argwhere(found.labels_yx == instance.number)
        centred = points - points.mean(0)
        along, across = np.linalg.svd(centred, full_matrices=False)[2] @ centred.T
        beside = across - np.polyval(np.polyfit(along, across, 2), along)
        if np.abs(beside).max() < 0.75 * instance.width + 1:
            kept[instance.number] = instance.number
    return np.array(kept, np.int32)[found.labels_yx]


def line_kernels(probability: Probability, *, threshold: float) -> Instances:
    """Separate contrails by line kernels."""
    mask, directions, half = probability >= threshold, 16, 9
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    candidates = []
    for direction in range(directions):
        angle = np.pi * direction / directions
        across, along = y * np.cos(angle) - x * np.sin(angle), y * np.sin(angle) + x * np.cos(angle)
        window = (np.abs(along) <= half).astype(np.float64)
        line, sides = np.exp(-0.5 * (across / 1.2) ** 2) * window, np.exp(-0.5 * (across / 3.6) ** 2) * window
        response = cv2.filter2D(
            probability, -1, line / line.sum() - sides / sides.sum(), borderType=cv2.BORDER_CONSTANT
        )
        candidates.append(response)
    response = np.stack(candidates)
    regions = []
    for direction in range(directions):
        near = np.maximum(
            np.maximum(response[direction - 1], response[direction]), response[(direction + 1) % directions]
        )
        labels, count = ndimage.label(mask & (near >= response.max(0)) & (near > 0.05), EIGHT_CONNECTED)
        for number in range(1, count + 1):
            inside = labels == number
            if inside.sum() >= 16:
                regions.append((float(response[direction][inside].sum()), inside))
    out = np.zeros(mask.shape, np.int32)
    kept = 0
    for _, inside in sorted(regions, key=lambda region: -region[0]):
        free = inside & (out == 0)
        if free.sum() >= max(16, 0.5 * inside.sum()):
            kept += 1
            out[free] = kept
    return measured(out, probability)


METHODS: dict[str, Callable[[Probability], Instances]] = {
    "ours": lambda p: separate(p, threshold=THRESHOLD),
    "connected regions": lambda p: connected(p >= THRESHOLD, p),
    "line kernels": lambda p: line_kernels(p, threshold=THRESHOLD),
}


def row_of(scenes: Sequence[Scene]) -> list[str]:
    cells = []
    for method in METHODS.values():
        matched = join([match(method(p), measured(truth, (truth > 0).astype(np.float32))) for p, truth in scenes])
        hits, precision, recall = matched.is_hit.sum(), matched.is_hit.mean(), matched.is_found.mean()
        f1 = 2 * hits / (len(matched.is_hit) + len(matched.is_found))
        cells.append(f"{f1:.3f} ({precision:.2f}, {recall:.2f})")
    return [str(sum(int(truth.max()) for _, truth in scenes)), *cells]


def compare_drawn(options: argparse.Namespace) -> None:
    """Print the table `drawn`."""
    rows = []
    for kind in KINDS:
        scenes = list(drawn_scenes(np.random.default_rng(0), kind, options.scenes))
        rows.append([kind, *row_of(scenes)])
    print_table(f"drawn: {options.scenes} scenes each, F1 (precision, recall)", ["lines", "contrails", *METHODS], rows)


def compare_labels(options: argparse.Namespace) -> None:
    """Print the table `labels`."""
    scenes = list(laid_over_each_other(np.random.default_rng(0), frames_of(options.frames), options.scenes))
    print_table(
        f"labels: {options.scenes} pairs of {'real' if options.frames else 'synthetic'} frames, F1 (precision, recall)",
        ["labels", "contrails", *METHODS],
        [["two frames laid over each other", *row_of(scenes)]],
    )


TABLES = {"drawn": compare_drawn, "labels": compare_labels}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, list(TABLES))
    parser.add_argument("--scenes", type=int, default=60, help="scenes of each kind (default 60)")
    parser.add_argument("--frames", type=Path, help="folder of real frames with labels (default: synthetic)")
    options = parser.parse_args(arguments)
    for table in options.only or TABLES:
        TABLES[table](options)


if __name__ == "__main__":
    run_main(main)
