"""`contrail-train publish`: what is shared of a run or pipeline, what its card says, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from PIL import Image

from contrail_data.errors import ContrailError, UsageError
from contrail_data.model_folders.copies import fetch_model
from contrail_data.model_folders.manifest import verify_folder
from contrail_data.store.reader import open_store
from contrail_train.inference.load import load_model
from contrail_train.workflows.publish import PublishRequest, publish_model
from contrail_train.workflows.soup import average_runs
from contrail_train.workflows.symmetries import load_predictor
from helpers.cli import run_data, run_train
from helpers.hub_server import served_hub


def predictions(address: object, store: Path) -> np.ndarray:
    return load_model(str(address)).predict(open_store(store)["image"].values[:4, 4:5]).probability


@pytest.mark.slow
def test_a_run_is_published_with_a_card_that_says_how_good_it_is(
    finished: Path, unseen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONTRAIL_CACHE", str(tmp_path / "cache"))
    shutil.copytree(finished, run := tmp_path / "run")
    assert run_train("evaluate", run, unseen, "--worst", 0).returncode == 0
    with_flips = load_predictor(run, "cpu", "flips")
    (evaluation,) = run.glob("evaluation-*.json")
    values = json.loads(evaluation.read_text())
    done = run_train("publish", run, "models/detector", "--licence", "apache-2.0", "--name", "detector")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    digest = verify_folder(Path("models/detector"))["digest"]
    assert done.stdout.splitlines() == [
        f"models/detector: {done.stdout.split()[1]} MB, {digest}",
        "data_catalog.yaml: detector@1",
    ]
    card = ModelCard.load(tmp_path / "models/detector/README.md")
    assert card.data.license == "apache-2.0"
    assert card.data.eval_results is not None
    assert card.data.eval_results[0].metric_value == round(values["dice"], 4)
    assert f"| 16 (12) | {values['dice']:.3f} (" in card.text
    worst = max(values["analysis"]["kinds"], key=lambda kind: kind["lost"])
    assert f"- {worst['lost']:.0%} of all wrong pixels: {worst['error']} (" in card.text
    assert "contrail-train predict models/detector STORE" in card.text
    picture = Image.open("models/detector/records.png")
    assert picture.width > 4 * 200
    assert picture.height > 2 * 200
    np.testing.assert_array_equal(predictions("detector", unseen), predictions(run, unseen))
    assert load_predictor("detector", "cpu", "flips").decision == with_flips.decision  # without the training stores
    with pytest.raises(ContrailError, match=r"held-out records are needed .* --tta dihedral; or omit --tta"):
        load_predictor("detector", "cpu", "dihedral")
    with served_hub(monkeypatch) as hub:
        done = run_train("publish", "detector", "hf://team/detector", "--name", "hubbed")
        assert done.returncode == 0, done.stderr
        assert "created as a private repository" in done.stderr
        commit = hub.branches["team/detector"]["main"]
        assert done.stdout.startswith(f"hf://team/detector@{commit}: ")
        assert digest in done.stdout
        assert hub.commits["team/detector"][commit]["README.md"].decode().startswith("---\n")
        copy = fetch_model("hf://team/detector")
        assert (copy / "records.png").read_bytes() == Path("models/detector/records.png").read_bytes()
        np.testing.assert_array_equal(predictions("hubbed", unseen), predictions(run, unseen))


@pytest.mark.slow
def test_a_pipeline_and_a_soup_are_published_and_predict_the_same(
    pipeline: Path, finished: Path, unseen: Path, tmp_path: Path
) -> None:
    published = publish_model(str(pipeline), str(tmp_path / "pipeline"), PublishRequest())
    assert published.manifest["about"]["kind"] == "pipeline"
    assert "stages/all/best.safetensors" in published.manifest["files"]
    assert "stage all" in (tmp_path / "pipeline/README.md").read_text()
    np.testing.assert_array_equal(predictions(tmp_path / "pipeline", unseen), predictions(pipeline, unseen))
    assert load_model(tmp_path / "pipeline").decision == load_model(pipeline).decision
    average_runs([finished, finished], tmp_path / "soup", "cpu")
    publish_model(str(tmp_path / "soup"), str(tmp_path / "shared"), PublishRequest(half=True))
    difference = predictions(tmp_path / "shared", unseen) - predictions(tmp_path / "soup", unseen)
    assert 0 < np.abs(difference).max() < 2e-3


def test_what_cannot_be_published_is_refused_before_any_work(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    for to, message in {
        str(tmp_path / "full"): "exists and is not a model folder",
        str(tmp_path / "full/file"): "exists and is not a model folder",
        "https://host/model": "web servers are only read",
        "hf://detector": "not an address of the hub",
        f"hf://team/detector@{'0' * 40}": "a commit cannot change",
    }.items():
        with pytest.raises(ContrailError, match=message):
            publish_model(str(finished), to, PublishRequest())
    with pytest.raises(ContrailError, match="not a run directory"):
        publish_model(str(tmp_path), str(tmp_path / "out"), PublishRequest())
    with pytest.raises(UsageError, match="--overwrite: has no effect on the hub"):
        publish_model(str(finished), "hf://team/detector", PublishRequest(overwrite=True))
    done = run_train("publish", finished, tmp_path / "out", "--text", "a detector")
    assert "--text: has no effect without --name" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_another_model_is_replaced_on_request_only_and_options_without_effect_are_refused(
    finished: Path, tmp_path: Path, s3: str
) -> None:
    shutil.copytree(finished, run := tmp_path / "run")
    (run / "evaluation-000.json").write_text("{}")
    with pytest.raises(ContrailError, match=r"evaluation-000\.json: damaged"):
        publish_model(str(run), str(tmp_path / "out"), PublishRequest())
    (run / "evaluation-000.json").unlink()
    first = publish_model(str(run), out := str(tmp_path / "out"), PublishRequest())
    assert any("no scores on other records" in note for note in first.notes)
    (tmp_path / "out/README.md").write_text("worn")
    publish_model(str(run), out, PublishRequest())
    assert (tmp_path / "out/README.md").read_text().startswith("---\n")
    with pytest.raises(ContrailError, match="holds another model; choose another place, or add --overwrite"):
        publish_model(str(run), out, PublishRequest(half=True))
    second = publish_model(str(run), out, PublishRequest(half=True, overwrite=True))
    publish_model(out, f"{s3}/model", PublishRequest())
    with pytest.raises(ContrailError, match=r"s3://.*: holds another model; choose another place, or add --overwrite"):
        publish_model(str(run), f"{s3}/model", PublishRequest())
    assert verify_folder(tmp_path / "out")["digest"] == second.manifest["digest"] != first.manifest["digest"]
    with pytest.raises(UsageError, match=r"--half: has no effect on .*a model folder"):
        publish_model(out, str(tmp_path / "copy"), PublishRequest(half=True))
    assert run_data("catalog", "add", "x", tmp_path / "copy", cwd=tmp_path).returncode == 1


def test_without_its_stores_a_run_is_published_without_a_picture(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, run := tmp_path / "run")
    environment = json.loads((run / "environment.json").read_text())
    config = (run / "config.yaml").read_text()
    store = next(iter(environment["places"]))
    assert store in config
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("contrail_train.runs.stores.open_named", _missing)
        published = publish_model(str(run), str(tmp_path / "out"), PublishRequest())
    assert any(note.startswith("the card has no picture: ") for note in published.notes)
    assert "records.png" not in (tmp_path / "out/README.md").read_text()


def _missing(address: str) -> None:
    raise ContrailError(f"{address}: no such store")
