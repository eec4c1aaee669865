"""Imports: what the command lines load, and who may import whom."""

from __future__ import annotations

import subprocess
import sys


def test_a_command_line_imports_nothing_heavy() -> None:
    code = (
        "import sys, contrail_data.cli, contrail_train.cli;"
        "print([m for m in ('torch', 'timm', 'dask', 'xarray', 'zarr', 'numpy') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
