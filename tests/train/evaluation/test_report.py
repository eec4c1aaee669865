"""The HTML report of an evaluation."""

import json
import re
from pathlib import Path

import numpy as np
from PIL import ImageColor

from contrail_data.reports.figures import draw_picture
from contrail_data.reports.page import Picture
from contrail_data.store.logits import LOWEST, encode
from contrail_train.evaluation.analysis import analyse
from contrail_train.evaluation.error_pictures import FALSE, FOUND, MISSED, error_panels
from contrail_train.evaluation.metrics import average_precision, histograms
from contrail_train.evaluation.outcomes import outcome_of
from contrail_train.evaluation.page_charts import precision_recall_chart, read_training
from contrail_train.evaluation.report import evaluation_page
from helpers.evaluations import SIDE, mask_of, records_of

RESULT = {
    **dict.fromkeys(("dice", "dice_low", "dice_high", "tolerant_dice", "precision", "recall", "record_dice"), 0.5),
    **{
        "records": 1,
        "positive_records": 1,
        "groups": 1,
        "auc_pr": None,
        "threshold": 0.5,
        "gate": 0.25,
        "left_out": 0,
        "cleaning": {},
        "nearness_notes": ["nearness is not known"],
    },
    "store": {"name": "s.zarr", "digest": "sha256:0"},
}


def test_the_picture_shows_each_kind_of_error() -> None:
    target, predicted = mask_of((0, 4, 0, 8)), mask_of((2, 6, 0, 8))
    picture = draw_picture([error_panels(np.full((SIDE, SIDE, 3), 128, np.uint8), target, predicted)])
    pixels = np.asarray(picture.convert("RGB"))
    scale = pixels.shape[0] // SIDE
    last = pixels[:, -SIDE * scale :][scale // 2 :: scale, scale // 2 :: scale]
    colours = [ImageColor.getrgb(colour) for colour in (MISSED, FOUND, FALSE)]
    assert [tuple(last[row, 3]) for row in (1, 3, 5, 7)] == [*colours, (64, 64, 64)]
    assert tuple(pixels[4, 4]) == (128, 128, 128)


def test_the_page_is_self_contained_and_escapes_html() -> None:
    target, predicted = mask_of((0, 4, 0, 8)), mask_of((2, 6, 0, 8))
    outcomes = [outcome_of(predicted, predicted, target, None, 0)]
    analysis = analyse(outcomes, records_of(1), np.ones(1), 0.0, np.array(["a"]))
    histogram = np.zeros((2, 65536), np.int64)
    histogram[:, int(encode(np.array(0.61))) - LOWEST] = 5
    pictures = [Picture(b"png", ["<b>id", "what & 'how"])]
    page = evaluation_page({**RESULT, "analysis": analysis}, pictures, "<script>alert(1)</script>", histogram)
    assert "<script" not in page
    assert "&lt;b&gt;id: what &amp; &#39;how" in page
    assert "Nearness is not known." in page
    assert "0.60 to 0.65: 0.500 of 10 pixels" in page
    assert "threshold 0.5: precision 0.500, recall 1.000" in page
    assert "gate of a record 0.25" in page
    assert not re.search(r"""(src|href)=["']?(?!data:|#)\w|url\(|http""", page)


def test_the_page_handles_one_empty_record_without_a_place() -> None:
    analysis = analyse(
        [outcome_of(mask_of(), mask_of(), mask_of(), None, 0)], records_of(1, False), np.zeros(1), 0.5, np.array(["a"])
    )
    result = {**RESULT, "dice_low": None, "dice_high": None}
    page = evaluation_page({**result, "analysis": analysis}, [], "t", np.zeros((2, 65536), np.int64))
    assert "no interval: fewer than 6 groups with contrails, or a Dice of 0 or 1" in page
    assert "No record has a contrail" in page
    assert "unknown" not in page
    assert "trusted" not in page


def test_the_curve_of_precision_and_recall_encloses_the_stated_area() -> None:
    rng = np.random.default_rng(0)
    target = rng.random(20_000) < 0.1
    histogram = histograms(rng.beta(1 + 2 * target, 4), target)
    chart = precision_recall_chart(histogram, 0.3)
    path = max(re.findall(r'<path [^>]*?d="([^"]*)"', chart), key=len)
    x, y = np.array(re.findall(r"[ML] (\S+) (\S+)", path), float).T
    left, right, bottom, top = 44, 350 - 8, 350 - 42, 10  # the axes within the figure
    area = np.sum(np.diff(x) * (bottom - y[1:])) / ((right - left) * (bottom - top))
    assert abs(area - average_precision(histogram)) < 0.01
    assert len(chart) < 60_000


def test_the_page_shows_training_where_its_log_is(tmp_path: Path) -> None:
    lines = [
        {"step": 1, "loss": 0.5},
        {"step": 2, "epoch": 1, "epoch_loss": 0.4, "holdout_loss": 0.3, "holdout_dice": 0.2},
        {"step": 4, "epoch": 2, "epoch_loss": 0.3, "holdout_loss": 0.2, "holdout_dice": 0.6},
        {"step": 6, "epoch": 3, "epoch_loss": 0.2, "holdout_loss": 0.3, "holdout_dice": 0.5},
    ]
    analysis = analyse(
        [outcome_of(mask_of(), mask_of(), mask_of(), None, 0)], records_of(1, False), np.zeros(1), 0.5, np.array(["a"])
    )
    arguments = ({**RESULT, "analysis": analysis}, [], "t", np.zeros((2, 65536), np.int64))
    assert read_training(tmp_path) == []
    assert "Training" not in evaluation_page(*arguments, read_training(tmp_path))
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = evaluation_page(*arguments, read_training(tmp_path))
    assert ">best: 0.600 in epoch 2</text>" in page
    assert "epoch 3: training 0.2000" in page
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 2, "epoch": 1, "epoch_loss": 0.4}))  # no hold-out
    page = evaluation_page(*arguments, read_training(tmp_path))
    assert "epoch 1: training 0.4000" in page
    assert "best" not in page
