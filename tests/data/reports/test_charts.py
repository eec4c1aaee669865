"""Charts as inline SVG."""

from __future__ import annotations

import re

import numpy as np
import pytest

from contrail_data.reports.charts import Colour, bars, histogram
from contrail_data.reports.curves import Line, Marked, curves
from contrail_data.reports.globe import Layer, record_map


def test_charts_take_their_colours_from_the_page() -> None:
    chart = bars(
        ["a", "b"], [(np.array([1, 2]), [Colour.POSITIVE, Colour.NEGATIVE])], "two <bars>", ("class", "records")
    )
    assert 'aria-label="two &lt;bars&gt;"' in chart
    assert chart.count("var(--positive)") == chart.count("var(--negative)") == 1
    assert "#" not in chart
    assert "<title>b: 2</title>" in chart


def test_charts_are_deterministic_and_self_contained() -> None:
    charts = [
        histogram(np.array([3, 0, 1]), (0.5, "gate"), "scores", ("score", "frames"), logarithmic=True) for _ in range(2)
    ]
    assert charts[0] == charts[1]
    for foreign in ("http", "url(", "<style", "<metadata", " id="):
        assert foreign not in charts[0]
    for text in ("gate 0.5", "score", "frames"):
        assert f">{text}</text>" in charts[0]


@pytest.mark.parametrize("unit_square", [False, True])
def test_curves_have_named_axes_and_a_mark_that_is_explained(unit_square: bool) -> None:
    x, y = np.array([0.2, 0.9]), np.array([0.8, 0.3])
    line = Line(x=x, y=y, colour=Colour.POSITIVE, name="a <b>", dots=[(0.9, 0.3, "here & there")])
    chart = curves([line], Marked(0.9, 0.3, "best"), "a curve", ("recall", "precision"), unit_square=unit_square)
    for text in ("recall", "precision", "best", "a &lt;b&gt;"):
        assert f">{text}</text>" in chart
    assert "<title>here &amp; there</title>" in chart
    assert chart.count(">1.0</text>") == 1 + unit_square  # both axes end there, or only that of y passes it
    assert not re.search("#[0-9a-f]{6}", chart)


def test_a_single_epoch_is_marked_at_a_whole_number() -> None:
    line = Line(x=np.array([1.0]), y=np.array([0.3]), colour=Colour.POSITIVE)
    ticks = re.findall(r">([0-9.]+)</text>", str(curves([line], None, "losses by epoch", ("epoch", "loss"))))
    assert "1" in ticks
    assert not {"0.6", "0.8", "1.2", "1.4"} & {*ticks}


def test_a_map_counts_records_that_it_cannot_show() -> None:
    longitude = np.array([-75.0, -75.1, -60.0, -50.0, 110.0, np.nan])
    latitude = np.array([10.0, 10.1, 0.0, 0.0, 0.0, np.nan])
    every_record = Layer(np.ones(6, bool), Colour.NEGATIVE)
    positive = Layer(np.arange(6) < 1, Colour.POSITIVE)
    chart = record_map(longitude, latitude, [every_record, positive], "records: {}, positive: {}")
    assert chart is not None
    assert (chart.centre, chart.hidden, chart.unplaced) == (pytest.approx(-75.2), 1, 1)
    assert chart.svg.count("<title>10.0, -75.0: records: 2, positive: 1</title>") == 2
    assert record_map(longitude[5:], latitude[5:], [Layer(np.ones(1, bool), Colour.NEGATIVE)], "{}") is None
