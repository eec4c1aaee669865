"""Damage to a store is an error that names the damaged file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import zarr

from contrail_data.errors import ContrailError
from contrail_data.storage.place import Place
from contrail_data.store.reader import open_store, pixel_reader
from contrail_data.store.schema import PROVENANCE
from contrail_data.store.verify import verify
from helpers.stores import build_small


def _rewrite(path: Path, change) -> None:
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))


STORE_DAMAGE = {
    "attribute gone": (
        lambda s: _rewrite(s / "zarr.json", lambda t: t["attributes"].pop("composite")),
        "not those that were sealed",
    ),
    "kind gone": (
        lambda s: _rewrite(s / "zarr.json", lambda t: t["attributes"].update(kind="other")),
        "not those that were sealed",
    ),
    "no JSON": (lambda s: (s / "zarr.json").write_text("{"), "cannot be opened"),
    "scalars cut": (lambda s: (s / "record_id/c/0").write_bytes(b"junk"), "record_id/c/0: fails its checksum"),
    "no layout": (lambda s: (s / "image/zarr.json").unlink(), "image/zarr.json"),
    "image gone": (lambda s: (s / "image/c.0.0.0.0.0").unlink(), "c.0.0.0.0.0"),
}


@pytest.mark.parametrize("kind", STORE_DAMAGE)
def test_a_damaged_store_is_an_error_that_names_the_place(raw: Path, tmp_path: Path, kind: str) -> None:
    from contrail_data.reports.preview import preview
    from contrail_data.reports.summary import as_text, summarise

    damage, message = STORE_DAMAGE[kind]
    build_small(raw, tmp_path / "s.zarr")
    damage(tmp_path / "s.zarr")

    def view_store() -> None:
        store = open_store(tmp_path / "s.zarr")
        as_text(summarise(store))
        preview(store, "18446744073709551616", tmp_path / "pictures")

    with pytest.raises(ContrailError, match=re.escape(message)):
        view_store()


def test_a_store_with_damaged_provenance_can_still_be_viewed(raw: Path, tmp_path: Path) -> None:
    from contrail_data.reports.preview import preview
    from contrail_data.reports.summary import as_text, summarise

    build_small(raw, tmp_path / "s.zarr")
    (tmp_path / "s.zarr" / PROVENANCE).write_text("[]")
    store = open_store(tmp_path / "s.zarr")
    assert "unknown" in as_text(summarise(store))["built"]
    assert {d.path for d in verify(Place(str(tmp_path / "s.zarr")))} == {PROVENANCE}
    (tmp_path / "file").write_text("")
    with pytest.raises(ContrailError, match="cannot be written"):
        preview(store, "18446744073709551616", tmp_path / "file" / "sub")
    with pytest.raises(ContrailError, match="not pseudo-labels or predictions"):
        preview(store, "18446744073709551616", tmp_path / "pictures", store)


def test_zarr_reads_the_same_pixels_as_the_checking_reader(sealed40: Path) -> None:
    group = zarr.open_group(sealed40, mode="r")
    store = open_store(sealed40)
    read = pixel_reader(store, check=True)
    out = np.empty((8, 3, 32, 32), np.uint8)
    for sample in (0, 7, 15, 16, 38):
        read(sample, range(8), out)
        np.testing.assert_array_equal(out, group["image"][sample])
