"""The direct reader and writer against zarr itself, over layouts and codecs; and what damage does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contrail_data.errors import ContrailError
from contrail_data.shards import CODECS, parse_layout, read_sample, write_sample
from contrail_data.store import Array, create_arrays

layouts = st.fixed_dictionaries(
    {
        "frames": st.integers(1, 4),
        "height": st.integers(1, 9),
        "dtype": st.sampled_from(["uint8", "float16", "float32"]),
        "codec": st.sampled_from(list(CODECS)),
        "samples_per_shard": st.sampled_from([None, 1, 3]),
        "separator": st.sampled_from([".", "/"]),
    }
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(layouts, st.data())
def test_reads_what_zarr_wrote(tmp_path_factory, layout: dict, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("array")
    shape = (5, layout["frames"], 2, layout["height"], 3)
    values = np.random.default_rng(0).integers(0, 200, shape).astype(layout["dtype"])
    shard = layout["samples_per_shard"]
    written = zarr.create_array(
        str(folder / "a"),
        shape=shape,
        shards=None if shard is None else (shard, *shape[1:]),
        chunks=(1, *shape[1:]) if shard is None else (1, 1, *shape[2:]),
        dtype=layout["dtype"],
        compressors=CODECS[layout["codec"]] and [CODECS[layout["codec"]]],
        chunk_key_encoding={"name": "default", "separator": layout["separator"]},
        config={"write_empty_chunks": True},
    )
    written[...] = values
    parsed = parse_layout(folder / "a")
    assert parsed is not None
    sample = data.draw(st.integers(0, 4))
    units = data.draw(st.lists(st.integers(0, parsed.units - 1), min_size=1, max_size=4))
    out = np.empty((len(units), *parsed.unit_shape), parsed.dtype)
    read_sample(parsed, sample, units, out)
    whole = values[sample].reshape(parsed.units, *parsed.unit_shape)
    np.testing.assert_array_equal(out, whole[units])


@pytest.mark.parametrize("codec", list(CODECS))
@pytest.mark.parametrize("apart", [True, False])
def test_zarr_reads_what_we_wrote(tmp_path: Path, codec: str, apart: bool) -> None:
    name = "image" if apart else "mask"
    shape = (3, 2, 8, 8) if apart else (8, 8)
    (layout,) = create_arrays(tmp_path, {name: Array(shape, "uint8", codec, apart)}, 2).values()
    values = np.random.default_rng(0).integers(0, 255, (2, *shape), np.uint8)
    for sample in (1, 0):
        write_sample(layout, sample, values[sample])
    np.testing.assert_array_equal(zarr.open_array(str(tmp_path / name), mode="r")[...], values)


@pytest.mark.parametrize("codec", list(CODECS))
def test_damage_is_an_error_that_names_the_file(tmp_path: Path, codec: str) -> None:
    (layout,) = create_arrays(tmp_path, {"image": Array((3, 2, 8, 8), "uint8", codec, True)}, 1).values()
    write_sample(layout, 0, np.random.default_rng(0).integers(0, 255, (3, 2, 8, 8), np.uint8))
    whole = Path(layout.path(0)).read_bytes()
    out = np.empty((3, 2, 8, 8), np.uint8)
    for damaged in (whole[:-7], whole[:20], b"", whole[:-30] + b"\xff" * 30):
        Path(layout.path(0)).write_bytes(damaged)
        with pytest.raises(ContrailError, match=r"image.c\.0\.0"):
            read_sample(layout, 0, [0, 1, 2], out)
    Path(layout.path(0)).unlink()
    with pytest.raises(ContrailError, match=r"c\.0\.0.*cannot be read"):
        read_sample(layout, 0, [0], out)


def test_other_layouts_are_left_to_zarr(tmp_path: Path) -> None:
    for i, options in enumerate(
        [
            {"chunks": (2, 2, 8, 8)},  # two samples in a chunk
            {"chunks": (1, 2, 4, 8)},  # rows split
            {"chunks": (1, 2, 8, 8), "filters": [{"name": "transpose", "configuration": {"order": [0, 1, 3, 2]}}]},
        ]
    ):
        zarr.create_array(str(tmp_path / str(i)), shape=(4, 2, 8, 8), dtype="uint8", **options)
        assert parse_layout(tmp_path / str(i)) is None
