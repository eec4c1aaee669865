"""The stream of optical flow beside that of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from contrail_data.store.reader import open_store
from contrail_train.config.presets import get_config
from contrail_train.config.settings import with_settings
from contrail_train.inference.load import load_model
from contrail_train.models.segmenter import Segmenter, build
from contrail_train.training.fit import fit
from helpers.models import model_config, without_gradient
from helpers.runs import SHORT

FRAMES = (-1, 0, 2)


def two_streams(**settings: object) -> Segmenter:
    torch.manual_seed(0)
    return build(model_config(flow_stream={"width": 8}, **settings), 3, FRAMES)


def inputs(height: int = 64, width: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    flow_btdhw = 4 * torch.randn(2, 3, 2, height, width)
    flow_btdhw[:, 1] = 0
    return torch.randn(2, 3, 3, height, width), flow_btdhw


@pytest.mark.parametrize("settings", [{}, {"mixer": "lstm", "checkpoint_activations": True}, {"stem_stride": 1}])
def test_a_new_stream_changes_nothing_and_then_learns_from_the_flow_to_each_frame(settings: dict[str, object]) -> None:
    model, (x_btchw, flow_btdhw) = two_streams(**settings), inputs(70, 90)
    without = {name: value for name, value in model.state_dict().items() if "flow_stream" not in name}
    torch.manual_seed(0)
    plain = build(model_config(**settings), 3, FRAMES)
    plain.load_state_dict(without)
    model.eval(), plain.eval()
    expected = plain(x_btchw)["logits_b1hw"]
    assert torch.equal(model(x_btchw, None, flow_btdhw)["logits_b1hw"], expected)
    for project in model.flow_stream.to_features:
        torch.nn.init.normal_(project.weight)
    flow_btdhw.requires_grad_()
    model.train()
    model(x_btchw, None, flow_btdhw)["logits_b1hw"].square().sum().backward()
    assert not without_gradient(model)
    assert (flow_btdhw.grad.abs().amax((2, 3, 4)) > 0).tolist() == [[True, False, True]] * 2


def test_flow_is_reflected_in_the_rim_as_images_are() -> None:
    model, plain, (x_btchw, flow_btdhw) = two_streams(rim=16), two_streams(), inputs()
    for network in (model.eval(), plain.eval()):
        torch.manual_seed(2)
        for project in network.flow_stream.to_features:  # type: ignore[union-attr]
            torch.nn.init.normal_(project.weight)

    def extended(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(x.flatten(1, 2), (16, 16, 16, 16), mode="reflect").unflatten(1, x.shape[1:3])

    moved = extended(flow_btdhw)
    for rim in (slice(None, 16), slice(-16, None)):
        moved[:, :, 0, rim] *= -1
        moved[:, :, 1, :, rim] *= -1
    with torch.no_grad():
        expected = plain(extended(x_btchw), None, moved)["logits_b1hw"][..., 16:-16, 16:-16]
        torch.testing.assert_close(model(x_btchw, None, flow_btdhw)["logits_b1hw"], expected)


def test_flow_joins_features_of_encoders_without_padding() -> None:
    config = model_config("legacy_xception", flow_stream={"width": 8})
    model = build(config, 3, FRAMES).eval()
    x_btchw, flow_btdhw = inputs()
    for project in model.flow_stream.to_features:  # type: ignore[union-attr]
        torch.nn.init.normal_(project.weight)
    with torch.no_grad():
        still = model(x_btchw, None, torch.zeros_like(flow_btdhw))["logits_b1hw"]
        assert not torch.allclose(model(x_btchw, None, flow_btdhw)["logits_b1hw"], still)


def test_flow_is_not_ignored() -> None:
    x_btchw, flow_btdhw = inputs()
    with pytest.raises(ValueError, match="takes its flow beside the frames"):
        two_streams()(x_btchw)
    with pytest.raises(ValueError, match="takes no flow beside the frames"):
        build(model_config(mixer="mean"), 3, FRAMES)(x_btchw, None, flow_btdhw)


def test_a_run_learns_from_the_flow_of_its_records_and_predicts_with_it(store: Path, tmp_path: Path) -> None:
    settings = ("data.frames=[-1,0,1]", "model.flow_stream.width=8")
    config = with_settings(get_config("unet2d"), [*SHORT, f"data.train={store}", "augment.rot90=1", *settings])
    fit(config, tmp_path / "run")
    model = load_model(tmp_path / "run", "cpu")
    stream = model.detect.networks["run"].model.flow_stream
    assert all(bool(project.weight.any()) for project in stream.to_features)
    stored = open_store(store)["image"].values[:2, 3:6]
    assert not np.array_equal(model.predict(stored).probability, model.predict(stored[:, [1, 1, 1]]).probability)
