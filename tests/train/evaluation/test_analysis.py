"""Analysis of errors: counts by contrail and record, and the cost of the gate."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contrail_train.evaluation.analysis import analyse
from contrail_train.evaluation.analysis_text import gate_sentences, screen_tables
from contrail_train.evaluation.error_kinds import count_kinds
from contrail_train.evaluation.metrics import dice
from contrail_train.evaluation.outcomes import outcome_of, worst
from helpers.evaluations import SIDE, mask_of, records_of


def test_contrails_are_counted_one_by_one() -> None:
    target = mask_of((2, 4, 2, 12), (10, 11, 2, 12))  # 20 and 10 pixels
    predicted = mask_of((3, 6, 2, 7), (20, 22, 20, 30))  # 5 of the first; 20 that touch nothing
    votes = (target * 0b0111).astype(np.uint8)
    votes[10, 2:12] = 0b0001
    outcome = outcome_of(predicted, predicted, target, votes, 4)
    assert outcome.gated == (5, 30, 25)
    assert (outcome.sizes.tolist(), outcome.hits.tolist()) == ([20, 10], [5, 0])
    assert (outcome.predicted_sizes.tolist(), outcome.joined.tolist()) == ([15, 20], [1, 0])
    assert outcome.agreement == pytest.approx((20 * 3 + 10) / 30 / 4)
    np.testing.assert_array_equal(np.unpackbits(outcome.predicted).reshape(SIDE, SIDE), predicted)
    analysis = analyse([outcome], records_of(1), np.ones(1), 0.0, np.array(["a"]))
    json.dumps(analysis, allow_nan=False)
    labelled = {c["class"]: (c["hit"], c["pixels_hit"]) for c in analysis["contrails"]["labelled"]}
    assert labelled == {"1 to 15 px": (0.0, 0.0), "16 to 31 px": (1.0, 0.25)}
    drawn = {c["class"]: (c["false"], c["pixels_false"]) for c in analysis["contrails"]["predicted"]}
    assert drawn == {"1 to 15 px": (0.0, 0.0), "16 to 31 px": (1.0, 1.0)}


def test_each_wrong_pixel_belongs_to_one_kind_of_error() -> None:
    target = mask_of((0, 2, 0, 10), (3, 5, 0, 10), (10, 14, 0, 10), (20, 22, 0, 5), (25, 27, 0, 15))
    predicted = mask_of((0, 5, 0, 8), (11, 14, 0, 10), (18, 19, 10, 30), (21, 25, 20, 24), (25, 28, 0, 15))
    outcome = outcome_of(predicted, predicted, target, None, 0)
    nothing = outcome_of(mask_of(), mask_of(), mask_of(), None, 0)
    kinds = count_kinds([outcome, nothing])
    assert {kind["error"]: (kind["contrails"], kind["of"], kind["pixels"]) for kind in kinds} == {
        "labelled, below 32 px, no pixel found": (1, 4, 10),
        "labelled, from 32 px, no pixel found": (0, 1, 0),
        "labelled, found in part": (3, 5, 18),
        "on no label, at least 3 times as long as wide": (1, 5, 20),
        "on no label, of another shape": (1, 5, 16),
        "joins several labelled contrails": (1, 5, 8),
        "exceeds a single labelled contrail": (1, 5, 15),
    }
    assert sum(kind["lost"] for kind in kinds) == pytest.approx(1)
    assert sum(kind["pixels"] for kind in kinds) == sum(outcome.gated[1:])


def test_pixels_that_touch_at_a_corner_form_one_contrail() -> None:
    steps = np.eye(SIDE, dtype=bool)
    assert outcome_of(steps, steps, steps, None, 0).sizes.tolist() == [SIDE]


def test_agreement_is_zero_without_marks_and_nan_without_annotators() -> None:
    votes, label = mask_of().astype(np.uint8), mask_of((0, 1, 0, 5))
    assert outcome_of(mask_of(), mask_of(), mask_of(), votes, 4).agreement == 0
    assert np.isnan(outcome_of(mask_of(), mask_of(), mask_of(), votes, 0).agreement)
    cases = [(None, 0), (votes, 4), (label * np.uint8(0b111), 5), (label * np.uint8(0b1111), 4)]
    outcomes = [outcome_of(mask_of(), mask_of(), label, marks, voters) for marks, voters in cases]
    table = analyse(outcomes, records_of(4), np.ones(4), 0.0, np.array(list("abcd")))["records"]["annotator_agreement"]
    assert [one["class"] for one in table] == ["no pixel marked", "0.4 to 0.6", "0.8 to 1.0", "unknown"]


def test_records_are_grouped_by_place_and_time() -> None:
    records = records_of(5)
    values = {
        "latitude": [40, -1, 90, 0, np.nan],
        "longitude": [-80, 179.9, 180, 0, 0],
        "local_solar_hour": [0, 2.9, 24, 23.9, np.nan],
        "solar_zenith": [89, 90, 10, 10, np.nan],
        "satellite_zenith": [0, 9.9, 10, 75, np.nan],
    }
    records = records.assign({name: ("sample", np.array(value, float)) for name, value in values.items()})
    outcomes = [outcome_of(mask_of(), mask_of(), mask_of((0, 1, 0, i)), None, 0) for i in range(5)]
    analysis = analyse(outcomes, records, np.ones(5), 0.0, np.array(list("abcde")))["records"]
    classes = {name: {one["class"]: one["records"] for one in analysis[name]} for name in analysis}
    assert classes["place"] == {"15S 165E": 1, "0N 0E": 1, "30N 90W": 1, "75N 180W": 1, "unknown": 1}
    assert classes["solar_hour"] == {"0 to 3 h": 3, "21 to 24 h": 1, "unknown": 1}
    assert classes["light"] == {"day": 3, "night": 1, "unknown": 1}
    assert classes["satellite_zenith"] == {"0 to 10 degrees": 2, "10 to 20 degrees": 1, "70 to 80 degrees": 1,
                                           "unknown": 1}  # fmt: skip
    assert classes["month"] == {"Apr": 1, "May": 1, "Jun": 1, "Aug": 1, "Sep": 1}
    assert classes["labelled_pixels"] == {"0 px": 1, "1 to 63 px": 4}


def test_costs_of_gate_errors_match_four_records_counted_by_hand() -> None:
    """The records are a hit, a rejected positive, a false alarm that passes the gate and one that is rejected."""
    label, drawn = mask_of((0, 10, 0, 10)), mask_of((0, 10, 0, 8), (20, 22, 0, 10))
    empty = mask_of()
    cases = [(label, drawn, True), (label, label, False), (empty, drawn, True), (empty, drawn, False)]
    outcomes = [outcome_of(p & opened, p, t, None, 0) for t, p, opened in cases]
    score = np.array([0.9, 0.1, 0.8, 0.2])
    analysis = analyse(outcomes, records_of(4), score, 0.5, np.array(list("abcd")))["gate"]
    assert analysis["dice"] == pytest.approx(160 / (160 + 20 + 100 + 20 + 100))
    assert analysis["dice_perfect_gate"] == pytest.approx(360 / (360 + 20 + 20))
    assert analysis["dice_without_gate"] == pytest.approx(360 / (360 + 20 + 20 + 200))
    assert analysis["dice_perfect_segmenter"] == pytest.approx(200 / (200 + 100))
    shut, alarm, missed, false = ((e["records"], e["pixels"], e["gain"]) for e in analysis["errors"])
    assert shut == (1, 100, pytest.approx(360 / 500 - 0.4))
    assert alarm == (1, 100, pytest.approx(160 / 300 - 0.4))
    assert missed == (1, 20, pytest.approx(200 / 420 - 0.4))
    assert false == (1, 20, pytest.approx(160 / 380 - 0.4))
    assert analysis["positives_shut"] == analysis["negatives_open"] == analysis["negatives_drawn"] == 1
    assert analysis["record_precision"] == analysis["record_recall"] == 0.5
    assert analysis["record_auc_roc"] == 0.5  # the positive record scores higher in two of four pairs
    story = " ".join(gate_sentences(analysis))
    assert "rejects 1 of 2 positive records and leaves 1 of 2 negative records with a mask" in story
    assert "a rejected positive record costs 100 pixels and a negative record with a mask costs 100 pixels" in story


def test_gate_sentences_cover_perfect_predictions_and_no_positive_records() -> None:
    label, group = mask_of((0, 4, 0, 4)), np.array(["a"])
    ideal = analyse([outcome_of(label, label, label, None, 0)], records_of(1), np.ones(1), 0.0, group)["gate"]
    assert gate_sentences(ideal) == [
        "There is no gate; the segmenter leaves 0 of 0 negative records with a mask.",
        "Dice is 1.000; it would be 1.000 (+0.000) with a perfect gate.",
    ]
    alarm = analyse([outcome_of(label, label, mask_of(), None, 0)], records_of(1), np.ones(1), 0.5, group)["gate"]
    assert gate_sentences(alarm) == ["No record has a contrail. The only errors are 16 false pixels, in 1 of 1 record."]
    with pytest.raises(ValueError, match="no record"):
        analyse([], records_of(0), np.zeros(0), 0.0, np.zeros(0, str))


def test_worst_records_include_misses_and_false_alarms() -> None:
    """Three records miss many pixels, two have fewer false pixels, one has no error."""
    missed = [outcome_of(mask_of(), mask_of(), mask_of((0, 10, 0, width)), None, 0) for width in (10, 20, 30)]
    false = [outcome_of(drawn, drawn, mask_of(), None, 0) for drawn in (mask_of((0, 3, 0, 3)), mask_of((0, 4, 0, 4)))]
    outcomes = [outcome_of(mask_of(), mask_of(), mask_of(), None, 0), *missed, *false]
    assert worst(outcomes, 2) == [3, 5]
    assert worst(outcomes, 3) == [3, 2, 5]
    assert worst(outcomes, 10) == [3, 2, 1, 5, 4]
    assert worst(outcomes, 0) == worst([], 3) == []


@pytest.mark.slow
@settings(max_examples=30)
@given(st.integers(1, 12), st.booleans(), st.integers(0, 1000))
def test_totals_of_every_table_match_the_records(count: int, has_location: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    outcomes, score = [], rng.random(count)
    for s in score:
        target, predicted = rng.random((2, SIDE, SIDE)) < rng.choice([0, 0.05])
        outcomes.append(outcome_of(predicted & (s >= 0.4), predicted, target, None, 0))
    analysis = analyse(outcomes, records_of(count, has_location), score, 0.4, np.arange(count).astype(str))
    json.dumps(analysis, allow_nan=False)
    total = np.sum([one.gated for one in outcomes], axis=0)
    for classes in analysis["records"].values():
        assert sum(c["records"] for c in classes) == count
        np.testing.assert_array_equal([sum(c[k] for c in classes) for k in ("tp", "fp", "fn")], total)
    assert sum(c["pixels"] for c in analysis["contrails"]["labelled"]) == total[0] + total[2]
    assert sum(c["pixels"] for c in analysis["contrails"]["predicted"]) == total[0] + total[1]
    assert sum(error["pixels"] for error in analysis["gate"]["errors"]) == total[1] + total[2]
    assert analysis["gate"]["dice"] == pytest.approx(float(dice(*total)))
    gate = analysis["gate"]
    assert gate["dice_perfect_gate"] >= gate["dice_without_gate"]
    assert gate["dice_perfect_segmenter"] >= gate["dice"]
    assert all(error["gain"] >= 0 for error in gate["errors"][1:])  # accepting a rejected record may add false pixels
    assert gate_sentences(gate)
    assert all(len(row) == len(table.header) for table in screen_tables(analysis) for row in table.rows)
    lost_pixels = [sum(outcomes[i].gated[1:]) for i in worst(outcomes, 5)]
    assert lost_pixels == sorted(lost_pixels, reverse=True)
    assert 0 not in lost_pixels
