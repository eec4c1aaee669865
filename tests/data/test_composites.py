"""Composites against pixels computed by hand and against the libraries that define the recipes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contrail_data.composites import COMPOSITES, dequantise, evaluate, from_dict, get_composite, quantise
from contrail_data.errors import ContrailError


def pixel(b11: float, b13: float, b14: float, b15: float) -> dict[int, np.ndarray]:
    return {b: np.array([[v]], np.float32) for b, v in zip((11, 13, 14, 15), (b11, b13, b14, b15), strict=True)}


# By hand: R = (b15 - b14 + 4) / 6, G = (b14 - b11 + 4) / 9, B = (b14 - 243) / 60, clipped;
# CIRA: R = (b15 - b13 + 6.7) / 9.3, G = (b14 - b11 + 6) / 12.3, B = (b13 - 243.6) / 58.8.
@pytest.mark.parametrize(
    ("kelvin", "ash", "cira"),
    [
        ((288, 291, 290, 288), (2 / 6, 6 / 9, 47 / 60), (3.7 / 9.3, 8 / 12.3, 47.4 / 58.8)),
        ((277, 278.5, 277, 272.8), (0, 4 / 9, 34 / 60), (1 / 9.3, 6 / 12.3, 34.9 / 58.8)),
        ((225, 225.3, 225, 224.6), (3.6 / 6, 4 / 9, 0), (6 / 9.3, 6 / 12.3, 0)),
        ((300, 310, 310, 313), (1, 1, 1), (1, 1, 1)),
    ],
    ids=["clear land", "contrail", "thick ice", "all above"],
)
def test_composites_agree_with_pixels_computed_by_hand(
    kelvin: tuple[float, ...], ash: tuple[float, ...], cira: tuple[float, ...]
) -> None:
    bands = pixel(*kelvin)
    np.testing.assert_allclose(evaluate(COMPOSITES["ash"], bands)[:, 0, 0], ash, atol=1e-5)
    np.testing.assert_allclose(evaluate(COMPOSITES["ash_cira"], bands)[:, 0, 0], cira, atol=1e-5)


def test_a_stack_has_the_channels_of_each_composite_once() -> None:
    stack = get_composite("ash+ash_wide+bands_diffs")
    names = ["R", "G", "B", "ash_wide_R", "ash_wide_G", "ash_wide_B"]
    assert stack.channel_names[:6] == names
    assert len(stack.channels) == 6 + 8  # band 14 and both differences are those of ash_wide
    bands = {b: np.full((1, 1), 250 + b, np.float32) for b in range(8, 17)}
    stacked = evaluate(stack, bands)
    np.testing.assert_array_equal(stacked[:3], evaluate(COMPOSITES["ash"], bands))
    np.testing.assert_array_equal(stacked[3:6], evaluate(COMPOSITES["ash_wide"], bands))
    assert from_dict(stack.to_dict()) == stack
    with pytest.raises(ContrailError, match="'ash': adds no channel"):
        get_composite("ash_cira+ash+ash")


def test_a_composite_states_the_type_in_which_it_is_stored() -> None:
    assert {name: c.dtype for name, c in COMPOSITES.items() if c.dtype != "uint8"} == {"ash_wide": "float16"}
    assert get_composite("ash+ash_wide").dtype == "float16"
    assert "dtype" not in COMPOSITES["ash_wide"].to_dict()  # it is that of the store
    with pytest.raises(ContrailError, match="dtype 'int8': unknown"):
        from_dict(COMPOSITES["ash"].to_dict() | {"dtype": "int8"})


@pytest.fixture(scope="module")
def scene() -> dict[int, np.ndarray]:
    rng = np.random.default_rng(1)
    warm = rng.uniform(200, 310, (40, 50))
    return {b: (warm + rng.normal(0, 3, warm.shape)).astype(np.float32) for b in (11, 13, 14, 15)}


def test_ash_equals_the_seviri_ash_of_pycontrails_bit_for_bit(scene: dict[int, np.ndarray]) -> None:
    goes = pytest.importorskip("pycontrails.datalib.goes")
    xr = pytest.importorskip("xarray")
    bands = [11, 14, 15]
    stacked = xr.DataArray(np.stack([scene[b] for b in bands]), dims=("band_id", "y", "x"), coords={"band_id": bands})
    theirs = goes.to_ash(stacked, convention="SEVIRI")
    ours = np.moveaxis(evaluate(COMPOSITES["ash"], scene), 0, -1)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.filterwarnings("ignore")
def test_ash_cira_agrees_with_satpy(scene: dict[int, np.ndarray]) -> None:
    satpy = pytest.importorskip("satpy")
    enhancer = pytest.importorskip("satpy.enhancements.enhancer")
    satpy_scene = satpy.Scene()
    for band, kelvin in scene.items():
        attrs = {"name": f"C{band}", "sensor": "abi", "platform_name": "GOES-16", "units": "K"}
        satpy_scene[f"C{band}"] = _dask_array(kelvin, attrs)
    satpy_scene.load(["ash"])
    theirs = enhancer.get_enhanced_image(satpy_scene["ash"]).data.transpose("bands", "y", "x").values
    ours = evaluate(COMPOSITES["ash_cira"], scene, clip=False)
    np.testing.assert_allclose(ours, theirs, atol=2e-5)


def _dask_array(kelvin: np.ndarray, attrs: dict[str, str]):
    import dask.array as da
    import xarray as xr

    return xr.DataArray(da.from_array(kelvin), dims=("y", "x"), attrs=attrs)


def test_ash_of_a_real_record_equals_the_published_frame_bit_for_bit(real_data) -> None:
    record = real_data / "opencontrails/train/195731008142151"
    bands = {b: np.load(record / f"band_{b}.npy")[..., 4] for b in (11, 14, 15)}
    published = np.load(real_data / "ash_frames/195731008142151.npy")
    ours = np.moveaxis(evaluate(COMPOSITES["ash"], bands), 0, -1).astype(np.float16)
    np.testing.assert_array_equal(ours, published[..., :3])


def test_wide_bounds_do_not_clip_real_records(real_data) -> None:
    for record in sorted((real_data / "opencontrails").glob("*/*/")):
        if (record / "band_15.npy").exists():
            bands = {b: np.load(record / f"band_{b}.npy") for b in (11, 14, 15)}
            unit = evaluate(COMPOSITES["ash_wide"], bands, clip=False)
            assert unit.min() > 0, record
            assert unit.max() < 1, record


def test_missing_pixels_stay_missing() -> None:
    bands = pixel(280, 280, float("nan"), 280)
    assert np.isnan(evaluate(COMPOSITES["ash"], bands)).all()


@given(st.floats(0, 1, width=32))
def test_uint8_rounds_by_at_most_half_a_step(value: float) -> None:
    stored = np.empty(1, np.uint8)
    quantise(np.array([value], np.float32), stored)
    assert abs(float(dequantise(stored)[0]) - value) <= 0.5 / 255 + 1e-6


def test_declarations_survive_yaml_and_invalid_ones_are_refused(tmp_path) -> None:
    import yaml

    for composite in COMPOSITES.values():
        path = tmp_path / f"{composite.name}.yaml"
        path.write_text(yaml.safe_dump(composite.to_dict()))
        assert get_composite(str(path)) == composite
    with pytest.raises(ContrailError, match="low must be below high"):
        from_dict({"channels": [{"name": "x", "band": 14, "low": 3, "high": 3}]})
    with pytest.raises(ContrailError, match=r"bands are 8 to 16"):
        from_dict({"channels": [{"name": "x", "band": 2, "low": 3, "high": 4}]})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        *(
            ({key: value}, "kelvin")
            for key in ("low", "high")
            for value in (".nan", ".inf", "-.inf", "1e308", "true", "'3'")
        ),
        *(
            ({key: value}, "bands are 8 to 16")
            for key in ("band", "minus")
            for value in ("true", "14.7", "'14'", "17", ".nan")
        ),
        ({"minus": "15"}, "another one than band"),
        ({"high": "250.001"}, "at least 0.01 K"),
        ({"high": "240"}, "low must be below high"),
        ({"name": "8"}, "not a text"),
        ({"gamma": "2"}, "malformed"),
        ({"low": "1\n    low: 2"}, "key 'low' occurs twice"),
    ],
)
def test_a_composite_is_refused_unless_its_numbers_are_usable(changes, reason: str, tmp_path) -> None:
    channel = {"name": "x", "band": "15", "low": "250", "high": "300"}
    path = tmp_path / "mine.yaml"
    for declared in (channel, channel | changes):
        path.write_text("\n".join(["channels:", "  -", *(f"    {key}: {value}" for key, value in declared.items())]))
        if declared is channel:
            assert get_composite(str(path)).bands == (15,)
    with pytest.raises(ContrailError, match=reason) as caught:
        get_composite(str(path))
    assert str(path) in str(caught.value)
