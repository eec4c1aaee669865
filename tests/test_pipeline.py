"""Pipelines, soups, rounds of pseudo-labels, and what must not be trained on: through the command line, tiny."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_build import build_small
from test_calibrate import scene
from test_train import TINY, cli, finished, settings, store, unseen  # noqa: F401 - fixtures

from contrail_data.errors import ContrailError
from contrail_data.labels.predictor import Decision, Predicted
from contrail_data.labels.write import label_store
from contrail_data.store.reader import open_store
from contrail_train.config.schema import DataConfig
from contrail_train.data.loader import epoch_order
from contrail_train.data.training_data import open_training_data
from contrail_train.inference.load import load_predictor
from contrail_train.workflows.pipeline import held_out_by_all

SHORT = [*TINY, "epochs=1"]


@pytest.fixture(scope="module")
def pipeline(store: Path) -> Path:  # noqa: F811
    out = store.parent / "pipeline"
    done = cli("pipeline", "unet2d_v2", "--out", out, *settings(*SHORT, f"data.train={store}"))
    assert done.returncode == 0, done.stderr
    assert "gate: classifier 0.50, all 0.50" in done.stdout
    return out


def test_a_pipeline_is_the_mean_of_its_stages(pipeline: Path, unseen: Path, tmp_path: Path) -> None:  # noqa: F811
    parts = {}
    for name in ("all", "positive"):
        assert cli("predict", pipeline / "stages" / name, unseen, "-o", tmp_path / name).returncode == 0
        parts[name] = open_store(tmp_path / name)["probability"].values.astype(float)
    assert cli("predict", pipeline, unseen, "-o", tmp_path / "both").returncode == 0
    both = open_store(tmp_path / "both")
    np.testing.assert_allclose(both["probability"].values, (parts["all"] + parts["positive"]) / 2, atol=1.01)
    table = tmp_path / "records.csv"
    assert cli("predict", pipeline / "stages/classifier", unseen, "-o", table).returncode == 0
    with table.open() as file:
        classified = np.array([float(row["probability"]) for row in csv.DictReader(file)])
    top = open_store(tmp_path / "all")["frame_score"].values[:, 0]
    np.testing.assert_allclose(both["frame_score"].values[:, 0], (classified + top) / 2, atol=1e-5)
    shut = both["frame_score"].values[:, 0] < both.attrs["gate"]
    assert not both["frame_mask"].values[shut].any()
    done = cli("evaluate", pipeline, unseen, "--worst", 1)
    assert done.returncode == 0, done.stderr


def test_a_killed_pipeline_goes_on_to_the_same_end(store: Path, pipeline: Path, tmp_path: Path) -> None:  # noqa: F811
    out = tmp_path / "killed"
    options = list(map(str, settings(*SHORT, f"data.train={store}")))
    command = [sys.executable, "-m", "contrail_train", "pipeline", "unet2d_v2", "--out", str(out), *options]
    process = subprocess.Popen([*command, "--device", "cpu", "--device", "cpu"], stderr=subprocess.DEVNULL)
    while process.poll() is None and not (out / "stages/classifier/calibration.json").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run(["pkill", "-f", str(out)])  # a kill of one process leaves its children
    assert not (out / "calibration.json").exists()
    done = cli("pipeline", "unet2d_v2", "--out", out, *options)  # one after the other from here on
    assert done.returncode == 0, done.stderr
    one, other = (json.loads((path / "calibration.json").read_text()) for path in (out, pipeline))
    assert one == other
    again = cli("pipeline", "unet2d_v2", "--out", out, *options)
    assert "finished already" in again.stderr
    changed = cli("pipeline", "unet2d_v2", "--out", out, *options, "--set", "weights=fitted")
    assert "holds a pipeline with weights=equal, not fitted:" in changed.stderr


def test_finished_runs_are_taken_over(pipeline: Path, store: Path, unseen: Path, tmp_path: Path) -> None:  # noqa: F811
    stages = settings(*(f"{name}.run={pipeline / 'stages' / name}" for name in ("classifier", "all", "positive")))
    done = cli("pipeline", "unet2d_fitted", "--out", tmp_path / "p", *stages, "--set", "tta=flips")
    assert done.returncode == 0, done.stderr
    calibration = json.loads((tmp_path / "p" / "calibration.json").read_text())
    assert sum(calibration["mask_weights"].values()) == pytest.approx(1)
    refused = cli("pipeline", "unet2d_single", "--out", tmp_path / "q", "--set", f"all.run={unseen}")
    assert refused.returncode == 1
    assert "no run directory" in refused.stderr
    mended = cli("pipeline", "unet2d_single", "--out", tmp_path / "q", "--set", f"all.run={pipeline}/stages/all")
    assert mended.returncode == 0, mended.stderr
    idle = cli("pipeline", "unet2d_fitted", "--out", tmp_path / "i", *stages, "--set", "epochs=9")
    assert "settings: epochs: of stages that are trained" in idle.stderr
    odd = cli("pipeline", "unet2d_single", "--out", tmp_path / "r", "--set", f"all.run={pipeline}/stages/classifier")
    assert "tells records, not pixels" in odd.stderr
    elsewhere = cli(
        "pipeline", "unet2d_v1", "--out", tmp_path / "s", *stages[:2], *stages[4:], "--set", f"calibrate_on={unseen}"
    )
    assert elsewhere.returncode == 0, elsewhere.stderr
    assert len(json.loads((tmp_path / "s/calibration.json").read_text())["holdout_records"]) == 16
    assert "calibrated by" in cli("evaluate", tmp_path / "s", unseen).stderr
    averaged = cli("soup", pipeline / "stages/all", pipeline / "stages/all", "--out", tmp_path / "soup")
    assert averaged.returncode == 0, averaged.stderr
    assert cli("evaluate", tmp_path / "soup", unseen).returncode == 0
    again = cli("soup", pipeline / "stages/all", pipeline / "stages/positive", "--out", tmp_path / "soup")
    assert "runs with other digests" in again.stderr
    mixed = cli("soup", pipeline / "stages/all", pipeline / "stages/classifier", "--out", tmp_path / "no")
    assert "its model is not that of" in mixed.stderr
    assert "is a pipeline, not a run" in cli("soup", pipeline, pipeline, "--out", tmp_path / "no").stderr


def test_a_soup_keeps_what_was_frozen_and_takes_other_statistics_anew(store: Path, tmp_path: Path) -> None:  # noqa: F811
    for name, frozen in (("frozen", "[batch_norm]"), ("free", "[]")):
        run, out = tmp_path / name, tmp_path / f"{name}-soup"
        options = settings(*SHORT, f"data.train={store}", f"model.freeze={frozen}", "augment.label_shift=[0,0]")
        assert cli("run", "unet2d", "--out", run, *options).returncode == 0
        assert cli("soup", run, run, "--out", out).returncode == 0
        one, other = (load_file(path / "best.safetensors") for path in (run, out))
        differ = {key.rpartition(".")[2] for key in one if not torch.equal(one[key], other[key])}
        assert differ - {"num_batches_tracked"} == (set() if name == "frozen" else {"running_mean", "running_var"})
        if name == "frozen":
            same = (json.loads((path / "calibration.json").read_text())["holdout"] for path in (run, out))
            assert next(same) == pytest.approx(next(same), rel=1e-5)


def test_a_pipeline_knows_where_its_masks_lie(store: Path, tmp_path: Path) -> None:  # noqa: F811
    """Of a run that was trained on labels where they lie: off the image, unless turned copies were averaged there."""
    options = settings(*SHORT, f"data.train={store}", "augment.label_shift=[0,0]")
    assert cli("pipeline", "unet2d_single", "--out", tmp_path / "p", *options).returncode == 0
    for path in (tmp_path / "p", tmp_path / "p/stages/all"):
        plain, turned = (load_predictor(path, "cpu", symmetries) for symmetries in ("none", "dihedral"))
        assert (plain.off, turned.off) == ((0.5, 0.5), (0.0, 0.0))
        assert plain.decision.model != turned.decision.model  # other answers, another name


def test_a_pipeline_that_is_not_finished_takes_other_settings(store: Path, pipeline: Path, tmp_path: Path) -> None:  # noqa: F811
    command = ("pipeline", "unet2d_no_gate", "--out", tmp_path / "p", *settings(*SHORT, "tta=flips"))
    assert "data.train is empty" in cli(*command).stderr
    taken = settings(f"data.train={store}", f"positive.run={pipeline}/stages/positive")
    done = cli(*command, *taken)
    assert done.returncode == 0, done.stderr
    first = (tmp_path / "p/calibration.json").read_bytes()
    (tmp_path / "p/calibration.json").write_bytes(first[:-9])
    assert "calibration.json: damaged: remove it" in cli(*command, *taken).stderr
    (tmp_path / "p/calibration.json").unlink()
    assert cli(*command, *taken).returncode == 0
    assert (tmp_path / "p/calibration.json").read_bytes() == first
    weights = tmp_path / "p/stages/positive/best.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "is not the file that the run ended with" in cli(*command, *taken).stderr
    assert "is not the file that the run ended with" in cli("evaluate", tmp_path / "p", store).stderr
    (tmp_path / "p/calibration.json").unlink()
    assert "holds another run than" in cli(*command, *taken).stderr
    weights.write_bytes(whole)
    other = cli(*command, *taken, "--set", "seed=3")  # a stage is trained: it stays what it is
    assert "holds a run with seed=0, not 3" in other.stderr
    assert cli(*command, *taken, "--set", "tta=none").returncode == 0


def test_what_a_stage_cannot_be_trained_on_is_told_before_the_first_is(store: Path, tmp_path: Path) -> None:  # noqa: F811
    from test_train import command_line

    from contrail_data.cli.main import main

    assert command_line(main, "subset", store, "-o", tmp_path / "n.zarr", "--label", "negative").returncode == 0
    (tmp_path / "mine.yaml").write_text(f"preset: unet2d_v2\nsettings: {{data.train: {tmp_path / 'n.zarr'}}}\n")
    refused = cli("pipeline", tmp_path / "mine.yaml", "--out", tmp_path / "p", *settings(*SHORT))
    assert "stage positive:" in refused.stderr
    assert not (tmp_path / "p/stages").exists()
    (tmp_path / "mine.yaml").write_text("mask: [all]\n")
    assert "mine.yaml: lacks stages" in cli("pipeline", tmp_path / "mine.yaml", "--out", tmp_path / "p").stderr


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("alll.epochs=3", "did you mean all.epochs?"),
        ("mask=[]", "give a list of 1 or more, of text"),
        ("tta=all", "give none, flips or dihedral"),
        ("all.epoch=3", "did you mean epochs?"),
    ],
)
def test_settings_of_a_pipeline_are_refused_with_what_they_take(given: str, told: str, tmp_path: Path) -> None:
    refused = cli("pipeline", "unet2d_v2", "--out", tmp_path / "p", "--set", given)
    assert refused.returncode == 1
    assert told in refused.stderr
    assert not (tmp_path / "p").exists()


def test_rounds_label_what_was_not_seen(store: Path) -> None:  # noqa: F811
    out = store.parent / "rounds"
    options = settings(*SHORT, f"data.train={store}")
    done = cli("rounds", "unet2d", "--out", out, "--rounds", 2, "--folds", 2, *options)
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
    told = json.loads((out / "rounds.json").read_text())
    assert [one["round"] for one in told] == [0, 1, 2]
    assert {one["holdout"]["records"] for one in told} == {len(held)}
    again = cli("rounds", "unet2d", "--out", out, "--rounds", 2, "--folds", 2, "--how", "pretrain", *options)
    assert "holds rounds with --how=mixed, not pretrain:" in again.stderr
    record = cli("rounds", "unet2d_classifier", "--out", out.with_name("no"), *options)
    assert "no masks to label with" in record.stderr


def test_a_pipeline_is_calibrated_on_what_no_stage_was_trained_on() -> None:
    items = scene(0)[2]
    ids = items.record_id.tolist()
    runs = [
        SimpleNamespace(trained_records=frozenset(ids[:n]), calibrated_records=frozenset(ids[n:20])) for n in (8, 12)
    ]
    assert held_out_by_all(runs, items).record_id.tolist() == ids[12:20]
    assert held_out_by_all(runs, items, any_unseen=True).record_id.tolist() == ids[12:]


def uniform(x_btchw: np.ndarray, valid_bhw: np.ndarray | None) -> Predicted:
    count = len(x_btchw)
    agreement = np.linspace(0, 1, count).astype(np.float32)
    return Predicted(np.full((count, *x_btchw.shape[3:]), 0.9, np.float32), np.ones(count, np.float32), agreement)


def labels_of(parent: Path, out: Path, trained: tuple[str, ...] = ()) -> Path:
    options = {"store_kind": "pseudo-labels", "frames": "all", "trained_records": trained}
    label_store(open_store(parent), uniform, Decision(0.5, 0.0, 10, "sha256:m"), out, **options)
    return out


def test_confidence_is_of_the_mask_or_of_there_being_none(raw: Path, tmp_path: Path) -> None:
    def half(x_btchw: np.ndarray, valid_bhw: np.ndarray | None) -> Predicted:
        p_bhw = np.full((len(x_btchw), *x_btchw.shape[3:]), 0.1, np.float32)
        p_bhw[::2, :4, :3] = 0.8
        return Predicted(p_bhw, np.where(np.arange(len(p_bhw)) % 2, 0.3, 0.7).astype(np.float32), np.ones(len(p_bhw)))

    parent = open_store(build_small(raw, tmp_path / "s.zarr").place.path)
    options = {"store_kind": "predictions", "frames": "all"}
    label_store(parent, half, Decision(0.5, 0.0, 10, "sha256:m"), tmp_path / "l.zarr", **options)
    confidence = open_store(tmp_path / "l.zarr")["frame_confidence"].values
    np.testing.assert_allclose(confidence, np.tile([0.8, 0.7], (9, 4)), atol=1e-6)


def test_labels_of_a_model_that_saw_the_holdout_are_refused(raw: Path, tmp_path: Path) -> None:
    parent = build_small(raw, tmp_path / "s.zarr").place.path
    held = open_training_data(DataConfig(train=[str(parent)], holdout=0.3)).holdout.record_id.tolist()
    assert held
    clean = labels_of(parent, tmp_path / "clean.zarr", tuple(set(open_store(parent)["record_id"].values) - set(held)))
    open_training_data(DataConfig(train=[str(parent), str(clean)], holdout=0.3))
    leaky = labels_of(parent, tmp_path / "leaky.zarr", (held[0],))
    config = DataConfig(train=[str(parent), str(leaky)], holdout=0.3)
    with pytest.raises(ContrailError, match=rf"trained on 1 of {len(held)} held-out records, such as {held[0]}"):
        open_training_data(config)
    assert held[0] in open_training_data(config.model_copy(update={"leaks": "allow"})).labellers_saw


def test_frames_that_a_model_is_not_sure_of_are_left_out(raw: Path, tmp_path: Path) -> None:
    parent = build_small(raw, tmp_path / "s.zarr").place.path
    labels = labels_of(parent, tmp_path / "l.zarr")
    config = DataConfig(train=[str(parent), str(labels)], holdout=0)
    everything = open_training_data(config).pseudo_labelled
    assert everything == 9 * 7
    agreement = open_store(labels)["frame_agreement"].values
    pseudo = open_store(labels)["frame_source"].values == "pseudo"
    for key, least, of in (
        ("min_agreement", 0.5, "frame"),
        ("min_confidence", 0.95, "frame"),
        ("min_agreement", 0.5, "record"),
    ):
        some = config.model_copy(update={"pseudo": config.pseudo.model_copy(update={key: least, "of": of})})
        mean = np.where(pseudo, agreement, 0).sum(1, keepdims=True) / pseudo.sum(1, keepdims=True)
        value = {"frame": agreement, "record": np.broadcast_to(mean, agreement.shape)}[of]
        expected = int((pseudo & (value >= least)).sum()) if key == "min_agreement" else 0
        assert open_training_data(some).pseudo_labelled == expected, (key, of)


def test_leaking_validation_is_refused_dropped_or_allowed(raw: Path, tmp_path: Path) -> None:
    """Records of one site, 20 minutes apart: each store's overlap the other's; the ninth has no place."""
    from test_train import command_line

    from contrail_data.cli.main import main

    everything = build_small(raw, tmp_path / "all.zarr").place.path
    ids = open_store(everything)["record_id"].values.tolist()
    for name, part in (("a", ids[:4] + ids[8:]), ("b", ids[4:8])):
        given = [x for record in part for x in ("--records", record)]
        assert command_line(main, "subset", everything, "-o", tmp_path / f"{name}.zarr", *given).returncode == 0
    config = DataConfig(train=[str(tmp_path / "a.zarr")], validation=[str(tmp_path / "b.zarr")])
    with pytest.raises(ContrailError, match=r"4 records of data.train leak into data.validation .*data.leaks=drop"):
        open_training_data(config)
    dropped = open_training_data(config.model_copy(update={"leaks": "drop"}))
    assert dropped.train.record_id.tolist() == ids[8:]
    assert dropped.leaking == 4
    allowed = open_training_data(config.model_copy(update={"leaks": "allow"}))
    assert (len(allowed.train), sorted(allowed.holdout.record_id.tolist())) == (5, sorted(ids[4:8]))


def test_folds_of_a_file(raw: Path, tmp_path: Path) -> None:
    parent = build_small(raw, tmp_path / "s.zarr").place.path
    ids = open_store(parent)["record_id"].values.tolist()
    table = tmp_path / "folds.csv"
    table.write_text("record_id,fold\n" + "".join(f"{r},{2 if r == ids[8] else 0}\n" for r in ids))
    data = open_training_data(DataConfig(train=[str(parent)], folds=str(table), fold=2))
    assert data.holdout.record_id.tolist() == [ids[8]]
    with pytest.raises(ContrailError, match="leaves none"):
        open_training_data(DataConfig(train=[str(parent)], folds=str(table), fold=2, leave_out=[0]))
    with pytest.raises(ContrailError, match="holds no fold 1: choose among 0 to 2"):
        open_training_data(DataConfig(train=[str(parent)], folds=str(table), fold=1))
    for text, told in (
        ("a,b\n", "no columns record_id and fold"),
        ("record_id,fold\nx,1\ny\n", "line 3: None is no fold"),
    ):
        table.write_text(text)
        with pytest.raises(ContrailError, match=told):
            open_training_data(DataConfig(train=[str(parent)], folds=str(table)))
    with pytest.raises(ContrailError, match="No such file"):
        open_training_data(DataConfig(train=[str(parent)], folds="none.csv"))
    table.write_text(f"record_id,fold\n{ids[0]},0\n")
    with pytest.raises(ContrailError, match="lacks 8 of the records"):
        open_training_data(DataConfig(train=[str(parent)], folds=str(table)))


def test_drawing_by_frequency() -> None:
    frequency = np.array([0.25, 0.25, 0.5, 3.0])
    drawn = np.concatenate([epoch_order(frequency, 0, epoch) for epoch in range(2000)])
    np.testing.assert_allclose(np.bincount(drawn) / 2000, frequency, atol=0.04)
    assert len(epoch_order(frequency, 0, 0)) == 4
