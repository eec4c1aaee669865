"""MISSING DOCSTRING."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from contrail_data.errors import ContrailError
from contrail_data.storage.place import Part, Place, named_errors, staged_file


def write_atomically(path: Path, parts: Sequence[Part]) -> None:
    """A local file appears whole or not at all. Raises ContrailError when the disk refuses."""
    with (
        named_errors(Place(str(path.parent)), path.name, "written"),
        staged_file(path, path.with_name(f".{path.name}.partial")) as write,
    ):
        for part in parts:
            write(part)


def make_folder(folder: Path) -> None:
    """A local folder is there afterwards, and takes files. Raises ContrailError, which is better told before the work
    than after it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ContrailError(f"{folder}: cannot be written ({error.strerror}): choose another place") from None


def store_around(path: Path) -> Path | None:
    """The store that a local path lies in, None where it lies in none."""
    return next((folder for folder in path.resolve().parents if (folder / "zarr.json").exists()), None)


def check_new(file: Path, overwrite: bool, scene: bool = False) -> None:
    """Raises ContrailError, before the work, for a local file that is there already (unless it may be replaced), that
    would lie within a store, or whose folder takes no files; makes that folder. scene: it may be a .zarr folder.
    """
    if file.exists() and not overwrite:
        raise ContrailError(f"{file}: exists: choose another -o, or --overwrite it")
    if file.is_dir() and not (file.suffix == ".zarr" and scene):
        raise ContrailError(f"{file}: is a folder, which is not replaced: choose another -o")
    if store := store_around(file):
        raise ContrailError(f"{file}: lies within the store {store}, which is never changed: choose another -o")
    make_folder(file.parent)
