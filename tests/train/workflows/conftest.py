"""A pipeline that has finished."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.cli import run_train
from helpers.runs import SHORT, set_options


@pytest.fixture(scope="module")
def pipeline(store: Path) -> Path:
    out = store.parent / "pipeline"
    done = run_train("pipeline", "unet2d_v2", "--out", out, *set_options(*SHORT, f"data.train={store}"))
    assert done.returncode == 0, done.stderr
    assert "gate: classifier 0.50, all 0.50" in done.stdout
    return out
