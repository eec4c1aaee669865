"""The script that rebuilds the detector that the package ships."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from contrail_data.model_folders.manifest import CARD
from contrail_train.evaluation.outcomes import outcome_of
from contrail_train.runs.address import local_model
from helpers.places import PROJECT


@pytest.fixture
def starter(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(PROJECT / "tools")
    return importlib.import_module("starter")


def test_the_shipped_card_is_the_template_with_the_stored_scores(starter: ModuleType, tmp_path: Path) -> None:
    shutil.copytree(shipped := local_model("builtin:starter"), folder := tmp_path / "starter")
    (folder / CARD).unlink()
    starter.write_card(folder)
    assert (folder / CARD).read_text() == (shipped / CARD).read_text()


def test_the_picture_shows_good_typical_and_poor_frames_and_the_worst_false_alarm(starter: ModuleType) -> None:
    label = np.zeros((40, 40), bool)
    label[10:12] = True
    predicted = []
    for found in range(41):  # of 40 columns
        mask = label & (np.arange(40) < found)
        predicted.append(starter.Blind(0, found, outcome_of(mask, mask, label, None, 0)))
    for false in (3, 9, 5):
        mask = np.arange(1600).reshape(40, 40) < false
        predicted.append(starter.Blind(1, false, outcome_of(mask, mask, np.zeros_like(label), None, 0)))
    assert [(one.fold, one.sample) for one in starter.typical(predicted)] == [(0, 36), (0, 20), (0, 4), (1, 9)]
