"""Contact sheets and animations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from PIL import Image

from contrail_data.errors import ContrailError
from contrail_data.reports import preview as pictures
from contrail_data.reports.choices import Sheet, Theme
from contrail_data.reports.figures import Mark, Motion, Panel, draw_picture
from contrail_data.reports.preview import contact_sheet, preview
from contrail_data.reports.selection import choose
from contrail_data.reports.store_page import store_page
from helpers.records import write_record
from helpers.stores import build_composite, predict_square


def test_disagreed_ranks_large_disputes_before_specks(tmp_path: Path) -> None:
    rng, size = np.random.default_rng(0), 64

    def record(name: str, *, all_four: int, one: int) -> None:
        """Write a record in which all four annotators mark `all_four` pixels and one annotator marks `one` more."""
        folder = write_record(tmp_path / "raw" / "train" / name, rng, size=size)
        votes = np.zeros((size * size, 4), "<i4")
        votes[:all_four] = 1
        votes[all_four : all_four + one, 2] = 1
        votes = votes.reshape(size, size, 1, 4)
        np.save(folder / "human_individual_masks.npy", votes)
        np.save(folder / "human_pixel_masks.npy", (votes.mean(-1) > 0.5).astype("<i4"))

    record("agreed", all_four=300, one=0)
    record("empty", all_four=0, one=0)
    record("speck", all_four=0, one=6)
    record("edges", all_four=400, one=200)
    record("dispute", all_four=50, one=450)
    store = build_composite(tmp_path / "raw", tmp_path / "s.zarr", size=size)
    selection = choose(store, Sheet.DISAGREED, 24)
    ids = store["record_id"].values
    assert [(ids[i], caption) for i, caption in selection.ranks.items()] == [
        ("dispute", "450 of 500 px disputed"),
        ("edges", "200 of 600 px disputed"),
        ("speck", "6 of 6 px disputed"),
    ]
    assert selection.candidates == 3
    assert [ids[i] for i in choose(store, Sheet.POSITIVES, 2).ranks] == ["edges", "agreed"]
    first, repeated, other_seed = (list(choose(store, Sheet.RANDOM, 5, seed).ranks) for seed in (1, 1, 2))
    assert first == repeated != other_seed
    assert len(choose(store, Sheet.BRIGHTEST, 3).ranks) == 3


@pytest.mark.slow
def test_pictures_of_stores_do_not_overwrite_each_other(raw: Path, store: xr.Dataset, tmp_path: Path) -> None:
    record_id, out = str(store["record_id"].values[0]), tmp_path / "pictures"
    other = build_composite(raw, tmp_path / "elsewhere" / "s.zarr", "ash_wide")
    prediction = predict_square(store, tmp_path / "p.zarr", pseudo=True)
    paths = [*preview(store, record_id, out), *preview(other, record_id, out)]
    paths += preview(store, record_id, out, prediction)
    for sheet in pictures.default_sheets(store):
        paths += [contact_sheet(store, sheet, out), contact_sheet(store, sheet, out, prediction=prediction)]
    assert len(set(paths)) == 10
    assert all(p.is_file() for p in paths)
    width, height = Image.open(paths[-1]).size
    assert 1 < width / height < 2.5
    partial_sheet = contact_sheet(store, Sheet.POSITIVES, out, prediction=prediction.isel(sample=slice(4)))
    assert partial_sheet.is_file()  # records without a prediction are reported, not refused


def test_a_store_without_metadata_has_pictures_and_a_report(bare: xr.Dataset, tmp_path: Path) -> None:
    (path,) = preview(bare, "f1", tmp_path / "pictures")  # one frame: nothing to animate, no second row
    assert Image.open(path).height < 700
    assert contact_sheet(bare, Sheet.POSITIVES, tmp_path / "pictures").is_file()
    with pytest.raises(ContrailError, match="no record on which annotators disagree"):
        contact_sheet(bare, Sheet.DISAGREED, tmp_path / "pictures")
    html = store_page(bare)
    assert "No record has a place" in html
    assert "No record has a time" in html
    assert "No record has votes" in html


def test_pseudo_labels_of_labelled_frames_only_have_nothing_to_outline(bare: xr.Dataset, tmp_path: Path) -> None:
    prediction = predict_square(bare, tmp_path / "p.zarr", pseudo=True)
    (path,) = preview(bare, "f1", tmp_path / "pictures", prediction)
    assert path.is_file()


@pytest.mark.parametrize("labelled", [True, False])
def test_the_legend_names_only_what_is_outlined(
    labelled: bool, bare: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, legends = pictures.draw_picture, []

    def noted(*args: Any, **options: Any) -> Image.Image:
        legends.append(options["marks"])
        return draw(*args, **options)

    monkeypatch.setattr(pictures, "draw_picture", noted)
    if not labelled:
        monkeypatch.setattr(pictures.SampleViewer, "label", lambda *_: None)
    preview(bare, "f1", tmp_path)
    contact_sheet(bare, Sheet.RANDOM, tmp_path)
    assert legends == [[Mark.LABEL] * labelled] * 2


def test_flow_is_drawn_to_and_from_the_labelled_frame(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, shapes = build_composite(raw, tmp_path / "s.zarr", size=64), []
    rows = []
    monkeypatch.setattr(pictures, "draw_picture", lambda drawn, **_: rows.append(drawn) or Image.new("RGB", (9, 9)))
    monkeypatch.setattr(
        "contrail_data.reports.pictures.flow_between",
        lambda a, b: shapes.append((a, b)) or np.full((2, 64, 64), 3, np.float32),
    )
    record_id, frames = str(store["record_id"].values[0]), store["image"].values[0]
    preview(store, record_id, tmp_path, flow=True)
    assert [panel.caption for panel in rows[0][1]] == ["optical flow, frame 3 to 4", "optical flow, frame 4 to 5"]
    for (before, after), first in zip(shapes, (3, 4), strict=True):
        np.testing.assert_array_equal(before, frames[first])
        np.testing.assert_array_equal(after, frames[first + 1])
    pixel_km = pictures.SampleViewer(store, store).ground(0).pixel_km
    assert rows[0][1][0].motion.legend == f"5 px in 10 min, {5 * pixel_km * 6:.0f} km/h"


def test_arrows_point_where_the_imagery_moves() -> None:
    def drawn(down: float, right: float) -> np.ndarray:
        flow = np.zeros((2, 40, 40), np.float32)
        flow[:, 21, 21] = down, right
        panel = Panel(
            image=np.zeros((40, 40, 3), np.uint8), width=400, motion=Motion(flow_dyx=flow, pixels=1, legend="")
        )
        return np.asarray(draw_picture([[panel]], theme=Theme.DARK).convert("L"))[:400].astype(int)

    still = drawn(0, 0)
    for down, right in ((4.0, 0.0), (0.0, -4.0)):
        rows, columns = np.nonzero(drawn(down, right) - still > 100)
        assert np.sign(round(rows.mean() - 215, -1)) == np.sign(down)
        assert np.sign(round(columns.mean() - 223, -1)) == np.sign(right)


def test_a_store_of_single_frames_has_no_flow(bare: xr.Dataset, tmp_path: Path) -> None:
    with pytest.raises(ContrailError, match="omit --flow"):
        preview(bare, "f1", tmp_path, flow=True)


def test_hostile_record_ids_are_not_used_as_file_names(store: xr.Dataset, tmp_path: Path) -> None:
    ids = store["record_id"].values.copy()
    ids[0] = "../../evil"
    with pytest.raises(ContrailError, match="not a plain name"):
        preview(store.assign_coords(record_id=("sample", ids)), "../../evil", tmp_path / "a" / "b")
    assert not list(tmp_path.rglob("*evil*"))
