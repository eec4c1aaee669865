"""TFRecord files: records one after another, each with its length and two checksums, found and read in ranges.

A record is a uint64 length, the masked crc32c of these 8 bytes, the payload, and the masked crc32c of the payload
(TensorFlow, `record_writer.h`). All numbers are little-endian.
"""

from collections.abc import Iterator
from typing import NamedTuple

from google_crc32c import extend

from contrail_data.storage.place import Place

MAX_RECORD_BYTES = 1 << 30
"""Size from which a record is not read; those of OpenContrails have about 40 MB."""
_HEADER, _FOOTER = 12, 4
_COMPRESSED = (b"\x1f\x8b", b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
_LOCAL_BLOCK, _REMOTE_BLOCK = 4 << 10, 64 << 10
_PIECE = 256 << 10
"""Bytes to checksum at once: crc32c takes nothing but `bytes`, and holds the interpreter's lock meanwhile."""


class Span(NamedTuple):
    """Where a record lies in its file."""

    offset: int
    """First byte, that of its length."""
    length: int
    """Bytes of its payload."""

    @property
    def start(self) -> int:
        """First byte of the payload."""
        return self.offset + _HEADER

    @property
    def stop(self) -> int:
        """The byte after the payload."""
        return self.start + self.length


class Window:
    """Reads small parts of a file, mostly in order, with few requests: what follows the last part is at hand.

    Args:
        place: Where the file lies.
        key: Its key.
        size: Its size in bytes.
    """

    def __init__(self, place: Place, key: str, size: int) -> None:
        self._place, self._key, self._size = place, key, size
        self._block = _REMOTE_BLOCK if place.remote else _LOCAL_BLOCK
        self._first, self._content = 0, memoryview(b"")

    def __call__(self, start: int, length: int) -> memoryview:
        """Read a part.

        Args:
            start: First byte.
            length: Number of bytes.

        Returns:
            The bytes; fewer if the file ends before.
        """
        if not self._first <= start <= start + length <= self._first + len(self._content):
            extent = min(max(length, self._block), self._size - start)
            self._content = self._place.read_range(self._key, start, extent) if extent > 0 else memoryview(b"")
            self._first = start
        return self._content[start - self._first :][:length]


def find_records(window: Window, size: int) -> Iterator[Span]:
    """Find the records of a file by their lengths; payloads are not read.

    Args:
        window: Reads the file.
        size: Size of the file in bytes.

    Yields:
        Each record, in order.

    Raises:
        ValueError: If the file is damaged, so that no further record can be found; the message states the offset.
    """
    offset = 0
    while offset < size:
        header = bytes(window(offset, _HEADER))
        if len(header) < _HEADER:
            raise ValueError(f"offset {offset}: cut short, {size - offset} bytes are left where a record begins")
        if _masked(header[:8]) != int.from_bytes(header[8:], "little"):
            if offset == 0 and header.startswith(_COMPRESSED):
                raise ValueError("offset 0: compressed, or not a TFRecord file")
            if offset == 0:
                raise ValueError("offset 0: not a TFRecord file, or damaged")
            raise ValueError(f"offset {offset}: the length of a record fails its checksum, so no further one is found")
        span = Span(offset, int.from_bytes(header[:8], "little"))
        if span.stop + _FOOTER > size:
            present, expected = size - span.start, span.length + _FOOTER
            raise ValueError(f"offset {offset}: cut short, {present:,} of {expected:,} bytes of a record are there")
        yield span
        offset = span.stop + _FOOTER


def read_record(place: Place, key: str, span: Span) -> memoryview:
    """Read the payload of a record, verified.

    Args:
        place: Where the file lies.
        key: Its key.
        span: Where the record lies in it.

    Returns:
        The payload.

    Raises:
        ValueError: If it fails its checksum, is cut short, or is larger than any record should be.
    """
    if span.length > MAX_RECORD_BYTES:
        raise ValueError(
            f"{span.length:,} bytes, more than the {MAX_RECORD_BYTES:,} of the largest record that is read"
        )
    content = place.read_range(key, span.start, span.length + _FOOTER)
    if len(content) != span.length + _FOOTER:
        raise ValueError("cut short")
    payload = content[: span.length]
    if _masked(payload) != int.from_bytes(content[span.length :], "little"):
        raise ValueError("fails its checksum")
    return payload


def frame(payload: bytes) -> list[bytes]:
    """Put length and checksums around a payload.

    Args:
        payload: The payload.

    Returns:
        The parts of the record.
    """
    length = len(payload).to_bytes(8, "little")
    checksums = (_masked(part).to_bytes(4, "little") for part in (length, payload))
    return [length, next(checksums), payload, next(checksums)]


def _masked(content: bytes | memoryview) -> int:
    """Checksum of bytes, rotated and shifted so that checksums of data that hold checksums stay independent."""
    checksum = 0
    for start in range(0, len(content), _PIECE):
        checksum = extend(checksum, bytes(content[start : start + _PIECE]))
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF
