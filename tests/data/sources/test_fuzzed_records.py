"""Mutated records and metadata give a sample or an error of one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, seed
from hypothesis import strategies as st

from contrail_data.composites import COMPOSITES
from contrail_data.errors import BadRecord
from contrail_data.sample import KELVIN_RANGE
from contrail_data.sources.records import open_records
from helpers.fuzzing import SEED, anything, edits, many, mutated, one_line, some
from helpers.records import WKT, write_record

FILES = ("band_11.npy", "band_14.npy", "band_15.npy", "human_pixel_masks.npy", "human_individual_masks.npy")

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


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_record(tmp_path_factory.mktemp("fuzz") / "train" / "one", np.random.default_rng(0), size=8)


def read_or_refuse(folder: Path) -> None:
    """Read the record, which must give plausible pixels or be refused in one line."""
    source = open_records(folder.parent.parent, "train", COMPOSITES["ash"])
    assert all("\n" not in line and len(line) < 500 for line in source.problems)
    try:
        sample = source.read_sample(folder.name)
    except BadRecord as error:
        one_line(error)
        return
    kelvin = sample.pixels
    assert kelvin.dtype == np.float32
    assert kelvin.nbytes < 2**20
    assert KELVIN_RANGE[0] <= kelvin.min() <= kelvin.max() <= KELVIN_RANGE[1]
    assert set(np.unique(sample.labels.mask)) <= {0, 1}


@pytest.mark.slow
@seed(SEED)
@many
@given(st.sampled_from(FILES), edits)
def test_mutated_record_files_are_read_or_refused(
    record: Path, name: str, changes: list[tuple[float, int, bytes]]
) -> None:
    original = (record / name).read_bytes()
    try:
        (record / name).write_bytes(mutated(original, changes))
        read_or_refuse(record)
    finally:
        (record / name).write_bytes(original)
    assert not Path("exploded").exists()


@pytest.mark.slow
@seed(SEED)
@some
@given(st.sampled_from(FILES), headers, st.sampled_from([b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\xff\xff"]))
def test_files_with_hostile_headers_are_read_or_refused(record: Path, name: str, header: str, version: bytes) -> None:
    original = (record / name).read_bytes()
    encoded = header.encode("utf-8", "surrogatepass")
    size = len(encoded).to_bytes(2 if version == b"\x01\x00" else 4, "little")
    try:
        (record / name).write_bytes(b"\x93NUMPY" + version + size + encoded + original[128:])
        read_or_refuse(record)
    finally:
        (record / name).write_bytes(original)
    assert not Path("exploded").exists()


entries = st.fixed_dictionaries(
    {},
    optional={
        "record_id": st.sampled_from(["one", "../one", "", "a" * 500]) | anything,
        "timestamp": st.floats(0, 3e9) | anything,
        "projection_wkt": st.sampled_from([WKT, WKT[:200], "PROJCS"]) | anything,
        **{key: st.floats(-1e7, 1e7) | anything for key in ("row_min", "row_size", "col_min", "col_size")},
    },
)


@pytest.mark.slow
@seed(SEED)
@some
@given(st.lists(entries, max_size=3) | anything)
@example([{"record_id": "one", "timestamp": 1e300}])
def test_records_with_mutated_metadata_are_read_or_refused(record: Path, content: Any) -> None:
    path = record.parent.parent / "train_metadata.json"
    path.write_text(json.dumps(content))
    read_or_refuse(record)
