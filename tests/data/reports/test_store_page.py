"""The HTML report of a store is one safe page."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

from contrail_data.cli.main import app
from contrail_data.reports.globe import view_from
from contrail_data.reports.store_page import store_page
from helpers.stores import predict_square


class Page(HTMLParser):
    """Parse a page; tags must nest, nothing may be executed and nothing may be loaded from elsewhere."""

    VOID = frozenset({"meta", "img", "br", "circle", "path", "rect", "line", "polygon", "polyline", "use"})

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
                assert (value or "").startswith("data:image/png;base64," if name == "src" else "#")
                self.images += name == "src"
        if tag not in self.VOID or tag == "rect":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in self.VOID

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.slow
def test_the_report_is_one_safe_page(store: xr.Dataset, tmp_path: Path) -> None:
    attack = "<script>alert(1)</script>"
    path = Path(store.attrs["path"]) / "provenance.json"
    provenance = json.loads(path.read_text())
    path.write_text(
        json.dumps(provenance | {"command": ["</style>" + attack], "set_aside": ["<img src=x onerror=alert(1)>"]})
    )
    hostile = store.copy()
    hostile.attrs["composite"] = json.loads(json.dumps(store.attrs["composite"]).replace('"G"', json.dumps(attack)))
    prediction = predict_square(store, tmp_path / "p.zarr", pseudo=True)
    prediction.attrs["model"] = attack
    for shown, images in ((hostile, 18), (prediction, 0)):
        parsed = Page()
        html = store_page(shown)
        parsed.feed(html)
        parsed.close()
        assert parsed.open == []
        assert parsed.images == images
        assert attack in parsed.text  # shown as text
        assert "http" not in html
        assert "url(" not in html
    command = ["report", store.attrs["path"], "-o", str(tmp_path / "r.html")]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert (tmp_path / "r.html").read_text() == store_page(store)


@pytest.mark.slow
def test_the_report_shows_the_counts(store: xr.Dataset) -> None:
    html = store_page(store)
    # Three of four annotators marked 13 pixels of row 16 on each record, two of them 13 of row 8.
    assert "13 px" in html
    assert "26 of 26 px disputed" in html
    assert "234 pixels of 9 records" in html
    assert html.count(": 50.0%</title>") == 2
    assert "1 record without a place" in html


def test_places_on_the_far_side_are_not_visible_from_the_satellite() -> None:
    longitude = np.array([-75.2, -75.2, 104.8, -75.2 + 81.2])
    x, y = view_from(longitude, np.array([0.0, 40.0, 0.0, 0.0]), -75.2)
    assert (x[0], y[0]) == (0, 0)
    assert x[1] == 0
    assert 0.6 < y[1] < 1
    assert np.isfinite(x).tolist() == [True, True, False, True]
    assert x[3] == pytest.approx(1, abs=1e-3)  # the limb
