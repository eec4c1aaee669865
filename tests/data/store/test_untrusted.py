"""Hostile stores are refused before anything is decoded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numcodecs
import numpy as np
import pytest

from contrail_data.errors import ContrailError
from contrail_data.store.reader import open_store, pixel_reader, read_scalars
from helpers.cli import run_data
from helpers.stores import reseal, restate

HOSTILE = {
    "a pickle codec": lambda t: t["consolidated_metadata"]["metadata"]["record_id"]["codecs"].insert(
        0, {"name": "numcodecs.pickle", "configuration": {}}
    ),
    "a codec within shards": lambda t: t["consolidated_metadata"]["metadata"]["image"]["codecs"][0]["configuration"][
        "codecs"
    ].append({"name": "numcodecs.python", "configuration": {}}),
    "10^12 records": lambda t: [
        t["attributes"].update(samples=10**12),
        *[m["shape"].__setitem__(0, 10**12) for m in t["consolidated_metadata"]["metadata"].values() if m["shape"]],
    ],
    "10^12 pixels": lambda t: t["consolidated_metadata"]["metadata"]["latitude"].update(shape=[10**12]),
    "negative sizes": lambda t: t["consolidated_metadata"]["metadata"]["latitude"].update(shape=[-5]),
    "zarr 2": lambda t: t["consolidated_metadata"]["metadata"]["latitude"].update(zarr_format=2),
    "no codecs": lambda t: t["consolidated_metadata"]["metadata"]["latitude"].update(codecs=None),
    "arrays of a list": lambda t: t["consolidated_metadata"].update(metadata=[1, 2]),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_store_is_refused_before_anything_is_decoded(sealed40: Path, tmp_path: Path, kind: str) -> None:
    shutil.copytree(sealed40, tmp_path / "s.zarr")
    tree = json.loads((tmp_path / "s.zarr/zarr.json").read_text())
    HOSTILE[kind](tree)
    (tmp_path / "s.zarr/zarr.json").write_text(json.dumps(tree))
    restate(tmp_path / "s.zarr")
    with pytest.raises(ContrailError) as refused:
        open_store(tmp_path / "s.zarr")
    assert "\n" not in str(refused.value)
    assert "not those that were sealed" not in str(refused.value)


def test_a_manifest_with_paths_outside_the_store_is_refused(sealed40: Path, tmp_path: Path) -> None:
    shutil.copytree(sealed40, tmp_path / "s.zarr")
    manifest = tmp_path / "s.zarr/manifest.txt"
    manifest_text = manifest.read_text()
    for name in ("../../escape", "/etc/escape", ".ssh/escape", "a/../../escape", "a\\escape"):
        manifest.write_text(manifest_text + f"{'0' * 16} 4 {name}\n")
        restate(tmp_path / "s.zarr")
        done = run_data("pull", tmp_path / "s.zarr", "-o", tmp_path / "copy.zarr")
        assert done.returncode == 1
        assert "leads out" in done.stderr
        assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*escape*"))


def test_a_compression_bomb_in_the_values_is_not_decoded(sealed40: Path, tmp_path: Path) -> None:
    shutil.copytree(sealed40, tmp_path / "s.zarr")
    for name, key in (("height", "height/c/0"), ("record_id", "record_id/c/0"), ("channel", "channel/c/0")):
        path = tmp_path / "s.zarr" / key
        content = path.read_bytes()
        path.write_bytes(numcodecs.Zstd().encode(bytes(2**28)))  # 10 kB that decompress to 256 MB
        reseal(tmp_path / "s.zarr")
        with pytest.raises(ContrailError, match=rf"{name}/c.* claims 268,435,456 bytes"):
            read_scalars(open_store(tmp_path / "s.zarr"))
        path.write_bytes(content)
    reseal(tmp_path / "s.zarr")
    assert len(read_scalars(open_store(tmp_path / "s.zarr"))["record_id"]) == 39


def test_a_shard_index_with_false_sizes_allocates_no_memory(sealed40: Path, tmp_path: Path) -> None:
    """A false size in a shard index is an error of that file."""
    from google_crc32c import value as crc32c

    shutil.copytree(sealed40, tmp_path / "s.zarr")
    path = tmp_path / "s.zarr/mask/c.0.0.0"
    content = bytearray(path.read_bytes())
    index = np.frombuffer(content[-16 * 16 - 4 : -4], "<u8").copy()
    index[1] = 10**15
    content[-16 * 16 - 4 :] = index.tobytes() + crc32c(index.tobytes()).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(ContrailError, match="does not decode"):
        pixel_reader(open_store(tmp_path / "s.zarr"), "mask")(0, [0], np.empty((1, 32, 32), np.uint8))
