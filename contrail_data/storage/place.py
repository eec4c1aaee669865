"""Where stores lie: a folder, or a prefix on object storage by URL, behind the few operations that a store needs.

A store is only ever reached through a place, so that building, sealing, verifying and copying are the same code on a
disk and on `s3://`, `gs://`, `az://` or (reading alone) `https://`. Credentials and endpoints come from the usual
environment variables (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, GOOGLE_APPLICATION_CREDENTIALS, ...)
and from nowhere else.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlparse

from contrail_data.errors import ContrailError

SCHEMES = ("s3", "gs", "gcs", "az", "abfs", "http", "https", "file")
STAGING = ".building"  # files under way lie here, in the place itself, until they are whole

Part = bytes | memoryview | bytearray
Write = Callable[[Part], None]


@dataclass(frozen=True)
class Place:
    """A folder (`url` is its path) or an object-store prefix. Keys are relative, with "/" between their parts.

    Every method raises ContrailError naming the file where the disk or the service refuses, and FileNotFoundError
    where a file to read is not there.
    """

    url: str

    @property
    def remote(self) -> bool:
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
        return self.url

    def resolved(self) -> Place:
        """The same, through any symbolic link to it."""
        return self if self.remote else Place(os.path.realpath(self.url))

    def within(self, folder: str) -> Place:
        return Place(f"{self.url.rstrip('/')}/{folder}")

    def file(self, key: str) -> str:
        return f"{self.url.rstrip('/')}/{key}"

    def read(self, key: str, most: int | None = None) -> bytes:
        """A file's bytes; ContrailError for one of more than `most`."""
        if most is not None and (self.size(key) or 0) > most:
            raise ContrailError(f"{self.file(key)}: larger than {most:,} bytes: it is none of ours")
        with named_errors(self, key, "read"):
            if self.remote:
                return bytes(_obstore().get(_store(self.url), key).bytes())
            with open(self.file(key), "rb") as file:
                return file.read()

    def read_range(self, key: str, start: int, length: int) -> memoryview:
        """That many bytes, or fewer where the file ends before."""
        with named_errors(self, key, "read"):
            if self.remote:
                return memoryview(_obstore().get_range(_store(self.url), key, start=start, length=length))
            with open(self.file(key), "rb", buffering=0) as file:
                return memoryview(os.pread(file.fileno(), length, start))

    def size(self, key: str) -> int | None:
        """Bytes, None where there is no such file."""
        try:
            with named_errors(self, key, "read"):
                if self.remote:
                    return int(_obstore().head(_store(self.url), key)["size"])
                found = os.stat(self.file(key))
                return found.st_size if os.path.isfile(self.file(key)) else None
        except (FileNotFoundError, NotADirectoryError):
            return None

    def sizes(self) -> dict[str, int]:
        """Sizes of all files by key, sorted, those under way left out; empty where there is nothing."""
        found: dict[str, int] = {}
        with named_errors(self, "", "listed"):
            if self.remote:
                for batch in _obstore().list(_store(self.url)):
                    found |= {str(entry["path"]): int(entry["size"]) for entry in batch}
            else:
                for folder, _, names in os.walk(self.url):
                    for name in names:
                        at = os.path.join(folder, name)
                        found[os.path.relpath(at, self.url).replace(os.sep, "/")] = os.lstat(at).st_size
        return {key: size for key, size in sorted(found.items()) if not key.startswith(f"{STAGING}/")}

    def write(self, key: str, parts: Sequence[Part]) -> None:
        with self.writing(key) as write:
            for part in parts:
                write(part)

    @contextmanager
    def writing(self, key: str) -> Iterator[Write]:
        """`write(part)` to a file that appears, durable and whole, when the block ends without an error."""
        with named_errors(self, key, "written"):
            if self.remote:
                body = bytearray()
                yield body.extend
                _obstore().put(_store(self.url), key, bytes(body))
                return
            self._refuse_links(key)
            staged = self.path / STAGING / f"{key.replace('/', '~')}.{os.getpid()}-{threading.get_ident()}.partial"
            (self.path / key).parent.mkdir(parents=True, exist_ok=True)
            staged.parent.mkdir(parents=True, exist_ok=True)
            with staged_file(self.path / key, staged) as write:
                yield write

    def is_link(self, key: str) -> bool:
        """Whether a symbolic link stands between a local place and its file."""
        return not self.remote and os.path.realpath(self.file(key)) != os.path.join(os.path.realpath(self.url), key)

    def _refuse_links(self, key: str) -> None:
        folder = key.rpartition("/")[0]
        if folder and os.path.lexists(self.file(folder)) and self.is_link(folder):
            raise ContrailError(f"{self.file(folder)}: is a symbolic link: nothing is written through it, remove it")

    def create(self, key: str, content: bytes) -> bool:
        """Write a file that must not be there yet; False where it is. Of two that try at once one succeeds."""
        with named_errors(self, key, "written"):
            if self.remote:
                try:
                    _obstore().put(_store(self.url), key, content, mode="create")
                except _obstore().exceptions.AlreadyExistsError:
                    return False
                return True
            target = self.path / key
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with target.open("xb") as file:
                    file.write(content)
            except FileExistsError:
                return False
            return True

    def age(self, key: str, now: float) -> float:
        """Seconds since a file was last written, by its keeper's clock against `now` (seconds since 1970)."""
        with named_errors(self, key, "read"):
            if self.remote:
                return now - float(_obstore().head(_store(self.url), key)["last_modified"].timestamp())
            return now - os.stat(self.file(key)).st_mtime

    def take(self, key: str, source: Place, source_key: str | None = None) -> None:
        """The same bytes as a file of another place, by reference where that can be had: a hard link on one disk, a
        copy within one object store; else a copy.
        """
        source_key = source_key or key
        if not self.remote and not source.remote:
            target = self.path / key
            self._refuse_links(key)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                target.unlink(missing_ok=True)
                os.link(source.file(source_key), target)
                return
            except OSError:
                pass  # another disk, or one without links
        if self.remote and source.remote and _bucket(self.url) == _bucket(source.url):
            prefix = urlparse(source.url).path.strip("/")
            whole = urlparse(self.url).path.strip("/")
            with named_errors(self, key, "written"):
                _obstore().copy(_store(_bucket(self.url)), f"{prefix}/{source_key}", f"{whole}/{key}")
            return
        self.write(key, [source.read(source_key)])

    def remove(self, keys: Sequence[str]) -> None:
        """Delete files; one that is not there is no error."""
        with named_errors(self, "", "removed"):
            if self.remote:
                for start in range(0, len(keys), 1000):
                    _obstore().delete(_store(self.url), list(keys[start : start + 1000]))
                return
            for key in keys:
                Path(self.file(key)).unlink(missing_ok=True)


def place_of(address: str | Path) -> Place:
    """The place that a path or URL names. Raises ContrailError for a scheme that is none of SCHEMES."""
    text = str(address)
    if "://" not in text:
        return Place(text.rstrip("/") or "/")
    scheme = text.split("://", 1)[0]
    if scheme not in SCHEMES or "::" in text:
        raise ContrailError(f"{text}: this kind of URL is not read: use a path or one of {', '.join(SCHEMES)}://")
    if scheme != "file" and not urlparse(text).netloc:
        raise ContrailError(f"{text}: names no bucket or host: write {scheme}://BUCKET/PATH")
    if scheme == "file":
        return Place(unquote(urlparse(text).path))
    return Place(text.rstrip("/"))


def same_place(one: str, other: str) -> bool:
    """Whether two addresses lead to the same store."""
    if "://" in one or "://" in other:
        return one.rstrip("/") == other.rstrip("/")
    return os.path.realpath(one) == os.path.realpath(other)


def check_key(key: str) -> str:
    """The key itself. Raises ContrailError for one that could lead out of its place: from a foreign manifest."""
    parts = key.split("/")
    if not key or any(p in ("", ".", "..") or p.startswith(".") for p in parts) or "\\" in key or "\0" in key:
        raise ContrailError(f"file name {key[:80]!r} leads out of its store: the manifest is not ours")
    return key


def zarr_store(place: Place) -> Any:
    """What zarr and xarray open, read-only."""
    if not place.remote:
        return place.url
    from zarr.storage import ObjectStore

    return ObjectStore(_store(place.url), read_only=True)


def sync_folders(place: Place) -> None:
    """Make names durable, not only contents: after this a power cut loses no file. Object stores need none."""
    if place.remote:
        return
    for folder, _, _ in os.walk(place.url):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError:
            pass  # some network file systems have no such call
        finally:
            os.close(handle)


@contextmanager
def staged_file(target: Path, staged: Path) -> Iterator[Write]:
    try:
        with staged.open("wb", buffering=0) as file:

            def write(part: Part) -> None:
                view = memoryview(part).cast("B")
                while view.nbytes:
                    view = view[file.write(view) :]

            yield write
            os.fsync(file.fileno())
        staged.replace(target)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise


def _obstore() -> Any:
    import obstore.exceptions
    import obstore.store

    return obstore


def _store(url: str) -> Any:
    return _open_store(url, os.getpid())


@lru_cache(maxsize=256)
def _open_store(url: str, process: int) -> Any:
    from datetime import timedelta

    from_url: Any = _obstore().store.from_url  # its type tells the schemes' options apart, which we do not give

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or url
    options: dict[str, Any] = {"timeout": "300s", "connect_timeout": "10s"}
    if endpoint.startswith("http://"):
        options["allow_http"] = True
    configured = {}
    if url.startswith("s3") and not any(os.environ.get(name) for name in _AWS):
        configured = {"skip_signature": True}  # anonymous; never credentials from anywhere but the environment
    try:
        return from_url(
            url,
            client_options=options,
            **configured,
            retry_config={"max_retries": 4, "retry_timeout": timedelta(seconds=60)},
        )
    except Exception as error:
        raise ContrailError(f"{url}: cannot be reached ({_first_line(error)}): check the address") from None


_AWS = ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")


def _bucket(url: str) -> str:
    parsed = urlparse(url)
    return f"{parsed.scheme}://{parsed.netloc}"


@contextmanager
def named_errors(place: Place, key: str, verb: str) -> Iterator[None]:
    """Errors of the disk or the service as one line; FileNotFoundError as it is when reading."""
    where = place.file(key) if key else place.url
    try:
        yield
    except ContrailError:
        raise
    except OSError as error:
        if "NoSuchBucket" in str(error):
            raise ContrailError(f"{where}: there is no such bucket: correct the URL, or create it") from None
        if isinstance(error, FileNotFoundError) and verb == "read":
            raise FileNotFoundError(where) from None
        remedy = "make room or check permissions" if verb == "written" else "check the address and permissions"
        raise ContrailError(f"{where}: cannot be {verb} ({error.strerror or _first_line(error)}): {remedy}") from None
    except Exception as error:
        if type(error).__module__.startswith("obstore"):
            remedy = "check the address, the network and the credentials in the environment"
            if "NoSuchBucket" in str(error):
                raise ContrailError(f"{where}: there is no such bucket: correct the URL, or create it") from None
            raise ContrailError(f"{where}: cannot be {verb} ({_first_line(error)}): {remedy}") from None
        raise


def _first_line(error: BaseException) -> str:
    if code := re.search(r"<Code>(\w+)</Code>", str(error)):
        return code[1]
    lines = str(error).splitlines()
    return lines[0][:150] if lines else type(error).__name__
