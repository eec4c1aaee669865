"""Which tiles are cut from scans, and when: at requested places and times, or where scans were labelled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from contrail_data.errors import ContrailError
from contrail_data.geo.fixed_grid import FixedGrid
from contrail_data.geo.geometry import satellite_zenith
from contrail_data.sample import RECORD_SIDE_KM
from contrail_data.scans.listing import Scan
from contrail_data.scans.tiles import Tile, lattice_sites, native_tile, utm_tile
from contrail_data.sources.drawn_labels import MAX_ZENITH, ScanLabels
from contrail_data.sources.metadata import RecordMetadata


@dataclass(frozen=True, kw_only=True)
class TileRequest:
    """Which samples to cut: all combinations of times and places, or the records of a metadata file."""

    times: Sequence[np.datetime64] = ()
    """Times of the frame in question, UTC; empty: the scans' own times, `every` minutes apart."""
    every: int = 20
    """Minutes between the scans' own times."""
    places: Sequence[tuple[float, float]] = ()
    """Latitude and longitude in degrees; empty: the sites of the OpenContrails lattice that the scans show in full."""
    records: Sequence[RecordMetadata] = ()
    """Records whose tile, time and id are used in place of times and places."""
    size: int = 256
    """Rows and columns of a tile."""
    pixel: float | None = None
    """Pixel size of a UTM tile in metres; None: the tile is 500 km wide, as in OpenContrails."""
    native: bool = False
    """Whether tiles are windows of the satellite's grid, without resampling."""
    before: int = 4
    """Number of frames before the one in question."""
    after: int = 3
    """Number of frames after it."""
    tolerance: float = 5.0
    """Maximum difference between the start of a scan and the time of its frame, in minutes."""


def requested_tiles(
    scans: Sequence[Scan], request: TileRequest, where: str, notes: list[str]
) -> list[tuple[np.datetime64, dict[str, Tile]]]:
    """Choose tiles for each requested time, at places on the grid of its scan.

    Args:
        scans: The scans.
        request: Times and places.
        where: Where the scans lie, for messages.
        notes: Gets a line on times that are skipped.

    Returns:
        Times, each with its tiles by record id.

    Raises:
        ContrailError: If there is no tile.
    """
    if request.records:
        size = request.size
        tiles_of = ((record, record.tile(size, size)) for record in request.records)
        return [(record.time("s"), {record.record_id: tile}) for record, tile in tiles_of if tile is not None]
    times = list(request.times) or _own_times(scans, request.every)
    scan_of = {time: nearest_scan(scans, time) for time in times}
    grids = dict.fromkeys(scan.grid for scan in scan_of.values())
    tiles_on = {grid: _tiles_of_places(grid, request) for grid in grids}
    if not any(tiles_on.values()):
        raise ContrailError(f"{where}: shows no site of the lattice in full; give places with --at LATITUDE,LONGITUDE")
    if empty := sum(not tiles_on[scan.grid] for scan in scan_of.values()):
        notes.append(f"{empty} of {len(times)} times are skipped, as their scans show no site of the lattice in full")
    return [
        (time, {_record_id(scan.platform, time, place, request.native): tile for place, tile in tiles_on[scan.grid]})
        for time, scan in scan_of.items()
    ]


def labelled_tiles(
    request: TileRequest, labels_of: Mapping[Scan, ScanLabels]
) -> list[tuple[np.datetime64, dict[str, Tile]]]:
    """Lay tiles side by side on what was looked at of labelled scans.

    Args:
        request: Size and kind of the tiles.
        labels_of: The labels of each scan.

    Returns:
        Times of the scans, each with its tiles by record id.
    """
    pixel = request.pixel or RECORD_SIDE_KM * 1000 / request.size
    labelled = []
    for scan, labels in labels_of.items():
        time = scan.start.astype("datetime64[s]")
        tiles = _tiles_of_places(scan.grid, request, labels.sites(pixel * request.size / 1000))
        labelled.append((time, {_record_id(scan.platform, time, place, request.native): t for place, t in tiles}))
    return labelled


def nearest_scan(scans: Sequence[Scan], time: np.datetime64) -> Scan:
    """Find the scan that starts nearest to a time.

    Args:
        scans: The scans.
        time: The time, UTC.

    Returns:
        The scan.
    """
    return min(scans, key=lambda scan: abs(scan.start - time))


def _tiles_of_places(
    grid: FixedGrid, request: TileRequest, sites: Sequence[tuple[float, float]] = ()
) -> list[tuple[tuple[float, float], Tile]]:
    """Return the tiles around the requested places, around some sites, or around sites of the lattice seen in full."""
    tiles = []
    pixel = request.pixel or RECORD_SIDE_KM * 1000 / request.size
    for place in request.places or sites or lattice_sites():
        try:
            tile = native_tile(grid, *place, request.size) if request.native else utm_tile(*place, request.size, pixel)
            footprint = tile.footprint()
            rows, columns = grid.indices(footprint["corner_latitude"], footprint["corner_longitude"])
            if request.places and np.isnan(rows).all():
                satellite = grid.projection.longitude
                raise ValueError(f"not visible from {abs(satellite):g} {'EW'[satellite < 0]}")
        except ValueError as error:
            if request.places:
                raise ContrailError(f"--at {place[0]:g},{place[1]:g}: {error}; choose another place") from None
            continue
        zenith = satellite_zenith(*place, grid.projection.longitude)
        if request.places or sites or (grid.contains(rows, columns).all() and zenith <= MAX_ZENITH):
            tiles.append((place, tile))
    return tiles


def _own_times(scans: Sequence[Scan], every: int) -> list[np.datetime64]:
    times: list[np.datetime64] = []
    for scan in scans:
        if not times or scan.start - times[-1] >= np.timedelta64(60 * every - 30, "s"):
            times.append(scan.start.astype("datetime64[s]"))
    return times


def _record_id(satellite: str, time: np.datetime64, place: tuple[float, float], native: bool) -> str:
    stamp = str(time.astype("datetime64[s]")).replace("-", "").replace(":", "")
    latitude, longitude = place
    ns, ew = "NS"[latitude < 0], "EW"[longitude < 0]
    site = f"{ns}{abs(latitude) * 100:04.0f}{ew}{abs(longitude) * 100:05.0f}"
    return f"{satellite.replace('GOES-', 'G')}-{stamp}-{site}{'-native' if native else ''}"
