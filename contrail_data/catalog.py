"""The team's index of stores, `data_catalog.yaml`, in the layout of intake catalogs.

Wherever a command takes a store it takes a path, a URL or a name from this file. An entry that states a digest
is held to it. A name may have versions: the key `ash` is the newest and carries `metadata.version` (absent: 1), the
key `ash@2` is version 2.

A catalog comes from others: nothing in it is executed or expanded but a leading `{{ CATALOG_DIR }}/`, and what is too
large, too deep or ambiguous is refused. Edits change only the characters they must; the rest of the file, comments
and layout with it, stays byte for byte.
"""

from __future__ import annotations

import difflib
import fcntl
import getpass
import json
import os
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import xarray as xr
import yaml

from contrail_data.errors import ContrailError
from contrail_data.shards import write_atomically
from contrail_data.store import PROVENANCE, open_store, read_scalars, verify

CATALOG = "data_catalog.yaml"
SCHEMES = ("s3", "gs", "gcs", "az", "abfs", "http", "https", "file")

_BYTES, _NODES, _DEPTH, _DIGITS = 4 << 20, 200_000, 32, 100
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_HERE = re.compile(r"\{\{ *CATALOG_DIR *\}\}/+")
_EMPTY = "# Stores by name, an intake catalog.\nmetadata:\n  version: 1\nsources: {}\n"

T = TypeVar("T")


def find_catalog(start: Path | None = None) -> Path | None:
    """The file named by CONTRAIL_CATALOG, else the nearest `data_catalog.yaml` at or above the folder."""
    if named := os.environ.get("CONTRAIL_CATALOG"):
        if not Path(named).is_file():
            raise ContrailError(f"{named}: no such catalog: correct CONTRAIL_CATALOG")
        return Path(named)
    start = (start or Path.cwd()).resolve()
    return next((p / CATALOG for p in (start, *start.parents) if (p / CATALOG).is_file()), None)


def read_catalog(path: Path) -> dict[str, Any]:
    """Entries by key, in the file's order. Raises ContrailError for a file that is no catalog."""
    return _parse(_read(path), path).sources


def find_entry(path: Path, entries: Mapping[str, Any], name: str) -> str:
    """The key of `name` or `name@version`.

    Raises ContrailError for an unknown version (with those there are) or name (with the nearest one).
    """
    if name in entries:
        return name
    base, _, version = name.partition("@")
    if there := _versions(path, entries, base):
        if _VERSION.fullmatch(version) and int(version) in there:
            return there[int(version)]
        told = ", ".join(f"{base}@{v}" for v in sorted(there))
        raise ContrailError(f"{path}: no entry {name!r}: there is {told}")
    close = difflib.get_close_matches(name, entries, 1)
    hint = f"did you mean the catalog name {close[0]!r}?" if close else "check it, or see `contrail-data catalog ls`"
    raise ContrailError(f"{name}: no such store, and no such name in {path}: {hint}")


def store_path(path: Path, name: str, entry: Any) -> str:
    """Path or URL of an entry; `{{ CATALOG_DIR }}/` and relative paths start at the catalog's own folder.

    Raises ContrailError for an entry without one, or with one that a catalog may not name.
    """
    where = f"{path}: entry {name!r}"
    arguments = entry.get("args") if isinstance(entry, dict) else None
    url = arguments.get("urlpath") if isinstance(arguments, dict) else None
    if not isinstance(url, str) or not url:
        raise ContrailError(f"{where} has no args.urlpath: name the store's path there")
    rest = _HERE.sub("", url, count=1) if _HERE.match(url) else url
    if any(mark in rest for mark in ("{{", "{%", "{#")):
        raise ContrailError(f"{where}: {url[:80]!r}: only a leading {{{{ CATALOG_DIR }}}}/ is expanded: write it out")
    if "::" in rest or not rest.isprintable():
        raise ContrailError(f"{where}: {url[:80]!r}: chained or unprintable: write a plain path or URL")
    scheme, remote, address = rest.partition("://")
    if remote:
        if rest != url or scheme not in SCHEMES:
            raise ContrailError(f"{where}: {url[:80]!r} is no URL of {', '.join(SCHEMES)}: write one, or a path")
        if scheme != "file":
            return url
        if not address.startswith("/"):
            raise ContrailError(f"{where}: {url[:80]!r}: names a host: write file:///absolute/path")
        rest = address
    if ".." in rest.split("/"):
        raise ContrailError(f"{where}: {url[:80]!r} goes up by '..': write an absolute path or a URL")
    return str(Path(path.parent.resolve(), rest))


def metadata_of(path: Path, name: str, entry: Any) -> dict[str, Any]:
    """What an entry states of its store, by key. Raises ContrailError where it is no mapping."""
    metadata = entry.get("metadata") if isinstance(entry, dict) else None
    if metadata is not None and not isinstance(metadata, dict):
        raise ContrailError(f"{path}: entry {name!r}: metadata is no mapping: correct it")
    return metadata or {}


def version_of(path: Path, key: str, entry: Any) -> int:
    """The version that a key is, from 1. Raises ContrailError where it states something else."""
    _, at, number = key.partition("@")
    version = metadata_of(path, key, entry).get("version", 1)
    if type(version) is not int or version < 1 or (at and number != str(version)):
        right = number if _VERSION.fullmatch(number) else "a whole number from 1"
        raise ContrailError(f"{path}: entry {key!r}: metadata.version is not {right}: correct it")
    return version


def _versions(path: Path, entries: Mapping[str, Any], name: str) -> dict[int, str]:
    """Keys of all versions of a name."""
    keys = (k for k in entries if k == name or (k.startswith(f"{name}@") and _VERSION.fullmatch(k[len(name) + 1 :])))
    return {version_of(path, k, entries[k]): k for k in keys}


def open_named(name_or_path: str) -> xr.Dataset:
    """`open_store` for a path, a URL, a catalog name (its newest version) or `name@version`.

    Raises ContrailError for an unknown name (with the nearest one) and for a store whose digest is not the entry's.
    """
    if "://" in name_or_path or os.path.exists(name_or_path):
        return open_store(name_or_path)
    catalog = find_catalog()
    if catalog is None:
        raise ContrailError(
            f"{name_or_path}: no such store, and no {CATALOG} here or above: build it, or check the path"
        )
    entries = read_catalog(catalog)
    key = find_entry(catalog, entries, name_or_path)
    return open_entry(catalog, key, entries[key])


def open_entry(path: Path, name: str, entry: Any) -> xr.Dataset:
    """The store of an entry. Raises ContrailError, naming the entry, where it is not there or not the one stated."""
    where = f"{path}: entry {name!r}"
    location = store_path(path, name, entry)
    stated = metadata_of(path, name, entry).get("digest")
    if stated is not None and not (isinstance(stated, str) and _DIGEST.fullmatch(stated)):
        raise ContrailError(f"{where}: digest {str(stated)[:80]!r} is not sha256: and 64 hex digits: correct it")
    if "://" not in location and not os.path.exists(location):
        raise ContrailError(
            f"{where}: {location} is missing: put the store there, or `contrail-data catalog rm {name}`"
        )
    try:
        store = open_store(location)
    except ContrailError as error:
        raise ContrailError(f"{where}: {error}") from None
    if stated is not None and stated != store.attrs["digest"]:
        raise ContrailError(
            f"{where}: {location} has digest {store.attrs['digest'][:15]}…, the catalog says "
            f"{stated[:15]}…: restore the store, or `contrail-data catalog add` it as a new version"
        )
    return store


def check_entry(path: Path, name: str, entry: Any, deep: bool = False) -> list[str]:
    """Hold an entry to its store: reachable, digest and facts as stated, and, if `deep`, every byte of a local one.

    Returns what could not be checked. Raises ContrailError for what is not as stated.
    """
    where = f"{path}: entry {name!r}"
    metadata = metadata_of(path, name, entry)
    version_of(path, name, entry)
    store = open_entry(path, name, entry)
    for key, fact in describe(store).items():
        # Two builds of one digest may come from different commands.
        if key in metadata and key not in ("command", "contrail") and metadata[key] != fact:
            raise ContrailError(
                f"{where}: {key} is {str(metadata[key])[:60]!r}, the store's is {str(fact)[:60]!r}: correct the entry"
            )
    unchecked = [] if "digest" in metadata else ["it states no digest"]
    location = str(store.attrs["path"])
    if deep and "://" in location:
        unchecked.append("bytes of remote stores are not read")
    elif deep and (damage := verify(Path(location))):
        raise ContrailError(
            f"{where}: {len(damage)} files damaged, such as {location}/{damage[0].path} ({damage[0].reason}): "
            "copy the store again from where it is whole"
        )
    return unchecked


def describe(store: xr.Dataset) -> dict[str, Any]:
    """What a catalog tells of an open store, in plain types.

    digest, parent (of derived stores), kind, composite, bands, channels, samples; of stores of samples also positives
    (records in which humans marked contrails; absent without labels), time ([first, last] frame, UTC), area (latitude
    [south, north] and longitude [west, east] in degrees; west > east across the date line) and statistics (mean and
    std a channel, of train samples); label_shift in pixels; command and contrail version of the build, if known.
    Raises ContrailError for a damaged store.
    """
    attributes = store.attrs
    names = ("positive_pixels", "label_source", "time", "corner_latitude", "corner_longitude")
    records = read_scalars(store[[n for n in names if n in store.variables]])
    try:
        composite = attributes["composite"]
        bands = {c[k] for c in composite["channels"] for k in ("band", "minus")} - {None}
        facts: dict[str, Any] = {"digest": attributes["digest"]}
        if "parent" in attributes:
            facts["parent"] = attributes["parent"]
        facts |= {
            "kind": attributes["kind"],
            "composite": composite["name"],
            "bands": sorted(int(b) for b in bands),
            "channels": [str(c["name"]) for c in composite["channels"]],
            "samples": int(attributes.get("samples", store.sizes["sample"])),
        }
        if attributes["kind"] == "samples":
            facts |= _of_records(records)
        if statistics := attributes.get("statistics"):
            facts["statistics"] = {k: [float(v) for v in statistics[k]] for k in ("mean", "std")}
        facts["label_shift"] = [float(v) for v in attributes["label_shift"]]
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"[:100]
        raise ContrailError(f"{attributes['path']}: metadata is damaged ({reason}): restore the store") from None
    return facts | _provenance(str(attributes["path"]))


def _of_records(records: xr.Dataset) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    human = records["label_source"].values == "human"
    if human.any():
        facts["positives"] = int((records["positive_pixels"].values[human] > 0).sum())
    times = records["time"].values
    known = times[~np.isnat(times)]
    if len(known):
        facts["time"] = [f"{np.datetime_as_string(t, 's')}Z" for t in (known.min(), known.max())]
    latitude, longitude = (records[f"corner_{n}"].values for n in ("latitude", "longitude"))
    known = ~np.isnan(latitude) & ~np.isnan(longitude)
    if known.any():
        extremes = [latitude[known].min(), latitude[known].max()], _arc(longitude[known])
        south_north, west_east = ([round(float(v), 4) for v in pair] for pair in extremes)
        facts["area"] = {"latitude": south_north, "longitude": west_east}
    return facts


def _arc(longitude: npt.NDArray[np.float64]) -> list[float]:
    """West and east end of the shortest arc that holds all longitudes: beyond the widest gap, and before it."""
    ordered = np.unique((longitude + 180) % 360 - 180)
    gap = int(np.argmax(np.diff(ordered, append=ordered[0] + 360)))
    return [ordered[(gap + 1) % len(ordered)], ordered[gap]]


def _provenance(where: str) -> dict[str, str]:
    """Command and version of the build; nothing where the store has lost them, which are no part of its digest."""
    import fsspec

    try:
        if "://" in where:
            with fsspec.open(f"{where}/{PROVENANCE}") as file:
                content = file.read(_BYTES)
        else:
            content = Path(where, PROVENANCE).read_bytes()
        told = json.loads(content)
        return {"command": shlex.join(map(str, told["command"])), "contrail": str(told["versions"]["contrail"])}
    except Exception:  # each remote file system has errors of its own
        return {}


def check_name(name: str) -> None:
    """Raises ContrailError for what is no name of a new entry, or could be taken for a path or a URL."""
    if not _NAME.fullmatch(name) or name.endswith(".zarr"):
        raise ContrailError(
            f"{name!r}: no name for an entry: give letters, digits, '_', '-' and '.', at most 100, no path and no URL"
        )


def add_entry(catalog: Path, name: str, url: str, store: xr.Dataset, text: str | None) -> int:
    """Enter an open store, which lies at `url` (or path), under a name, and return the version it has there.

    A digest that the name has already, in whatever version, changes nothing. Another one becomes the newest version.
    The catalog is created if need be. Processes may add at the same time. Raises ContrailError for a name or location
    that a catalog may not hold, and for a file that cannot be read or written.
    """
    check_name(name)
    facts = describe(store)
    entry = {
        "driver": "zarr",
        "description": text or f"{facts['kind']} of composite {facts['composite']}",
        "args": {"urlpath": _portable(catalog, url)},
        "metadata": {
            **facts,
            "added_by": _user(),
            "added_at": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        },
    }
    store_path(catalog, name, entry)  # what cannot be read back is not written
    return _edit(catalog, lambda old: _with_entry(old, name, entry), create=True)


def remove_entry(catalog: Path, name: str) -> tuple[str, str | None]:
    """Remove the entry of `name` (its newest version) or `name@version`; its data stays.

    Returns the name with its version, and, if the next newest took its place, that one's key before. Raises
    ContrailError for an unknown name and for a file that cannot be read or written.
    """
    return _edit(catalog, lambda old: _without_entry(old, name), create=False)


def _portable(catalog: Path, url: str) -> str:
    """A URL as it is, a path under the catalog's folder from there, another one absolute."""
    if "://" in url:
        return url
    path, folder = (os.path.abspath(p) for p in (url, catalog.parent))
    return f"{{{{ CATALOG_DIR }}}}/{os.path.relpath(path, folder)}" if path.startswith(f"{folder}/") else path


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container may run under an id without a name
        return str(os.getuid())


@dataclass(frozen=True)
class _Catalog:
    path: Path
    text: str
    content: dict[str, Any]
    root: yaml.MappingNode
    """With the place of every value in `text`."""

    @property
    def sources(self) -> dict[str, Any]:
        return self.content["sources"] or {}


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise ContrailError(f"{path}: no such catalog: check the path")
        with path.open("rb") as file:
            return file.read(_BYTES + 1)
    except OSError as error:
        raise ContrailError(f"{path}: not a readable catalog ({error.strerror}): check permissions") from None


def _parse(content: bytes, path: Path) -> _Catalog:
    """Raises ContrailError for what is no catalog; bounded in time and memory whatever the content."""
    try:
        if len(content) > _BYTES:
            raise ValueError(f"larger than {_BYTES >> 20} MB")
        text = content.decode("utf-8")
        if text.startswith("\ufeff"):
            raise ValueError("starts with a byte order mark")
        _refuse_bombs(text)
        loader = yaml.CSafeLoader(text)
        root = loader.get_single_node()
        _refuse_ambiguous(root)
        data = loader.construct_document(root) if isinstance(root, yaml.MappingNode) else {}
    except UnicodeDecodeError as error:
        raise _unreadable(path, f"not UTF-8 at byte {error.start}") from None
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise _unreadable(path, f"{line}{error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise _unreadable(path, str(error).splitlines()[0]) from None
    if not isinstance(root, yaml.MappingNode) or "sources" not in data:
        raise ContrailError(f"{path}: key 'sources' is missing: it holds one entry a store")
    if not isinstance(data["sources"], dict | None):
        raise ContrailError(f"{path}: 'sources' is no mapping: it holds one entry a store, by name")
    return _Catalog(path, text, data, root)


def _unreadable(path: Path, reason: str) -> ContrailError:
    return ContrailError(f"{path}: not a readable catalog ({reason}): correct the file")


def _refuse_bombs(text: str) -> None:
    """Count values and levels before any is built, aliases written out; tags are refused altogether."""
    anchors: dict[str, tuple[int, int]] = {}  # values and levels
    open_: list[tuple[str | None, int, int]] = [(None, 0, 0)]
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 0
        anchor = getattr(event, "anchor", None)
        if getattr(event, "tag", None) is not None:
            raise ValueError(f"line {line}: tags (!x) are not read")
        if isinstance(event, yaml.CollectionStartEvent):
            open_.append((anchor, 1, 1))
            values, levels = 0, 0
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, values, levels = open_.pop()
        elif isinstance(event, yaml.AliasEvent):
            if anchor not in anchors:
                raise ValueError(f"line {line}: alias {str(anchor)[:40]!r} of nothing that ended before it")
            values, levels = anchors[anchor]
        else:
            values, levels = 1, 0
        if anchor is not None and not isinstance(event, yaml.CollectionStartEvent):
            anchors[anchor] = values, levels
        parent, total, height = open_.pop()
        open_.append((parent, total + values, max(height, levels + 1)))
        if sum(total for _, total, _ in open_) > _NODES:
            raise ValueError(f"more than {_NODES} values")
        if len(open_) + levels > _DEPTH:
            raise ValueError(f"line {line}: more than {_DEPTH} levels deep")


def _refuse_ambiguous(root: yaml.Node | None) -> None:
    text = "tag:yaml.org,2002:str"
    todo = [root]
    while todo:
        node = todo.pop()
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                line = key.start_mark.line + 1
                if key.tag != text:
                    told = repr(key.value[:40]) if isinstance(key, yaml.ScalarNode) else "of several values"
                    raise ValueError(f"line {line}: key {told} is not text, quote it")
                if key.value in seen:
                    raise ValueError(f"line {line}: key {key.value[:40]!r} is there twice")
                seen.add(key.value)
                todo.append(value)
        elif isinstance(node, yaml.SequenceNode):
            todo += node.value
        elif isinstance(node, yaml.ScalarNode) and node.tag != text and len(node.value) > _DIGITS:
            raise ValueError(f"line {node.start_mark.line + 1}: a number of {len(node.value)} digits")


def _edit(path: Path, change: Callable[[_Catalog], tuple[_Catalog | None, T]], create: bool) -> T:
    """Replace a catalog by `change` of it, one process at a time, and return what `change` tells.

    The lock is on the file itself, so that none lies about; an edit replaces the file, so that who waited for it
    looks again.
    """
    path = Path(os.path.realpath(path))
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o666)
        except OSError as error:
            raise ContrailError(f"{path}: cannot be written ({error.strerror}): check path and permissions") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            mine = os.fstat(descriptor)
            if not os.path.exists(path) or not os.path.samestat(mine, os.stat(path)):
                continue
            before = _read(path)
            try:
                after, told = change(_parse(before or _EMPTY.encode(), path))
                if after is not None:
                    write_atomically(path, [after.text.encode()])
                    path.chmod(mine.st_mode & 0o7777)
            except BaseException:
                if not before:
                    path.unlink(missing_ok=True)  # created a moment ago to be locked
                raise
            return told
        finally:
            os.close(descriptor)


def _with_entry(old: _Catalog, name: str, entry: dict[str, Any]) -> tuple[_Catalog | None, int]:
    """The catalog with a new newest version of a name (None: the digest is there already), and the version."""
    versions = _versions(old.path, old.sources, name)
    for version, key in versions.items():
        if metadata_of(old.path, key, old.sources[key]).get("digest") == entry["metadata"]["digest"]:
            return None, version
    version = max(versions, default=0) + 1
    entry = {**entry, "metadata": {"version": version, **entry["metadata"]}}
    node, edits, renamed = _sources(old), [], {}
    if name in old.sources:
        if version - 1 not in versions or versions[version - 1] != name:
            raise ContrailError(f"{old.path}: entry {name!r} is not the newest version: correct metadata.version")
        renamed = {name: f"{name}@{version - 1}"}
        edits.append(_renaming(old, name, renamed[name]))
    newline = "\r\n" if "\r\n" in old.text else "\n"
    sources_key, sources = node
    if sources.value:
        indent, at = sources.value[0][0].start_mark.column, _end_of_lines(old.text, sources)
    else:
        indent = sources_key.start_mark.column + 2
        start, end = sources.start_mark.index, sources.end_mark.index  # of {} or null
        edits.append((len(old.text[:start].rstrip(" ")), end, ""))
        at = _line_end(old.text, end)
    lines = yaml.dump({name: entry}, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1 << 20).splitlines()
    block = "".join(f"{' ' * indent if line else ''}{line}{newline}" for line in lines)
    edits.append((at, at, block if old.text[:at].endswith("\n") else newline + block))
    expected = {renamed.get(k, k): v for k, v in old.sources.items()} | {name: entry}
    return _edited(old, edits, expected), version


def _without_entry(old: _Catalog, name: str) -> tuple[_Catalog, tuple[str, str | None]]:
    """The catalog without an entry, and what `remove_entry` returns."""
    key = find_entry(old.path, old.sources, name)
    sources_key, sources = _sources(old)
    (key_node, value), *_ = [pair for pair in sources.value if pair[0].value == key]
    start = old.text.rfind("\n", 0, key_node.start_mark.index) + 1
    edits = [(start, _end_of_lines(old.text, value), "")]
    expected = {k: v for k, v in old.sources.items() if k != key}
    if not expected:
        colon = old.text.index(":", sources_key.end_mark.index) + 1
        edits.append((colon, colon, " {}"))
    promoted = None
    if "@" not in key and (others := _versions(old.path, expected, key)):
        promoted = others[max(others)]
        edits.append(_renaming(old, promoted, key))
        expected = {key if k == promoted else k: v for k, v in expected.items()}
    told = key
    if "@" not in key and len(_versions(old.path, old.sources, key)) > 1:
        told = f"{key}@{version_of(old.path, key, old.sources[key])}"
    return _edited(old, edits, expected), (told, promoted)


def _sources(old: _Catalog) -> tuple[yaml.ScalarNode, Any]:
    """Key and value of `sources`, where it can be edited by lines."""
    key, value = next(pair for pair in old.root.value if pair[0].value == "sources")
    if old.root.flow_style or (value.value and getattr(value, "flow_style", False)):
        raise ContrailError(f"{old.path}: 'sources' is written within {{ }}: write one entry a line to edit it")
    if not isinstance(value, yaml.MappingNode):  # nothing, which has a place too
        value = yaml.MappingNode(value.tag, [], value.start_mark, value.end_mark)
    return key, value


def _renaming(old: _Catalog, key: str, new: str) -> tuple[int, int, str]:
    node = next(k for k, _ in _sources(old)[1].value if k.value == key)
    start, end = node.start_mark.index, node.end_mark.index
    quote = old.text[start] if old.text[start] in "'\"" else ""
    return start, end, f"{quote}{new}{quote}"


def _line_end(text: str, index: int) -> int:
    found = text.find("\n", index)
    return len(text) if found < 0 else found + 1


def _end_of_lines(text: str, node: Any) -> int:
    """Where the lines of a value end; a block ends with its last value, not with comments that follow."""
    while isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        node = node.value[-1][1] if isinstance(node, yaml.MappingNode) else node.value[-1]
    end = node.end_mark.index
    return end if node.end_mark.column == 0 else _line_end(text, end)


def _edited(old: _Catalog, edits: list[tuple[int, int, str]], expected: dict[str, Any]) -> _Catalog:
    """The catalog after edits (start, end, replacement) of its text; refused unless it holds what is expected."""
    text = old.text
    for start, end, replacement in sorted(edits, reverse=True):
        text = text[:start] + replacement + text[end:]
    try:
        new = _parse(text.encode(), old.path)
        # As text: a NaN equals itself there, and 1 is not true.
        if repr(new.content) == repr({**old.content, "sources": expected if expected else {}}):
            return new
        reason = "it would change more than the entry"
    except (ContrailError, UnicodeEncodeError) as error:
        reason = str(error)
    raise ContrailError(f"{old.path}: cannot be edited here ({reason}): nothing was written, edit it by hand")


class _Dumper(yaml.SafeDumper):
    """Lists on one line, values that are shared written out."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(list, lambda dumper, v: dumper.represent_sequence("tag:yaml.org,2002:seq", v, flow_style=True))


def readable(entry: Any) -> str:
    """An entry as YAML text."""
    return yaml.dump(entry, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1 << 20)
