"""What shows a store: facts as JSON, contact sheets, the report."""

from __future__ import annotations

import json
import textwrap
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from conftest import write_record
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from contrail_data.build.build import build
from contrail_data.cli.main import app
from contrail_data.composites import COMPOSITES, Channel, Composite
from contrail_data.errors import ContrailError
from contrail_data.labels.predictor import Decision, Predicted
from contrail_data.labels.write import label_store
from contrail_data.reports import preview as pictures
from contrail_data.reports.page import view_from
from contrail_data.reports.pictures import LABEL_COLOUR, PREDICTION_COLOUR, VOTE_COLOUR, Look
from contrail_data.reports.preview import choose, contact_sheet, preview
from contrail_data.reports.store_page import page, write_report
from contrail_data.reports.summary import facts, summary
from contrail_data.sources.open import open_source
from contrail_data.store.reader import open_store, read_scalars
from contrail_data.store.settings import Settings


def built(root: Path, out: Path, composite: str = "ash", size: int = 32) -> xr.Dataset:
    recipe = COMPOSITES[composite]
    build(open_source(root, "train", recipe), Settings(recipe, size=size), out, workers=2)
    return open_store(out)


def predicted(store: xr.Dataset, out: Path, *, pseudo: bool) -> xr.Dataset:
    def predict(x_btchw: np.ndarray, valid_bhw: np.ndarray | None) -> Predicted:
        p_bhw = np.zeros(x_btchw[:, 0, 0].shape, np.float32)
        p_bhw[..., 20:24, 20:24] = 0.9
        return Predicted(p_bhw, np.full(len(p_bhw), 0.9, np.float32), np.ones(len(p_bhw), np.float32))

    kind = "pseudo-labels" if pseudo else "predictions"
    decision = Decision(0.5, 0.1, 16, "sha256:00")
    label_store(store, predict, decision, out, store_kind=kind, frames="all" if pseudo else "labelled")
    return open_store(out)


@pytest.fixture
def store(raw: Path, tmp_path: Path) -> xr.Dataset:
    return built(raw, tmp_path / "s.zarr")


@pytest.fixture
def bare(tmp_path: Path) -> xr.Dataset:
    """One sample of one frame, without time, place or annotators."""
    (tmp_path / "frames").mkdir()
    frame = np.random.default_rng(0).random((256, 256, 4)).astype(np.float16)
    frame[..., 3] = 0
    frame[40:44, 40:200, 3] = 1
    np.save(tmp_path / "frames" / "f1.npy", frame)
    return built(tmp_path / "frames", tmp_path / "bare.zarr", size=256)


def test_json_facts_are_those_of_the_raw_masks(raw: Path, store: xr.Dataset) -> None:
    done = CliRunner().invoke(app, ["inspect", store.attrs["path"], "--json"])
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    masks = [np.load(p) for p in sorted((raw / "train").glob("*/human_pixel_masks.npy"))]
    assert found == facts(store)
    assert found["labels"] == {
        "sources": {"human": 9},
        "records": 9,
        "positive_records": sum(bool(m.any()) for m in masks),
        "pixels": sum(m.size for m in masks),
        "positive_pixels": sum(int(m.sum()) for m in masks),
    }
    assert (found["samples"], found["annotators"], found["duplicates"]) == (9, {"4": 9}, 0)
    assert found["variables"]["image"]["shape"] == {"sample": 9, "time": 8, "channel": 3, "y": 32, "x": 32}
    assert (found["time"]["first"], found["time"]["unknown"]) == ("2020-03-12T02:40:00Z", 1)
    assert found["place"]["latitude"][0] == pytest.approx(24.0, abs=0.5)
    assert found["composite"] == COMPOSITES["ash"].to_dict()


def test_the_screen_is_one_screen(raw: Path, bare: xr.Dataset, store: xr.Dataset, tmp_path: Path) -> None:
    for i in range(9):
        for band in range(8, 17):
            path = sorted((raw / "train").iterdir())[i] / f"band_{band:02d}.npy"
            if not path.exists():
                np.save(path, np.full((32, 32, 8), 270 + band, "<f4"))
    many = built(raw, tmp_path / "many.zarr", "bands_diffs")
    for shown in (bare, many, predicted(store, tmp_path / "p.zarr", pseudo=True)):
        told = summary(facts(shown))
        indent = max(map(len, told)) + 2
        assert sum(max(1, len(textwrap.wrap(text, 80 - indent))) for text in told.values()) <= 38
        page(shown)
    assert "annotators" not in summary(facts(bare)) or summary(facts(bare))["annotators"] == "none"


def test_disagreed_ranks_large_disputes_before_specks(tmp_path: Path) -> None:
    rng, size = np.random.default_rng(0), 64

    def record(name: str, *, all_four: int, one: int) -> None:
        """Rows of 50 pixels marked by all four annotators, then pixels marked by one alone."""
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
    store = built(tmp_path / "raw", tmp_path / "s.zarr", size=size)
    chosen, of = choose(store, "disagreed", 24)
    ids = store["record_id"].values
    assert [(ids[i], told) for i, told in chosen] == [
        ("dispute", "450 of 500 px disputed"),
        ("edges", "200 of 600 px disputed"),
        ("speck", "6 of 6 px disputed"),
    ]
    assert of == 3
    assert [ids[i] for i, _ in choose(store, "positives", 2)[0]] == ["edges", "agreed"]
    assert choose(store, "random", 5, 1) == choose(store, "random", 5, 1) != choose(store, "random", 5, 2)
    assert len(choose(store, "brightest", 3)[0]) == 3


def test_outlines_lie_around_what_was_marked(store: xr.Dataset, tmp_path: Path) -> None:
    prediction = predicted(store, tmp_path / "p.zarr", pseudo=False)
    tile = np.asarray(Look(store, read_scalars(store), prediction).tile(0, votes=True))
    assert tile.shape == (224, 224, 3)  # 32 pixels, 7 each
    colours = tile[3::7, 3::7]
    # Majority: row 16, columns 3 to 15. Two of four: row 8. Predicted: 20 to 23.
    for colour, rows, columns in (
        (LABEL_COLOUR, slice(15, 18), slice(2, 17)),
        (VOTE_COLOUR, slice(7, 10), slice(2, 17)),
        (PREDICTION_COLOUR, slice(19, 25), slice(19, 25)),
    ):
        ring = np.zeros((32, 32), bool)
        ring[rows, columns] = True
        ring[rows.start + 1 : rows.stop - 1, columns.start + 1 : columns.stop - 1] = False
        np.testing.assert_array_equal((colours == colour).all(-1), ring)
    plain = np.asarray(Look(store, read_scalars(store)).tile(0))
    assert not (plain == VOTE_COLOUR).all(-1).any()


def test_other_channels_are_shown_as_ash_where_its_bands_are(raw: Path, tmp_path: Path) -> None:
    bands = tuple(Channel(f"b{b}", b, None, 150, 350) for b in (11, 14, 15))
    looks = []
    for recipe in (COMPOSITES["ash"], Composite("four", (*bands, Channel("d", 15, 14, -4, 2)))):
        out = tmp_path / recipe.name
        build(open_source(raw, "train", recipe), Settings(recipe, dtype="float32", size=32), out, workers=1)
        store = open_store(out)
        looks.append(Look(store, read_scalars(store)).rgb(3, 4).astype(int))
    assert np.abs(looks[0] - looks[1]).max() <= 1


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(codec="latin-1", categories=["L", "N", "P"]), max_size=100), st.integers(40, 400))
def test_captions_are_never_cut(record_id: str, width: int) -> None:
    text = f"{record_id}\n2019-04-04 12:00 UTC\n21.98°N 60.93°W"
    font = pictures._font(12)
    lines = pictures._wrapped(text, font, width)
    assert all(font.getlength(line) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "").replace("\n", "")


def test_pictures_of_stores_do_not_overwrite_each_other(raw: Path, store: xr.Dataset, tmp_path: Path) -> None:
    record_id, out = str(store["record_id"].values[0]), tmp_path / "pictures"
    other = built(raw, tmp_path / "elsewhere" / "s.zarr", "ash_wide")
    prediction = predicted(store, tmp_path / "p.zarr", pseudo=True)
    paths = [*preview(store, record_id, out), *preview(other, record_id, out)]
    paths += preview(store, record_id, out, prediction)
    for sheet in pictures.default_sheets(store):
        paths += [contact_sheet(store, sheet, out), contact_sheet(store, sheet, out, prediction=prediction)]
    assert len(set(paths)) == 10
    assert all(p.is_file() for p in paths)
    width, height = Image.open(paths[-1]).size
    assert 1 < width / height < 2.5
    half = contact_sheet(store, "positives", out, prediction=prediction.isel(sample=slice(4)))
    assert half.is_file()  # records without a prediction are told, not refused


def test_one_bare_sample(bare: xr.Dataset, tmp_path: Path) -> None:
    (path,) = preview(bare, "f1", tmp_path / "pictures")  # one frame: nothing to animate, no second row
    assert Image.open(path).height < 700
    assert contact_sheet(bare, "positives", tmp_path / "pictures").is_file()
    with pytest.raises(ContrailError, match="no record on which annotators disagree"):
        contact_sheet(bare, "disagreed", tmp_path / "pictures")
    html = page(bare)
    assert "No record has a place" in html
    assert "No record has a time" in html
    assert "No record has votes" in html


def test_hostile_record_ids(store: xr.Dataset, tmp_path: Path) -> None:
    ids = store["record_id"].values.copy()
    ids[0] = "../../evil"
    with pytest.raises(ContrailError, match="not a plain name"):
        preview(store.assign_coords(record_id=("sample", ids)), "../../evil", tmp_path / "a" / "b")
    assert not list(tmp_path.rglob("*evil*"))


class Page(HTMLParser):
    """Tags must nest, nothing may run, nothing may come from elsewhere."""

    VOID = frozenset({"meta", "img", "br", "circle", "path", "rect", "line", "polygon", "polyline"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.images = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in {"script", "link", "iframe", "object", "form"}
        for name, value in attrs:
            assert not name.startswith("on")
            if name in {"src", "href", "xlink:href"}:
                assert (value or "").startswith("data:image/png;base64,")
                self.images += 1
        if tag not in self.VOID or tag == "rect":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in self.VOID

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_is_one_safe_page(store: xr.Dataset, tmp_path: Path) -> None:
    attack = "<script>alert(1)</script>"
    path = Path(store.attrs["path"]) / "provenance.json"
    told = json.loads(path.read_text())
    path.write_text(
        json.dumps(told | {"command": ["</style>" + attack], "set_aside": ["<img src=x onerror=alert(1)>"]})
    )
    hostile = store.copy()
    hostile.attrs["composite"] = json.loads(json.dumps(store.attrs["composite"]).replace('"G"', json.dumps(attack)))
    prediction = predicted(store, tmp_path / "p.zarr", pseudo=True)
    prediction.attrs["model"] = attack
    for shown, images in ((hostile, 18), (prediction, 0)):
        parsed = Page()
        html = page(shown)
        parsed.feed(html)
        parsed.close()
        assert parsed.open == []
        assert parsed.images == images
        assert attack in parsed.text  # shown as what it is
        assert "http" not in html
        assert "url(" not in html
    write_report(store, tmp_path / "r.html")
    assert (tmp_path / "r.html").read_text() == page(store)
    with pytest.raises(ContrailError, match="cannot be written"):
        write_report(store, tmp_path / "none" / "r.html")


def test_the_report_counts(store: xr.Dataset) -> None:
    html = page(store)
    # Three of four annotators marked 13 pixels of row 16 on each record, two of them 13 of row 8.
    assert "13 px" in html
    assert "26 of 26 px disputed" in html
    assert "234 pixels of 9 records" in html
    assert html.count("<title>50%</title>") == 2
    assert "1 record without a place" in html
    assert "No two records have the same raw data" in html
    digests = store["source_digest"].values.copy()
    digests[3] = digests[2]
    ids = store["record_id"].values
    assert f"<td>{ids[2]}, {ids[3]}</td><td>" in page(store.assign(source_digest=("sample", digests)))


def test_the_satellite_view() -> None:
    longitude = np.array([-75.2, -75.2, 104.8, -75.2 + 81.2])
    x, y, seen = view_from(longitude, np.array([0.0, 40.0, 0.0, 0.0]), -75.2)
    assert (x[0], y[0]) == (0, 0)
    assert x[1] == 0
    assert -1 < y[1] < -0.6
    assert seen.tolist() == [True, True, False, True]
    assert x[3] == pytest.approx(1, abs=1e-3)  # the limb
