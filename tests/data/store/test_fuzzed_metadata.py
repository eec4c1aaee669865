"""Mutated store metadata gives pixels or an error of one line."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, seed
from hypothesis import strategies as st

from contrail_data.errors import ContrailError
from contrail_data.store.reader import open_store, pixel_reader, read_scalars
from contrail_data.store.schema import DIMS
from helpers.fuzzing import SEED, anything, one_line, some
from helpers.records import write_record
from helpers.stores import build_small, reseal


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


MUTATED = ("zarr.json", "image/zarr.json", "mask/zarr.json")


@pytest.mark.slow
@seed(SEED)
@some
@given(st.sampled_from(MUTATED), st.floats(0, 1), anything, st.booleans())
def test_stores_with_mutated_metadata_are_read_or_refused(
    sealed: Path, name: str, position: float, value: Any, remove: bool
) -> None:
    store = sealed.with_name("mutated.zarr")
    if not store.exists():
        shutil.copytree(sealed, store)
    for changed in (*MUTATED, "manifest.txt"):  # changed by the previous example
        (store / changed).write_bytes((sealed / changed).read_bytes())
    tree = json.loads((sealed / name).read_text())
    paths = paths_of(tree)
    path = paths[math.floor(position * (len(paths) - 1))]
    node = tree
    for key in path[:-1]:
        node = node[key]
    if not path:
        tree = value
    elif remove:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    (store / name).write_text(json.dumps(tree))
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
