"""Stores as notebooks see them."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import contrail_data
from contrail_data.store.logits import decode
from helpers.stores import build_composite, predict_square


@pytest.mark.parametrize("composite", ["ash", "ash_wide"])
def test_pixels_are_float32_as_plain_xarray_decodes_them(raw: Path, tmp_path: Path, composite: str) -> None:
    build_composite(raw, tmp_path / "s.zarr", composite)
    ours, plain = contrail_data.open_store(tmp_path / "s.zarr"), xr.open_zarr(tmp_path / "s.zarr", chunks=None)
    for key in ((), (2, 3), (slice(1, 9, 3), [0, 4], 1, ..., slice(5, None))):
        values = ours["image"][key].values
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, plain["image"][key].values, rtol=1e-6)
    np.testing.assert_array_equal(ours["mask"], plain["mask"])


def test_samples_are_selected_by_record_id_and_frames_by_time(raw: Path, tmp_path: Path) -> None:
    store = build_composite(raw, tmp_path / "s.zarr")
    ours = contrail_data.open_store(tmp_path / "s.zarr")
    ids = [str(name) for name in store["record_id"].values]
    record = ours.sel(record_id=ids[3], channel="G")
    np.testing.assert_allclose(record["image"], store["image"].values[3, :, 1] / 255, atol=1e-6)
    np.testing.assert_array_equal(ours.sel(record_id=[ids[5], ids[1]])["mask"], store["mask"].values[[5, 1]])
    frame = record.set_xindex("time").sel(time=record["time"].values[6])
    np.testing.assert_array_equal(frame["image"], record["image"][6])
    assert record["latitude"].item() == store["latitude"].values[3]
    with pytest.raises(KeyError):
        ours.sel(record_id="nothing")


def test_a_selection_is_written_to_netcdf_and_read_back(raw: Path, tmp_path: Path) -> None:
    build_composite(raw, tmp_path / "s.zarr")
    ours = contrail_data.open_store(tmp_path / "s.zarr").isel(sample=slice(2, 5))
    ours.to_netcdf(tmp_path / "s.nc")
    with xr.open_dataset(tmp_path / "s.nc") as read:
        for name in ("image", "mask", "record_id", "time", "latitude", "crs_wkt"):
            np.testing.assert_array_equal(read[name].values, ours[name].values, err_msg=name)
        assert json.loads(read.attrs["composite"])["name"] == "ash"


def test_a_dataset_can_be_pickled_and_shows_nothing_internal(raw: Path, tmp_path: Path) -> None:
    build_composite(raw, tmp_path / "s.zarr")
    ours = contrail_data.open_store(tmp_path / "s.zarr")
    xr.testing.assert_identical(pickle.loads(pickle.dumps(ours)).load(), ours)
    assert not [name for name in ours.variables if "checksum" in str(name) or name == "moments"]


def test_predictions_are_probabilities(raw: Path, tmp_path: Path) -> None:
    stored = predict_square(build_composite(raw, tmp_path / "s.zarr"), tmp_path / "p.zarr", pseudo=False)
    ours = contrail_data.open_store(tmp_path / "p.zarr")
    assert "logit" not in ours
    np.testing.assert_array_equal(ours["probability"], decode(stored["logit"].values).astype(np.float32))
    assert ours["probability"].dtype == np.float32
    np.testing.assert_array_equal(ours.sel(record_id=ours["record_id"][4])["frame_mask"], stored["frame_mask"][4])
