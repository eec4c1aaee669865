"""The single contrails of a predicted scene, and their tracks through its times."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import xarray as xr

from contrail_data.ahead import map_ahead
from contrail_data.labels.flow import flow_between
from contrail_data.scans.scene import grid_of
from contrail_train.contrails.confidence import Confidence
from contrail_train.contrails.instances import Instances, connected, separate_mask
from contrail_train.contrails.motion import add_tracks, pixel_path, track_ids
from contrail_train.contrails.shapes import Contrail, trace
from contrail_train.contrails.tracks import Flow, Track, follow

LONGEST_STEP = np.timedelta64(20, "m")
"""Scans that lie further apart in time are not neighbours: their contrails are others."""


@dataclass(frozen=True, kw_only=True)
class SceneContrails:
    """The contrails of a scene, found when they are needed."""

    scene: xr.Dataset
    """A predicted scene with `probability` and `mask`, and if it is tracked or drawn, `image`."""
    separated: bool = False
    """Whether contrails that cross, touch or are broken are separated, rather than each region being one contrail."""
    confidence: Confidence | None = None
    """Fitted confidence of separated contrails; None for the mean probability."""
    tracked: bool = False
    """Whether they are followed through the times of the scene."""

    @cached_property
    def images(self) -> list[Instances]:
        """Find the contrails of each time.

        Returns:
            The contrails.
        """
        probability_tyx = self.scene["probability"].values
        each = zip(self.scene["mask"].values > 0, map(np.nan_to_num, probability_tyx), strict=True)
        if not self.separated:
            return [connected(mask_yx, p_yx) for mask_yx, p_yx in each]
        return [separate_mask(mask_yx, p_yx, confidence=self.confidence) for mask_yx, p_yx in each]

    @cached_property
    def tracks(self) -> list[Track]:
        """Follow the contrails through the times.

        Returns:
            Their tracks.
        """
        return follow(self.images, _flows(self.scene))

    @cached_property
    def track_ids(self) -> list[str]:
        """Name the tracks.

        Returns:
            The id of each track.
        """
        return track_ids(self.tracks, self.scene["time"].values)

    @cached_property
    def labelled(self) -> xr.Dataset:
        """Label the pixels of the scene.

        Returns:
            The scene; if contrails are separated, with `instance`, the number of the contrail at each pixel, int32
            (time, y, x), 0 where there is none; if they are tracked, with `track` likewise, `track_id` (track_number)
            and the rows and columns `track_path` (time, track_number, axis), NaN where a contrail is not seen.
        """
        if not self.separated:
            return self.scene
        labels = np.stack([image.labels_yx for image in self.images])
        scene = self.scene.assign(instance=(("time", "y", "x"), labels))
        if not self.tracked:
            return scene
        path = np.full((len(self.images), len(self.tracks), 2), np.nan)
        track_of = [np.zeros(len(image.instances) + 1, np.int32) for image in self.images]
        for number, track in enumerate(self.tracks, 1):
            path[[sighting.image for sighting in track.sightings], number - 1] = pixel_path(track, self.images)
            for sighting in track.sightings:
                instance = self.images[sighting.image].instances[sighting.index]
                track_of[sighting.image][instance.number] = number
        numbers = np.stack([number_of[label] for number_of, label in zip(track_of, labels, strict=True)])
        ids = np.array(self.track_ids, np.dtypes.StringDType())
        scene = scene.assign_coords(track_id=("track_number", ids))
        tracks = {"track": (("time", "y", "x"), numbers), "track_path": (("time", "track_number", "axis"), path)}
        return scene.assign(tracks)

    def trace(self, altitude: float | None = None) -> list[list[Contrail]]:
        """Trace the contrails on the Earth.

        Args:
            altitude: Metres for which positions are corrected for parallax; None for no correction.

        Returns:
            The contrails of each time, with the properties of `shapes.trace` and, if they are tracked, of
            `motion.add_tracks`.
        """
        grid = grid_of(self.scene)
        traced = []
        for t, image in enumerate(self.images):
            one = self.scene.isel(time=t)
            p_yx, row_time = np.nan_to_num(one["probability"].values), one["scan_time"].values
            satellite = str(self.scene.attrs["platform"])
            traced.append(trace(image, p_yx, grid, row_time=row_time, satellite=satellite, altitude=altitude))
        return add_tracks(traced, self.images, self.tracks, self.track_ids, grid, altitude) if self.tracked else traced


def _flows(scene: xr.Dataset) -> Iterator[Flow | None]:
    """Optical flow from each time to the next, on all cores; None where that is too much later."""
    image_tcyx = scene["image"].values
    is_near = np.diff(scene["time"].values) <= LONGEST_STEP
    cores = os.cpu_count() or 1

    def _flow(t: int) -> Flow | None:
        return flow_between(*image_tcyx[t : t + 2]) if is_near[t] else None

    with ThreadPoolExecutor(cores) as pool:
        yield from map_ahead(pool, _flow, range(len(is_near)), most=cores)
