"""Recognise what lies at a place, by the names of its files; without what reads them."""

from pathlib import Path

from contrail_data.errors import ContrailError, UsageError
from contrail_data.scans.abi_files import describe, is_archive, local_paths
from contrail_data.scans.satpy_files import readers_of
from contrail_data.sources.base import InputFormat
from contrail_data.sources.tfrecord_shards import is_shard
from contrail_data.storage.files import is_stray, reported_errors
from contrail_data.storage.place import Place, local_path, place_of

MASK_SUFFIXES = (".nc", ".zarr", ".tif", ".tiff")


def find_format(where: str, split: str, input_format: InputFormat = InputFormat.AUTO) -> InputFormat:
    """Decide how what lies at a place is read, and refuse it if that cannot be, as far as names of files tell.

    Args:
        where: A path, glob, URL or the name of an archive of scans.
        split: Which split of records is looked for.
        input_format: The format; AUTO looks at what lies there.

    Returns:
        The format.

    Raises:
        ContrailError: If nothing of the format or of the split lies there.
    """
    if input_format is InputFormat.AUTO:
        input_format = recognise(where, split)
    if input_format in (InputFormat.ABI, InputFormat.TFRECORDS):
        return input_format
    folder = local_path(where)
    if folder.is_file():
        remedy = "give a folder, TFRecords (named *.tfrecord or *.tfrecords-00000-of-00100) or scans"
        raise ContrailError(f"{where}: a file of an unknown kind; {remedy}")
    if not folder.is_dir():
        raise ContrailError(f"{where}: no such folder or files; check the path")
    if input_format is InputFormat.RECORDS:
        folder_of_split(folder, split)
    return input_format


def folder_of_split(root: Path, split: str) -> Path:
    """Find the folder of the records of a split.

    Args:
        root: Folder that holds `train`, `validation` or `test`.
        split: Name of the split.

    Returns:
        The folder.

    Raises:
        ContrailError: If there is none; the message names the splits that have one.
    """
    folder = root / split
    if not folder.is_dir():
        splits = [name for name in ("train", "validation", "test") if (root / name).is_dir()]
        remedy = (
            f"use --split {' or '.join(splits)}" if splits else "give the folder that holds train/, validation/, test/"
        )
        raise ContrailError(f"{folder}: no such folder; {remedy}")
    return folder


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


def check_mask_file(path: Path) -> None:
    """Refuse what cannot be a file of masks.

    Args:
        path: The file.

    Raises:
        ContrailError: If it is of another format, or does not exist.
    """
    if path.suffix.lower() not in MASK_SUFFIXES:
        raise ContrailError(f"{path}: not a file of masks; choose one that ends in {', '.join(MASK_SUFFIXES)}")
    if not path.exists():
        raise ContrailError(f"{path}: does not exist; correct the path")
