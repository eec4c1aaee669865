"""Scenes: composites of brightness temperatures."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from contrail_data.composites import COMPOSITES, evaluate
from contrail_data.errors import ContrailError
from contrail_data.scans.scene import composite_of


def test_a_composite_of_any_dataset_of_bands_is_that_of_the_record() -> None:
    """With time last or absent, without a grid, eagerly and lazily."""
    rng = np.random.default_rng(0)
    kelvin = xr.DataArray(
        rng.uniform(240, 300, (3, 20, 18, 2)).astype(np.float32),
        dims=("band", "y", "x", "time"),
        coords={"band": [11, 14, 15]},
    )
    scene = xr.Dataset({"brightness_temperature": kelvin})
    bands = dict(zip(kelvin["band"].values.tolist(), kelvin.values, strict=True))
    expected = np.moveaxis(evaluate(COMPOSITES["ash"], bands), -1, 0)
    for given in (scene, scene.chunk(y=7)):
        np.testing.assert_array_equal(composite_of(given, "ash"), expected)
    alone = composite_of(scene.isel(time=1), COMPOSITES["ash"])
    assert alone.dims == ("channel", "y", "x")
    np.testing.assert_array_equal(alone, expected[1])
    for wrong, message in (
        (scene.sel(band=[11, 14]), "band 15 is missing"),
        (scene.rename(brightness_temperature="kelvin"), "has no brightness_temperature with an index band"),
    ):
        with pytest.raises(ContrailError, match=message):
            composite_of(wrong, "ash")
