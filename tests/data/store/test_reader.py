"""Opening stores with this package and with other programs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from contrail_data.errors import ContrailError
from contrail_data.storage.place import Place, place_of
from contrail_data.store.reader import open_store
from contrail_data.store.transfer import copy_store
from helpers.places import PROJECT


def test_an_unreachable_store_is_an_error_of_one_line(s3: str, tmp_path: Path) -> None:
    for address, message in [
        (f"{s3}/nothing.zarr", "no such store"),
        ("simplecache::s3://bucket/x.zarr", "URLs of this kind"),
        ("ftp://host/x.zarr", "URLs of this kind"),
    ]:
        with pytest.raises(ContrailError, match=message) as refused:
            open_store(address)
        assert "\n" not in str(refused.value)


def test_other_programs_open_a_store(sealed40: Path, tmp_path: Path, s3: str) -> None:
    copy_store(place_of(sealed40), Place(f"{s3}/s.zarr"))
    local = xr.open_zarr(sealed40)
    tensorstore = pytest.importorskip("tensorstore")
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{sealed40}/image"}}
    image = tensorstore.open(spec, read=True).result()
    stored = xr.open_zarr(sealed40, mask_and_scale=False)["image"]
    np.testing.assert_array_equal(image[17].read().result(), stored[17])
    assert local["image"].dtype == np.float64  # as the page on the format says
    assert json.loads((sealed40 / "zarr.json").read_text())["zarr_format"] == 3


@pytest.mark.parametrize("name", ["image", "mask"])
def test_pixels_are_indexed_as_by_zarr(sealed40: Path, name: str) -> None:
    ours = open_store(sealed40)[name]
    theirs = xr.open_zarr(sealed40, mask_and_scale=False, chunks=None)[name]
    for first in (slice(None), 0, -1, slice(20, 3, -3), [17, 2, 30], slice(0, 0), np.arange(39) % 7 == 0):
        for rest in ((), (..., slice(2, 5), 1), (slice(3, None), slice(None, None, 2))):
            xr.testing.assert_equal(ours[(first, *rest)], theirs[(first, *rest)])


def test_plain_xarray_reads_and_converts_a_store_as_documented(
    sealed40: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (PROJECT / "docs/reference/store-format.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train.zarr").symlink_to(sealed40)
    monkeypatch.chdir(tmp_path)
    variables: dict = {}
    exec(compile(block, "store-format.md", "exec"), variables)
    assert (variables["record_id"].dtype.kind, variables["image"].dtype) == ("U", np.float32)
    assert 0 < variables["image"].max() <= 1
    with xr.open_dataset("ten.nc") as netcdf:
        assert netcdf.record_id.values.tolist() == variables["record_id"][:10].tolist()
        assert json.loads(netcdf.attrs["composite"])["name"] == "ash"
