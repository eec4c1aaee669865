"""OpenContrails data in `.npy` files: records of bands, and ready-made ash frames.

Records are folders `{split}/{record_id}` of `band_XX.npy` (y, x, time) and label masks, beside `{split}_metadata.json`.
Ash frames are files `{record_id}.npy`, (y, x, 4) float16 or float32, with the composite in 0-2 and the mask in 3.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from contrail_data.composites import Composite
from contrail_data.errors import BadRecord, ContrailError
from contrail_data.geo.geometry import unknown_footprint
from contrail_data.sample import (
    RECORD_FRAMES,
    RECORD_LABELLED_FRAME,
    Labels,
    Sample,
    check_record_id,
    make_sample,
)
from contrail_data.sources.bands import checked_digest, digest
from contrail_data.sources.base import Source, SourceKind
from contrail_data.sources.metadata import RecordMetadata, read_metadata
from contrail_data.sources.npy import opened_npy, read_label, read_npy
from contrail_data.sources.recognise import folder_of_split
from contrail_data.sources.votes import combined_labels
from contrail_data.storage.files import is_stray

PIXEL_MASKS, INDIVIDUAL_MASKS = "human_pixel_masks.npy", "human_individual_masks.npy"


@dataclass(frozen=True, kw_only=True)
class RecordSource(Source):
    """Records of one split; only the requested bands are read."""

    kind: SourceKind = SourceKind.RECORDS
    folder: Path
    bands: tuple[int, ...]
    entries: Mapping[str, RecordMetadata]

    @override
    def files(self, record_id: str) -> list[str]:
        record, names = f"{self.folder}/{record_id}", (*self._band_files, PIXEL_MASKS, INDIVIDUAL_MASKS)
        return [self._metadata_file, *(f"{record}/{name}" for name in names)]

    @cached_property
    def _metadata_file(self) -> str:
        return str(self.folder.parent / f"{self.split}_metadata.json")

    @cached_property
    def _band_files(self) -> list[str]:
        return [f"band_{band:02d}.npy" for band in self.bands]

    @override
    def read_sample(self, record_id: str) -> Sample:
        metadata_file, *paths, pixel, individual = self.files(record_id)
        try:
            temperature_byxt, digests = self._read_bands(paths)
        except BadRecord:
            if missing := [os.path.basename(path) for path in paths if not os.path.isfile(path)]:
                remedy = "restore what is missing, or choose a composite without it"
                raise BadRecord(f"{record_id}: missing {', '.join(missing)}; {remedy}") from None
            raise
        height, width = temperature_byxt.shape[1:3]
        labels = _read_labels(pixel, individual, (height, width))
        if labels.mask is None and self.split != "test":
            raise BadRecord(f"{record_id}/{PIXEL_MASKS}: missing; restore the file, or move the record to test")
        metadata = self.entries.get(record_id, RecordMetadata(record_id))
        footprint = metadata.footprint(height, width, os.path.basename(metadata_file))
        attributes = self._attributes(record_id, footprint, digests, RECORD_LABELLED_FRAME)
        time = metadata.frame_times()
        return make_sample(temperature_byxt, self.bands, time, labels, attributes, is_checked=True)

    def _read_bands(self, paths: list[str]) -> tuple[npt.NDArray[np.float32], str]:
        """Read bands of equal shape into one array, (band, y, x, time), kelvin; returns it and their digests."""
        shape: tuple[int | None, ...] = (None, None, RECORD_FRAMES)
        temperature_byxt, digests = np.empty(0, np.float32), []
        for number, (band, path) in enumerate(zip(self.bands, paths, strict=True)):
            with opened_npy(path, kinds="<f4 >f4", shape=shape) as file:
                if number == 0:
                    shape = file.shape
                    temperature_byxt = np.empty((len(paths), *shape), np.float32)
                plane = temperature_byxt[number]
                digests.append(checked_digest(band, plane, file.read_blocks(plane)))
        return temperature_byxt, " ".join(digests)


def _read_labels(pixel: str, individual: str, shape: tuple[int, int]) -> Labels:
    """Read the masks of a record."""
    votes = read_label(individual, (*shape, 1, None))[:, :, 0] if os.path.exists(individual) else None
    return combined_labels(read_label(pixel, (*shape, 1))[..., 0] if os.path.exists(pixel) else None, votes)


def _record_ids(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the names that can be record ids, and a line for each other one; hidden and stray files are skipped."""
    ids, problems = [], []
    for name in names:
        if not name.startswith(".") and not is_stray(name):
            try:
                ids.append(check_record_id(name))
            except BadRecord as error:
                problems.append(str(error))
    return ids, problems


def open_records(root: Path, split: str, composite: Composite) -> RecordSource:
    """Open one split of a folder of records.

    Args:
        root: Folder that holds `train`, `validation` or `test`, and the metadata files.
        split: Name of the split.
        composite: The composite to build, which decides which bands are read.

    Returns:
        A source of the split's records in the order of their ids.

    Raises:
        ContrailError: If the split has no folder or no record.
    """
    folder = folder_of_split(root, split)
    paths = sorted(folder.iterdir())
    ids, problems = _record_ids(path.name for path in paths if path.is_dir())
    broken_links = [path.name for path in paths if path.is_symlink() and not path.exists()]
    problems += [f"{split}/{name}: broken link; restore or remove it" for name in broken_links]
    metadata_path = root / f"{split}_metadata.json"
    metadata, metadata_problems = read_metadata(metadata_path)
    problems += metadata_problems
    if not ids and not problems:
        raise ContrailError(f"{folder}: contains no record folders; check the path")
    incomplete = sum(record_id not in metadata or not metadata[record_id].is_complete for record_id in ids)
    note = ""
    if incomplete:
        state = "partial" if metadata else "unusable" if metadata_path.is_file() else "absent"
        note = f"{metadata_path.name} is {state}: {incomplete} of {len(ids)} records have no time or place (NaN)"
    return RecordSource(
        root=str(root),
        location=str(root.resolve()),
        split=split,
        record_ids=ids,
        frames=RECORD_FRAMES,
        folder=folder.absolute(),
        bands=composite.bands,
        entries=metadata,
        problems=problems,
        note=note,
    )


@dataclass(frozen=True, kw_only=True)
class FrameSource(Source):
    """Ash frames of one folder; each becomes a sample with one time step."""

    kind: SourceKind = SourceKind.FRAMES
    folder: Path
    channels: tuple[str, ...]

    @override
    def files(self, record_id: str) -> list[str]:
        return [f"{self.folder}/{record_id}.npy"]

    @override
    def read_sample(self, record_id: str) -> Sample:
        (path,) = self.files(record_id)
        array_yxc = read_npy(path, kinds="<f2 <f4 >f2 >f4", shape=(None, None, len(self.channels) + 1))
        mask = array_yxc[..., -1]
        if not np.isin(mask, (0, 1)).all():
            raise BadRecord(f"{record_id}.npy: channel {len(self.channels)} is not a 0/1 mask; restore the file")
        image_cyx = np.ascontiguousarray(np.moveaxis(array_yxc[..., :-1], -1, 0), np.float32)
        attributes = self._attributes(record_id, unknown_footprint(), f"ash:{digest(array_yxc[..., :-1])}", 0)
        time = np.full(1, np.datetime64("NaT", "ns"))
        return make_sample(image_cyx[..., np.newaxis], self.channels, time, Labels(mask.astype(np.uint8)), attributes)


def open_frames(root: Path, split: str, composite: Composite) -> FrameSource:
    """Open a folder of ash frames.

    Args:
        root: The folder.
        split: Split to file the samples under.
        composite: The requested composite, which must be `ash`.

    Returns:
        A source of all frames in the folder, by name.

    Raises:
        ContrailError: If the folder holds no frames or another composite is requested.
    """
    if composite.name != "ash":
        raise ContrailError(f"{root}: ash frames hold only the composite 'ash'; omit --composite {composite.name}")
    ids, problems = _record_ids(path.stem for path in sorted(root.glob("*.npy")))
    if not ids and not problems:
        raise ContrailError(f"{root}: contains no .npy frames; check the path")
    return FrameSource(
        root=str(root),
        location=str(root.resolve()),
        split=split,
        record_ids=ids,
        frames=1,
        folder=root.absolute(),
        channels=tuple(composite.channel_names),
        problems=problems,
        note=f"{root.name}: frames have no time, place or annotators",
    )
