"""Directories of runs, and of what consists of runs: begun once, and resumed by the same command, by one process.

It needs no torch, so that a command is refused before the work if its directory holds something else.
"""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from contrail_data.errors import ContrailError
from contrail_data.storage.files import check_folder, is_partial, is_stray, remove_partial_files
from contrail_train.config.schema import RunConfig
from contrail_train.config.settings import differences, read_config
from contrail_train.runs.names import CALIBRATION, CHECKPOINTS, CONFIG, ENVIRONMENT, LOCK


@contextmanager
def locked_directory(out: Path, marker: str, kind: str) -> Iterator[None]:
    """Create a directory or reopen the one written earlier, and keep other processes out of it meanwhile.

    The operating system releases the lock when the process ends, however it ends. A new directory into which nothing
    was written is removed.

    Args:
        out: The directory.
        marker: Name of the file by which an earlier directory of this kind is recognised.
        kind: What the directory is, for messages.

    Yields:
        None.

    Raises:
        ContrailError: If `out` is something else or not writable, another process holds the lock, or a file cannot be
            read or written in the meantime.
    """
    is_new = not out.exists()
    is_ours = (out / marker).is_file() or is_new
    if not is_ours and not (out.is_dir() and all(_may_precede_marker(path.name) for path in out.iterdir())):
        raise ContrailError(f"{out}: exists and is not a {kind}; choose another --out")
    check_folder(out, in_run=True)
    try:
        with (out / LOCK).open("a+") as file:
            _lock(file, out)
            try:
                remove_partial_files(out)
                yield
            finally:
                if is_new and os.listdir(out) == [LOCK]:
                    (out / LOCK).unlink()
                    out.rmdir()
    except OSError as error:
        place = error.filename or out
        raise ContrailError(
            f"{place}: cannot be used ({error.strerror or error}); make room, check permissions, or remove what lies "
            "there"
        ) from None


def check_directory(out: Path, marker: str, kind: str) -> None:
    """Refuse a directory that `locked_directory` would refuse, before the work.

    Args:
        out: The directory.
        marker: As for `locked_directory`.
        kind: As for `locked_directory`.
    """
    with locked_directory(out, marker, kind):
        pass


def _may_precede_marker(name: str) -> bool:
    """Whether a kill, or the operating system, can leave such a file in a directory that has no marker yet."""
    return name in (LOCK, ENVIRONMENT) or is_partial(name) or is_stray(name)


def _lock(file: IO[str], out: Path) -> None:
    """Lock a file until it is closed, and write into it who did."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        owner = file.read().strip() or "another process"
        raise ContrailError(f"{out}: in use by {owner}; wait until it has ended") from None
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()


def is_begun(out: Path) -> bool:
    """Return whether a run has got as far as its first checkpoint, from which on its settings stay.

    Args:
        out: Run directory.

    Returns:
        Whether it has.
    """
    return (out / CALIBRATION).is_file() or bool(checkpoints(out))


def checkpoints(out: Path) -> list[Path]:
    """List the checkpoints of a run.

    Args:
        out: Run directory.

    Returns:
        The files, oldest first.
    """
    return sorted((out / CHECKPOINTS).glob("step-*.safetensors"))


def check_settings(out: Path, config: RunConfig) -> None:
    """Refuse to resume a run with other settings, apart from its device and its loggers.

    Args:
        out: Run directory.
        config: The settings.

    Raises:
        ContrailError: If a run with other settings was begun in it.
    """
    if not is_begun(out):
        return
    begun = read_config(out / CONFIG).model_copy(update={"device": config.device, "loggers": config.loggers})
    if differing := differences(begun, config):
        is_finished = (out / CALIBRATION).is_file()
        start = f", with start={out} to start from its weights" if is_finished else f", or remove {out}"
        raise ContrailError(f"{out}: holds a run with {'; '.join(differing)}; choose another --out{start}")
