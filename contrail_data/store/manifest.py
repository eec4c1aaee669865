"""The files around the arrays of a store, and what they guarantee.

The manifest lists the checksum of every other file, the group's attributes state the digest of the manifest, and the
store's digest is taken over the attributes. Only `provenance.json` is outside: it differs between builds of the same
input, and carries its own checksum.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache, wraps
from typing import Any, Concatenate, NamedTuple, ParamSpec, Self, TypedDict, TypeVar, cast

import xxhash

from contrail_data.errors import ContrailError
from contrail_data.progress import progress
from contrail_data.storage.place import Place
from contrail_data.store.schema import GROUP, MANIFEST, PROVENANCE

_REREADS = 3

T = TypeVar("T")
P = ParamSpec("P")


class Damaged(ContrailError):
    """What was read is not what was sealed."""


def reread(read: Callable[Concatenate[Place, P], T]) -> Callable[Concatenate[Place, P], T]:
    """Let a function read again what arrives damaged from object storage, as the network may have damaged it.

    Args:
        read: Reads from a place, its first argument, and raises Damaged.

    Returns:
        The function.
    """

    @wraps(read)
    def read_again(place: Place, *args: P.args, **kwargs: P.kwargs) -> T:
        for _ in range(_REREADS if place.remote else 0):
            with suppress(Damaged):
                return read(place, *args, **kwargs)
        return read(place, *args, **kwargs)

    return read_again


class FileChecksum(NamedTuple):
    """Checksum and size of a file."""

    xxh3: str
    """64-bit xxh3, hexadecimal."""
    size: int
    """Bytes."""

    @classmethod
    def of(cls, content: bytes) -> Self:
        """Compute the checksum of a file.

        Args:
            content: Its bytes.

        Returns:
            The checksum.
        """
        return cls(xxhash.xxh3_64_hexdigest(content), len(content))


Manifest = dict[str, FileChecksum]
"""Checksum of every file by key."""


class Provenance(TypedDict, total=False):
    """How a store was built. All keys are absent if `provenance.json` is missing or damaged."""

    digest: str
    created: str
    """UTC, ISO 8601."""
    command: list[str]
    versions: dict[str, str]
    """Versions of this software, Python and the libraries that write."""
    plan: str
    """Digest of what was to be built, see `journal.plan_of`."""
    samples: int
    source: str
    split: str
    set_aside: list[str]
    """One line for each record that could not be used."""
    set_aside_before: list[str]
    """Such lines of the stores that this one was made from."""
    parent_path: str
    model_address: str
    """Where the model that predicted it lay; of the hub, with the commit."""
    recipe: dict[str, Any]
    """What was built, see `contrail_data.build.recipe`; absent from stores that are not built from raw data, and from
    those of earlier versions."""


def encode_group(attributes: Mapping[str, Any], files: Mapping[str, bytes]) -> bytes:
    """Encode the `zarr.json` of the group, with consolidated metadata.

    Args:
        attributes: Attributes of the group.
        files: Files of the store by key, among them the `zarr.json` of each array.

    Returns:
        The bytes.
    """
    arrays = {key.removesuffix("/zarr.json"): json.loads(files[key]) for key in sorted(files) if "/zarr.json" in key}
    consolidated = {"kind": "inline", "must_understand": False, "metadata": arrays}
    group = {"zarr_format": 3, "node_type": "group", "attributes": attributes, "consolidated_metadata": consolidated}
    return json.dumps(group, indent=1).encode()


def encode_manifest(manifest: Manifest) -> bytes:
    """Encode `manifest.txt`.

    Args:
        manifest: The checksums.

    Returns:
        The bytes: a line with checksum, size and key per file.
    """
    return "".join(f"{xxh3} {size} {key}\n" for key, (xxh3, size) in sorted(manifest.items())).encode()


def encode_provenance(provenance: Mapping[str, Any]) -> bytes:
    """Encode `provenance.json`.

    Args:
        provenance: A `Provenance`.

    Returns:
        The bytes, which include a checksum of the rest.
    """
    content = json.dumps(provenance, sort_keys=True).encode()
    return json.dumps({**provenance, "checksum": xxhash.xxh3_64_hexdigest(content)}, indent=1).encode()


def store_digest(attributes: Mapping[str, Any]) -> str:
    """Compute the digest of a store.

    Args:
        attributes: Attributes of the group. One of them is the digest of the manifest, which covers all files.

    Returns:
        The digest, over all attributes but `digest` itself.
    """
    others = {key: value for key, value in attributes.items() if key != "digest"}
    return sha256(json.dumps(others, sort_keys=True, separators=(",", ":")).encode())


def sha256(content: bytes) -> str:
    """Compute the SHA-256 digest of some bytes.

    Args:
        content: The bytes.

    Returns:
        The digest, as `sha256:` and 64 hexadecimal digits.
    """
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@reread
def read_manifest_file(place: Place, digest: str) -> bytes:
    """Read `manifest.txt`.

    Args:
        place: The store.
        digest: Digest of the manifest, as stated in the store's attribute `manifest`.

    Returns:
        Its bytes.

    Raises:
        Damaged: If it is missing, or not the one that was sealed.
    """
    try:
        content = place.read(MANIFEST, max_bytes=2**28)
    except FileNotFoundError:
        raise Damaged(f"{place.file(MANIFEST)}: missing; verify the store, and repair it") from None
    if sha256(content) != digest:
        raise Damaged(f"{place.file(MANIFEST)}: checksum differs; verify the store, and repair it")
    return content


def read_manifest(place: Place, digest: str) -> Manifest:
    """Read the manifest of a store.

    Args:
        place: The store.
        digest: Digest of the manifest, as stated in the store's attribute `manifest`.

    Returns:
        The checksums.

    Raises:
        Damaged: If the manifest is missing, not the one that was sealed, or names files outside the store.
    """
    manifest: Manifest = {}
    for line in read_manifest_file(place, digest).decode(errors="replace").splitlines():
        checksum, size, key = (*line.split(" ", 2), "", "")[:3]
        if not size.isdecimal() or len(size) > 15 or len(checksum) != 16:
            raise Damaged(f"{place.file(MANIFEST)}: malformed line {line[:40]!r}; restore the store")
        if any(part.startswith(".") or not part for part in key.split("/")) or "\\" in key or "\0" in key:
            raise Damaged(f"file name {key[:80]!r}: leads out of its store; restore the manifest")
        manifest[key] = FileChecksum(checksum, int(size))
    return manifest


read_manifest_once = lru_cache(maxsize=16)(read_manifest)
"""`read_manifest` for readers: the manifest with a given digest never changes."""


def map_files(title: str, files: Manifest, function: Callable[[str], T], threads: int) -> Iterator[tuple[str, T]]:
    """Apply a function to every file of a store in threads, and show progress.

    Args:
        title: What is done, for the progress bar.
        files: The store's manifest.
        function: Takes the key of a file.
        threads: Files processed at the same time.

    Yields:
        Each key and the result of the function, in the order of the keys.
    """
    keys, size = sorted(files), sum(file.size for file in files.values())
    with progress(title, size, unit="MiB", scale=2**20) as advance, ThreadPoolExecutor(threads) as pool:
        for key, result in zip(keys, pool.map(function, keys), strict=True):
            advance(files[key].size)
            yield key, result


@reread
def read_verified(place: Place, key: str, manifest: Manifest) -> bytes:
    """Read a file and verify it against the manifest.

    Args:
        place: The store.
        key: The file.
        manifest: The store's manifest.

    Returns:
        Its bytes.

    Raises:
        Damaged: If the file is missing, or not the one that was sealed.
    """
    if key not in manifest:
        raise Damaged(f"{place.file(key)}: is not in the manifest; verify the store")
    try:
        content = bytes(place.read_range(key, 0, manifest[key].size + 1))  # one byte more shows that it has grown
    except FileNotFoundError:
        raise Damaged(f"{place.file(key)}: missing; verify the store, and repair it") from None
    if FileChecksum.of(content) != manifest[key]:
        raise Damaged(f"{place.file(key)}: fails its checksum; verify the store, and repair it")
    return content


def read_attributes(place: Place) -> dict[str, Any]:
    """Read the attributes of a store, unverified.

    Args:
        place: The store.

    Returns:
        The attributes; empty if the group's metadata is missing or unreadable.
    """
    attributes = _read_object(place, GROUP).get("attributes")
    return attributes if isinstance(attributes, dict) else {}


def read_provenance(place: Place) -> Provenance:
    """Read how a store was built.

    Args:
        place: The store.

    Returns:
        The provenance; empty if the file is missing or unreadable.
    """
    with suppress(Damaged):
        return cast("Provenance", json.loads(read_verified_provenance(place)))
    return cast("Provenance", _read_object(place, PROVENANCE))


def set_aside_lines(place: Place) -> list[str]:
    """List the records that a store lacks because a build set them aside.

    Args:
        place: The store.

    Returns:
        One line for each record that this build, or one before it, could not use.
    """
    provenance = read_provenance(place)
    lines = (provenance.get("set_aside"), provenance.get("set_aside_before"))
    return [str(line) for some in lines if isinstance(some, list) for line in some]


def stated_digests(place: Place) -> list[str]:
    """Return the digests by which even a damaged store can be recognised.

    Args:
        place: The store.

    Returns:
        Those of its attributes and of its provenance, as far as they can be read.
    """
    stated = (read_attributes(place).get("digest"), read_provenance(place).get("digest"))
    return [str(digest) for digest in stated if digest is not None]


def _read_object(place: Place, key: str) -> dict[str, Any]:
    try:
        content = json.loads(place.read(key, max_bytes=2**26))
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


@reread
def read_verified_provenance(place: Place) -> bytes:
    """Read `provenance.json` and verify it against its own checksum.

    Args:
        place: The store.

    Returns:
        Its bytes.

    Raises:
        Damaged: If the file is missing, or not the one that was sealed.
    """
    try:
        content = place.read(PROVENANCE, max_bytes=2**26)
        provenance = json.loads(content)
        provenance.pop("checksum", None)
        if encode_provenance(provenance) == content:
            return content
        reason = "checksum differs"
    except FileNotFoundError:
        reason = "missing"
    except (ValueError, AttributeError, TypeError, RecursionError):
        reason = "not JSON"
    raise Damaged(f"{place.file(PROVENANCE)}: {reason}")
