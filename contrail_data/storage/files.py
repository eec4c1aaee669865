"""Local files that appear whole or not at all, and errors of the disk or of object storage in one line."""

import csv
import errno
import io
import mmap
import os
import re
import shutil
import stat
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Literal, TypeVar, overload

from contrail_data.errors import ContrailError

_PARTIAL = ".partial-"
_UNFINISHED = re.compile(rf"(?<![^/])({re.escape(_PARTIAL)}[0-9a-f]{{12}}-)+")
_SYNCED = 8
"""Files that wait for a disk at the same time; with more it is not faster."""
_STRAY = {
    *(".ds_store", ".spotlight-v100", ".trashes", ".fseventsd", ".temporaryitems", "__macosx", ".directory"),
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information", "@eadir", "lost+found"),
}

Part = bytes | memoryview | bytearray
Write = Callable[[Part], None]
T = TypeVar("T")

_BLOCK = 2**21
"""Bytes that are written at once: as many as the largest pages hold in which a kernel keeps a file. Samples that are
mapped from such pages are read up to a fifth faster."""


class Unreachable(ContrailError):
    """A file that may be intact cannot be read or written: no permission, no network, no room."""


def write_atomically(path: Path, parts: Sequence[Part]) -> None:
    """Write a local file that appears whole or not at all.

    Args:
        path: The file, which is replaced if it exists.
        parts: Its content.
    """
    with reported_errors(str(path), "written"), atomic_files([path]) as (write,):
        for part in parts:
            write(part)


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Iterable[object]]) -> None:
    """Write a table as a local CSV file that appears whole or not at all.

    Args:
        path: The file, which is replaced if it exists.
        header: Names of the columns.
        rows: Cells.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    write_atomically(path, [text.getvalue().encode()])


def partial_path(path: Path, folder: Path | None = None) -> Path:
    """Choose where a file is written before it takes its name, so that several writers of it never meet.

    Args:
        path: The file.
        folder: Where the unfinished file lies; None: next to `path`.

    Returns:
        A path that no other call returns, with the suffix of `path`.
    """
    return (folder or path.parent) / f"{_PARTIAL}{uuid.uuid4().hex[:12]}-{path.name[-100:]}"


def is_partial(name: str) -> bool:
    """Return whether a file is one that a killed process has left unfinished, or that is just being written.

    Args:
        name: Name of the file.

    Returns:
        Whether it is.
    """
    return name.startswith(_PARTIAL)


def publish(staged: Path, path: Path) -> None:
    """Give a finished file or folder its name, in place of what has it; of several processes, the last one wins.

    Args:
        staged: The file or folder, see `partial_path`.
        path: Its name.

    Raises:
        OSError: If the disk refuses.
    """
    while True:
        try:
            staged.replace(path)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        replaced = partial_path(path)  # a folder cannot be replaced, only moved away
        with suppress(FileNotFoundError):
            path.rename(replaced)
        shutil.rmtree(replaced, ignore_errors=True)


def remove_partial_files(folder: Path) -> None:
    """Remove the unfinished files that killed processes have left behind.

    Args:
        folder: A folder that no other process is writing to.
    """
    for file in folder.glob(f"{_PARTIAL}*"):
        file.unlink(missing_ok=True)


@contextmanager
def atomic_files(paths: Sequence[Path], staging: Path | None = None) -> Iterator[list[Write]]:
    """Write local files that appear, durable and whole, when the block ends without an error.

    They wait for the disk side by side, as a disk makes files durable together. None appears before all are durable.

    Args:
        paths: The files, which are replaced if they exist.
        staging: Folder where they are written first, on the same disk; None: next to each file.

    Yields:
        For each file, in order, a function that appends bytes.

    Raises:
        ContrailError: If the disk refuses; the message names the file.
    """
    staged = {path: partial_path(path, staging) for path in paths}
    try:
        with ExitStack() as stack:
            files = []
            for path, unfinished in staged.items():
                with reported_errors(str(path), "written"):
                    files.append(_BlockFile(path, stack.enter_context(unfinished.open("wb", buffering=0))))
            yield [file.append for file in files]
            for file in files:
                file.write_rest()
            side_by_side(_BlockFile.wait, files)
        for path, unfinished in staged.items():
            with reported_errors(str(path), "written"):
                unfinished.replace(path)
    finally:
        for unfinished in staged.values():
            unfinished.unlink(missing_ok=True)  # there only if something failed


class _BlockFile:
    """Writes a file in blocks.

    Args:
        path: The name that the file will have, for messages.
        file: The open file.
    """

    def __init__(self, path: Path, file: FileIO) -> None:
        self._path, self._file = str(path), file
        self._block, self._waiting = memoryview(mmap.mmap(-1, _BLOCK)), 0  # takes memory only where it is used

    def append(self, part: Part) -> None:
        """Append bytes.

        Args:
            part: The bytes.
        """
        view = memoryview(part).cast("B")
        ready = (self._waiting + view.nbytes) // _BLOCK * _BLOCK
        if ready:
            now, view = view[: ready - self._waiting], view[ready - self._waiting :]
            self._write_all([self._block[: self._waiting], now])
            self._waiting = 0
        self._block[self._waiting : self._waiting + view.nbytes] = view
        self._waiting += view.nbytes

    def write_rest(self) -> None:
        """Write the last bytes, which fill no block."""
        self._write_all([self._block[: self._waiting]])

    def wait(self) -> None:
        """Wait until the disk has the file."""
        with reported_errors(self._path, "written"):
            os.fsync(self._file.fileno())

    def _write_all(self, parts: list[memoryview]) -> None:
        """Write parts, however many of their bytes the system takes at a time."""
        with reported_errors(self._path, "written"):
            while parts:
                written = os.writev(self._file.fileno(), parts)
                while parts and written >= parts[0].nbytes:
                    written -= parts.pop(0).nbytes
                parts[:1] = [part[written:] for part in parts[:1]]


def side_by_side(function: Callable[[T], object], arguments: Sequence[T], threads: int = _SYNCED) -> None:
    """Call a function that waits for a disk or a service, for several arguments at the same time.

    Args:
        function: The function.
        arguments: Its arguments.
        threads: Calls at the same time.
    """
    if len(arguments) == 1:
        function(arguments[0])
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(function, arguments))


def make_folder(folder: Path) -> None:
    """Create a local folder and check that files can be written there, before the work rather than after it.

    Args:
        folder: The folder, which may exist.

    Raises:
        ContrailError: If it cannot be created or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ContrailError(f"{folder}: cannot be written ({error.strerror}); choose another place") from None


def store_around(path: Path) -> Path | None:
    """Find the store that contains a local path.

    Args:
        path: The path.

    Returns:
        The folder of the store. None if the path is not in a store.
    """
    return next((folder for folder in path.resolve().parents if (folder / "zarr.json").exists()), None)


def check_new(file: Path, overwrite: bool, *suffixes: str) -> None:
    """Check, before the work, that a local file can be written, and create its folder.

    Args:
        file: The file.
        overwrite: Whether it may exist.
        *suffixes: Name endings of the files that may be replaced; `.zarr` is a zarr folder that is not a store.

    Raises:
        ContrailError: If the file exists, would lie in a store, or its folder cannot be written.
    """
    if file.exists() and not overwrite:
        raise ContrailError(f"{file}: exists; choose another -o, or add --overwrite")
    if file.exists() and file.suffix not in suffixes:
        kinds = " or ".join(suffixes)
        raise ContrailError(f"{file}: not a {kinds} file, and --overwrite replaces nothing else; choose another -o")
    if file.is_dir() and (
        file.suffix != ".zarr" or not (file / "zarr.json").is_file() or (file / "manifest.txt").exists()
    ):
        raise ContrailError(f"{file}: is a folder, which is not replaced; choose another -o")
    if store := store_around(file):
        raise ContrailError(f"{file}: lies in the store {store}, which must not change; choose another -o")
    make_folder(file.parent)


def check_folder(folder: Path, *, in_run: bool = False) -> None:
    """Check, before the work, that files can be put into a folder, and create it.

    Args:
        folder: The folder.
        in_run: Whether it may be the directory of a run, or lie in one.

    Raises:
        ContrailError: If it is a store or the directory of a run, lies in one, or cannot be written.
    """
    markers = [{"zarr.json"}]
    if not in_run:
        markers += [{"config.yaml", "environment.json"}, {"pipeline.yaml", "stages"}]
    path = folder.resolve()
    for part in (path, *path.parents):
        if any(all((part / name).exists() for name in names) for names in markers):
            raise ContrailError(
                f"{folder}: would change {part}, a store or the directory of a run; choose another folder"
            )
    make_folder(folder)


@contextmanager
def reported_errors(path: str, action: str) -> Iterator[None]:
    """Turn errors of the disk or of object storage into one line.

    Args:
        path: Path or URL of the file, to begin the message.
        action: What failed: `read`, `listed`, `written` or `removed`.

    Yields:
        Nothing.

    Raises:
        FileNotFoundError: If the file to read does not exist.
        Unreachable: For any other error of the disk or of object storage.
        ContrailError: If a sector of the disk is damaged.
    """
    try:
        yield
    except Exception as error:
        is_remote = type(error).__module__.startswith("obstore")
        if isinstance(error, ContrailError) or (not isinstance(error, OSError) and not is_remote):
            raise
        if (
            isinstance(error, FileNotFoundError | NotADirectoryError)
            and action == "read"
            and "NoSuchBucket" not in str(error)
        ):
            raise FileNotFoundError(path) from None
        one_line = input_output_error(path, action, error)
        raise one_line from None


def input_output_error(path: str, action: str, error: Exception) -> ContrailError:
    """Describe an error of the disk or of object storage in one line.

    Args:
        path: Path or URL of the file.
        action: What failed: `read`, `listed`, `written` or `removed`.
        error: The error.

    Returns:
        The error to raise: Unreachable, unless a part of the disk is damaged.
    """
    path = _UNFINISHED.sub("", path)  # what a user knows is the name that the file will have
    if "NoSuchBucket" in str(error):
        return Unreachable(f"{path}: no such bucket; correct the URL, or create it")
    if "Range request not supported" in str(error):
        return Unreachable(f"{path}: the server sends no parts of files; download it and name the copy")
    if not isinstance(error, OSError):
        remedy = "check the address, the network and the credentials in the environment"
    else:
        remedy = "make room or check permissions" if action == "written" else "check the address and permissions"
    reason = getattr(error, "strerror", None) or first_line(error)
    if "kind: Timeout" in str(error):
        reason = "no answer in time"
    kind = ContrailError if getattr(error, "errno", None) == errno.EIO else Unreachable
    return kind(f"{path}: cannot be {action} ({reason}); {remedy}")


@overload
def open_regular(path: str | Path) -> BufferedReader: ...
@overload
def open_regular(path: str | Path, buffering: Literal[0]) -> FileIO: ...
def open_regular(path: str | Path, buffering: Literal[-1, 0] = -1) -> BufferedReader | FileIO:
    """Open a local file to read it; anything else of that name is refused, where a named pipe would wait for a writer.

    Args:
        path: The file.
        buffering: 0 for reads that each are one system call.

    Returns:
        The file.

    Raises:
        OSError: If it cannot be opened, or is a pipe, a socket, a device or a folder.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return FileIO(descriptor) if buffering == 0 else os.fdopen(descriptor, "rb")


def is_stray(name: str) -> bool:
    """Return whether operating systems and network drives put files of this name into folders, as `._x` or `.DS_Store`.

    Args:
        name: Name of a file or folder.

    Returns:
        Whether it is not part of any data.
    """
    return name.startswith(("._", ".nfs")) or name.lower() in _STRAY


def first_line(error: BaseException, path: Path | None = None) -> str:
    """Shorten the message of an error.

    Args:
        error: The error.
        path: File whose quoted path is omitted, however long it is.

    Returns:
        The code of an answer in XML, the first line of any other message, or else the type of the error.
    """
    if code := re.search(r"<Code>(\w+)</Code>", str(error)):
        return code[1]
    text = str(error) if path is None else re.sub(f"'[^']*{re.escape(path.name)}'[: ]*", "", str(error))
    lines = text.splitlines()
    return lines[0][:150] if lines else type(error).__name__
