"""A sample: what a source yields, one labelled window with checked values."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NotRequired

import numpy as np
import numpy.typing as npt
from PIL import Image

from contrail_data.errors import BadRecord
from contrail_data.geo.geometry import GOES_EAST_LONGITUDE, Footprint

KELVIN_RANGE = (150.0, 360.0)
"""Possible brightness temperatures. Real tiles reach from 188 K (coldest cloud tops) to 319 K (hot desert)."""
GOES_EAST = "GOES-16"
"""Satellite of all OpenContrails records."""
RECORD_FRAMES = 8
"""Number of frames of an OpenContrails record."""
RECORD_SIDE_KM = 500.0
"""Width of an OpenContrails record, and distance between the sites of their lattice."""
RECORD_LABELLED_FRAME = 4
"""Index of the labelled frame of an OpenContrails record: four frames come before it and three after it."""
BAND_FEATURES = {
    8: "upper_vapor",
    9: "mid_vapor",
    10: "low_vapor",
    11: "cloud_top",
    12: "ozone",
    13: "data_10um",
    14: "data_11um",
    15: "data_12um",
    16: "co2",
}
"""What TFRecords of OpenContrails call each band."""
FRAME_STEP = np.timedelta64(600, "s")
"""Time between two frames."""
MAX_ANNOTATORS = 8
"""A sample keeps one bit of a byte per annotator."""
MAX_INSTANCES = 255
"""Contrails that can be marked one by one in a sample."""

_RECORD_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,99}")


def check_record_id(record_id: str) -> str:
    """Check that a record id is a plain name, which is safe to use as a file name.

    Args:
        record_id: The id.

    Returns:
        The same id.

    Raises:
        BadRecord: If it is empty, longer than 100 characters, or has other characters than letters, digits, `_-.`.
    """
    if not _RECORD_ID.fullmatch(record_id):
        raise BadRecord(f"record id {record_id[:120]!r}: not a plain name; use letters, digits, '_', '-', '.'")
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


def predictable_frames(offsets: Sequence[int], frames: int, repeats_edges: bool = False) -> range:
    """Return the frames of a sample around which a model finds its input frames.

    Args:
        offsets: Input frames relative to the predicted one, ascending.
        frames: Number of frames of the sample.
        repeats_edges: Whether the first and the last frame stand for those beyond the ends of the sample.

    Returns:
        Their indices; empty if there are none.
    """
    return range(frames) if repeats_edges else range(-offsets[0], frames - offsets[-1])


def input_frames(frame: int, offsets: Sequence[int], frames: int) -> list[int]:
    """Return the input frames of a model around a frame; beyond the ends of the sample its first or last one.

    Args:
        frame: Index of the predicted frame.
        offsets: Input frames relative to it.
        frames: Number of frames of the sample.

    Returns:
        A frame index for each offset.
    """
    return [min(max(frame + offset, 0), frames - 1) for offset in offsets]


class Attributes(Footprint):
    """Attributes of a sample; those that are not required follow from its pixels and labels."""

    record_id: str
    split: str
    source_digest: str
    """Digest of the raw data."""
    labelled_frame: int
    """Index of the labelled frame; -1 if there is none."""
    satellite: NotRequired[str]
    """`GOES_EAST` by default, as its longitude."""
    satellite_longitude: NotRequired[float]
    """Degrees east."""
    annotator_count: NotRequired[int]
    instance_count: NotRequired[int]
    label_source: NotRequired[str]
    height: NotRequired[int]
    """Rows before any resizing; so are `width` and `positive_pixels`."""
    width: NotRequired[int]
    positive_pixels: NotRequired[int]


@dataclass(frozen=True)
class Labels:
    """What humans marked in the labelled frame of a sample."""

    mask: npt.NDArray[np.uint8] | None = None
    """Majority label, (y, x) 0/1; None if there is no label."""
    annotators: npt.NDArray[np.uint8] | None = None
    """(y, x), bit r is set where annotator r marked the pixel; None if individual masks are unknown."""
    annotator_count: int = 0
    instance_masks: npt.NDArray[np.uint8] | None = None
    """(instance, y, x), bit r is set where annotator r marked the pixel as part of that contrail; None if contrails
    were not marked one by one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """One labelled window; `make_sample` checks its values.

    Time is the innermost axis because records are stored that way, so nothing is copied before the arithmetic.
    """

    planes: Sequence[int] | Sequence[str]
    """Along the first axis of `pixels`: numbers of ABI bands; or, from sources that hold composites already, names of
    their channels."""
    pixels: npt.NDArray[np.float32]
    """(plane, y, x, time): brightness temperatures in kelvin, or the composite in [0, 1]."""
    time: npt.NDArray[np.datetime64]
    """(time) datetime64[ns] UTC, NaT if unknown or if the frame is missing."""
    labels: Labels
    attributes: Attributes
    valid: npt.NDArray[np.bool_] | None = None
    """(y, x, time), False where a pixel is missing; None if none is."""

    @property
    def bands(self) -> dict[int, npt.NDArray[np.float32]]:
        """Brightness temperature by number of the band, (y, x, time); empty if the pixels are a composite."""
        return {band: plane for band, plane in zip(self.planes, self.pixels, strict=True) if isinstance(band, int)}


def make_sample(
    pixels: npt.NDArray[np.float32],
    planes: Sequence[int] | Sequence[str],
    time: npt.NDArray[np.datetime64],
    labels: Labels,
    attributes: Attributes,
    *,
    valid: npt.NDArray[np.bool_] | None = None,
    is_checked: bool = False,
) -> Sample:
    """Assemble and check a sample.

    Args:
        pixels: As in `Sample`.
        planes: As in `Sample`.
        time: Times of the frames.
        labels: Labels, if there are any.
        attributes: Attributes of the sample.
        valid: Where pixels are present; None if they all are.
        is_checked: Whether `check_range` found the values possible already.

    Returns:
        The sample.

    Raises:
        BadRecord: If values are impossible (NaN in a valid pixel, temperatures outside `KELVIN_RANGE`, an image outside
            [0, 1]), if shapes differ, or if no pixel is valid.
    """
    height, width = pixels.shape[1:3]
    if valid is not None and valid.all():
        valid = None
    if valid is not None and not valid.any():
        raise BadRecord("every pixel is missing; choose another time or place")
    if not is_checked:
        check_range(planes, pixels if valid is None else pixels[:, valid])
    for name in ("mask", "annotators"):
        if (marks := getattr(labels, name)) is not None and marks.shape != (height, width):
            raise BadRecord(f"{name}: shape is {marks.shape}, but bands have {(height, width)}; restore the files")
    defaults: Any = {
        "satellite": GOES_EAST,
        "satellite_longitude": GOES_EAST_LONGITUDE,
        "annotator_count": labels.annotator_count,
        "instance_count": 0 if labels.instance_masks is None else len(labels.instance_masks),
        "label_source": "none" if labels.mask is None else "human",
        "height": height,
        "width": width,
        "positive_pixels": 0 if labels.mask is None else int(np.count_nonzero(labels.mask)),
    }
    return Sample(
        planes=planes, pixels=pixels, time=time, labels=labels, attributes={**defaults, **attributes}, valid=valid
    )


def check_range(planes: Sequence[int] | Sequence[str], pixels: npt.NDArray[np.float32]) -> None:
    """Check that values are possible.

    Args:
        planes: As in `Sample`.
        pixels: The valid ones, (plane, ...).

    Raises:
        BadRecord: If a plane holds NaN, temperatures outside `KELVIN_RANGE` or an image outside [0, 1].
    """
    of_bands = isinstance(planes[0], int)
    axis, unit, (low, high) = ("band", " K", KELVIN_RANGE) if of_bands else ("channel", "", (0.0, 1.0))
    for name, plane in zip(planes, pixels, strict=True):
        smallest, largest = plane.min(), plane.max()
        if np.isnan(smallest):
            raise BadRecord(f"{axis} {name}: {int(np.isnan(plane).sum())} values are NaN; restore the file")
        if smallest < low or largest > high:
            values = f"values from {smallest:.4g} to {largest:.4g} are impossible (expected {low:g} to {high:g}{unit})"
            raise BadRecord(f"{axis} {name}: {values}; restore the file")


def resize(sample: Sample, size: int) -> Sample:
    """Resample a sample to a square grid.

    Pixel values are interpolated bilinearly, and antialiased when shrinking. A label pixel is set if the labelled area
    in it is at least half of what a line one pixel wide would cover, so that thin contrails do not vanish; enlarged
    labels are nearest neighbours. A pixel is missing if any missing pixel contributed to it.

    Args:
        sample: The sample.
        size: Rows and columns of the result.

    Returns:
        The resampled sample; its attributes `height` and `width` keep the original size.
    """
    height, width = sample.pixels.shape[1:3]
    if (height, width) == (size, size):
        return sample
    labels = sample.labels
    resized = replace(
        labels,
        mask=None if labels.mask is None else _resize_label(labels.mask, size),
        annotators=None if labels.annotators is None else _resize_bits(labels.annotators, size),
        instance_masks=None
        if labels.instance_masks is None
        else np.stack([_resize_bits(marks, size) for marks in labels.instance_masks]),
    )
    stretch = np.array([1, width / size, 1, 1, 1, height / size])  # GDAL order: pixel width 1, pixel height 5
    attributes: Any = {**sample.attributes, "geotransform": np.asarray(sample.attributes["geotransform"]) * stretch}
    valid = None if sample.valid is None else _resize_planes(sample.valid[np.newaxis], size)[0] > 1 - 1e-6
    return replace(
        sample, pixels=_resize_planes(sample.pixels, size), labels=resized, attributes=attributes, valid=valid
    )


def _resize_planes(planes_pyxt: npt.NDArray[Any], size: int) -> npt.NDArray[np.float32]:
    """Resize planes of several frames, (plane, y, x, time)."""
    frames = [[_resize_plane(yx, size, Image.Resampling.BILINEAR) for yx in np.moveaxis(p, -1, 0)] for p in planes_pyxt]
    return np.moveaxis(np.array(frames), 1, -1)


def _resize_plane(plane: npt.NDArray[Any], size: int, method: Image.Resampling) -> npt.NDArray[np.float32]:
    return np.asarray(Image.fromarray(np.ascontiguousarray(plane, np.float32)).resize((size, size), method))


def _resize_bits(marks: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """Resize the mask of each annotator."""
    bits = (((marks >> r) & 1).astype(np.uint8) for r in range(MAX_ANNOTATORS))
    return np.bitwise_or.reduce([np.left_shift(_resize_label(bit, size), r) for r, bit in enumerate(bits)])


def _resize_label(bit: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    shrink = max(bit.shape[0] / size, bit.shape[1] / size, 1.0)
    if shrink == 1.0:
        return _resize_plane(bit, size, Image.Resampling.NEAREST).astype(np.uint8)
    area = _resize_plane(bit, size, Image.Resampling.BOX)
    return (area >= 0.5 / shrink - 1e-6).astype(np.uint8)
