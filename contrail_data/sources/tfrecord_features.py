"""What the features of a record in a TFRecord file hold: bands, masks, time and place."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from contrail_data.errors import BadRecord
from contrail_data.sample import BAND_FEATURES, Labels
from contrail_data.sources.bands import blocks, checked_digest
from contrail_data.sources.instance_masks import instance_axes, instance_bits
from contrail_data.sources.metadata import GRID, RecordMetadata, parse_entry
from contrail_data.sources.npy import as_label
from contrail_data.sources.tfrecord_index import KNOWN, MASK, SCAN_STARTS, VOTES
from contrail_data.sources.votes import combined_labels
from contrail_data.storage.example import (
    Feature,
    FeatureKind,
    decode_tensor,
    find_features,
    read_numbers,
    read_text,
    text_span,
)

_LAST_SECOND = 4e9
"""Times are seconds since 1970; anything later is in other units."""


class Example:
    """The features of one record.

    Args:
        payload: The record.

    Raises:
        ValueError: If it is not a `tf.train.Example`.
    """

    def __init__(self, payload: memoryview) -> None:
        self._payload = payload
        self.features: dict[str, Feature] = find_features(self.read, 0, len(payload))
        if not self.features:
            raise ValueError("not a tf.train.Example with features")

    def read(self, start: int, length: int) -> memoryview:
        """Return a part of the record.

        Args:
            start: First byte.
            length: Number of bytes.

        Returns:
            The bytes.
        """
        return self._payload[start : start + length]

    def tensor(self, name: str) -> npt.NDArray[Any] | None:
        """Decode a tensor.

        Args:
            name: Name of the feature.

        Returns:
            The array. None if there is no such feature.

        Raises:
            ValueError: If it is something else.
        """
        if name not in self.features:
            return None
        try:
            start, stop = text_span(self.read, self.features[name])
            return decode_tensor(self._payload[start:stop])
        except ValueError as error:
            raise ValueError(f"feature {name}: {error}") from None

    def plain(self, name: str) -> Any:
        """Read a feature that is not a tensor.

        Args:
            name: Name of the feature.

        Returns:
            Text, a number or an array of several. None if there is no such feature.
        """
        if (feature := self.features.get(name)) is None:
            return None
        if feature.kind is FeatureKind.BYTES:
            return read_text(self.read, feature).decode(errors="replace")
        values = read_numbers(self.read, feature)
        return values.item() if values.size == 1 else values


def read_bands(example: Example, bands: Sequence[int], frames: int) -> tuple[npt.NDArray[np.float32], str]:
    """Read bands as float32, and check that their values are possible.

    Args:
        example: The record.
        bands: The bands.
        frames: Expected number of frames.

    Returns:
        Brightness temperature, (band, y, x, time) float32, kelvin; and numbers and digests of the bands.

    Raises:
        BadRecord: If the record lacks a band, or values are NaN or outside `KELVIN_RANGE`.
        ValueError: If a band is not a tensor of that many frames, or of another shape than the first one.
    """
    names = [BAND_FEATURES[band] for band in bands]
    if missing := [name for name in names if name not in example.features]:
        remedy = "choose a composite without these bands"
        raise BadRecord(f"has no feature {' or '.join(missing)}; {remedy}")
    tensors = [tensor for name in names if (tensor := example.tensor(name)) is not None]
    first = tensors[0]
    for name, tensor in zip(names, tensors, strict=True):
        if tensor.dtype.kind != "f" or tensor.ndim != 3 or tensor.shape[2] != frames or not tensor.size:
            raise ValueError(f"feature {name}: {tensor.dtype} {tensor.shape}, expected kelvin of {frames} frames")
        if tensor.shape != first.shape:
            raise ValueError(f"feature {name}: shape {tensor.shape}, but {names[0]} has {first.shape}")
    temperature_byxt = np.empty((len(tensors), *first.shape), np.float32)
    digests = [
        checked_digest(band, plane, _converted(tensor, plane))
        for band, plane, tensor in zip(bands, temperature_byxt, tensors, strict=True)
    ]
    return temperature_byxt, " ".join(digests)


def _converted(tensor: npt.NDArray[Any], out: npt.NDArray[np.float32]) -> Iterator[npt.NDArray[np.float32]]:
    """Convert a tensor block by block."""
    for values, block in zip(blocks(tensor), blocks(out), strict=True):
        with np.errstate(over="ignore"):  # infinite values are reported as impossible
            block[...] = values
        yield block


def read_labels(example: Example, plane: tuple[int, int]) -> Labels:
    """Read the masks of a record.

    Args:
        example: The record.
        plane: Rows and columns of its bands.

    Returns:
        The masks; none if the record is not labelled.

    Raises:
        ValueError: If a mask does not fit the bands.
    """
    votes = _read_mask(example, VOTES, plane, 4)
    mask = _read_mask(example, MASK, plane, 3)
    votes_yxr = None if votes is None else votes[:, :, 0]
    instances = None if votes_yxr is None else _read_instances(example, plane, votes_yxr.shape[-1])
    return combined_labels(None if mask is None else mask[..., 0], votes_yxr, instances)


def _read_mask(example: Example, name: str, plane: tuple[int, int], axes: int) -> npt.NDArray[np.uint8] | None:
    if (array := example.tensor(name)) is None:
        return None
    fits = array.ndim == axes and array.shape[:3] == (*plane, 1) and array.size and array.dtype.kind in "iub"
    if not fits:
        raise ValueError(f"feature {name}: {array.dtype} {array.shape}, but bands have {plane}")
    return as_label(array, f"feature {name}")


def _read_instances(example: Example, plane: tuple[int, int], annotators: int) -> npt.NDArray[np.uint8] | None:
    """Read the masks of single contrails, if a feature of another name is of their shape."""
    for name in example.features:
        if name in KNOWN or example.features[name].kind is not FeatureKind.BYTES:
            continue
        try:
            array = example.tensor(name)
        except ValueError:
            continue  # some other kind of feature
        if array is not None and (axes := instance_axes(str(array.dtype), array.shape, plane, annotators)) is not None:
            return instance_bits(array, axes)
    return None


def metadata_of(record_id: str, example: Example) -> RecordMetadata:
    """Read where and when a record is.

    Args:
        record_id: Its id.
        example: The record.

    Returns:
        Grid and time, as far as they are stated.
    """
    values = {name: example.plain(name) for name in (*GRID, "timestamp")}
    return parse_entry({"record_id": record_id, **values})


def scan_starts(example: Example, frames: int) -> npt.NDArray[np.datetime64] | None:
    """Read when the scan of each frame began.

    Args:
        example: The record.
        frames: Number of frames.

    Returns:
        Times in UTC, (time) datetime64[ns]; None if they are not stated for each frame.
    """
    if SCAN_STARTS not in example.features:
        return None
    seconds = read_numbers(example.read, example.features[SCAN_STARTS])
    if seconds.shape != (frames,) or seconds.dtype.kind != "i" or not ((seconds > 0) & (seconds < _LAST_SECOND)).all():
        return None
    return seconds.astype("datetime64[s]").astype("datetime64[ns]")
