"""Sample: what a source yields, one labelled window as an xarray.Dataset with a checked schema.

    brightness_temperature  (band, y, x, time) float32, kelvin, coordinate `band` = ABI band numbers
      or, from sources whose composite is already made,
    image                   (channel, y, x, time) float32 in [0, 1]
    mask                    (y, x) uint8 0/1, majority label of the labelled frame; absent without a label
    annotators              (y, x) uint8, bit r set where annotator r marked the pixel; absent without any
    valid                   (y, x, time) bool, false where a pixel is missing; absent where none is
    time                    (time) datetime64[ns] UTC, NaT where unknown, or where the frame is missing

Time is the innermost axis because that is how records lie on disk: nothing is copied before the arithmetic.
Attributes: record_id, split, source_digest, labelled_frame (-1: none), annotator_count, label_source,
height, width and positive_pixels before any resizing, satellite and satellite_longitude, and what
`geometry.tile_geometry` tells of the footprint (NaN where unknown).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from PIL import Image

from contrail_data.errors import BadRecord
from contrail_data.geo.geometry import GOES_EAST_LONGITUDE

# Real tiles reach from 188 K over the coldest cloud tops to 319 K over hot desert.
KELVIN_RANGE = (150.0, 360.0)
GOES_EAST = "GOES-16"  # of all OpenContrails records

RECORD_FRAMES = 8
"""Number of frames of an OpenContrails record."""
RECORD_LABELLED_FRAME = 4
"""Index of the labelled frame of an OpenContrails record: four frames come before it and three after it."""
FRAME_STEP = np.timedelta64(600, "s")
"""Time between two frames."""

_RECORD_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,99}")


def check_record_id(record_id: str) -> str:
    """The id itself. Raises BadRecord for one that is no plain name (a path, empty, over 100 characters)."""
    if not _RECORD_ID.fullmatch(record_id):
        raise BadRecord(f"record id {record_id[:120]!r} is not a plain name: use letters, digits, '_', '-', '.'")
    return record_id


def reference_frame(labelled: npt.ArrayLike, frames: int) -> npt.NDArray[np.int64]:
    """Return the frame that stands for a sample: the labelled one, or the middle one if no frame is labelled.

    Args:
        labelled: Index of the labelled frame, a scalar or an array of any shape; negative if no frame is labelled.
        frames: Number of frames of a sample.

    Returns:
        Frame indices, int64, in the shape of `labelled`.
    """
    indices = np.asarray(labelled, np.int64)
    return np.where(indices < 0, frames // 2, indices)


def unknown_geometry() -> dict[str, Any]:
    """The footprint attributes of a sample without metadata."""
    nan = float("nan")
    return {
        "latitude": nan,
        "longitude": nan,
        "corner_latitude": np.full(4, nan),
        "corner_longitude": np.full(4, nan),
        "geotransform": np.full(6, nan),
        "crs_wkt": "",
    }


def make_sample(
    name: str,
    pixels: npt.NDArray[np.float32],
    labels: Sequence[Any],
    *,
    record_id: str,
    split: str,
    time: npt.NDArray[np.datetime64],
    mask: npt.NDArray[np.uint8] | None,
    annotators: npt.NDArray[np.uint8] | None,
    annotator_count: int,
    labelled_frame: int,
    source_digest: str,
    geometry: dict[str, Any],
    valid: npt.NDArray[np.bool_] | None = None,
    satellite: str = GOES_EAST,
    satellite_longitude: float = GOES_EAST_LONGITUDE,
) -> xr.Dataset:
    """Assemble and check a sample; `pixels` are what `name` tells (see the module's table), `labels` the values along
    their first axis: band numbers, or names of channels. `valid` (y, x, time) tells where pixels are; None: everywhere.

    Raises BadRecord for values that cannot be: NaN where a pixel should be, kelvin outside KELVIN_RANGE, an image
    outside [0, 1]; and for a sample without any pixel.
    """
    axis = "channel" if name == "image" else "band"
    height, width = pixels.shape[1:3]
    low, high = (0.0, 1.0) if name == "image" else KELVIN_RANGE
    if valid is not None and valid.all():
        valid = None
    if valid is not None and not valid.any():
        raise BadRecord("every pixel is missing: choose another time or place")
    for label, plane in zip(labels, pixels if valid is None else pixels[:, valid], strict=True):
        smallest, largest = plane.min(), plane.max()
        if np.isnan(smallest):
            raise BadRecord(f"{axis} {label}: {int(np.isnan(plane).sum())} values are NaN: restore the file")
        if smallest < low or largest > high:
            raise BadRecord(
                f"{axis} {label}: values from {smallest:.4g} to {largest:.4g} are impossible "
                f"(expected {low:g} to {high:g}): restore the file"
            )
    variables: dict[str, Any] = {name: ((axis, "y", "x", "time"), pixels)}
    for label, plane in (("mask", mask), ("annotators", annotators)):
        if plane is not None:
            if plane.shape != (height, width):
                raise BadRecord(f"{label} is {plane.shape}, the bands are {(height, width)}: restore the files")
            variables[label] = (("y", "x"), plane)
    if valid is not None:
        variables["valid"] = (("y", "x", "time"), valid)
    return xr.Dataset(
        variables,
        # Without indexes: nobody selects by label here, and making them costs as much as the arithmetic.
        coords=xr.Coordinates({"time": ("time", time), axis: (axis, np.asarray(labels))}, indexes={}),
        attrs={
            "record_id": record_id,
            "split": split,
            "source_digest": source_digest,
            "labelled_frame": labelled_frame,
            "annotator_count": annotator_count,
            "label_source": "none" if mask is None else "human",
            "height": height,
            "width": width,
            "positive_pixels": 0 if mask is None else int(mask.sum()),
            "satellite": satellite,
            "satellite_longitude": satellite_longitude,
            **geometry,
        },
    )


def resize(sample: xr.Dataset, size: int) -> xr.Dataset:
    """The sample on a (size, size) grid; height and width attributes keep the original size.

    Bands are bilinear (antialiased when shrinking). A label pixel is set where labelled area covers at least
    half of what a one-pixel-wide line would cover there, so a thin contrail does not vanish; enlarging that
    is nearest neighbour.
    """
    height, width = sample.sizes["y"], sample.sizes["x"]
    if (height, width) == (size, size):
        return sample
    out: dict[str, Any] = {}
    for name, variable in sample.data_vars.items():
        if name == "valid":  # what any missing pixel took part in is missing
            whole = [_resize_plane(p, size, Image.Resampling.BILINEAR) for p in np.moveaxis(variable.values, -1, 0)]
            out["valid"] = (("y", "x", "time"), np.moveaxis(np.stack(whole) > 1 - 1e-6, 0, -1))
        elif variable.ndim == 2:
            bits = [((variable.values >> r) & 1).astype(np.uint8) for r in range(8 if name == "annotators" else 1)]
            planes = [np.left_shift(_resize_label(bit, size), r) for r, bit in enumerate(bits)]
            out[str(name)] = (("y", "x"), np.bitwise_or.reduce(planes))
        else:
            frames = variable.transpose(variable.dims[0], "time", "y", "x").values
            flat = frames.reshape(-1, height, width)
            new = np.stack([_resize_plane(p, size, Image.Resampling.BILINEAR) for p in flat])
            shaped = new.reshape(*frames.shape[:2], size, size)
            out[str(name)] = ((variable.dims[0], "y", "x", "time"), np.moveaxis(shaped, 1, -1))
    attrs = dict(sample.attrs)
    stretch = np.array([1, width / size, 1, 1, 1, height / size])  # GDAL order: pixel width 1, pixel height 5
    attrs["geotransform"] = np.asarray(attrs["geotransform"]) * stretch
    return xr.Dataset(out, coords=sample.coords, attrs=attrs)


def _resize_plane(plane: npt.NDArray[Any], size: int, how: Image.Resampling) -> npt.NDArray[np.float32]:
    return np.asarray(Image.fromarray(np.ascontiguousarray(plane, np.float32)).resize((size, size), how))


def _resize_label(bit: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    shrink = max(bit.shape[0] / size, bit.shape[1] / size, 1.0)
    if shrink == 1.0:
        return _resize_plane(bit, size, Image.Resampling.NEAREST).astype(np.uint8)
    area = _resize_plane(bit, size, Image.Resampling.BOX)
    return (area >= 0.5 / shrink - 1e-6).astype(np.uint8)
