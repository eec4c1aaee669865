from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
import numpy as np
import xarray as xr
from contrail_data import open_store

store = open_store(sys.argv[1])
image = store["image"].values
assert "dask.array" not in sys.modules
import dask.array as da
lazy = xr.DataArray(da.from_array(image), dims=store["image"].dims)
assert lazy.chunks is not None
assert isinstance((lazy + 1).data, da.Array)
assert isinstance(xr.DataArray(image).data, np.ndarray)
assert isinstance(store.chunk({"sample": 2})["image"].data, da.Array)
np.testing.assert_array_equal(lazy.compute().data, image)
"""


@pytest.mark.slow
def test_a_store_is_read_without_importing_dask_and_dask_arrays_are_recognised_later(sealed40: Path) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(sealed40)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
