"""Optical flow by RAFT: axes, signs and sizes of what torchvision returns, and where weights come from."""

from __future__ import annotations

import functools
import http.server
import itertools
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models.optical_flow import raft_small

from contrail_data.cli.main import main
from contrail_data.errors import ContrailError
from contrail_data.labels.flow import label_by_flow
from contrail_data.store.reader import open_store
from contrail_train.config.pipelines import PipelineConfig
from contrail_train.config.presets import get_config
from contrail_train.config.settings import with_settings
from contrail_train.inference.load import load_model
from contrail_train.models import raft
from contrail_train.models.raft import raft_method
from contrail_train.training.fit import fit
from contrail_train.workflows.pipeline import train_pipeline
from helpers.cli import run_command
from helpers.runs import SHORT
from helpers.stores import build_small

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the smaller network."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("raft") / "raft_small.pth"
    torch.save(raft_small(weights=None).state_dict(), path)
    return path


@pytest.fixture
def url(weights: Path) -> Iterator[str]:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(weights.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/{weights.name}"
        server.shutdown()


class Brightest(torch.nn.Module):
    """Finds how far the brightest pixel moves, and says so as torchvision does: (right, down), the last being best."""

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Take any weights."""

    def forward(self, first: torch.Tensor, second: torch.Tensor, num_flow_updates: int) -> list[torch.Tensor]:
        height, width = first.shape[2:]
        assert first.shape[:2] == (1, 3)
        assert height % 8 == width % 8 == 0
        assert min(height, width) >= 128
        places = [divmod(int(image[0, 0].argmax()), width) for image in (first, second)]
        assert [float(image.max()) for image in (first, second)] == [1.0, 1.0]
        down, right = np.subtract(places[1], places[0]).tolist()
        flow = torch.tensor([right, down], dtype=torch.float32)[None, :, None, None].expand(1, 2, height, width)
        return [torch.zeros_like(flow), flow]


def test_flow_is_down_and_right_from_the_first_frame_to_the_second(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raft, "raft_small", lambda weights: Brightest())
    between = raft_method(str(weights), CPU).between
    before, after = np.zeros((2, 3, 50, 70), np.uint8)
    before[:, 20, 30] = after[:, 25, 28] = 255
    np.testing.assert_array_equal(between(before, after), np.broadcast_to([[[5]], [[-2]]], (2, 50, 70)))
    label = (before[0] > 0).astype(np.float32)
    carried, reliability = label_by_flow(after, before, label, between)
    np.testing.assert_array_equal(carried, after[0] > 0)
    assert reliability == 1


@pytest.mark.slow
def test_a_store_states_the_network_and_its_weights(
    raw: Path, weights: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(raft, "UPDATES", 1)
    parent = build_small(raw, tmp_path / "s.zarr").place.path
    options = ["--frames=1", "--flow", "raft", "--weights", weights, "--device", "cpu"]
    done = run_command(main, "propagate", parent, "-o", tmp_path / "raft", *options)
    assert done.returncode == 0, done.stderr
    model = open_store(tmp_path / "raft").attrs["model"]
    assert model.startswith("optical flow 5: torchvision raft_small, 1 updates, mean of the channels, weights sha256:")
    assert model == raft_method(url, CPU).name
    done = run_command(main, "propagate", parent, "-o", tmp_path / "no", "--weights", weights)
    assert "--weights: has no effect without --flow raft" in done.stderr


def test_threads_that_load_data_do_not_disturb_one_another(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raft, "UPDATES", 2)
    between = raft_method(str(weights), CPU).between
    frames = np.random.default_rng(0).integers(0, 256, (5, 1, 32, 32), np.uint8)
    with ThreadPoolExecutor(4) as pool:
        threaded = list(pool.map(between, frames[:-1], frames[1:]))
    for ours, pair in zip(threaded, itertools.pairwise(frames), strict=True):
        np.testing.assert_array_equal(ours, between(*pair))


@pytest.mark.slow
def test_a_run_keeps_the_weights_that_its_predictions_need(
    weights: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raft, "UPDATES", 1)
    own = tmp_path / "raft.pth"
    shutil.copyfile(weights, own)
    settings = ["data.frames=[-1,0]", "model.flow_stream.width=8", "data.flow.method=raft", f"data.flow.weights={own}"]
    config = with_settings(get_config("unet2d"), [*SHORT, f"data.train={store}", *settings])
    fit(config, tmp_path / "run")
    own.unlink()
    flow = load_model(tmp_path / "run", "cpu").detect.networks["run"].flow
    assert flow.method.name == raft_method(str(weights), CPU).name
    stages = {"stages": {"two_streams": {"run": str(tmp_path / "run")}}, "mask": ["two_streams"]}
    train_pipeline(PipelineConfig.model_validate(stages), tmp_path / "pipeline", ["cpu"])
    copied = load_model(tmp_path / "pipeline", "cpu").detect.networks["two_streams"].flow
    assert copied.method.name == flow.method.name


def test_weights_that_cannot_be_used_are_refused_in_one_line(url: str, tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    for source, reason in (
        (str(tmp_path / "other.pth"), "not weights of raft_small or raft_large"),
        (str(tmp_path / "absent.pth"), "give a file"),
        (f"{url}x", "download them elsewhere and give their path"),
    ):
        with pytest.raises(ContrailError, match=reason):
            raft_method(source, CPU)
