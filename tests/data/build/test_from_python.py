"""Stores that Python builds are those that the commands build."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import contrail_data
from contrail_data.build.recipe import recipe_of, to_yaml
from contrail_data.catalog.catalog import open_named
from contrail_data.errors import ContrailError, FoundDifference, UsageError
from helpers.cli import run_data
from helpers.stores import contents

pytestmark = pytest.mark.filterwarnings("ignore:train_metadata.json is partial")


def test_settings_and_recipes_give_the_store_of_the_command(raw: Path, tmp_path: Path) -> None:
    given = ("--composite", "ash_wide", "--frames", "-1,0", "--size", 32, "--codec", "zstd")
    assert run_data("build-ash", raw, *given, "-o", tmp_path / "a.zarr").returncode == 0
    expected = contents(tmp_path / "a.zarr")
    settings = {"composite": "ash_wide", "frames": (-1, 0), "size": 32, "codec": "zstd"}
    built = contrail_data.build_store(raw, tmp_path / "b.zarr", workers=1, **settings)
    assert (built.samples, built.set_aside) == (9, [])
    assert contents(tmp_path / "b.zarr") == expected
    recipe = recipe_of(open_named(tmp_path / "b.zarr"))
    (tmp_path / "recipe.yaml").write_text(to_yaml(recipe))
    for number, source in enumerate((recipe, tmp_path / "recipe.yaml")):
        out = tmp_path / f"{number}.zarr"
        assert contrail_data.build_store(source, out, **{"sources.0.path": raw}).digest == built.digest
    assert contrail_data.build_store(raw, tmp_path / "b.zarr", **settings).existed


def test_scans_take_times_as_numpy_or_text(scans: Path, tmp_path: Path) -> None:
    digests = {
        contrail_data.build_store(
            scans, tmp_path / f"{name}.zarr", time=[time], at=[(29.5, -92.0)], before=0, after=0, size=32
        ).digest
        for name, time in (("text", "2024-03-01T12:40"), ("numpy", np.datetime64("2024-03-01T12:40", "ns")))
    }
    assert len(digests) == 1


def test_what_has_no_effect_or_is_unknown_is_an_error_of_one_line(raw: Path, tmp_path: Path) -> None:
    for settings, error, message in (
        ({"compositee": "ash"}, ContrailError, r"there is no setting .*compositee"),
        ({"time": ["2024-03-01T12:40"]}, ContrailError, r"there is no setting 'sources\.0\.time'"),
        ({"size": 3}, ContrailError, "size: cannot be '3'; give a whole number from 32 to 4096"),
        ({"composite": "soot"}, ContrailError, "composite: 'soot': unknown; use one of ash"),
        ({"workers": 3, "scheduler": "tcp://host:8786"}, UsageError, "workers=3: has no effect"),
    ):
        with pytest.raises(error, match=message) as refused:
            contrail_data.build_store(raw, tmp_path / "s.zarr", **settings)
        assert "\n" not in str(refused.value)
    assert not (tmp_path / "s.zarr").exists()


def test_another_digest_than_that_of_the_recipe_is_an_error(raw: Path, tmp_path: Path) -> None:
    contrail_data.build_store(raw, tmp_path / "a.zarr", size=32)
    recipe = recipe_of(open_named(tmp_path / "a.zarr"))
    mask = np.load(next((raw / "train").glob("*/human_pixel_masks.npy")))
    np.save(next((raw / "train").glob("*/human_pixel_masks.npy")), 1 - mask)
    with pytest.raises(FoundDifference, match="is not the store of the recipe"):
        contrail_data.build_store(recipe, tmp_path / "b.zarr")
