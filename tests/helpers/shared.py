"""Share what is slow to make between the processes of a test run."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest


def shared(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Path]) -> Path:
    """Return what `make` makes in a folder of this name; the first process to ask makes it, the others wait.

    Nobody may change it.
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
