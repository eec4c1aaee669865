"""Headers of `.npy` files."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pytest

from contrail_data.errors import BadRecord
from contrail_data.sources import npy


def test_headers_are_parsed_by_one_thread_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interpreter that cannot parse in two threads at once took sound files for damaged ones."""
    sides, parse, parsing, release = range(1, 9), npy.npy_format.read_array_header_1_0, Lock(), Lock()
    for side in sides:
        np.save(tmp_path / f"{side}.npy", np.zeros((side, 7), np.float32))

    def exclusive_parse(*arguments: Any, **options: Any) -> Any:
        assert parsing.acquire(blocking=False), "two threads at once"
        with release:  # held by the test until all files have been given out
            header = parse(*arguments, **options)
        parsing.release()
        return header

    monkeypatch.setattr(npy.npy_format, "read_array_header_1_0", exclusive_parse)
    with ThreadPoolExecutor(len(sides)) as pool:
        with release:
            arrays = [pool.submit(npy.read_npy, tmp_path / f"{side}.npy", kinds="f", shape=(None, 7)) for side in sides]
        assert [array.result().shape for array in arrays] == [(side, 7) for side in sides]


def test_a_file_that_becomes_shorter_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "band.npy"
    np.save(path, np.zeros((16, 16), np.float32))

    def read_shortened() -> None:
        with npy.opened_npy(path, kinds="f", shape=(16, 16)) as file:
            os.truncate(path, 500)
            file.read()

    with pytest.raises(BadRecord, match=r"band\.npy: cannot be read \(it became shorter while it was read\)"):
        read_shortened()
