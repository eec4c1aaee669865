"""The direct reader and writer against zarr, over layouts and codecs, and the errors for damaged files."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contrail_data.errors import ContrailError
from contrail_data.storage.place import Place
from contrail_data.store.layout import CODECS, parse_layout
from contrail_data.store.schema import ArraySpec, PixelDtype
from contrail_data.store.shards import ShardReader, writing_shards
from contrail_data.store.writer import create_arrays

layouts = st.fixed_dictionaries(
    {
        "frames": st.integers(1, 4),
        "height": st.integers(1, 9),
        "dtype": st.sampled_from(["uint8", "float16", "float32"]),
        "codec": st.sampled_from(list(CODECS)),
    }
)


@pytest.mark.slow
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(layouts, st.data())
def test_arrays_written_by_zarr_are_read(tmp_path_factory, layout: dict, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("array")
    shape = (18, layout["frames"], 2, layout["height"], 3)
    values = np.random.default_rng(0).integers(0, 200, shape).astype(layout["dtype"])
    written = zarr.create_array(
        str(folder / "image"),
        shape=shape,
        shards=(16, *shape[1:]),
        chunks=(1, 1, *shape[2:]),
        dtype=layout["dtype"],
        compressors=CODECS[layout["codec"]] and [CODECS[layout["codec"]]],
        chunk_key_encoding={"name": "default", "separator": "."},
        config={"write_empty_chunks": True},
    )
    written[...] = values
    parsed = parse_layout(Place(str(folder)), "image", (folder / "image/zarr.json").read_bytes())
    read = ShardReader(parsed)
    for _ in range(2):  # the second read uses the files that the first one left open
        sample = data.draw(st.integers(0, 17))
        units = data.draw(st.lists(st.integers(0, parsed.units - 1), min_size=1, max_size=4))
        out = np.empty((len(units), *parsed.unit_shape), parsed.dtype)
        read(sample, units, out)
        all_units = values[sample].reshape(parsed.units, *parsed.unit_shape)
        np.testing.assert_array_equal(out, all_units[units])


def write_all(place: Place, name: str, codec: str, values: np.ndarray) -> ShardReader:
    """Write all samples in shards, later positions first."""
    (layout,) = create_arrays(
        place, {name: ArraySpec(values.shape[1:], PixelDtype(str(values.dtype)), codec)}, len(values)
    ).values()
    for file in range(-(-layout.samples // 16)):
        with writing_shards({name: layout}, file) as writers:
            for position in reversed(range(min(16, len(values) - 16 * file))):
                writers[name].add(position, values[16 * file + position])
            writers[name].finish()
    return ShardReader(layout)


@pytest.mark.parametrize("codec", list(CODECS))
@pytest.mark.parametrize("name", ["image", "mask"])
def test_zarr_reads_the_arrays_that_are_written(tmp_path: Path, codec: str, name: str) -> None:
    shape = (18, 3, 2, 8, 8) if name == "image" else (18, 8, 8)
    values = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    write_all(Place(str(tmp_path)), name, codec, values)
    np.testing.assert_array_equal(zarr.open_array(str(tmp_path / name), mode="r")[...], values)


@pytest.mark.parametrize("codec", list(CODECS))
def test_damage_is_an_error_that_names_the_file(tmp_path: Path, codec: str) -> None:
    values = np.random.default_rng(0).integers(0, 255, (2, 3, 2, 8, 8), np.uint8)
    layout = write_all(Place(str(tmp_path)), "image", codec, values).layout
    path = tmp_path / layout.key(0)
    content = path.read_bytes()
    out = np.empty((3, 2, 8, 8), np.uint8)
    for damaged in (content[:-7], content[:20], b"", content[:-30] + b"\xff" * 30):
        path.write_bytes(damaged)
        with pytest.raises(ContrailError, match=r"image.c\.0\.0"):
            ShardReader(layout)(0, [0, 1, 2], out)
    for reads_before in (1, 3):  # the later ones are from mapped pages
        path.write_bytes(content)
        read = ShardReader(layout)
        for _ in range(reads_before):
            read(1, [0], out[:1])
        path.write_bytes(b"")  # truncate the open file: this must be an error, not a crash
        with pytest.raises(ContrailError, match="does not decode"):
            read(1, [0], out[:1])
    path.unlink()
    with pytest.raises(ContrailError, match=r"c\.0\.0.*cannot be read"):
        ShardReader(layout)(0, [0], out[:1])
    for sample, units in ((2, [0]), (-1, [0]), (0, [3]), (0, [])):
        with pytest.raises(IndexError):
            read(sample, units, out[: len(units)])


@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_frames_in_any_order_are_read_alike_at_first_and_again(tmp_path: Path, codec: str) -> None:
    values = np.random.default_rng(0).integers(0, 255, (2, 4, 2, 8, 8), np.uint8)
    read = write_all(Place(str(tmp_path)), "image", codec, values)
    for frames in ([1], [1, 2], [0, 1, 2, 3], [3, 1], [0, 0, 1], range(1, 3)) * 2:
        out = np.empty((len(frames), 2, 8, 8), np.uint8)
        for sample in (0, 1):
            read(sample, frames, out)
            np.testing.assert_array_equal(out, values[sample, [*frames]])
        with pytest.raises(ValueError, match="C-contiguous"):
            read(0, frames, np.empty((2, *out.shape), np.uint8)[:, 0])
        with pytest.raises(IndexError, match="no sample"):
            read(2, frames, out)


def test_many_threads_and_a_forked_process_read_the_same(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 255, (200, 2, 1, 8, 8), np.uint8)
    read = write_all(Place(str(tmp_path)), "image", "none", values)
    read._keep = 3  # fewer handles than files: some files are opened for each read

    def count_mismatches(seed: int) -> int:
        out = np.empty((1, 1, 8, 8), np.uint8)
        mismatches = 0
        for sample in np.random.default_rng(seed).integers(0, 200, 2000).tolist():
            read(sample, [sample % 2], out)
            mismatches += not np.array_equal(out[0], values[sample, sample % 2])
        return mismatches

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(count_mismatches, range(4))) == [0, 0, 0, 0]
    child = os.fork()
    if child == 0:
        os._exit(min(1, count_mismatches(9)))
    assert os.waitpid(child, 0)[1] == 0
    assert count_mismatches(10) == 0


def test_other_layouts_are_refused(tmp_path: Path) -> None:
    usual = {"shards": (16, 2, 8, 8), "chunks": (1, 1, 8, 8)}
    transposed = [{"name": "transpose", "configuration": {"order": [0, 1, 3, 2]}}]
    for options in (
        usual,  # chunks in folders
        {"chunks": (1, 1, 8, 8)},  # no shards
        {**usual, "shards": (8, 2, 8, 8)},
        {**usual, "chunks": (1, 1, 4, 8)},
        {**usual, "filters": transposed},
    ):
        separator = "/" if options is usual else "."
        encoding = {"name": "default", "separator": separator}
        zarr.create_array(
            str(tmp_path / "valid"), shape=(16, 2, 8, 8), dtype="uint8", chunk_key_encoding=encoding, overwrite=True,
            **options,
        )  # fmt: skip
        with pytest.raises(ValueError, match=r"layout|unpack|malformed"):
            parse_layout(Place(str(tmp_path)), "valid", (tmp_path / "valid/zarr.json").read_bytes())
