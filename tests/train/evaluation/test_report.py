"""The HTML report of an evaluation."""

import re

import numpy as np
from PIL import ImageColor

from contrail_data.logits import LOWEST, encode
from contrail_data.reports.page import Picture
from contrail_train.evaluation.analysis import analyse
from contrail_train.evaluation.outcomes import outcome_of
from contrail_train.evaluation.report import FALSE, FOUND, MISSED, error_picture, evaluation_page
from helpers.evaluations import SIDE, mask_of, records_of

RESULT = {
    **dict.fromkeys(("dice", "dice_low", "dice_high", "tolerant_dice", "precision", "recall", "record_dice"), 0.5),
    **{
        "records": 1,
        "positive_records": 1,
        "groups": 1,
        "auc_pr": None,
        "threshold": 0.5,
        "left_out": 0,
        "cleaning": {},
        "nearness_notes": ["nearness is not known"],
    },
    "store": {"digest": "sha256:0"},
}


def test_the_picture_shows_each_kind_of_error() -> None:
    target, predicted = mask_of((0, 4, 0, 8)), mask_of((2, 6, 0, 8))
    picture = error_picture(np.full((SIDE, SIDE, 3), 128, np.uint8), target, predicted)
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
