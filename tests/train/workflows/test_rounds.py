"""Rounds of pseudo-labelling."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from contrail_data.store.reader import open_store
from helpers.cli import run_train
from helpers.runs import SHORT, set_options


@pytest.mark.slow
def test_each_round_labels_records_that_its_model_was_not_trained_on(store: Path, tmp_path: Path) -> None:
    import timm
    from safetensors.torch import save_file

    out = tmp_path / "rounds"
    weights = tmp_path / "encoder.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), weights)
    frozen = ["epochs=2", "model.freeze_epochs=1", f"model.pretrained={weights}"]  # of 1 epoch with labels: none
    options = set_options(*SHORT, *frozen, f"data.train={store}")
    done = run_train("rounds", "unet2d", "--out", out, "--rounds", 2, "--folds", 2, *options)
    assert done.returncode == 0, done.stderr
    with (out / "folds.csv").open() as file:
        fold = {row["record_id"]: row["fold"] for row in csv.DictReader(file)}
    held = {record for record, own in fold.items() if own == "2"}
    for number in (1, 2):
        labelled: list[str] = []
        for part in (0, 1):
            labels = open_store(out / f"round-{number}/fold-{part}/labels/0.zarr")
            own, trained = set(labels["record_id"].values), set(labels["trained_record"].values)
            assert own == {record for record, of in fold.items() if of == str(part)}
            assert not trained & (own | held)
            chosen_by = json.loads((out / f"round-{number}/fold-{part}/run/calibration.json").read_text())
            assert set(chosen_by["holdout_records"]) == own
            if number == 1:  # the next round's models without this fold learn from these
                others = open_store(out / f"round-1/fold-{part}/labels-of-others/0.zarr")
                assert set(others["record_id"].values) == set(fold) - held - own
            labelled += own
        assert set(labelled) == set(fold) - held
    rounds = json.loads((out / "rounds.json").read_text())
    assert [one["round"] for one in rounds] == [0, 1, 2]
    assert {one["holdout"]["records"] for one in rounds} == {len(held)}
    again = run_train("rounds", "unet2d", "--out", out, "--rounds", 2, "--folds", 2, "--how", "pretrain", *options)
    assert "holds rounds with --how=mixed, not pretrain;" in again.stderr
    record = run_train("rounds", "unet2d_classifier", "--out", tmp_path / "no", *options, "--set", "model.decoder=null")
    assert "no masks to label with" in record.stderr
