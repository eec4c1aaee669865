"""The detector that the package ships: whole, small, described truthfully, and usable wherever a run is."""

from __future__ import annotations

import tomllib
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest

from contrail_data.errors import ContrailError
from contrail_data.labels.predictor import Symmetries
from contrail_data.model_folders.manifest import CARD, MANIFEST, PICTURE, verify_folder
from contrail_data.store.reader import open_store
from contrail_train.runs.address import BUILTIN, local_model
from contrail_train.runs.calibration import read_calibration
from contrail_train.runs.sealed import read_json
from contrail_train.workflows.symmetries import load_predictor
from helpers.cli import run_train
from helpers.places import PROJECT

STARTER = f"{BUILTIN}starter"
MOST_BYTES = 8_000_000


def folder() -> Path:
    return local_model(STARTER)


def test_the_starter_is_what_was_written_and_below_8_mb() -> None:
    manifest = verify_folder(folder())
    files = {path.name for path in folder().iterdir()}
    assert files == {*manifest["files"], MANIFEST, CARD, PICTURE}
    assert sum((folder() / name).stat().st_size for name in files) <= MOST_BYTES
    assert manifest["about"]["precision"] == "float16"
    assert read_calibration(folder())["weights"] == f"sha256:{manifest['files']['best.safetensors']['sha256']}"


def test_wheels_and_source_archives_hold_all_of_it() -> None:
    settings = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = settings["package-data"]["contrail_train"]
    package = PROJECT / "contrail_train"
    for path in (package / "builtin").rglob("*"):
        if path.is_file():
            assert any(fnmatch(str(path.relative_to(package)), pattern) for pattern in patterns), path


def test_its_card_states_the_scores_that_were_stored() -> None:
    card, evaluation = (folder() / CARD).read_text(), read_json(folder() / "evaluation.json", dict, "restore it")
    scores = evaluation["scores"]
    assert set(scores) == set(map(str, Symmetries))
    for name, one in scores.items():
        row = [f"{one[key]:.3f}" for key in ("dice", "precision", "recall", "auc_pr", "threshold")]
        interval = f"{one['dice_low']:.3f} to {one['dice_high']:.3f}"
        assert f"| {' | '.join([name, row[0], interval, *row[1:]])} |" in card
    assert one["records"] == evaluation["frames"]
    assert f"{evaluation['frames']} labelled frames" in card
    calibration = read_calibration(folder())
    assert calibration["taken_from"]["scores"] == scores["none"]
    assert len(calibration["seen_records"]) == evaluation["frames"]
    for kind in evaluation["kinds"]:
        assert f"| {kind['error']} | {kind['contrails']} | {kind['of']} | {kind['pixels']:,} |" in card


@pytest.mark.parametrize("symmetries", Symmetries)
def test_it_has_a_threshold_for_all_symmetries_without_its_training_data(symmetries: Symmetries) -> None:
    scores = read_json(folder() / "evaluation.json", dict, "restore it")["scores"]
    model = load_predictor(STARTER, "cpu", symmetries)
    assert model.decision.threshold == scores[symmetries]["threshold"]


def test_it_predicts_a_store(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "predictions.zarr"
    done = run_train("predict", STARTER, store, "-o", out, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    predicted = open_store(out)
    assert predicted.sizes["sample"] == 16
    assert predicted.attrs["model"] == load_predictor(STARTER, "cpu").decision.model


def test_runs_show_names_its_card() -> None:
    shown = run_train("runs", "show", STARTER)
    assert shown.returncode == 0, shown.stderr
    assert f"card       {folder() / CARD}\n" in shown.stdout
    assert "command" not in shown.stdout
    assert "finished, 24 epochs" in shown.stdout  # whose scores it does not keep


def test_a_predictor_is_shown_in_a_few_lines() -> None:
    text = repr(load_predictor(STARTER, "cpu"))
    assert "threshold=0.54" in text
    assert len(text) < 2000


def test_it_finds_contrails_in_a_real_frame(real_data: Path) -> None:
    frame = np.load(real_data / "ash_frames/pos_001.npy")
    image_cyx = np.rint(frame[..., :3].astype(np.float32) * 255).astype(np.uint8).transpose(2, 0, 1)
    model = load_predictor(STARTER, "cpu")
    mask = model.predict(image_cyx[None, None]).probability[0] >= model.decision.threshold
    label = frame[..., 3] > 0
    assert (mask & label).sum() > 0.3 * label.sum()
    assert mask.mean() < 0.1


def test_another_name_is_refused_in_one_line() -> None:
    with pytest.raises(ContrailError, match=r"^builtin:none: .*; choose builtin:starter$"):
        local_model(f"{BUILTIN}none")
