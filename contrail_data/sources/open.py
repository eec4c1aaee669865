"""Recognise what lies at a place and open it as a source."""

from pathlib import Path

from contrail_data.composites import Composite
from contrail_data.errors import ContrailError, UsageError
from contrail_data.sample import check_record_id
from contrail_data.scans.abi_files import describe, is_archive, local_paths
from contrail_data.scans.satpy_files import readers_of
from contrail_data.sources.base import InputFormat, Source
from contrail_data.sources.records import open_frames, open_records
from contrail_data.sources.tfrecord_shards import is_shard
from contrail_data.sources.tfrecords import open_tfrecords
from contrail_data.storage.files import is_stray, reported_errors
from contrail_data.storage.place import Place, place_of


def open_source(
    root: str | Path, split: str, composite: Composite, input_format: InputFormat = InputFormat.AUTO
) -> Source:
    """Open OpenContrails records, as folders or as TFRecords, or ash frames.

    Args:
        root: A folder with subfolders `train`, `validation` or `test` (records), with `*.npy` (ash frames), or with
            TFRecord files. Of the latter also a file, a glob or a URL.
        split: Which split of the records to open; frames are filed under it.
        composite: The composite to build, which decides which bands are read.
        input_format: RECORDS, TFRECORDS or FRAMES; AUTO looks at what lies there.

    Returns:
        The source.

    Raises:
        ContrailError: If the folder or the split does not exist, or holds no records.
        UsageError: If the folder holds scans.
    """
    check_record_id(split)
    if input_format is InputFormat.AUTO:
        input_format = recognise(str(root), split)
    if input_format is InputFormat.ABI:
        raise UsageError(f"{root}: holds scans, not records; build them with contrail-data build-ash, then merge")
    if input_format is InputFormat.TFRECORDS:
        return open_tfrecords(str(root), split, composite)
    folder = place_of(root)
    if not folder.remote and folder.path.is_file():
        remedy = "give a folder, TFRecords (named *.tfrecord or *.tfrecords-00000-of-00100) or scans"
        raise ContrailError(f"{root}: a file of an unknown kind; {remedy}")
    if folder.remote or not folder.path.is_dir():
        raise ContrailError(f"{root}: no such folder or files; check the path")
    open_folder = open_frames if input_format is InputFormat.FRAMES else open_records
    return open_folder(folder.path, split, composite)


def recognise(where: str, split: str) -> InputFormat:
    """Decide by what lies at a place how it is read.

    Args:
        where: A path, glob, URL or the name of an archive of scans.
        split: Which split of records is looked for.

    Returns:
        TFRECORDS for files of that name, ABI for other archives and for files of any imager, FRAMES for `*.npy`,
        otherwise RECORDS.

    Raises:
        ContrailError: If nothing lies there, or it cannot be searched.
        UsageError: If a folder holds several of them.
    """
    if is_archive(where):
        return InputFormat.TFRECORDS if _holds_shards(place_of(where)) else InputFormat.ABI
    root, paths = Path(place_of(where).url), list(local_paths(where))
    if not paths and not root.is_dir():
        raise ContrailError(f"{where}: no such folder or files; check the path")
    with reported_errors(where, "listed"):
        held = {
            InputFormat.RECORDS: any(not is_stray(path.name) for path in (root / split).glob("*/*.npy")),
            InputFormat.TFRECORDS: any(
                is_shard(path.name) for path in (root.iterdir() if root.is_dir() else map(Path, paths))
            ),
            InputFormat.FRAMES: any(not is_stray(path.name) for path in root.glob("*.npy")),
            InputFormat.ABI: any(map(describe, paths)) or bool(readers_of(paths)),
        }
    kinds = [kind for kind, is_held in held.items() if is_held]
    if len(kinds) > 1:
        raise UsageError(f"{where}: holds {' and '.join(kinds)}; choose one with --source")
    return kinds[0] if kinds else InputFormat.RECORDS


def _holds_shards(place: Place) -> bool:
    """Return whether TFRecords lie at a URL: by its name, which takes no request, or by what lies directly there."""
    if not place.remote:
        return False  # the name of an archive
    if "tfrecord" in place.url.lower():
        return True
    if place.url.startswith(("http://", "https://")):
        return False  # nothing can be listed there
    return any(map(is_shard, place.states()))
