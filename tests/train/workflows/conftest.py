"""A pipeline that has finished."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.cli import run_train
from helpers.runs import SHORT, set_options
from helpers.shared import shared


@pytest.fixture(scope="session")
def pipeline(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline of three stages on `store`."""

    def train(folder: Path) -> Path:
        options = set_options(*SHORT, f"data.train={store}")
        done = run_train("pipeline", "unet2d_v2", "--out", folder / "pipeline", *options)
        assert done.returncode == 0, done.stderr
        assert "gate: classifier 0.50, all 0.50" in done.stdout
        return folder / "pipeline"

    return shared(tmp_path_factory, "pipeline", train)
