"""What pictures of single samples show: frames as RGB, labels, votes and predictions, and where and when they are."""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.composites import COMPOSITES, dequantise, evaluate
from contrail_data.errors import ContrailError
from contrail_data.labels.flow import flow_between
from contrail_data.reports.figures import RGB, Mark, Mask, Motion, Panel, enlarged
from contrail_data.reports.ground import Ground
from contrail_data.sample import reference_frame
from contrail_data.store import logits
from contrail_data.store.samples import labelled_time
from contrail_data.store.schema import Kind, require_kind

_TILE = 224
"""Approximate width of a tile of a contact sheet, pixels."""


def find_record(store: xr.Dataset, record_id: str) -> int:
    """Find a record.

    Args:
        store: A store of any kind.
        record_id: The id of the record.

    Returns:
        Index of the sample.

    Raises:
        ContrailError: If the store has no such record; the message names a few that it has.
    """
    ids = list(map(str, store["record_id"].values))
    if record_id not in ids:
        examples = ", ".join(map(repr, ids[:3]))
        raise ContrailError(f"{store.attrs['path']}: no record {record_id!r}; it holds {len(ids)}, such as {examples}")
    return ids.index(record_id)


def check_viewable(store: xr.Dataset, prediction: xr.Dataset | None) -> None:
    """Check that a store holds images and that predictions, if given, lie on its pixels.

    Args:
        store: The store with the images.
        prediction: A store of predictions or pseudo-labels.

    Raises:
        ContrailError: If one of them is of another kind, or their pixels differ.
    """
    require_kind(store, Kind.SAMPLES, remedy="preview the store it was made from")
    if prediction is None:
        return
    require_kind(
        prediction, Kind.PSEUDO_LABELS, Kind.PREDICTIONS, remedy="give a store that contrail-train predict wrote"
    )
    if prediction["frame_mask"].shape[2:] != store["image"].shape[3:]:
        raise ContrailError(f"{prediction.attrs['path']}: its pixels are not those of {store.attrs['path']}")


@dataclass(frozen=True)
class SampleViewer:
    """Reads frames, labels and predictions of a store of samples, as arrays and as pictures."""

    store: xr.Dataset
    records: xr.Dataset
    """Scalars of the store."""
    prediction: xr.Dataset | None = None
    """Predictions or pseudo-labels for the store."""

    def reference_frame(self, sample: int) -> int:
        """Return the index of the labelled frame, or of the middle one of a sample without a labelled frame.

        Args:
            sample: Index of the sample.

        Returns:
            Index of the frame.
        """
        return int(reference_frame(self.records["labelled_frame"].values[sample], self.store.sizes["time"]))

    def image(self, sample: int, frame: int) -> npt.NDArray[Any]:
        """Read one frame.

        Args:
            sample: Index of the sample.
            frame: Index of the frame.

        Returns:
            The composite as stored, (channel, y, x).
        """
        return self.store["image"].variable[sample, frame].values

    def rgb(self, sample: int, frame: int) -> RGB:
        """Read one frame as a picture.

        Args:
            sample: Index of the sample.
            frame: Index of the frame.

        Returns:
            Red, green and blue, (y, x, 3) uint8.
        """
        return as_rgb(self.image(sample, frame), self.store.attrs["composite"]["channels"])

    def label(self, sample: int) -> Mask | None:
        """Read the majority label.

        Args:
            sample: Index of the sample.

        Returns:
            The label, (y, x); `None` if no human labelled the sample.
        """
        if str(self.records["label_source"].values[sample]) != "human":
            return None
        return self.store["mask"].variable[sample].values.astype(bool)

    def predictions(self, sample: int) -> dict[int, tuple[Mask, npt.NDArray[np.float32]]]:
        """Read what was predicted for a sample, except for frames with a human label.

        Args:
            sample: Index of the sample.

        Returns:
            Mask and probability, (y, x), by frame; empty if nothing was predicted for the record.
        """
        if self.prediction is None:
            return {}
        ids, record_id = self.prediction["record_id"].values.tolist(), self.records["record_id"].values[sample]
        if record_id not in ids:
            return {}
        row = ids.index(record_id)
        frames = self.prediction["frame"].values[row]
        human = self.prediction["frame_source"].values[row] == "human"
        columns = np.flatnonzero(~human & (frames >= 0) & (frames < self.store.sizes["time"])).tolist()
        masks = self.prediction["frame_mask"].variable[row, columns].values.astype(bool)
        probability = logits.decode(self.prediction["logit"].variable[row, columns].values).astype(np.float32)
        return dict(zip(frames[columns].tolist(), zip(masks, probability, strict=True), strict=True))

    def tile(self, sample: int, *, votes: bool = False) -> Panel:
        """Show the labelled frame with its label and prediction outlined.

        Args:
            sample: Index of the sample.
            votes: Also outline what any annotator marked.

        Returns:
            A panel of about 224 pixels.
        """
        frame = self.reference_frame(sample)
        rgb = self.rgb(sample, frame)
        outlines = {}
        if votes:
            outlines[Mark.VOTES] = self.store["annotators"].variable[sample].values > 0
        if (label := self.label(sample)) is not None:
            outlines[Mark.LABEL] = label
        if (prediction := self.predictions(sample).get(frame)) is not None:
            outlines[Mark.PREDICTION] = prediction[0]
        width = rgb.shape[1]
        return Panel(image=rgb, width=enlarged(width, _TILE) if width < 2 * _TILE else _TILE, outlines=outlines)

    def ground(self, sample: int) -> Ground | None:
        """Return where the pixels of a sample lie.

        Args:
            sample: Index of the sample.

        Returns:
            Their place on the Earth; `None` if it is not known.
        """
        crs_wkt = str(self.records["crs_wkt"].values[sample])
        geotransform = self.records["geotransform"].values[sample]
        if not crs_wkt or np.isnan(geotransform).any():
            return None
        return Ground(crs_wkt, geotransform, self.store.sizes["y"], self.store.sizes["x"])

    def motion(self, sample: int, frame: int) -> Motion:
        """Compute how far the imagery moves from one frame to the next, by optical flow.

        Args:
            sample: Index of the sample.
            frame: Index of the frame from which it moves.

        Returns:
            The displacements; the legend states a length in pixels and, if times and place are known, in km/h.
        """
        flow_dyx = flow_between(self.image(sample, frame), self.image(sample, frame + 1))
        pixels = _round_up(float(np.quantile(np.hypot(*flow_dyx), 0.95)))
        hours = np.diff(self.records["time"].values[sample, frame : frame + 2])[0] / np.timedelta64(1, "h")
        ground, speed = self.ground(sample), ""
        if ground is not None and hours > 0:  # neither if a time is unknown
            speed = f" in {60 * hours:.0f} min, {pixels * ground.pixel_km / hours:.0f} km/h"
        return Motion(flow_dyx=flow_dyx, pixels=pixels, legend=f"{pixels:g} px{speed}")

    def caption(self, sample: int) -> list[str]:
        """Describe when and where a sample was taken.

        Args:
            sample: Index of the sample.

        Returns:
            Such as `2019-04-04 12:00 UTC` and `21.98°N 60.93°W`; one line if both are unknown.
        """
        time = labelled_time(self.records.isel(sample=[sample]))[0]
        latitude, longitude = (float(self.records[name].values[sample]) for name in ("latitude", "longitude"))
        if not math.isnan(latitude + longitude):
            place = f"{abs(latitude):.2f}°{'NS'[latitude < 0]} {abs(longitude):.2f}°{'EW'[longitude < 0]}"
            return [_time_text(time), place]
        return ["time and place unknown"] if np.isnat(time) else [_time_text(time), "place unknown"]

    def frame_caption(self, sample: int, frame: int) -> str:
        """Describe one frame of a sample.

        Args:
            sample: Index of the sample.
            frame: Index of the frame.

        Returns:
            Index and time of the frame, and whether it is the labelled one.
        """
        labelled = ", labelled" if frame == int(self.records["labelled_frame"].values[sample]) else ""
        return f"frame {frame}, {_time_text(self.records['time'].values[sample, frame])}{labelled}"


def as_rgb(image_cyx: npt.NDArray[Any], channels: list[dict[str, Any]]) -> RGB:
    """Show three channels, or R, G and B before others, as they are.

    Of other channels show ash if its three bands are there, else the first channel as grey.

    Args:
        image_cyx: The composite as stored, (channel, y, x).
        channels: Its channels as the store declares them.

    Returns:
        Red, green and blue, (y, x, 3) uint8.
    """
    unit_cyx = dequantise(image_cyx)
    if [channel["name"] for channel in channels[:3]] == COMPOSITES["ash"].channel_names:
        unit_cyx = unit_cyx[:3]
    if len(unit_cyx) != 3:
        kelvin = {
            channel["band"]: channel["low"] + plane * np.float32(channel["high"] - channel["low"])
            for channel, plane in zip(channels, unit_cyx, strict=False)
            if channel["minus"] is None
        }
        ash = COMPOSITES["ash"]
        unit_cyx = evaluate(ash, kelvin) if set(ash.bands) <= set(kelvin) else unit_cyx[[0, 0, 0]]
    return np.rint(np.moveaxis(unit_cyx, 0, -1) * 255).astype(np.uint8)


def _round_up(value: float) -> float:
    """The next of 1, 2, 3, 5, 10, 20, 30, 50, ..."""
    return next(
        10.0**power * factor for power in itertools.count() for factor in (1, 2, 3, 5) if 10.0**power * factor >= value
    )


def _time_text(time: np.datetime64) -> str:
    return "time unknown" if np.isnat(time) else f"{np.datetime_as_string(time, 'm').replace('T', ' ')} UTC"
