"""Conditions that select the records of a subset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from contrail_data.errors import ContrailError
from contrail_data.sources.base import LabelFilter
from contrail_data.sources.select import select_samples
from contrail_data.store.reader import open_store
from helpers.cli import run_data
from helpers.stores import build_small


def test_a_subset_holds_the_records_that_meet_every_condition(raw: Path, tmp_path: Path) -> None:
    folder = sorted((raw / "train").iterdir())[2]
    np.save(folder / "human_pixel_masks.npy", 0 * np.load(folder / "human_pixel_masks.npy"))
    build_small(raw, tmp_path / "s.zarr")
    store = open_store(tmp_path / "s.zarr")
    times = store["time"].values[:, 4]
    latitude, longitude = float(store["latitude"][0]), float(store["longitude"][0])
    assert select_samples(store, since=times[2], until=times[5]).tolist() == [2, 3, 4]
    assert select_samples(store, label=LabelFilter.NEGATIVE).tolist() == [2]
    assert select_samples(store, label=LabelFilter.POSITIVE).tolist() == [0, 1, 3, 4, 5, 6, 7, 8]
    assert select_samples(store, area=(latitude - 1, longitude - 1, latitude + 1, longitude + 1)).tolist() == list(
        range(8)
    )
    with pytest.raises(ContrailError, match="west is above east"):  # west and east were exchanged
        select_samples(store, area=(latitude - 1, longitude + 1, latitude + 1, longitude - 1))
    # The area crosses 180 degrees.
    for east in (longitude + 1, longitude + 361):
        assert select_samples(store, area=(latitude - 1, 170, latitude + 1, east)).tolist() == list(range(8))
    ids = [str(r) for r in store["record_id"].values]
    assert select_samples(store, record_ids=ids[3:5], without=[ids[3]]).tolist() == [4]
    with pytest.raises(ContrailError, match="no record 'nobody'"):
        select_samples(store, record_ids=["nobody"])
    (tmp_path / "ids.txt").write_text("\n".join(ids[:3]) + "\n")
    options = ["--records", tmp_path / "ids.txt", "--label", "positive", "-o", "x.zarr"]
    done = run_data("subset", tmp_path / "s.zarr", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert list(open_store(tmp_path / "x.zarr")["record_id"].values) == ids[:2]
    done = run_data("subset", tmp_path / "s.zarr", "--since", "noon", "-o", tmp_path / "y.zarr")
    assert done.returncode == 2
    assert "--since" in done.stderr
