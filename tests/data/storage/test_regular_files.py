"""Nothing waits for a named pipe that is called like a file of ours."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from contrail_data.errors import BadRecord, ContrailError
from contrail_data.sources.npy import read_npy
from contrail_data.storage.place import Place


@pytest.fixture(params=["pipe", "socket", "folder", "device"])
def other(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Something at a path that is not a regular file."""
    path = tmp_path / "x.npy"
    monkeypatch.chdir(tmp_path)
    if request.param == "pipe":
        os.mkfifo(path)
    elif request.param == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)  # the whole path may be too long
    elif request.param == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    signal.alarm(20)
    yield path
    signal.alarm(0)


def test_what_is_not_a_regular_file_is_refused_at_once(other: Path) -> None:
    with pytest.raises(ContrailError, match=r"x\.npy: cannot be read"):
        Place(str(other.parent)).read(other.name)
    with pytest.raises(ContrailError, match=r"x\.npy: cannot be read"):
        Place(str(other.parent)).read_range(other.name, 0, 8)
    with pytest.raises(BadRecord, match=r"x\.npy: cannot be read"):
        read_npy(other, kinds="f", shape=(None,))
