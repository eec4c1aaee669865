"""Samples cut out of geostationary scans: a tile around a place, frames 10 minutes apart around a time.

What is missing stays missing: a frame without a scan near enough, a pixel without a value. Only the frame at the
requested time must exist.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import xarray as xr
import xxhash
from typing_extensions import override

from contrail_data.composites import Composite
from contrail_data.errors import BadRecord, ContrailError
from contrail_data.sample import Labels, Sample, check_record_id, make_sample
from contrail_data.scans.abi import GOOD
from contrail_data.scans.abi_files import ALWAYS, NoScans, Span
from contrail_data.scans.listing import (
    Scan,
    assign_frames,
    list_abi_scans,
    list_satpy_scans,
    spans_around,
)
from contrail_data.scans.scene import grid_of, row_times
from contrail_data.scans.tiles import Tile, cut
from contrail_data.sources.bands import band_digests
from contrail_data.sources.base import Source, SourceKind
from contrail_data.sources.drawn_labels import LabelRequest, ScanLabels, match_labels
from contrail_data.sources.label_files import read_labels
from contrail_data.sources.scan_tiles import TileRequest, labelled_tiles, nearest_scan, requested_tiles
from contrail_data.sources.tile_labels import TileLabels


@dataclass(frozen=True)
class ScanSample:
    """A sample to cut."""

    tile: Tile
    scans: list[Scan | None]
    """The scan for each frame; None for a frame without a scan."""
    labels: TileLabels | None = None
    """What was drawn on the frame in question; None if it is not labelled."""


@dataclass(frozen=True, kw_only=True)
class ScanSource(Source):
    """Samples to cut out of scans of one imager."""

    kind: SourceKind = SourceKind.SCANS
    bands: tuple[int, ...]
    labelled_frame: int
    """Index of the frame in question. It counts as labelled, as in records of the test split."""
    entries: Mapping[str, ScanSample]

    @override
    def files(self, record_id: str) -> list[str]:
        names = {name for scan in self.entries[record_id].scans if scan is not None for name in scan.files}
        return [name for name in sorted(names) if "://" not in name]  # objects of an archive do not change

    @override
    def read_sample(self, record_id: str) -> Sample:
        tile, scans, labels = (sample := self.entries[record_id]).tile, sample.scans, sample.labels
        temperature_byxt = np.full((len(self.bands), tile.height, tile.width, len(scans)), np.nan, np.float32)
        time = np.full(len(scans), np.datetime64("NaT", "ns"))
        try:
            footprint = tile.footprint()
        except ValueError as error:
            raise BadRecord(f"{record_id}: {error}; choose a place that the satellite sees") from None
        for frame, scan in enumerate(scans):
            if scan is None:
                continue
            try:
                scene = _opened(scan)
                temperature_byxt[..., frame] = cut(scene.sel(band=list(self.bands)), tile)[..., 0]
            except ContrailError as error:
                raise BadRecord(f"{record_id}: {error}") from None
            grid = grid_of(scene)
            row = float(grid.indices(footprint["latitude"], footprint["longitude"])[0])
            time[frame] = row_times(scene)[0, 0 if np.isnan(row) else int(np.clip(row, 0, grid.height - 1))]
        valid_yxt = np.asarray(~np.isnan(temperature_byxt).any(0))
        if labels is not None:
            valid_yxt[..., self.labelled_frame] &= labels.looked_at(tile.height, tile.width)
        if not valid_yxt[..., self.labelled_frame].any():
            raise BadRecord(f"{record_id}: no pixel is visible; choose another place or time")
        digests = band_digests(self.bands, temperature_byxt)
        attributes = self._attributes(record_id, footprint, digests, self.labelled_frame)
        if (reference := scans[self.labelled_frame]) is not None:
            longitude = reference.grid.projection.longitude
            attributes.update({"satellite": reference.platform, "satellite_longitude": longitude})
        drawn = Labels() if labels is None else Labels(labels.mask(tile.height, tile.width))
        return make_sample(temperature_byxt, self.bands, time, drawn, attributes, valid=valid_yxt)


@lru_cache(maxsize=64)
def _opened(scan: Scan) -> xr.Dataset:
    return scan.open()


def open_scan_source(
    where: str,
    request: TileRequest,
    composite: Composite,
    split: str,
    *,
    since: np.datetime64 | None = None,
    until: np.datetime64 | None = None,
    product: str = "L1b-RadF",
    good: Sequence[int] = GOOD,
    reader: str | None = None,
    labels: LabelRequest | None = None,
) -> ScanSource:
    """List scans and the samples to cut from them.

    Args:
        where: A folder, glob, URL or archive of ABI files (see `find_files`), or files that satpy reads.
        request: Which samples to cut.
        composite: The composite to build, which decides which bands are read.
        split: Split to file the samples under.
        since: Earliest start of an ABI scan. Without `since` and `until`, the requested times limit the search.
        until: Latest start of an ABI scan.
        product: Product to take from an archive, see `find_files`.
        good: Accepted data quality flags of ABI files.
        reader: Name of satpy's reader, or `auto`; None reads ABI files.
        labels: Labels that people drew on the scans; None for samples without labels.

    Returns:
        A source of the samples.

    Raises:
        NoScans: If there are no scans, or none of the requested times or of those of the labels.
        ContrailError: If a band is missing, or no sample can be cut.
    """
    check_record_id(split)
    drawn = None if labels is None else read_labels(labels.files)
    times = [*request.times, *(record.time("s") for record in request.records)]
    if reader is not None:
        listing = list_satpy_scans(where, reader, composite.bands)
    else:
        searched = times or ([] if drawn is None else drawn.search_times())
        spans: list[Span] = [(since or ALWAYS[0], until or ALWAYS[1])]
        if searched and since is None and until is None:
            spans = spans_around(searched, before=request.before, after=request.after, tolerance=request.tolerance)
        try:
            listing = list_abi_scans(where, composite.bands, spans=spans, product=product, good=good)
        except NoScans as error:
            if drawn is None or searched != drawn.search_times():
                raise
            raise NoScans(f"--labels: no scan is of the times of these labels: {error}") from None
    scans, notes, problems = listing.scans, list(listing.notes), list(listing.problems)
    labels_of: dict[Scan, ScanLabels] | None = None
    if labels is not None and drawn is not None:
        chosen = [nearest_scan(scans, time) for time in times]
        labels_of, unmatched, label_notes = match_labels(labels, drawn, scans, chosen, tolerance=request.tolerance)
        problems += [*drawn.problems, *unmatched]
        notes += [*drawn.notes, *label_notes]
    entries: dict[str, ScanSample] = {}
    empty_frames = all_frames = tiles_considered = 0
    if labels_of is not None and not (request.places or request.records):
        requested = labelled_tiles(request, labels_of)
    else:
        labelled_times = [scan.start.astype("datetime64[s]") for scan in labels_of or ()]
        requested = requested_tiles(scans, replace(request, times=request.times or labelled_times), where, notes)
    for time, tiles in requested:
        frames = assign_frames(scans, time, before=request.before, after=request.after, tolerance=request.tolerance)
        if (reference := frames[request.before]) is None:
            nearest = nearest_scan(scans, time).start.astype("datetime64[m]")
            notes.append(f"{time}: skipped, no scan within {request.tolerance:g} minutes (nearest: {nearest})")
            continue
        samples = {check_record_id(record_id): ScanSample(tile, frames) for record_id, tile in tiles.items()}
        tiles_considered += len(samples)
        if labels_of is not None:
            samples = _labelled(samples, labels_of.get(reference))
        empty_frames += frames.count(None) if samples else 0
        all_frames += len(frames) if samples else 0
        entries |= samples
    if not entries and labels_of is not None and tiles_considered:
        reason = f"less than half was looked at of each of {tiles_considered} tiles"
        remedy = "check the coordinates of the labels, label a larger area, or choose smaller tiles or their places"
        raise ContrailError(f"{where}: no sample can be cut: {reason}; {remedy}")
    if not entries:
        raise ContrailError(f"{where}: no sample can be cut: {notes[-1] if notes else 'no time is left'}")
    if labels_of is not None:
        notes += _notes_on_labels(labels_of.values(), entries.values())
    if empty_frames:
        within = f"within {request.tolerance:g} minutes"
        notes.append(f"{empty_frames} of {all_frames} frames have no scan {within} and are empty")
    return ScanSource(
        root=where,
        location=where if "://" in where else str(Path(where).absolute()),
        split=split,
        record_ids=list(entries),
        frames=request.before + 1 + request.after,
        bands=composite.bands,
        labelled_frame=request.before,
        entries=entries,
        problems=problems,
        note="; ".join(notes),
        has_gaps=True,
        options=[
            *(repr(request), *sorted({file for scan in scans for file in scan.files}), *([] if reader else good)),
            *([] if labels is None else [repr(labels), *map(_digest_of, labels.files)]),
        ],
    )


def _labelled(samples: Mapping[str, ScanSample], labels: ScanLabels | None) -> dict[str, ScanSample]:
    """Return the samples of one scan of which enough was looked at, with their labels."""
    drawn = {} if labels is None else {key: labels.on_tile(sample.tile) for key, sample in samples.items()}
    return {key: replace(samples[key], labels=on_tile) for key, on_tile in drawn.items() if on_tile is not None}


def _notes_on_labels(labels: Iterable[ScanLabels], samples: Collection[ScanSample]) -> list[str]:
    positive = sum(sample.labels is not None and bool(sample.labels.contrails) for sample in samples)
    notes = [f"samples with labels: {positive}, looked at without any: {len(samples) - positive}"]
    if outside := sum(len(one.contrails) - len(one.drawn) for one in labels):
        notes.append(f"labels that lie on no tile: {outside}; choose places with --at, or a larger labelled area")
    return notes


def _digest_of(path: Path) -> str:
    return xxhash.xxh3_128_hexdigest(path.read_bytes())
