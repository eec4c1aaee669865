"""Where a model loses: counts by contrail and record, the cost of the gate, the page."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from contrail_train.analysis import Found, analysis, look, tables, worst
from contrail_train.metrics import dice
from contrail_train.report import FALSE, FOUND, MISSED, error_picture, write_page

SIDE = 32


def mask(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    made = np.zeros((SIDE, SIDE), bool)
    for top, bottom, left, right in boxes:
        made[top:bottom, left:right] = True
    return made


def records_of(count: int, known: bool = True) -> xr.Dataset:
    """Per-sample variables; of nowhere and no time where not known."""
    nothing = np.full(count, np.nan)
    rng = np.random.default_rng(0)
    time = np.datetime64("2019-04-04T00:00", "ns") + (np.arange(count) * 40).astype("timedelta64[D]")
    values = {
        "labelled_frame": np.zeros(count, int),
        "latitude": rng.uniform(-60, 60, count) if known else nothing,
        "longitude": rng.uniform(-130, -20, count) if known else nothing,
        "local_solar_hour": rng.uniform(0, 24, count) if known else nothing,
        "solar_zenith": rng.uniform(0, 180, count) if known else nothing,
        "satellite_zenith": rng.uniform(0, 70, count) if known else nothing,
    }
    made = xr.Dataset({name: ("sample", value) for name, value in values.items()})
    return made.assign(time=(("sample", "time"), time[:, None] if known else np.full((count, 1), "NaT", "M8[ns]")))


def test_contrails_are_counted_one_by_one() -> None:
    target = mask((2, 4, 2, 12), (10, 11, 2, 12))  # 20 and 10 pixels
    predicted = mask((3, 6, 2, 7), (20, 22, 20, 30))  # 5 of the first; 20 that touch nothing
    votes = (target * 0b0111).astype(np.uint8)
    votes[10, 2:12] = 0b0001
    found = look(predicted, predicted, target, votes, 4)
    assert found.gated == (5, 30, 25)
    assert (found.sizes.tolist(), found.hits.tolist()) == ([20, 10], [5, 0])
    assert (found.predicted_sizes.tolist(), found.touching.tolist()) == ([15, 20], [True, False])
    assert found.agreement == pytest.approx((20 * 3 + 10) / 30 / 4)
    told = analysis([found], records_of(1), np.ones(1), 0.0, np.array(["a"]))
    json.dumps(told, allow_nan=False)
    labelled = {c["class"]: (c["touched"], c["found"]) for c in told["contrails"]["labelled"]}
    assert labelled == {"1 to 15 px": (0.0, 0.0), "16 to 31 px": (1.0, 0.25)}


def test_what_the_gate_costs() -> None:
    """Four records by hand: a hit, a positive that is shut, a false alarm that is open, one that is shut."""
    label, drawn = mask((0, 10, 0, 10)), mask((0, 10, 0, 8), (20, 22, 0, 10))
    empty = mask()
    cases = [(label, drawn, True), (label, label, False), (empty, drawn, True), (empty, drawn, False)]
    found = [look(p & opened, p, t, None, 0) for t, p, opened in cases]
    score = np.array([0.9, 0.1, 0.8, 0.2])
    told = analysis(found, records_of(4), score, 0.5, np.array(list("abcd")))["gate"]
    assert told["dice"] == pytest.approx(160 / (160 + 20 + 100 + 20 + 100))
    assert told["perfect gate, this segmenter"] == pytest.approx(360 / (360 + 20 + 20))
    assert told["no gate"] == pytest.approx(360 / (360 + 20 + 20 + 200))
    assert told["this gate, perfect segmenter"] == pytest.approx(200 / (200 + 100))
    gains = {error["error"]: (error["records"], error["pixels"], error["gain"]) for error in told["errors"]}
    assert gains["positives that the gate shuts"] == (1, 100, pytest.approx(360 / 500 - 0.4))
    assert gains["negatives with a mask"][:2] == (1, 100)
    assert told["positives_shut"] == told["negatives_drawn"] == 1


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.booleans(), st.integers(0, 1000))
def test_every_table_adds_up(count: int, known: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    found, score = [], rng.random(count)
    for s in score:
        target, predicted = rng.random((2, SIDE, SIDE)) < rng.choice([0, 0.05])
        found.append(look(predicted & (s >= 0.4), predicted, target, None, 0))
    told = analysis(found, records_of(count, known), score, 0.4, np.arange(count).astype(str))
    json.dumps(told, allow_nan=False)
    total = np.sum([one.gated for one in found], axis=0)
    for classes in told["records"].values():
        assert sum(c["records"] for c in classes) == count
        np.testing.assert_array_equal([sum(c[k] for c in classes) for k in ("tp", "fp", "fn")], total)
    assert sum(c["pixels"] for c in told["contrails"]["labelled"]) == total[0] + total[2]
    assert sum(c["pixels"] for c in told["contrails"]["predicted"]) == total[0] + total[1]
    assert sum(error["pixels"] for error in told["gate"]["errors"]) == total[1] + total[2]
    assert told["gate"]["dice"] == pytest.approx(float(dice(*total)))
    assert told["gate"]["perfect gate, this segmenter"] >= told["gate"]["no gate"]
    assert all(len(row) == len(header) for _, header, rows in tables(told) for row in rows)
    lost = [sum(found[i].gated[1:]) for i in worst(found, 5)]
    assert lost == sorted(lost, reverse=True)
    assert 0 not in lost


def test_the_page_escapes_and_shows(tmp_path: Path) -> None:
    target, predicted = mask((0, 4, 0, 8)), mask((2, 6, 0, 8))
    image = np.full((3, SIDE, SIDE), 128, np.uint8)
    content = error_picture(image, target, predicted)
    pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    scale = pixels.shape[0] // SIDE
    last = pixels[:, -SIDE * scale :][scale // 2 :: scale, scale // 2 :: scale]
    assert [tuple(last[row, 3]) for row in (1, 3, 5)] == [MISSED, FOUND, FALSE]

    found: list[Found] = [look(predicted, predicted, target, None, 0)]
    told = analysis(found, records_of(1), np.ones(1), 0.0, np.array(["a"]))
    result = {"dice": 0.5, "dice_low": 0.1, "dice_high": 0.9, "tolerant_dice": 0.5, "precision": 0.5, "recall": 0.5}
    result |= {"record_dice": 1.0, "records": 1, "positive_records": 1, "groups": 1, "auc_pr": None, "threshold": 0.5}
    result |= {"store": {"digest": "sha256:0"}, "left_out": 0, "analysis": told}
    histogram = np.zeros((2, 65536), np.int64)
    histogram[:, 40000] = 5
    write_page(result, [("<b>id", "what & how", content)], "<script>alert(1)</script>", tmp_path / "p.html", histogram)
    page = (tmp_path / "p.html").read_text()
    assert "<script" not in page
    assert "&lt;b&gt;id: what &amp; how" in page
    assert "0.60 to 0.65: 0.500 of 10 pixels" in page
    assert "http" not in page.replace("http-equiv", "")
