"""Share files that are slow to make between the processes of a test run."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest


def shared(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Path]) -> Path:
    """Return the path that `make` returned for a folder of this name.

    The first process that asks for it calls `make`, and the others wait. No test may change the files.
    """
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    with (root / f"{name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = root / f"{name}.path"
        if not result.exists():
            (root / name).mkdir()
            result.write_text(str(make(root / name)))
    return Path(result.read_text())
