"""The file `model.json` of a model folder: what the model is, the checksum of each file, and one digest over it all.

The card (`README.md`) and its picture are for people. They are copied with the folder, but they are not listed, so that
a correction of the card does not make another model of it.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic does not take that of Python 3.11

from contrail_data.errors import ContrailError
from contrail_data.storage.files import open_regular, reported_errors, write_atomically
from contrail_data.storage.place import Place

MANIFEST = "model.json"
WEIGHTS = "best.safetensors"
"""The weights of a run, in its directory and in a model folder."""
CARD = "README.md"
PICTURE = "records.png"
"""The picture on the card."""
DOCUMENTS = (CARD, PICTURE)
"""Files for people, which the manifest does not list."""
FORMAT = 1

_KEY = re.compile(r"(?:[^./\\\x00-\x1f][^/\\\x00-\x1f]{0,99}/){0,3}[^./\\\x00-\x1f][^/\\\x00-\x1f]{0,99}")
"""A path within a folder, of which no part begins with a dot."""
_MOST_BYTES, _MOST_FILES = 4 << 20, 1000


class FileEntry(TypedDict):
    """A file of a model folder."""

    bytes: int
    sha256: str


class ModelScores(TypedDict):
    """Scores of the held-out records, as far as there are any; None where there is nothing to divide by."""

    records: int
    dice: float
    dice_low: float | None
    dice_high: float | None


class ModelDescription(TypedDict):
    """What a model is, as its folder and the catalog state it."""

    kind: Literal["run", "pipeline"]
    preset: str
    composite: str
    bands: list[int]
    channels: list[str]
    frames: list[int]
    """Input frames relative to the predicted frame."""
    size: int
    """Side in pixels of the tiles that it was trained on."""
    label_shift: list[float]
    parameters: int
    precision: Literal["float32", "float16"]
    """Type of the stored weights; the model computes in float32."""
    stores: dict[str, str]
    """Digest by name of the stores that it was trained or calibrated on."""
    holdout: ModelScores | None
    contrail: str
    """Version that wrote the folder."""


class Manifest(TypedDict):
    """The contents of `model.json`."""

    format: int
    about: ModelDescription
    files: dict[str, FileEntry]
    """By key: the path within the folder."""
    digest: str
    """Digest of all the above."""


def seal_folder(folder: Path, about: ModelDescription) -> str:
    """Write the manifest of a folder that holds all files of a model.

    Args:
        folder: The folder.
        about: What the model is.

    Returns:
        The digest of the folder.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    keys = [path.relative_to(folder).as_posix() for path in paths]
    files = {key: _entry(folder / key) for key in keys if key not in (MANIFEST, *DOCUMENTS)}
    document: dict[str, Any] = {"format": FORMAT, "about": about, "files": files}
    document["digest"] = _digest(document)
    write_atomically(folder / MANIFEST, [json.dumps(document, indent=1).encode()])
    return str(document["digest"])


def read_manifest(place: Place) -> Manifest:
    """Read the manifest of a model folder.

    Args:
        place: The folder.

    Returns:
        The manifest.
    """
    return parse_manifest(read_manifest_file(place), place.file(MANIFEST))


def read_manifest_file(place: Place) -> bytes:
    """Read the manifest of a model folder without looking at it.

    Args:
        place: The folder.

    Returns:
        Content of the file.

    Raises:
        ContrailError: If there is no model folder.
    """
    try:
        return place.read(MANIFEST, _MOST_BYTES)
    except FileNotFoundError:
        raise ContrailError(
            f"{place}: not a model folder (it has no {MANIFEST}); name one that contrail-train publish wrote"
        ) from None


def parse_manifest(content: bytes, where: str) -> Manifest:
    """Parse a manifest.

    Args:
        content: Content of the file.
        where: Path or URL of the file, for messages.

    Returns:
        The manifest.

    Raises:
        ContrailError: If it is damaged or of a later version.
    """
    try:
        document = json.loads(content)
        version = document["format"]
        if version != FORMAT:
            raise ContrailError(
                f"{where}: has format {str(version)[:20]}, while this version of contrail-kit reads format {FORMAT}; "
                "update contrail-kit, or publish the model again"
            )
        manifest = TypeAdapter(Manifest).validate_python(document, strict=True)
        stated = document.pop("digest")
        reason = "" if stated == _digest(document) else "its content is not what was written"
        if not all(map(_KEY.fullmatch, manifest["files"])) or len(manifest["files"]) > _MOST_FILES:
            reason = "it lists files that no model has"
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))[:60]}: {first['msg']}"
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"[:100]
    if reason:
        raise ContrailError(f"{where}: damaged ({reason}); fetch or publish the model again")
    return manifest


def verify_folder(folder: Path) -> Manifest:
    """Verify the files of a local model folder against its manifest.

    Args:
        folder: The folder.

    Returns:
        The manifest.

    Raises:
        ContrailError: If a file is missing or not what was written.
    """
    manifest = read_manifest(Place(str(folder)))
    for key, entry in manifest["files"].items():
        check_file(folder / key, entry)
    return manifest


def check_file(path: Path, entry: FileEntry, where: str = "") -> None:
    """Verify a file of a model folder.

    Args:
        path: The file.
        entry: What the manifest states about it.
        where: Where it was fetched from, for messages.

    Raises:
        ContrailError: If it is missing or not what was written.
    """
    remedy = "fetch or publish the model again"
    try:
        own = _entry(path)
    except FileNotFoundError:
        raise ContrailError(f"{where or path}: missing; {remedy}") from None
    if own != entry:
        raise ContrailError(f"{where or path}: damaged (its content is not what was written); {remedy}")


def file_keys(folder: Path, manifest: Manifest) -> list[str]:
    """List the files of a model folder in the order in which they are copied: the last one makes it complete.

    Args:
        folder: The folder.
        manifest: Its manifest.

    Returns:
        Their keys.
    """
    documents = [name for name in DOCUMENTS if (folder / name).is_file()]
    return [*documents, *manifest["files"], MANIFEST]


def _entry(path: Path) -> FileEntry:
    with reported_errors(str(path), "read"), open_regular(path) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": path.stat().st_size, "sha256": digest}


def _digest(document: dict[str, Any]) -> str:
    return "sha256:" + hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
