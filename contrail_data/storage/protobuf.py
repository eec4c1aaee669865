"""The wire format of protocol buffers, as far as TFRecords need it.

A message is a sequence of fields, each a tag (number and wire type) and a value
(https://protobuf.dev/programming-guides/encoding/). Messages are read through a function, so that large values can be
passed over without being read.
"""

from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Read = Callable[[int, int], bytes | memoryview]
"""`read(start, length)`: returns bytes of a message; fewer at its end."""

_MAX_FIELDS = 1 << 20
_VARINT_BYTES = 10


class WireType(IntEnum):
    """How the value of a field is encoded."""

    VARINT = 0
    FIXED64 = 1
    LENGTH = 2
    """Its length as a varint, followed by that many bytes: text, a message, or many numbers in a row."""
    FIXED32 = 5


class Field(NamedTuple):
    """One field of a message."""

    number: int
    wire: WireType
    start: int
    """First byte of the value; for a varint the byte after it, like `stop`."""
    stop: int
    value: int
    """The value of a varint, 0 for other types."""


def fields(read: Read, start: int, stop: int) -> Iterator[Field]:
    """Walk the fields of a message without reading values, except for varints.

    Args:
        read: Reads the message.
        start: Its first byte.
        stop: The byte after it.

    Yields:
        The fields in order.

    Raises:
        ValueError: If it is not a message, or has over a million fields.
    """
    for _ in range(_MAX_FIELDS):
        if start >= stop:
            return
        head = bytes(read(start, min(2 * _VARINT_BYTES, stop - start)))
        tag, used = _varint(head, 0)
        number, kind = tag >> 3, tag & 7
        if not number or kind not in list(WireType):
            raise ValueError("not a protobuf message")
        wire, value, length = WireType(kind), 0, 0
        if wire is WireType.VARINT:
            value, used = _varint(head, used)
        elif wire is WireType.LENGTH:
            length, used = _varint(head, used)
        else:
            length = 8 if wire is WireType.FIXED64 else 4
        first = start + used
        start = first + length
        if start > stop:
            raise ValueError("a protobuf message that ends within a field")
        yield Field(number, wire, first, start, value)
    raise ValueError(f"a protobuf message of more than {_MAX_FIELDS:,} fields")


def _varint(content: bytes, position: int) -> tuple[int, int]:
    """Decode an unsigned integer; returns it and the position after it."""
    value = 0
    for shift in range(0, 7 * _VARINT_BYTES, 7):
        if position >= len(content):
            break
        byte = content[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (2**64 - 1), position
    raise ValueError("a protobuf message with a number that does not end")


def unpack_varints(content: bytes | memoryview) -> npt.NDArray[np.int64]:
    """Decode varints in a row.

    Args:
        content: The encoded numbers.

    Returns:
        The numbers, (n) int64; negative ones are encoded as two's complement.

    Raises:
        ValueError: If the last number does not end, or one is longer than any.
    """
    raw = np.frombuffer(content, np.uint8)
    if not raw.size or raw.max() < 128:
        return raw.astype(np.int64)
    ends = np.flatnonzero(raw < 128)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if not ends.size or ends[-1] != raw.size - 1 or lengths.max() > _VARINT_BYTES:
        raise ValueError("a protobuf message with a number that does not end")
    place = np.arange(raw.size) - np.repeat(starts, lengths)
    groups = (raw & 127).astype(np.uint64) << (7 * place).astype(np.uint64)
    return np.bitwise_or.reduceat(groups, starts).view(np.int64)


def encode_varint(value: int) -> bytes:
    """Encode an integer.

    Args:
        value: The integer, in the range of int64.

    Returns:
        1 to 10 bytes.
    """
    value &= 2**64 - 1
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])


def encode_field(number: int, content: bytes) -> bytes:
    """Encode a field of wire type LENGTH: text, a message, or many numbers in a row.

    Args:
        number: Number of the field.
        content: The encoded value.

    Returns:
        The field.
    """
    return encode_varint(number << 3 | WireType.LENGTH) + encode_varint(len(content)) + content
