"""Synthetic satellite scans."""

from __future__ import annotations

from pathlib import Path

import pytest

from contrail_data.synthetic.abi import write_abi
from helpers.abi import SIZE, START


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Path:
    """Eight scans of a small sector every ten minutes."""
    folder = tmp_path_factory.mktemp("abi")
    write_abi(folder, START, size=SIZE, centre=(29.5, -92.0))
    return folder
