"""Tiny stores, and a run that has finished."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.cli import run_train
from helpers.runs import TINY, set_options, streaked


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """Sixteen 64-pixel records; dark streaks in red are contrails."""
    return streaked(tmp_path_factory.mktemp("train"), 0)


@pytest.fixture(scope="module")
def unseen(tmp_path_factory) -> Path:
    """Sixteen more."""
    return streaked(tmp_path_factory.mktemp("unseen"), 100)


@pytest.fixture(scope="module")
def finished(store: Path) -> Path:
    """A run that nothing disturbed."""
    out = store.parent / "run"
    done = run_train("run", "unet2d", "--out", out, *set_options(*TINY, f"data.train={store}"))
    assert done.returncode == 0, done.stderr
    return out
