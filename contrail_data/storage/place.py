"""Folders and prefixes on object storage, behind the few operations that a store needs.

Stores are only reached through a `Place`, so that building, sealing, verifying and copying are the same code for a
disk and for `s3://`, `gs://`, `az://` or (only for reading) `https://`.
"""

import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from operator import methodcaller
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Self
from urllib.parse import unquote, urlparse

from contrail_data.errors import ContrailError, UsageError
from contrail_data.storage.files import (
    Part,
    Write,
    atomic_files,
    is_stray,
    open_regular,
    reported_errors,
    side_by_side,
)
from contrail_data.storage.object_storage import request

SCHEMES = ("s3", "gs", "gcs", "az", "abfs", "http", "https", "file")
STAGING = ".building"
"""Folder in a place for files that are being written, and for the journal of a store that is being built."""
_REQUESTS = 16
"""Files that are sent to object storage at the same time."""


class FileState(NamedTuple):
    """Size of a file, and what changes whenever its content does."""

    size: int
    """Bytes."""
    version: str


@dataclass(frozen=True)
class Place:
    """A folder, or a prefix on object storage. Keys of files in it are relative, with "/" between their parts.

    Every method raises ContrailError, naming the file, if the disk or the service refuses. Methods that read raise
    FileNotFoundError if the file does not exist.
    """

    url: str
    """Path of the folder, or URL of the prefix."""

    @property
    def remote(self) -> bool:
        """Whether it is on object storage."""
        return "://" in self.url

    @property
    def name(self) -> str:
        """The last part of the address."""
        return PurePosixPath(urlparse(self.url).path if self.remote else os.path.realpath(self.url)).name

    @property
    def path(self) -> Path:
        """The folder of a local place."""
        assert not self.remote, self.url
        return Path(self.url)

    def __str__(self) -> str:
        """Return the address.

        Returns:
            Path or URL.
        """
        return self.url

    def resolved(self) -> Self:
        """Follow symbolic links to the place.

        Returns:
            The place that they lead to.
        """
        return self if self.remote else replace(self, url=os.path.realpath(self.url))

    def within(self, folder: str) -> Self:
        """Return a folder of the place.

        Args:
            folder: Its key.

        Returns:
            The folder, as a place of its own.
        """
        return replace(self, url=self.file(folder))

    def file(self, key: str) -> str:
        """Return the address of a file.

        Args:
            key: Its key.

        Returns:
            Path or URL.
        """
        return f"{self.url.rstrip('/')}/{key}"

    def read(self, key: str, max_bytes: int | None = None) -> bytes:
        """Read a file.

        Args:
            key: Its key.
            max_bytes: Size from which it is refused.

        Returns:
            Its bytes.

        Raises:
            ContrailError: If it is larger than `max_bytes`, or cannot be read.
        """
        if max_bytes is not None and (self.size(key) or 0) > max_bytes:
            raise ContrailError(f"{self.file(key)}: larger than {max_bytes:,} bytes; restore the store")
        with self._reported_errors(key, "read"):
            if self.remote:
                return request(self.url, lambda service: bytes(service.get(key).bytes()))
            with open_regular(self.file(key)) as file:
                return file.read()

    def read_range(self, key: str, start: int, length: int) -> memoryview:
        """Read a part of a file.

        Args:
            key: Its key.
            start: First byte.
            length: Number of bytes.

        Returns:
            The bytes; fewer if the file ends before.
        """
        with self._reported_errors(key, "read"):
            if self.remote:
                return memoryview(request(self.url, methodcaller("get_range", key, start=start, length=length)))
            with open_regular(self.file(key)) as file:
                return memoryview(os.pread(file.fileno(), length, start))

    def size(self, key: str) -> int | None:
        """Return the size of a file.

        Args:
            key: Its key.

        Returns:
            Bytes. None if there is no such file.
        """
        state = self.state(key)
        return None if state is None else state.size

    def state(self, key: str) -> FileState | None:
        """Look at a file.

        Args:
            key: Its key.

        Returns:
            Its state. None if there is no such file.
        """
        try:
            with self._reported_errors(key, "read"):
                if self.remote:
                    return _remote_state(request(self.url, methodcaller("head", key)))
                status = os.stat(self.file(key))
        except FileNotFoundError:
            return None
        return FileState(status.st_size, str(status.st_mtime_ns)) if stat.S_ISREG(status.st_mode) else None

    def states(self) -> dict[str, FileState]:
        """List the files that lie directly in the place, except those that operating systems leave.

        Returns:
            Their states by key, sorted by key; empty if the place does not exist.
        """
        states: dict[str, FileState | None] = {}
        with self._reported_errors("", "listed"):
            if self.remote:
                listed = request(self.url, _list_directly)
                states = {str(entry["path"]): _remote_state(entry) for entry in listed["objects"]}
            elif os.path.isdir(self.url):
                states = {entry.name: self.state(entry.name) for entry in os.scandir(self.url)}
        return {key: state for key, state in sorted(states.items()) if state is not None and not is_stray(key)}

    def sizes(self) -> dict[str, int]:
        """List all files, except those in the staging folder and those that operating systems leave.

        Returns:
            Size in bytes by key, sorted by key; empty if the place does not exist.
        """
        return {
            key: size
            for key, size in sorted(self._all_sizes())
            if not key.startswith(f"{STAGING}/") and not any(map(is_stray, key.split("/")))
        }

    def _all_sizes(self) -> Iterator[tuple[str, int]]:
        with self._reported_errors("", "listed"):
            if self.remote:
                for batch in request(self.url, lambda service: list(service.list())):
                    yield from ((str(entry["path"]), int(entry["size"])) for entry in batch)
                return
            for folder, _, names in os.walk(self.url, onerror=_raise_unless_missing):
                for path in (os.path.join(folder, name) for name in names):
                    with suppress(FileNotFoundError):  # another process has just removed it
                        yield os.path.relpath(path, self.url).replace(os.sep, "/"), os.lstat(path).st_size

    def write(self, key: str, parts: Sequence[Part]) -> None:
        """Write a file.

        Args:
            key: Its key.
            parts: Its content.
        """
        with self.writing([key]) as (write,):
            for part in parts:
                write(part)

    def write_all(self, files: Mapping[str, bytes]) -> None:
        """Write many small files, which wait for the disk or the service side by side.

        Args:
            files: Content by key.
        """
        with self.writing(list(files)) as writes:
            for write, content in zip(writes, files.values(), strict=True):
                write(content)

    @contextmanager
    def writing(self, keys: Sequence[str]) -> Iterator[Sequence[Write]]:
        """Write files that appear, durable and whole, when the block ends without an error.

        Args:
            keys: Their keys.

        Yields:
            For each file, in order, a function that appends bytes.
        """
        with self._reported_errors("", "written"):
            if self.remote:
                bodies = [bytearray() for _ in keys]
                yield [body.extend for body in bodies]
                side_by_side(self._put, list(zip(keys, bodies, strict=True)), _REQUESTS)
                return
            place = self.path
            for folder in dict.fromkeys([STAGING, *(key.rpartition("/")[0] for key in keys)]):
                self._refuse_links(folder)
                with self._reported_errors(folder, "written"):
                    (place / folder).mkdir(parents=True, exist_ok=True)
            with atomic_files([place / key for key in keys], place / STAGING) as writes:
                yield writes

    def _put(self, file: tuple[str, bytearray]) -> None:
        key, body = file
        with self._reported_errors(key, "written"):
            request(self.url, methodcaller("put", key, bytes(body), max_concurrency=1), writes=True)

    def is_link(self, key: str) -> bool:
        """Return whether a file of a local place is reached through a symbolic link in it.

        Args:
            key: The file.

        Returns:
            Whether it is, or lies in, a symbolic link.
        """
        return not self.remote and os.path.realpath(self.file(key)) != os.path.join(os.path.realpath(self.url), key)

    def link(self, key: str, source: Self) -> bool:
        """Take over a file of another place by a hard link.

        Args:
            key: Its key in both places.
            source: The other place.

        Returns:
            Whether that was possible: only within one disk.
        """
        if self.remote or source.remote:
            return False
        path = self.path / key
        self._refuse_links(key.rpartition("/")[0])
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.unlink(missing_ok=True)
            os.link(source.file(key), path)
        except OSError:
            return False  # another disk, or one without links
        return True

    def remove(self, keys: Sequence[str]) -> None:
        """Delete files.

        Args:
            keys: Their keys; files that do not exist are skipped.
        """
        with self._reported_errors("", "removed"):
            if self.remote:
                for start in range(0, len(keys), 1000):
                    request(self.url, methodcaller("delete", list(keys[start : start + 1000])), writes=True)
                return
            for key in keys:
                Path(self.file(key)).unlink(missing_ok=True)

    def clear(self) -> None:
        """Delete all files of the place, the staging folder included."""
        if self.remote:
            self.remove([key for key, _ in self._all_sizes()])
        else:
            shutil.rmtree(self.url, ignore_errors=True)

    def _reported_errors(self, key: str, action: str) -> AbstractContextManager[None]:
        return reported_errors(self.file(key) if key else self.url, action)

    def _refuse_links(self, folder: str) -> None:
        """Refuse to write through a symbolic link.

        Raises:
            ContrailError: If the folder is reached through one.
        """
        if folder and os.path.lexists(self.file(folder)) and self.is_link(folder):
            raise ContrailError(f"{self.file(folder)}: is a symbolic link, which is not written through; remove it")


def _list_directly(service: Any) -> Any:
    from obstore import list_with_delimiter

    return list_with_delimiter(service)


def _remote_state(entry: Any) -> FileState:
    return FileState(int(entry["size"]), str(entry["e_tag"] or entry["last_modified"]))


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def place_of(address: str | Path) -> Place:
    """Parse a path or URL.

    Args:
        address: The path or URL.

    Returns:
        The place, which need not exist.

    Raises:
        ContrailError: If the scheme is not one of SCHEMES, or the URL names no bucket or holds a secret.
    """
    text = check_address(str(address))
    scheme, separator, _ = text.partition("://")
    if not separator:
        return Place(text.rstrip("/") or "/")
    if scheme not in SCHEMES or "::" in text:
        raise ContrailError(f"{text}: URLs of this kind are not supported; use a path or {'://, '.join(SCHEMES)}://")
    if scheme == "file":
        return Place(unquote(urlparse(text).path))
    if not urlparse(text).netloc:
        raise ContrailError(f"{text}: names no bucket or host; write {scheme}://BUCKET/PATH")
    return Place(text.rstrip("/"))


def check_address(text: str) -> str:
    """Refuse a URL with a user, a password or a token, which would end in catalogs, provenance and messages.

    Args:
        text: A path or URL.

    Returns:
        The same text.

    Raises:
        ContrailError: If it holds a secret; the message does not repeat it.
    """
    scheme, separator, rest = text.partition("://")
    authority = re.split("[/?#]", rest)[0]
    if scheme == "abfs":
        authority = re.sub(r"^[\w-]+@", "", authority)  # container@account
    has_user = not re.fullmatch(r"[^:@]*(:\d+)?", authority)
    if separator and (has_user or re.search(r"[?&][\w.-]+=", rest)):
        remedy = "give credentials by the environment variables of the service"
        raise ContrailError(
            f"{scheme}://...: the URL holds a user, a password or a token, which would be recorded; {remedy}"
        )
    return text


def sync_folders(place: Place) -> None:
    """Make the names of all files durable, so that a power cut loses none. Object storage does so by itself.

    Args:
        place: The place.
    """
    if place.remote:
        return
    side_by_side(_sync_folder, [folder for folder, _, _ in os.walk(place.url)])


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    with suppress(OSError):  # some network file systems have no such call
        os.fsync(descriptor)
    os.close(descriptor)


def local_path(address: str | Path) -> Path:
    """Return the path of something that lies on a local disk.

    Args:
        address: A path, or a URL file:///...

    Returns:
        The path.

    Raises:
        UsageError: If it is another URL.
    """
    place = place_of(address)
    if place.remote:
        raise UsageError(f"{address}: only stores and models lie at URLs; give a local path")
    return place.path
