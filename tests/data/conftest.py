"""Synthetic satellite scans."""

from __future__ import annotations

from pathlib import Path

import pytest

from contrail_data.synthetic.abi import write_abi
from helpers.abi import SIZE, START
from helpers.shared import shared


@pytest.fixture(scope="session")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write eight scans of a small sector, ten minutes apart."""

    def write(folder: Path) -> Path:
        write_abi(folder, START, size=SIZE, centre=(29.5, -92.0))
        return folder

    return shared(tmp_path_factory, "scans", write)
