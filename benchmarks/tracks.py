"""Tracks of contrails through synthetic scenes whose contrails and winds are known.

    python benchmarks/tracks.py [--scenes 24] [--side 256] [--only TABLE]

A scene has eight frames, 10 minutes apart, on pixels of 2 km. Its imagery is synthesized, and the optical flow is that
of the imagery. The detector is made up, so that the errors are those of tracking: the probability rises with the
optical depth, with noise; one sighting in ten is missed, and one contrail in ten has a gap.

Tables:

- `tracks`: purity (the share of a track's sightings that show the contrail that most of them show), tracks per contrail
  (1 is best; in brackets if what split off counts with its origin), and what the parts of the method are worth.
- `motion`: how far centre lines lie from the true axes, and how wrong speed and heading are.

Intervals are 95 %, by the jackknife over scenes.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.spatial import KDTree
from scipy.special import stdtrit

from contrail_data.cli.common import print_table
from contrail_data.composites import COMPOSITES
from contrail_data.labels.flow import flow_between
from contrail_data.sample import RECORD_FRAMES
from contrail_data.store.frames import stored_frames
from contrail_data.synthetic.lines import SCENERIES, Line, axis_points, draw_line
from contrail_data.synthetic.noise import power_law_noise
from contrail_data.synthetic.scene import synthesize
from contrail_train.contrails.instances import Instances, separate
from contrail_train.contrails.tracks import Association, Flow, Track, follow
from timing import make_parser, run_main

VISIBLE = 0.04
"""Optical depth at which the detector's probability is one half."""
KM, STEP = 2.0, 600.0
"""Side of a pixel in km, and seconds between frames."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A scene with what is known and what was detected."""

    images: list[Instances]
    flows: list[Flow]
    lines: list[Line]
    truth: list[list[int]]
    """For each image, the index of the line that each instance shows."""


@lru_cache
def make_scene(seed: int, side: int, scenery: str) -> Scene:
    record = synthesize(seed, 0, size=side, scenery=SCENERIES[scenery])
    frames_tcyx = stored_frames(COMPOSITES["ash"], record.bands, np.uint8)
    lines = [line for line in record.lines if line.contrail]
    rng = np.random.default_rng(seed)
    noise = power_law_noise(rng, side, 1.2)[0]
    gap_at = [rng.random() if rng.random() < 0.1 else None for _ in lines]
    images, truth = [], []
    for t in range(RECORD_FRAMES):
        depths = np.zeros((len(lines), side, side), np.float32)
        for depth, line, gap in zip(depths, lines, gap_at, strict=True):
            if rng.random() < 0.9:
                draw_line(depth, line, t)
            if gap is not None:
                axis = axis_points(line, t)
                away = np.indices(depth.shape) - axis[int(gap * (len(axis) - 1))][:, np.newaxis, np.newaxis]
                depth[np.hypot(*away) < 5] = 0
        seen = np.log(np.maximum(depths.sum(0), 1e-6) / VISIBLE)
        p_yx = 1 / (1 + np.exp(-3 * seen - 0.4 * np.roll(noise, 17 * t, 0)))
        image = separate(p_yx.astype(np.float32), threshold=0.5)
        images.append(image)
        inside = [depths[:, image.labels_yx == instance.number].sum(1) for instance in image.instances]
        truth.append([int(each.argmax()) for each in inside])
    flows = [flow_between(*frames_tcyx[t : t + 2]) for t in range(RECORD_FRAMES - 1)]
    return Scene(images=images, flows=flows, lines=lines, truth=truth)


def scenes_of(options: argparse.Namespace, scenery: str) -> Iterator[Scene]:
    """Scenes with contrails that can be followed."""
    for seed in range(options.scenes):
        scene = make_scene(seed, options.side, scenery)
        if any(len(times) > 1 for times in times_seen(scene).values()):
            yield scene


def times_seen(scene: Scene) -> dict[int, set[int]]:
    """The images in which each line was detected."""
    times = defaultdict(set)
    for t, shown in enumerate(scene.truth):
        for line in shown:
            times[line].add(t)
    return times


METHODS: dict[str, Callable[[Scene], list[Track]]] = {
    "as shipped": lambda scene: follow(scene.images, scene.flows),
    "without a track's own motion": lambda scene: follow(scene.images, scene.flows, Association(own_motion=False)),
    "without optical flow": lambda scene: follow(scene.images, [0 * flow for flow in scene.flows]),
    "without either: lines that overlap": lambda scene: follow(
        scene.images, [0 * flow for flow in scene.flows], Association(own_motion=False)
    ),
    "without bridging missed sightings": lambda scene: follow(scene.images, scene.flows, Association(missed=0)),
}


def interval(numerators: Sequence[float], denominators: Sequence[float], digits: int = 3) -> str:
    """A ratio of sums over scenes, with its interval by the jackknife."""
    n, d = np.array(numerators, float), np.array(denominators, float)
    ratio, count = n.sum() / d.sum(), len(n)
    if count < 3:
        return f"{ratio:.{digits}f}"
    left_out = (n.sum() - n) / np.maximum(d.sum() - d, 1e-9)
    error = np.sqrt((count - 1) / count * ((left_out - left_out.mean()) ** 2).sum())
    reach = stdtrit(count - 1, 0.975) * error
    return f"{ratio:.{digits}f} ± {reach:.{digits}f}"


def compare_tracks(options: argparse.Namespace) -> None:
    """Print the table `tracks`."""
    rows = []
    for scenery in options.sceneries:
        for name, method in METHODS.items():
            sums = np.array([count(scene, method(scene)) for scene in scenes_of(options, scenery)]).T
            pure, sightings, tracks, lineages, contrails = sums
            figures = [
                interval(pure, sightings),
                f"{interval(tracks, contrails, 2)} ({lineages.sum() / contrails.sum():.2f})",
            ]
            rows.append([scenery, name, *figures, f"{contrails.sum():.0f}"])
    print_table("tracks", ["scenery", "method", "purity", "tracks per contrail", "contrails"], rows)


def count(scene: Scene, tracks: Sequence[Track]) -> tuple[int, int, int, int, int]:
    """Pure sightings, sightings, tracks, tracks with what split off them, and contrails that can be followed."""
    pure = sightings = 0
    of_line, origins = defaultdict(set), defaultdict(set)
    origin: list[int] = []
    for index, track in enumerate(tracks):
        origin.append(index if track.split_from is None else origin[track.split_from])
        shown = [scene.truth[s.image][s.index] for s in track.sightings]
        if len(shown) > 1:
            pure += Counter(shown).most_common(1)[0][1]
            sightings += len(shown)
        for line in set(shown):
            of_line[line].add(index)
            origins[line].add(origin[index])
    followed = [line for line, times in times_seen(scene).items() if len(times) > 1]
    return (
        pure,
        sightings,
        sum(len(of_line[line]) for line in followed),
        sum(len(origins[line]) for line in followed),
        len(followed),
    )


def compare_motion(options: argparse.Namespace) -> None:
    """Print the table `motion`."""
    rows = []
    for scenery in options.sceneries:
        for name in ("as shipped", "without optical flow"):
            by_scene = [motion_errors(scene, METHODS[name](scene)) for scene in scenes_of(options, scenery)]
            errors = [np.array([len(each), *each.sum(0)]) for each in by_scene if len(each)]
            n, position, speed, heading = np.array(errors).T
            rows.append([scenery, name, interval(position, n, 2), interval(speed, n, 2), interval(heading, n, 1)])
    header = ["scenery", "method", "position, km", "speed, m/s", "heading, degrees"]
    print_table("motion: mean errors of sightings", header, rows)


def motion_errors(scene: Scene, tracks: Sequence[Track]) -> npt.NDArray[np.float64]:
    """Errors of position (km), speed (m/s) and heading (degrees) of each sighting after the first, (sighting, 3)."""
    errors = []
    for track in tracks:
        for before, now in zip(track.sightings, track.sightings[1:], strict=False):
            index = scene.truth[now.image][now.index]
            if scene.truth[before.image][before.index] != index:
                continue
            line = scene.lines[index]
            axis = KDTree(axis_points(line, now.image))
            distance, _ = axis.query(scene.images[now.image].instances[now.index].line)
            step, drift = now.step / (now.image - before.image), np.array(line.drift)
            turn = np.degrees(np.arctan2(*step) - np.arctan2(*drift))
            speed = abs(np.hypot(*step) - np.hypot(*drift)) * KM * 1000 / STEP
            errors.append((KM * distance.mean(), speed, abs((turn + 180) % 360 - 180)))
    return np.array(errors).reshape(-1, 3)


TABLES = {"tracks": compare_tracks, "motion": compare_motion}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, list(TABLES))
    parser.add_argument("--scenes", type=int, default=24, help="scenes of each scenery (default 24)")
    parser.add_argument("--side", type=int, default=256, help="rows and columns of a scene (default 256)")
    parser.add_argument("--sceneries", nargs="+", choices=SCENERIES, default=["clear", "moving"])
    options = parser.parse_args(arguments)
    for table in options.only or TABLES:
        TABLES[table](options)


if __name__ == "__main__":
    run_main(main)
