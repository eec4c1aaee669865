"""Tracks on the Earth: speed, heading and growth of each contrail, when it was first and last seen, and its history."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from contrail_data.geo.fixed_grid import FixedGrid
from contrail_train.contrails.instances import Instance, Instances
from contrail_train.contrails.polyline import Points, distances, points_at
from contrail_train.contrails.shapes import GEOD, Contrail, places
from contrail_train.contrails.tracks import Track

SPAN = np.timedelta64(15, "m")
"""Speed and growth at a time are those of the sightings at most this much earlier or later."""


def track_ids(tracks: Sequence[Track], times: npt.NDArray[np.datetime64]) -> list[str]:
    """Name tracks by the time of their first sighting and their order among the tracks first seen at that time.

    Args:
        tracks: The tracks in the order of `follow`.
        times: Time of each image, UTC, datetime64.

    Returns:
        Such as `20240301T124030-3`. Later images change no name.
    """
    stamps = [str(time).replace("-", "").replace(":", "") for time in times.astype("datetime64[s]")]
    count: dict[str, int] = {}
    ids = []
    for track in tracks:
        stamp = stamps[track.sightings[0].image]
        count[stamp] = count.get(stamp, 0) + 1
        ids.append(f"{stamp}-{count[stamp]}")
    return ids


def pixel_path(track: Track, images: Sequence[Instances]) -> Points:
    """Compute the path of a contrail through its images, which does not jump when an end of the line was not detected.

    Args:
        track: The track.
        images: The contrails of each image.

    Returns:
        Rows and columns at each sighting, float64 (sighting, 2): the steps of the track, placed so that they fit the
        middles of its lines.
    """
    middles = np.array([_middle(images[sighting.image].instances[sighting.index].line) for sighting in track.sightings])
    steps = np.cumsum([sighting.step for sighting in track.sightings], axis=0)
    return np.asarray(steps + (middles - steps).mean(0))


def add_tracks(
    traced: Sequence[Sequence[Contrail]],
    images: Sequence[Instances],
    tracks: Sequence[Track],
    ids: Sequence[str],
    grid: FixedGrid,
    altitude: float | None = None,
) -> list[list[Contrail]]:
    """Add the motion and history of its track to the properties of each contrail.

    The properties are track (its id), speed_m_s and heading_deg (from north, 90 for the east; the contrail's own motion
    across its line and the imagery's along it), length_growth_km_h, width_growth_km_h, first_seen and last_seen (UTC),
    began and ended (values of `Began` and `Ended`), split_from and merged_into (ids of other tracks). What is not
    known, such as the speed of a single sighting, is None.

    Args:
        traced: The contrails of each image, as of `shapes.trace`.
        images: The same contrails in pixels.
        tracks: Their tracks, as of `follow`.
        ids: Id of each track.
        grid: The grid of the images.
        altitude: Metres for which positions are corrected for parallax; None for no correction.

    Returns:
        The contrails of each image with these properties.
    """
    contrails = [{contrail.properties["id"]: contrail for contrail in image} for image in traced]
    for track, name in zip(tracks, ids, strict=True):
        instances = [images[sighting.image].instances[sighting.index] for sighting in track.sightings]
        shown = [contrails[s.image].get(i.number) for s, i in zip(track.sightings, instances, strict=True)]
        times = np.array([_measured(each)[0] for each in shown])
        sizes = np.array([_measured(each)[1:] for each in shown])
        paths = _path(track, instances, grid, altitude)
        history = {
            "first_seen": _text(times[0]),
            "last_seen": _text(times[-1]),
            "began": track.began.value,
            "ended": track.ended.value,
            "split_from": None if track.split_from is None else ids[track.split_from],
            "merged_into": None if track.merged_into is None else ids[track.merged_into],
        }
        for k, (sighting, contrail) in enumerate(zip(track.sightings, shown, strict=True)):
            if contrail is not None:
                motion = _motion(_rates(np.concatenate([paths, sizes], axis=1), times, k))
                properties = {**contrail.properties, "track": name, **motion, **history}
                contrails[sighting.image][contrail.properties["id"]] = replace(contrail, properties=properties)
    return [list(image.values()) for image in contrails]


def _measured(contrail: Contrail | None) -> tuple[np.datetime64, float, float]:
    """Time, length and width of a contrail; not known of one at the limb."""
    if contrail is None:
        return np.datetime64("NaT", "s"), np.nan, np.nan
    properties = contrail.properties
    time = np.datetime64("NaT", "s") if properties["time"] is None else np.datetime64(properties["time"][:-1], "s")
    return time, properties["length_km"], properties["width_km"]


def _path(track: Track, instances: Sequence[Instance], grid: FixedGrid, altitude: float | None) -> Points:
    """Metres east and north of the first sighting, (sighting, 2), as the steps between the sightings add up."""
    middles = np.array([_middle(instance.line) for instance in instances])
    before = middles - [sighting.step for sighting in track.sightings]
    (lon, lat), (lon_before, lat_before) = (places(points[:, ::-1], grid, altitude).T for points in (middles, before))
    azimuth, _, metres = GEOD.inv(lon_before, lat_before, lon, lat)
    steps = metres[:, np.newaxis] * np.stack([np.sin(np.radians(azimuth)), np.cos(np.radians(azimuth))], -1)
    return np.asarray(steps.cumsum(0))


def _middle(line: Points) -> Points:
    return points_at(line, distances(line)[-1] / 2)


def _rates(values: Points, times: npt.NDArray[np.datetime64], k: int) -> Points:
    """Change of each column per second around sighting k, by a straight line; NaN where there is one sighting only."""
    near = np.abs(times - times[k]) <= SPAN
    near[max(k - 1, 0) : k + 2] = True  # also where scans are far apart
    seconds = (times[near] - times[k]) / np.timedelta64(1, "s")
    spread = ((seconds - seconds.mean()) ** 2).sum()
    if not spread > 0:  # NaT, too
        return np.full(values.shape[1], np.nan)
    return np.asarray((seconds - seconds.mean()) @ values[near] / spread)


def _motion(rates: Points) -> dict[str, float | None]:
    """Properties for rates of the path in m/s (east, north) and of length and width in km/s."""
    east, north, length, width = rates.tolist()
    heading = np.degrees(np.arctan2(east, north)) % 360
    return {
        "speed_m_s": _rounded(float(np.hypot(east, north)), 2),
        "heading_deg": _rounded(round(float(heading), 1) % 360, 1),
        "length_growth_km_h": _rounded(length * 3600, 1),
        "width_growth_km_h": _rounded(width * 3600, 2),
    }


def _rounded(value: float, digits: int) -> float | None:
    return round(value, digits) if np.isfinite(value) else None


def _text(time: np.datetime64) -> str | None:
    return None if np.isnat(time) else f"{np.datetime_as_string(time, 's')}Z"
