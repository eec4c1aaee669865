"""Loggers: what each of them receives, how a resumed run continues its entry, and what no log may hold."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contrail_data.errors import ContrailError
from contrail_data.process import speed_up_imports, unhide
from contrail_train.config.schema import RunConfig
from contrail_train.config.settings import with_settings
from contrail_train.runs.distributed import ALONE
from contrail_train.training import loggers
from contrail_train.training.loggers import RunLog, check_loggers, follow, without_secrets
from helpers.runs import run_steps

SECRET = "s3cr3t-value"
HISTOGRAM_SHAPE = (2, 65536)


def test_tensorboard_shows_settings_losses_scores_a_curve_and_pictures(store: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "run"
    settings = ("epochs=2", "loggers.pictures=3")
    run_steps(store, out, *settings, steps=4)
    run_steps(store, out, *settings, steps=None)
    events = EventAccumulator(str(out / "tensorboard"), {"images": 0, "scalars": 0, "tensors": 0})
    events.Reload()
    tags = events.Tags()
    scores = {"holdout/dice", "holdout/loss", "holdout/precision", "holdout/recall", "train/loss", "train/epoch_loss"}
    assert scores | {"final/dice"} <= {*tags["scalars"]}
    assert [event.step for event in events.Scalars("holdout/loss")] == [3, 6]
    assert len(tags["images"]) == 3
    assert all(len(events.Images(tag)) == 2 for tag in tags["images"])
    text = events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "    encoder: test_resnet" in text
    assert len(events.Tensors("holdout/pr")) == 2
    assert events.PluginTagToContent("hparams")


@pytest.mark.slow
def test_weights_and_biases_writes_a_run_offline_and_continues_it(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unhide("wandb")
    if find_spec("wandb") is None:
        pytest.skip("wandb is not installed")
    speed_up_imports()  # by which the command line hides it until a run needs it
    for name in ("WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, SECRET * 4)
    out, settings = tmp_path / "run", ("epochs=2", "loggers.wandb.offline=true", "loggers.pictures=1")
    run_steps(store, out, *settings, steps=4)
    run_steps(store, out, *settings, steps=None)
    key = json.loads((out / "loggers.json").read_text())["wandb"]["id"]
    parts = sorted((out / "wandb").glob("offline-run-*"))
    assert [part.name.rpartition("-")[2] for part in parts] == [key, key]
    contents = [b"".join(path.read_bytes() for path in part.rglob("*") if path.is_file()) for part in parts]
    assert all(text in contents[0] for text in (b"train/loss", b"holdout/dice", b"holdout/pr", b"test_resnet"))
    assert b"final/dice" in contents[1]
    assert not any(SECRET.encode() in path.read_bytes() for path in out.rglob("*") if path.is_file())


@pytest.mark.slow
def test_mlflow_receives_a_run_and_continues_it(store: Path, tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    out, settings = tmp_path / "run", ("epochs=2", f"loggers.mlflow.uri={uri}", "loggers.pictures=0")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)  # where artifacts of such a file lie
        run_steps(store, out, *settings, steps=4)
        run_steps(store, out, *settings, steps=None)
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name("contrail")
        assert experiment is not None
        (run,) = client.search_runs([experiment.experiment_id])
        assert (run.info.status, run.info.run_name) == ("FINISHED", "run")
        assert run.data.params["model.encoder"] == "test_resnet"
        assert "final/dice" in run.data.metrics
        history = client.get_metric_history(run.info.run_id, "holdout/dice")
        assert [metric.step for metric in history] == [3, 6]


class _Broken:
    """A logger whose server has gone."""

    def __getattr__(self, name: str) -> Any:
        raise ConnectionError("connection refused")


def test_a_logger_that_fails_is_reported_once_and_the_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from contrail_train.runs.directory import MetricsLog

    log = RunLog(MetricsLog(tmp_path, 0, ALONE), {"mlflow": _Broken()}, ALONE)
    log.write(1, loss=0.5, grad_norm=float("inf"), lr=None)
    log.show(1, np.ones(HISTOGRAM_SHAPE, np.int64), {})
    log.write(2, loss=0.25)
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [
        {"step": 1, "loss": 0.5},
        {"step": 2, "loss": 0.25},
    ]
    assert capsys.readouterr().err.count("warning: loggers.mlflow: failed") == 1


def test_how_a_process_ends_is_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = []

    class Noting:
        def close(self, end: str) -> None:
            ends.append(str(end))

    monkeypatch.setattr(loggers, "TensorBoardLogger", lambda _: Noting())
    for error in (None, KeyboardInterrupt, ContrailError):
        try:
            with follow(tmp_path, RunConfig(), 0, ALONE):
                if error is not None:
                    raise error
        except (KeyboardInterrupt, ContrailError):
            pass
    assert ends == ["finished", "stopped", "failed"]


def test_a_missing_package_ends_the_command_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loggers, "find_spec", lambda _: None)
    config = with_settings(RunConfig(), ["data.train=x", "loggers.wandb={}"])
    with pytest.raises(ContrailError, match=r"loggers\.wandb: wandb is not installed.*pip install '\.\[wandb\]'"):
        check_loggers(config.loggers)
    check_loggers(RunConfig().loggers)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ContrailError, match=r"loggers\.mlflow\.uri: null, and MLFLOW_TRACKING_URI is not set"):
        check_loggers(with_settings(RunConfig(), ["loggers.mlflow={}"]).loggers)


def test_addresses_lose_what_may_be_a_secret() -> None:
    values = {"a": [f"s3://key:{SECRET}@host/b/c.zarr", f"https://x.org/s.zarr?sig={SECRET}"], "b": {"c": "runs/a"}}
    assert without_secrets(values) == {"a": ["s3://host/b/c.zarr", "https://x.org/s.zarr"], "b": {"c": "runs/a"}}
    with pytest.raises(ContrailError, match=r"give them as MLFLOW_TRACKING_USERNAME") as error:
        with_settings(RunConfig(), [f"loggers.mlflow.uri=https://me:{SECRET}@host"])
    assert error.value is not None


def test_settings_of_loggers_without_effect_are_refused() -> None:
    for settings in (["loggers.tensorboard=false"], ["model.decoder=null", "model.record_head={}"], ["data.holdout=0"]):
        with pytest.raises(ContrailError, match=r"loggers\.pictures=9 has no effect"):
            with_settings(RunConfig(), [*settings, "loggers.pictures=9"])
