"""The summary of a store, on the screen and as JSON."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

from contrail_data.cli.main import app
from contrail_data.composites import COMPOSITES
from contrail_data.reports.store_page import store_page
from contrail_data.reports.summary import as_json, as_text, summarise
from helpers.stores import build_composite, predict_square


def test_the_json_summary_agrees_with_the_raw_masks(raw: Path, store: xr.Dataset) -> None:
    done = CliRunner().invoke(app, ["inspect", store.attrs["path"], "--json"])
    assert done.exit_code == 0
    summary = json.loads(done.stdout)
    masks = [np.load(p) for p in sorted((raw / "train").glob("*/human_pixel_masks.npy"))]
    assert summary == as_json(summarise(store))
    assert summary["labels"] == {
        "sources": {"human": 9},
        "records": 9,
        "positive_records": sum(bool(m.any()) for m in masks),
        "pixels": sum(m.size for m in masks),
        "positive_pixels": sum(int(m.sum()) for m in masks),
    }
    assert (summary["samples"], summary["annotators"], summary["duplicates"]) == (9, {"4": 9}, 0)
    assert summary["variables"]["image"]["shape"] == {"sample": 9, "time": 8, "channel": 3, "y": 32, "x": 32}
    assert (summary["time"]["first"], summary["time"]["unknown"]) == ("2020-03-12T02:40:00Z", 1)
    assert summary["place"]["latitude"][0] == pytest.approx(24.0, abs=0.5)
    assert summary["composite"] == COMPOSITES["ash"].to_dict()


@pytest.mark.slow
def test_the_summary_fits_on_one_screen(raw: Path, bare: xr.Dataset, store: xr.Dataset, tmp_path: Path) -> None:
    for i in range(9):
        for band in range(8, 17):
            path = sorted((raw / "train").iterdir())[i] / f"band_{band:02d}.npy"
            if not path.exists():
                np.save(path, np.full((32, 32, 8), 270 + band, "<f4"))
    many_channels = build_composite(raw, tmp_path / "many.zarr", "bands_diffs")
    for shown in (bare, many_channels, predict_square(store, tmp_path / "p.zarr", pseudo=True)):
        rows = as_text(summarise(shown))
        indent = max(map(len, rows)) + 2
        assert sum(max(1, len(textwrap.wrap(text, 80 - indent))) for text in rows.values()) <= 38
        store_page(shown)
    assert as_text(summarise(bare))["annotators"] == "none"
