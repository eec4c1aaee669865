"""Scores of a detector on labelled frames."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from contrail_data.store.reader import open_store
from contrail_train.data.items import open_labelled
from contrail_train.evaluation.score import EvaluationOptions, ScoredRecord, score
from contrail_train.inference.detector import Prediction


def detect_red(window_btchw: torch.Tensor, valid_bhw: torch.Tensor | None) -> Prediction:
    del valid_bhw
    red_bhw = window_btchw[:, 0, 0].float() / 255
    return Prediction(red_bhw, red_bhw.amax((1, 2)), torch.ones(len(red_bhw)))


def test_a_batch_is_counted_while_the_next_one_is_predicted(store: Path) -> None:
    items = open_labelled([open_store(store)])
    calls, rows, overlapped = [], [], []
    second_call = threading.Event()

    def detect(window_btchw: torch.Tensor, valid_bhw: torch.Tensor | None) -> Prediction:
        calls.append(len(window_btchw))
        if len(calls) == 2:
            second_call.set()
        return detect_red(window_btchw, valid_bhw)

    def on_record(record: ScoredRecord) -> None:
        rows.append(record.row)
        overlapped.append(second_call.wait(timeout=60))

    scores = score(detect, items, EvaluationOptions(torch.device("cpu"), batch=1, title=None), 0.5, on_record)
    assert len(calls) > 1
    assert all(overlapped)
    assert sorted(rows) == list(range(len(items)))
    pixels = np.prod([open_store(store).sizes[axis] for axis in ("y", "x")])
    assert scores.histogram.sum() == len(items) * pixels


def test_scores_do_not_depend_on_the_number_of_threads(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items = open_labelled([open_store(store)])
    scores, scored = [], []
    for cores in (1, 3):
        records: dict[int, ScoredRecord] = {}
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        options = EvaluationOptions(torch.device("cpu"), batch=7, title=None)
        scores.append(
            score(detect_red, items, options, 0.5, lambda record, of=records: of.update({record.row: record}))
        )
        scored.append([records[row] for row in range(len(items))])
    for name, values in vars(scores[0]).items():
        np.testing.assert_array_equal(values, vars(scores[1])[name], err_msg=name)
    for one, other in zip(*scored, strict=True):
        for name in one._fields:
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
