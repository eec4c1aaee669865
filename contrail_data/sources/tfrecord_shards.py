"""Shards of TFRecords: the files of a split in a folder, behind a glob, or at a URL."""

import glob
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from contrail_data.errors import ContrailError
from contrail_data.storage.place import FileState, Place, place_of

SPLITS = ("train", "validation", "test")
THREADS = 16
"""Requests to object storage at once."""
_NAME = re.compile(r"(?P<split>.+?)(-\d+-of-\d+)?\.tfrecords?(-\d+-of-\d+)?", re.IGNORECASE)
_COUNT = re.compile(r"-\d+-of-(\d+)")
_PUBLISHED, _PUBLISHED_SHARDS = "{split}.tfrecords-{number:05d}-of-00100", 100


@dataclass(frozen=True)
class ShardFile:
    """A file of TFRecords."""

    place: Place
    key: str
    state: FileState

    @property
    def file(self) -> str:
        """Path or URL."""
        return self.place.file(self.key)


def is_shard(name: str) -> bool:
    """Return whether a file is one of TFRecords, by its name.

    Args:
        name: Name of the file.

    Returns:
        Whether it ends in .tfrecord or .tfrecords, with or without a number such as -00003-of-00100.
    """
    return _NAME.fullmatch(name) is not None


def find_shards(where: str, split: str) -> tuple[list[ShardFile], str]:
    """Find the shards of a split.

    Args:
        where: A folder, a file or a glob; or the URL of a prefix or a file. On `https://`, where nothing can be listed,
            a prefix is searched for the names under which OpenContrails is published.
        split: The split. Shards that are named for no split are taken as well, if none is named for this one.

    Returns:
        The shards in order of their names, and a note if some of their series are missing.

    Raises:
        ContrailError: If there are none.
    """
    files = [file for file in _list_files(where, split) if is_shard(Path(file.key).name)]
    split_of = {file: str(_NAME.fullmatch(Path(file.key).name)["split"]) for file in files}  # type: ignore[index]
    chosen = [file for file in files if split_of[file] == split]
    chosen = chosen or [file for file in files if split_of[file] not in SPLITS]
    if not chosen and files:
        others = " or ".join(sorted(set(split_of.values())))
        raise ContrailError(f"{where}: holds no TFRecords of {split}; use --split {others}")
    if not chosen:
        names = f"{split}.tfrecords-00000-of-00100, *.tfrecord"
        raise ContrailError(f"{where}: holds no TFRecords ({names}); check the path")
    counts = [int(match[1]) for file in chosen if (match := _COUNT.search(Path(file.key).name))]
    expected = max(counts, default=0)
    lacking = f"{len(counts)} of {expected} shards of {split} are there" if 0 < len(counts) < expected else ""
    return chosen, lacking


def _list_files(where: str, split: str) -> list[ShardFile]:
    place = place_of(where)
    folder, _, name = place.url.rpartition("/")
    if is_shard(name) and (place.remote or os.path.isfile(place.url)):
        folder_place = Place(folder or ("/" if place.url.startswith("/") else "."))
        if (state := folder_place.state(name)) is None:
            raise ContrailError(f"{where}: no such file; check the address")
        return [ShardFile(folder_place, name, state)]
    if place.url.startswith(("http://", "https://")):
        keys = [_PUBLISHED.format(split=split, number=number) for number in range(_PUBLISHED_SHARDS)]
        with ThreadPoolExecutor(THREADS) as pool:
            states = list(pool.map(place.state, keys))
        return [ShardFile(place, key, state) for key, state in zip(keys, states, strict=True) if state is not None]
    if place.remote or os.path.isdir(place.url):
        return [ShardFile(place, key, state) for key, state in place.states().items()]
    paths = sorted(path for path in glob.iglob(place.url, recursive=True) if os.path.isfile(path))
    common = Place(os.path.commonpath([os.path.dirname(path) or "." for path in paths]) if paths else ".")
    keys = [os.path.relpath(path, common.url) for path in paths]
    return [ShardFile(common, key, state) for key in keys if (state := common.state(key)) is not None]
