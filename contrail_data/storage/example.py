"""Messages of TensorFlow without TensorFlow: `tf.train.Example`, named features, and `TensorProto`, an array.

Field numbers are those of TensorFlow's `example.proto`, `feature.proto`, `tensor.proto` and `types.proto`.
"""

import math
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from contrail_data.storage.protobuf import (
    Field,
    Read,
    WireType,
    encode_field,
    encode_varint,
    fields,
    unpack_varints,
)

_MAX_NAME_BYTES, _MAX_RANK, _MAX_FEATURES = 256, 16, 1000
_MAX_LIST_BYTES = 64 << 10
"""Of a text or a list of numbers that is not a tensor."""
_MAX_EXPANDED = 1 << 26
"""Elements of a tensor that states fewer values than it has elements."""

_DTYPES: dict[int, tuple[np.dtype[Any], int]] = {
    1: (np.dtype("<f4"), 5),
    2: (np.dtype("<f8"), 6),
    3: (np.dtype("<i4"), 7),
    4: (np.dtype("u1"), 7),
    5: (np.dtype("<i2"), 7),
    6: (np.dtype("i1"), 7),
    9: (np.dtype("<i8"), 10),
    10: (np.dtype("?"), 11),
    17: (np.dtype("<u2"), 7),
    22: (np.dtype("<u4"), 16),
    23: (np.dtype("<u8"), 17),
}
"""Dtype by value of `DataType`, and the number of the field that holds values one by one."""
_DTYPE, _SHAPE, _CONTENT = 1, 2, 4


class FeatureKind(IntEnum):
    """What a feature is a list of."""

    BYTES = 1
    FLOAT = 2
    INT64 = 3


class Feature(NamedTuple):
    """Where the values of a feature lie."""

    kind: FeatureKind
    start: int
    stop: int


Value: TypeAlias = bytes | npt.NDArray[Any] | Sequence[int] | Sequence[float]
"""A feature to encode: text, a tensor, or a list of integers or floats."""


def find_features(read: Read, start: int, stop: int) -> dict[str, Feature]:
    """Find the features of a `tf.train.Example` without reading their values.

    Args:
        read: Reads the message.
        start: Its first byte.
        stop: The byte after it.

    Returns:
        The features by name; none for a message of another kind.

    Raises:
        ValueError: If it is not a message, or has more than a thousand features.
    """
    features: dict[str, Feature] = {}
    for example in _parts(read, start, stop, 1):
        for entry in _parts(read, example.start, example.stop, 1):
            name, feature = "", None
            for part in fields(read, entry.start, entry.stop):
                if part.wire is not WireType.LENGTH:
                    continue
                if part.number == 1:
                    if part.stop - part.start > _MAX_NAME_BYTES:
                        raise ValueError("a feature with a very long name")
                    name = bytes(read(part.start, part.stop - part.start)).decode(errors="replace")
                elif part.number == 2:
                    for values in fields(read, part.start, part.stop):
                        if values.number in list(FeatureKind) and values.wire is WireType.LENGTH:
                            feature = Feature(FeatureKind(values.number), values.start, values.stop)
            if feature is not None:
                features[name] = feature
            if len(features) > _MAX_FEATURES:
                raise ValueError(f"more than {_MAX_FEATURES} features")
    return features


def _parts(read: Read, start: int, stop: int, number: int) -> list[Field]:
    """Return the parts of a message that are messages themselves and have a number."""
    return [part for part in fields(read, start, stop) if part.number == number and part.wire is WireType.LENGTH]


def read_text(read: Read, feature: Feature) -> bytes:
    """Read a feature that is one string.

    Args:
        read: Reads the message.
        feature: The feature.

    Returns:
        Its bytes.

    Raises:
        ValueError: If it is something else.
    """
    start, stop = text_span(read, feature)
    if stop - start > _MAX_LIST_BYTES:
        raise ValueError(f"{stop - start:,} bytes of text")
    return bytes(read(start, stop - start))


def text_span(read: Read, feature: Feature) -> tuple[int, int]:
    """Find the bytes of a feature that is one string.

    Args:
        read: Reads the message.
        feature: The feature.

    Returns:
        The first byte and the byte behind the last one.

    Raises:
        ValueError: If it is something else.
    """
    parts = _parts(read, feature.start, feature.stop, 1) if feature.kind is FeatureKind.BYTES else []
    if len(parts) != 1:
        raise ValueError("not a single string")
    return parts[0].start, parts[0].stop


def read_numbers(read: Read, feature: Feature) -> npt.NDArray[Any]:
    """Read a feature that is a list of numbers.

    Args:
        read: Reads the message.
        feature: The feature.

    Returns:
        (n) float32 or int64.

    Raises:
        ValueError: If it is something else.
    """
    if feature.kind is FeatureKind.BYTES:
        raise ValueError("not a list of numbers")
    if feature.stop - feature.start > _MAX_LIST_BYTES:
        raise ValueError(f"{feature.stop - feature.start:,} bytes of numbers")
    dtype = np.dtype("<f4") if feature.kind is FeatureKind.FLOAT else np.dtype("<i8")
    parts = [field for field in fields(read, feature.start, feature.stop) if field.number == 1]
    return _numbers(read, parts, dtype)


def _numbers(read: Read, parts: Sequence[Field], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Decode numbers, in a row or one to a field; integers of all widths are varints."""
    arrays: list[npt.NDArray[Any]] = [np.empty(0, dtype)]
    for part in parts:
        if part.wire is WireType.VARINT:
            arrays.append(np.array([part.value], np.uint64).view(np.int64).astype(dtype))
            continue
        content = read(part.start, part.stop - part.start)
        arrays.append(np.frombuffer(content, dtype) if dtype.kind == "f" else unpack_varints(content).astype(dtype))
    return arrays[1] if len(arrays) == 2 else np.concatenate(arrays)


class _Tensor(NamedTuple):
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    content: Field | None
    values: list[Field]


def _find_tensor(read: Read, start: int, stop: int) -> _Tensor:
    """Find the parts of a `TensorProto`."""
    code, shape, content = 0, [], None
    others: list[Field] = []
    for field in fields(read, start, stop):
        if field.number == _DTYPE and field.wire is WireType.VARINT:
            code = field.value
        elif field.number == _SHAPE and field.wire is WireType.LENGTH:
            for dimension in _parts(read, field.start, field.stop, 2):
                sizes = [part.value for part in fields(read, dimension.start, dimension.stop) if part.number == 1]
                shape.append(sizes[-1] if sizes else 0)
                if len(shape) > _MAX_RANK:
                    raise ValueError(f"a tensor of more than {_MAX_RANK} axes")
        elif field.number == _CONTENT and field.wire is WireType.LENGTH:
            content = field
        else:
            others.append(field)
    if code not in _DTYPES:
        raise ValueError(f"not a tensor, or one of data type {code}")
    dtype, number = _DTYPES[code]
    return _Tensor(dtype, tuple(shape), content, [field for field in others if field.number == number])


def tensor_header(read: Read, start: int, stop: int) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Read dtype and shape of a `TensorProto`, and nothing of its values.

    Args:
        read: Reads the message.
        start: Its first byte.
        stop: The byte after it.

    Returns:
        Dtype and shape.

    Raises:
        ValueError: If it is not a tensor, or one of text or of another unsupported type.
    """
    tensor = _find_tensor(read, start, stop)
    return tensor.dtype, tensor.shape


def decode_tensor(content: memoryview) -> npt.NDArray[Any]:
    """Decode a `TensorProto` of numbers, without a copy where that is possible.

    Args:
        content: The message.

    Returns:
        The array, which may be read-only.

    Raises:
        ValueError: If it is not such a tensor, or its shape does not fit its values.
    """

    def read(start: int, length: int) -> memoryview:
        return content[start : start + length]

    tensor = _find_tensor(read, 0, len(content))
    size = math.prod(tensor.shape)
    if tensor.content is not None and tensor.content.stop > tensor.content.start:
        part = content[tensor.content.start : tensor.content.stop]
        if len(part) != size * tensor.dtype.itemsize:
            raise ValueError(f"a tensor of shape {tensor.shape} in {len(part):,} bytes")
        return np.frombuffer(part, tensor.dtype).reshape(tensor.shape)
    values = _numbers(read, tensor.values, tensor.dtype)
    if values.size == size:
        return values.reshape(tensor.shape)
    # Equal values at the end are stated once, and zeros not at all.
    if values.size > size or size > _MAX_EXPANDED:
        raise ValueError(f"a tensor of shape {tensor.shape} in {values.size:,} values")
    array = np.full(size, values[-1] if values.size else 0, tensor.dtype)
    array[: values.size] = values
    return array.reshape(tensor.shape)


def encode_example(features: Mapping[str, Value]) -> bytes:
    """Encode a `tf.train.Example`.

    Args:
        features: Values by name; arrays are encoded as tensors, with their content as bytes.

    Returns:
        The message.
    """
    entries = [
        encode_field(1, encode_field(1, name.encode()) + encode_field(2, _encode_feature(value)))
        for name, value in features.items()
    ]
    return encode_field(1, b"".join(entries))


def _encode_feature(value: Value) -> bytes:
    if isinstance(value, np.ndarray):
        value = _encode_tensor(value)
    if isinstance(value, bytes):
        return encode_field(FeatureKind.BYTES, encode_field(1, value))
    if all(isinstance(number, int) for number in value):
        packed = b"".join(encode_varint(int(number)) for number in value)
        return encode_field(FeatureKind.INT64, encode_field(1, packed))
    return encode_field(FeatureKind.FLOAT, encode_field(1, np.asarray(value, "<f4").tobytes()))


def _encode_tensor(array: npt.NDArray[Any]) -> bytes:
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    code = next(code for code, (dtype, _) in _DTYPES.items() if dtype == little.dtype)
    dimensions = (encode_varint(1 << 3 | WireType.VARINT) + encode_varint(n) for n in array.shape)
    shape = b"".join(encode_field(2, dimension) for dimension in dimensions)
    header = encode_varint(_DTYPE << 3 | WireType.VARINT) + encode_varint(code)
    return header + encode_field(_SHAPE, shape) + encode_field(_CONTENT, little.tobytes())
