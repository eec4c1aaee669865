"""What a catalog file says: its entries, by name and version.

A catalog comes from others, so an entry is checked when one of its properties is asked for, and every error names the
file and the entry. Nothing in a catalog is executed or expanded except a leading `{{ CATALOG_DIR }}/`.
"""

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlparse

from contrail_data.errors import ContrailError
from contrail_data.model_folders.hub_address import SCHEME as HUB_SCHEME
from contrail_data.storage.cache import check_digest
from contrail_data.storage.place import SCHEMES, Place, check_address, place_of

_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_CATALOG_DIR = re.compile(r"\{\{ *CATALOG_DIR *\}\}/+")

MODEL_DRIVER = "contrail_model"
"""The driver that an entry of a model folder states; stores state `zarr`."""

CatalogFile: TypeAlias = Path | Place
"""A catalog on a local disk, or, as the place of the file itself, one at a URL, which is only read."""


def catalog_file(address: str | Path) -> CatalogFile:
    """Parse the address of a catalog.

    Args:
        address: Path or URL of the file.

    Returns:
        The file, which need not exist.

    Raises:
        ContrailError: If the URL names no file.
    """
    place = place_of(address)
    if place.remote and not urlparse(place.url).path:
        raise ContrailError(f"{place}: names no file; add the name of the catalog")
    return place if place.remote else place.path


@dataclass(frozen=True)
class Entry:
    """One entry of a catalog."""

    catalog: CatalogFile
    key: str
    """`name` for the newest version of a store, `name@2` for an older one."""
    content: Any
    """The entry as it stands in the file, unchecked."""

    def __str__(self) -> str:
        """Return file and key, as error messages name them.

        Returns:
            The text.
        """
        return f"{self.catalog}: entry {self.key!r}"

    @property
    def is_model(self) -> bool:
        """Whether it is a model folder rather than a store."""
        return isinstance(self.content, dict) and self.content.get("driver") == MODEL_DRIVER

    @property
    def metadata(self) -> dict[str, Any]:
        """What the entry states about its store or model.

        Raises:
            ContrailError: If `metadata` is not a mapping.
        """
        metadata = self.content.get("metadata") if isinstance(self.content, dict) else None
        if not isinstance(metadata, dict | None):
            raise ContrailError(f"{self}: metadata is not a mapping; correct it")
        return metadata or {}

    @property
    def version(self) -> int:
        """Version of the store, from 1.

        Raises:
            ContrailError: If `metadata.version` is not a version, or differs from the one in the key.
        """
        _, at, number = self.key.partition("@")
        version = self.metadata.get("version", 1)
        if type(version) is not int or version < 1 or (at and number != str(version)):
            expected = number if _VERSION.fullmatch(number) else "a whole number from 1"
            raise ContrailError(f"{self}: metadata.version is not {expected}; correct it")
        return version

    @property
    def digest(self) -> str | None:
        """Digest that the store or model must have. None if the entry states none.

        Raises:
            ContrailError: If `metadata.digest` is not a digest.
        """
        stated = self.metadata.get("digest")
        try:
            return None if stated is None else check_digest(stated)
        except ContrailError as error:
            raise ContrailError(f"{self}: digest: {error}; correct it") from None

    @property
    def location(self) -> str:
        """Path or URL of the store or model.

        `{{ CATALOG_DIR }}/` and relative paths start at the folder of the catalog.

        A catalog at a URL comes from another machine, and leads to no path of this one.

        Raises:
            ContrailError: If the entry has no location, or one that a catalog may not name.
        """
        arguments = self.content.get("args") if isinstance(self.content, dict) else None
        url = arguments.get("urlpath") if isinstance(arguments, dict) else None
        if not isinstance(url, str) or not url:
            raise ContrailError(f"{self}: args.urlpath is missing; write the path or URL of the store there")
        where = f"{self}: {check_address(url)[:80]!r}"
        path = _CATALOG_DIR.sub("", url, count=1) if _CATALOG_DIR.match(url) else url
        if any(mark in path for mark in ("{{", "{%", "{#")):
            raise ContrailError(f"{where}: only a leading {{{{ CATALOG_DIR }}}}/ is expanded; write out the rest")
        if "::" in path or not path.isprintable():
            raise ContrailError(f"{where}: chained or not printable; write a plain path or URL")
        scheme, separator, address = path.partition("://")
        if separator:
            if path == url and self.is_model and url.startswith(HUB_SCHEME):
                return url
            if path != url or scheme not in SCHEMES:
                raise ContrailError(f"{where}: not a URL of {', '.join(SCHEMES)}; write one, or a path")
            if scheme != "file":
                return url
            self._refuse_paths(where)
            if not address.startswith("/"):
                raise ContrailError(f"{where}: names a host; write file:///absolute/path")
            path = address
        if ".." in path.split("/"):
            raise ContrailError(f"{where}: contains '..'; write an absolute path or a URL")
        if isinstance(self.catalog, Path):
            return str(Path(self.catalog.parent.resolve(), path))
        if path.startswith("/"):
            self._refuse_paths(where)
        return f"{self.catalog.url.rpartition('/')[0]}/{path}"

    def _refuse_paths(self, where: str) -> None:
        if not isinstance(self.catalog, Path):
            remedy = "write a URL, or a path relative to the catalog"
            raise ContrailError(f"{where}: a catalog at a URL leads to no path of this machine; {remedy}")


@dataclass(frozen=True)
class Catalog:
    """A catalog file as it was read."""

    path: CatalogFile
    text: str
    content: dict[str, Any]
    """The whole document; its key `sources` holds the entries."""

    @property
    def entries(self) -> dict[str, Entry]:
        """Entries by key, in the order of the file."""
        return {key: Entry(self.path, key, value) for key, value in (self.content["sources"] or {}).items()}

    def versions(self, name: str) -> dict[int, Entry]:
        """Collect the versions of a store.

        Args:
            name: Name without a version.

        Returns:
            The entries by version; empty for an unknown name.

        Raises:
            ContrailError: If an entry states a version that is not one.
        """
        return {
            entry.version: entry
            for key, entry in self.entries.items()
            if key == name or (key.startswith(f"{name}@") and _VERSION.fullmatch(key[len(name) + 1 :]))
        }

    def find(self, name: str) -> Entry:
        """Find an entry.

        Args:
            name: `name`, for the newest version, or `name@version`.

        Returns:
            The entry.

        Raises:
            ContrailError: If the version is unknown (the message lists those that exist), or the name (it suggests
                the nearest one).
        """
        entries = self.entries
        if name in entries:
            return entries[name]
        base, _, version = name.partition("@")
        if versions := self.versions(base):
            if _VERSION.fullmatch(version) and int(version) in versions:
                return versions[int(version)]
            existing = ", ".join(f"{base}@{number}" for number in sorted(versions))
            raise ContrailError(f"{self.path}: no entry {name!r}; choose one of {existing}")
        nearest = difflib.get_close_matches(name, entries, 1)
        hint = f"did you mean the catalog name {nearest[0]!r}?" if nearest else 'see "contrail-data catalog ls"'
        raise ContrailError(f"{name}: neither a store nor a name in {self.path}; {hint}")
