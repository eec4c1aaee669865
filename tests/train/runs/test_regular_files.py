"""Nothing waits for a named pipe that is called like a file of a run."""

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from contrail_data.errors import ContrailError
from contrail_train.runs.calibration import Calibration
from contrail_train.runs.checkpoint import file_digest, read_tensors
from contrail_train.runs.sealed import read_json


@pytest.mark.parametrize("read", [read_tensors, file_digest, partial(read_json, schema=Calibration, remedy="")])
def test_a_pipe_is_refused_at_once(tmp_path: Path, read: Callable[[Path], object]) -> None:
    os.mkfifo(tmp_path / "x")
    signal.alarm(20)
    with pytest.raises(ContrailError, match="not a regular file"):
        read(tmp_path / "x")
    signal.alarm(0)
