"""Time and place of OpenContrails records, from `{split}_metadata.json`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.errors import BadRecord, ContrailError
from contrail_data.geo.geometry import Footprint, local_solar_hour, unknown_footprint
from contrail_data.sample import FRAME_STEP, RECORD_FRAMES, RECORD_LABELLED_FRAME, check_record_id
from contrail_data.scans.tiles import Tile

GRID = ("projection_wkt", "row_min", "row_size", "col_min", "col_size")
"""What states the place of a record."""


@dataclass(frozen=True)
class RecordMetadata:
    """Time and place of a record, as far as its metadata entry states them."""

    record_id: str
    timestamp: float | None = None
    """Time of the labelled frame, seconds since 1970."""
    grid: tuple[str, float, float, float, float] | None = None
    """Projection, outer upper edge, pixel height, outer left edge and pixel width."""

    @property
    def is_complete(self) -> bool:
        """Whether both time and place are known."""
        return self.grid is not None and self.timestamp is not None

    def time(self, unit: Literal["s", "ms"] = "ms") -> np.datetime64:
        """Return the time of the labelled frame.

        Args:
            unit: Unit to which the time is rounded.

        Returns:
            The time in UTC, NaT if unknown.
        """
        if self.timestamp is None:
            return np.datetime64("NaT", unit)
        return np.datetime64(round(self.timestamp * {"s": 1, "ms": 1e3}[unit]), unit)

    def frame_times(
        self, frames: int = RECORD_FRAMES, labelled: int = RECORD_LABELLED_FRAME
    ) -> npt.NDArray[np.datetime64]:
        """Return the times of the frames, 10 minutes apart.

        Args:
            frames: Number of frames.
            labelled: Index of the labelled frame.

        Returns:
            Times in UTC, (time) datetime64[ns], NaT if unknown.
        """
        return self.time().astype("datetime64[ns]") + FRAME_STEP * (np.arange(frames) - labelled)

    def tile(self, height: int, width: int) -> Tile | None:
        """Return the pixel grid of the record; the metadata file does not state its size.

        Args:
            height: Rows.
            width: Columns.

        Returns:
            The tile; None if its place is unknown.
        """
        return None if self.grid is None else Tile(*self.grid, height, width)

    def footprint(self, height: int, width: int, where: str) -> Footprint:
        """Compute where the record lies.

        Args:
            height: Rows.
            width: Columns.
            where: The metadata file, for the message.

        Returns:
            The footprint; NaN if the place is unknown.

        Raises:
            BadRecord: If the grid is impossible or lies outside its projection.
        """
        tile = self.tile(height, width)
        try:
            return unknown_footprint() if tile is None else _footprint(tile)
        except ValueError as error:
            raise BadRecord(f"{where}: record {self.record_id}: {str(error)[:120]}; correct the entry") from None


@lru_cache(maxsize=1024)
def _footprint(tile: Tile) -> Footprint:
    """Compute where a tile lies, once for all records there: OpenContrails has some hundred sites."""
    footprint = tile.footprint()
    for name in ("corner_latitude", "corner_longitude", "geotransform"):
        footprint[name].flags.writeable = False
    return footprint


def read_metadata(path: Path) -> tuple[dict[str, RecordMetadata], list[str]]:
    """Read a metadata file.

    Args:
        path: `{split}_metadata.json`, which need not exist.

    Returns:
        The usable entries by record id, and one line for each problem with the file or an entry.
    """
    if not path.is_file():
        return {}, []
    try:
        entries = json.loads(path.read_bytes())
        problem = "" if isinstance(entries, list) else "not a list of records"
    except (OSError, ValueError, RecursionError) as error:
        problem = str(error)[:100] or type(error).__name__
    if problem:
        return {}, [f"{path.name}: cannot be read, so records have no time and place: {problem}; restore it"]
    metadata: dict[str, RecordMetadata] = {}
    problems = []
    for i, entry in enumerate(entries):
        try:
            parsed = parse_entry(entry)
            if parsed.record_id in metadata:
                problems.append(f"{path.name}: entry {i}: second entry of record {parsed.record_id}, ignored")
            metadata.setdefault(parsed.record_id, parsed)
        except (AttributeError, TypeError, KeyError):
            problems.append(f"{path.name}: entry {i} is not a record with a record_id: ignored")
        except (BadRecord, ValueError) as error:
            problems.append(f"{path.name}: entry {i}: {str(error)[:150]}: ignored, the record has no time and place")
    return metadata, problems


def parse_entry(entry: Mapping[str, Any]) -> RecordMetadata:
    """Check the values of an entry of a metadata file.

    Args:
        entry: Values by name.

    Returns:
        Time and place of the record.

    Raises:
        BadRecord: If the record id is not a plain name.
        KeyError: If there is none.
        ValueError: If another value is impossible.
    """
    values = {key: entry.get(key) for key in (*GRID, "timestamp")}
    record_id = check_record_id(str(entry["record_id"]))
    for key, value in values.items():
        limit = 4e9 if key == "timestamp" else 1e9
        if key == "projection_wkt":
            if not isinstance(value, str | None):
                raise ValueError(f"{key} is not text")
        elif value is not None and not (type(value) in (int, float) and abs(value) < limit):
            raise ValueError(f"{key} is {str(value)[:40]!r}, not a usable number")  # also NaN and booleans
    timestamp = values.pop("timestamp")
    grid: Any = tuple(values.values())
    return RecordMetadata(record_id, timestamp, None if None in grid else grid)


def read_complete_metadata(path: Path) -> list[RecordMetadata]:
    """Read the entries of a metadata file that state both time and place.

    Args:
        path: `{split}_metadata.json`.

    Returns:
        The entries in the order of the file.

    Raises:
        ContrailError: If there is no such entry.
    """
    metadata, problems = read_metadata(path)
    complete = [entry for entry in metadata.values() if entry.is_complete]
    if not complete:
        raise ContrailError([*problems, f"{path}: states time and place of no record; choose another file"][0])
    return complete


def metadata_records(path: Path, size: int) -> xr.Dataset:
    """Read a metadata file as per-sample variables of a store without labels, source digests or images.

    Args:
        path: `{split}_metadata.json`.
        size: Rows and columns of the tiles, which the file does not state.

    Returns:
        Variables along `sample`, named as in a store.

    Raises:
        ContrailError: If no entry states time and place, or a tile lies outside its projection.
    """
    entries = read_complete_metadata(path)
    footprints = [entry.footprint(size, size, str(path)) for entry in entries]
    places = {
        name: (("sample", "corner")[: np.ndim(footprints[0][name]) + 1], np.array([f[name] for f in footprints]))
        for name in ("latitude", "longitude", "corner_latitude", "corner_longitude")
    }
    start = np.array([entry.time() for entry in entries])
    count = len(entries)
    return xr.Dataset(
        {
            "record_id": ("sample", np.array([entry.record_id for entry in entries])),
            "label_source": ("sample", np.full(count, "none")),
            "source_digest": ("sample", np.full(count, "")),
            "labelled_frame": ("sample", np.full(count, RECORD_LABELLED_FRAME)),
            "positive_pixels": ("sample", np.zeros(count, np.int32)),
            "time": (("sample", "time"), np.stack([entry.frame_times() for entry in entries])),
            "local_solar_hour": ("sample", local_solar_hour(places["longitude"][1], start).astype(np.float32)),
            **places,
        }
    )
