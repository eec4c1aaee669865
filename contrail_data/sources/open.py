"""Recognise what a folder holds and open it as a source."""

from __future__ import annotations

from pathlib import Path

from contrail_data.composites import Composite
from contrail_data.errors import ContrailError
from contrail_data.sample import check_record_id
from contrail_data.sources.base import InputFormat, Source
from contrail_data.sources.records import open_frames, open_records


def open_source(root: Path, split: str, composite: Composite, input_format: InputFormat = InputFormat.AUTO) -> Source:
    """Open a folder of OpenContrails records or of ash frames.

    Args:
        root: A folder with subfolders `train`, `validation` or `test` (records), or with `*.npy` (ash frames).
        split: Which split of the records to open; frames are filed under it.
        composite: The composite to build, which decides which bands are read.
        input_format: RECORDS or FRAMES; AUTO takes frames if the folder holds `*.npy` and no folder of the split.

    Returns:
        The source.

    Raises:
        ContrailError: If the folder or the split does not exist, or holds no records.
    """
    check_record_id(split)
    if not root.is_dir():
        raise ContrailError(f"{root}: no such folder; give the folder that holds the records")
    if input_format is InputFormat.AUTO and any(root.glob("*.npy")) and not (root / split).is_dir():
        input_format = InputFormat.FRAMES
    open_folder = open_frames if input_format is InputFormat.FRAMES else open_records
    return open_folder(root, split, composite)


def is_abi(where: str) -> bool:
    """Return whether a path names GOES-R ABI scans.

    Args:
        where: A path, glob, URL or the name of an archive.

    Returns:
        True for an archive, a URL, a glob, a `.nc` file, or a folder that contains ABI files.
    """
    if Path(where).is_dir():
        return next(Path(where).rglob("OR_ABI-*.nc"), None) is not None
    return "://" in where or where.startswith("goes") or any(c in where for c in "*?[") or where.endswith(".nc")
