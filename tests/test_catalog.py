"""Stores by name: the nearest catalog, its own folder, and digests that are held to."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from test_build import build_small

from contrail_data.catalog import open_named
from contrail_data.errors import ContrailError


def write_catalog(path: Path, **entries: object) -> None:
    path.write_text(yaml.safe_dump({"metadata": {"version": 1}, "sources": entries}))


def test_names_paths_and_digests(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = build_small(raw, tmp_path / "stores" / "ash.zarr").digest
    entry = {"driver": "zarr", "args": {"urlpath": "{{ CATALOG_DIR }}/stores/ash.zarr"}}
    write_catalog(
        tmp_path / "data_catalog.yaml",
        ash_train=entry,
        held={**entry, "metadata": {"digest": digest}},
        rotten={**entry, "metadata": {"digest": "sha256:0123"}},
        broken=3,
    )
    (tmp_path / "work" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work" / "deep")  # the catalog lies two folders up
    assert open_named("ash_train").attrs["digest"] == digest
    assert open_named("held").attrs["digest"] == digest
    assert open_named(str(tmp_path / "stores/ash.zarr")).attrs["digest"] == digest
    assert open_named((tmp_path / "stores/ash.zarr").as_uri()).attrs["digest"] == digest
    for name, told in [
        ("rotten", "the catalog says sha256:0123"),
        ("broken", "no args.urlpath"),
        ("ash_trian", "did you mean the catalog name 'ash_train'"),
    ]:
        with pytest.raises(ContrailError, match=told):
            open_named(name)
    monkeypatch.setenv("CONTRAIL_CATALOG", str(tmp_path / "none.yaml"))
    with pytest.raises(ContrailError, match="CONTRAIL_CATALOG"):
        open_named("ash_train")


def test_the_projects_own_catalog_names_the_demos_stores() -> None:
    catalog = yaml.safe_load((Path(__file__).parents[1] / "data_catalog.yaml").read_text())
    assert {"demo_train", "demo_validation", "demo_train_pseudo"} <= catalog["sources"].keys()
    demo = (Path(__file__).parents[1] / "demo.sh").read_text()
    for entry in catalog["sources"].values():
        assert entry["args"]["urlpath"].removeprefix("{{ CATALOG_DIR }}/") in demo
