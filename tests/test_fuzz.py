"""Mutated records, metadata and stores: the outcome is a sample or one line, never anything else.

Seed 20261123 (hypothesis's own way of trying inputs follows from it); besides, 1 to 5 were tried by hand.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from conftest import WKT, reseal, write_record
from hypothesis import HealthCheck, example, given, seed, settings
from hypothesis import strategies as st
from test_build import build_small

from contrail_data.errors import BadRecord, ContrailError
from contrail_data.sample import KELVIN_RANGE
from contrail_data.sources import records
from contrail_data.store.reader import open_store, pixel_reader, read_scalars
from contrail_data.store.schema import DIMS

SEED = 20261123
FILES = ("band_11.npy", "band_14.npy", "band_15.npy", "human_pixel_masks.npy", "human_individual_masks.npy")
many = settings(
    max_examples=2500, deadline=5000, derandomize=False, database=None, suppress_health_check=list(HealthCheck)
)
some = settings(many, max_examples=300)

# Where it goes, what is taken away there, what is put there.
edits = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 40), st.binary(max_size=40)), min_size=1, max_size=4)
headers = st.one_of(
    st.sampled_from(
        [
            "{'descr': '|O', 'fortran_order': False, 'shape': (8, 8, 8), }",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 8, 8), }",
            "{'descr': '<f4', 'fortran_order': True, 'shape': (8, 8, 8), }",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (-8, -8, 8), }",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (True, 8, 8), }",
            "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (8, 8, 8), }",
            "{'descr': '<M8[ns]', 'fortran_order': False, 'shape': (8, 8, 8), }",
            "{'descr': '<f4', 'fortran_order': __import__('os').system('touch exploded'), 'shape': (8, 8, 8), }",
            "(" * 2000,
            "{'descr': '<f4', 'fortran_order': False, 'shape': (" + "9" * 5000 + ",), }",
        ]
    ),
    st.text(max_size=80),
)


def mutated(content: bytes, changes: list[tuple[float, int, bytes]]) -> bytes:
    for where, removed, added in changes:
        at = round(where * len(content)) if where < 0.9 else round((where - 0.9) * 10 * min(len(content), 128))
        content = content[:at] + added + content[at + removed :]
    return content


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_record(tmp_path_factory.mktemp("fuzz") / "train" / "one", np.random.default_rng(0), size=8)


def one_line(error: ContrailError) -> None:
    assert "\n" not in str(error)
    assert len(str(error)) < 600


def read_or_refuse(folder: Path, entry: dict[str, Any]) -> None:
    try:
        sample = records.read(folder.parent, (11, 14, 15), folder.name, entry)
    except BadRecord as error:
        one_line(error)
        return
    kelvin = sample["brightness_temperature"].values
    assert kelvin.dtype == np.float32
    assert kelvin.nbytes < 2**20
    assert KELVIN_RANGE[0] <= kelvin.min() <= kelvin.max() <= KELVIN_RANGE[1]
    assert set(np.unique(sample["mask"])) <= {0, 1}


@seed(SEED)
@many
@given(st.sampled_from(FILES), edits)
def test_mutated_record_files(record: Path, name: str, changes: list[tuple[float, int, bytes]]) -> None:
    whole = (record / name).read_bytes()
    try:
        (record / name).write_bytes(mutated(whole, changes))
        read_or_refuse(record, {})
    finally:
        (record / name).write_bytes(whole)
    assert not Path("exploded").exists()


@seed(SEED)
@some
@given(st.sampled_from(FILES), headers, st.sampled_from([b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\xff\xff"]))
def test_hostile_headers(record: Path, name: str, header: str, version: bytes) -> None:
    whole = (record / name).read_bytes()
    told = header.encode("utf-8", "surrogatepass")
    size = len(told).to_bytes(2 if version == b"\x01\x00" else 4, "little")
    try:
        (record / name).write_bytes(b"\x93NUMPY" + version + size + told + whole[128:])
        read_or_refuse(record, {})
    finally:
        (record / name).write_bytes(whole)
    assert not Path("exploded").exists()


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
entries = st.fixed_dictionaries(
    {},
    optional={
        "record_id": st.sampled_from(["one", "../one", "", "a" * 500]) | anything,
        "timestamp": st.floats(0, 3e9) | anything,
        "projection_wkt": st.sampled_from([WKT, WKT[:200], "PROJCS"]) | anything,
        **{key: st.floats(-1e7, 1e7) | anything for key in ("row_min", "row_size", "col_min", "col_size")},
    },
)


@seed(SEED)
@some
@given(st.lists(entries, max_size=3) | anything)
@example([{"record_id": "one", "timestamp": 1e300}])
def test_mutated_metadata(record: Path, content: Any) -> None:
    path = record.parent.parent / "train_metadata.json"
    path.write_text(json.dumps(content))
    problems: list[str] = []
    found = records._read_metadata(path, problems)
    assert all("\n" not in line and len(line) < 500 for line in problems)
    read_or_refuse(record, found.get("one", {}))


def paths_of(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [path, *(p for key, value in children for p in paths_of(value, (*path, key)))]


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("stores")
    for i in range(3):
        write_record(root / "raw/train" / str(i), np.random.default_rng(i))
    build_small(root / "raw", root / "s.zarr")
    return root / "s.zarr"


@seed(SEED)
@some
@given(st.sampled_from(["zarr.json", "image/zarr.json", "mask/zarr.json"]), st.floats(0, 1), anything, st.booleans())
def test_mutated_store_metadata(
    sealed: Path, tmp_path_factory: pytest.TempPathFactory, name: str, where: float, value: Any, remove: bool
) -> None:
    store = sealed.with_name("mutated.zarr")
    if store.exists():
        shutil.rmtree(store)
    shutil.copytree(sealed, store, copy_function=lambda a, b: Path(b).symlink_to(a))
    tree = json.loads((sealed / name).read_text())
    places = paths_of(tree)
    path = places[math.floor(where * (len(places) - 1))]
    node = tree
    for key in path[:-1]:
        node = node[key]
    if not path:
        tree = value
    elif remove:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    (store / name).unlink()
    (store / name).write_text(json.dumps(tree))
    for own in ("zarr.json", "manifest.txt"):  # not through the link to the other tests' store
        content = (store / own).read_bytes()
        (store / own).unlink()
        (store / own).write_bytes(content)
    reseal(store)
    try:
        opened = open_store(store)
        assert isinstance(opened, xr.Dataset)
        read_scalars(opened)
        for array in (n for n in DIMS if n in opened.variables):
            shape = opened[array].shape[1:] if "time" in DIMS[array] else (1, *opened[array].shape[1:])
            if math.prod(shape) < 2**20:
                pixel_reader(opened, array)(0, list(range(shape[0])), np.empty(shape, opened[array].dtype))
    except ContrailError as error:
        one_line(error)
