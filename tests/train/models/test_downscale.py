"""Frames that are mixed at a lower resolution than the labelled frame has."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from contrail_train.models.segmenter import Segmenter, build
from helpers.models import model_config, without_gradient

FRAMES = (-1, 0, 1)
SMALL: dict[str, Any] = {"channels": [16, 16, 8, 8, 8]}


def decoder_inputs(model: Segmenter, x_btchw: Tensor) -> list[Tensor]:
    """Return the features that reach the decoder."""
    inputs: list[list[Tensor]] = []
    assert model.decoder is not None
    hook = model.decoder.register_forward_hook(lambda _, args, __: inputs.append(args[0]))
    with torch.no_grad():
        model(x_btchw)
    hook.remove()
    return inputs[0]


@pytest.mark.parametrize("factor", [2, 4])
def test_the_change_by_mixing_shrunk_frames_is_added_to_the_labelled_frame(factor: int) -> None:
    model = build(model_config(**SMALL, mixer="mean", levels=[0, 2], downscale=factor), 3, FRAMES).eval()
    x_btchw = torch.randn(2, 3, 3, 128, 256)
    with torch.no_grad():
        full = model.encoder(x_btchw[:, 1])
        shrunk = [model.encoder(functional.avg_pool2d(frame, factor)) for frame in x_btchw.unbind(1)]
    for level, features in enumerate(decoder_inputs(model, x_btchw)):
        change = torch.zeros(())
        if level in (0, 2):
            change = sum(frame[level] for frame in shrunk) / 3 - shrunk[1][level]
            change = change.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
        torch.testing.assert_close(features, full[level] + change, atol=1e-4, rtol=1e-4)


def test_changes_lie_where_the_frames_differ_if_shrunk_images_are_padded() -> None:
    """Of 96 x 96 pixels 48 x 48 remain, which the encoder takes as 64 x 64."""
    torch.manual_seed(0)
    model = build(model_config(**SMALL, mixer="mean", levels=[0], downscale=2), 3, FRAMES).eval()
    x_btchw = torch.zeros(1, 3, 3, 96, 96)
    same = decoder_inputs(model, x_btchw)[0]
    x_btchw[:, 0, :, 80:84, 8:12] = 5.0
    change_hw = (decoder_inputs(model, x_btchw)[0] - same).abs().sum((0, 1))
    rows, columns = torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")
    centre = [float((change_hw * index).sum() / change_hw.sum()) for index in (rows, columns)]
    assert centre == pytest.approx([81.5 / 2, 9.5 / 2], abs=2.0)


@pytest.mark.parametrize("mixer", ["conv3d", "valid3d", "lstm", "transformer"])
def test_a_model_starts_with_the_predictions_of_its_single_frame_model(mixer: Any) -> None:
    one = build(model_config(**SMALL), 3).eval()
    several = build(model_config(**SMALL, mixer=mixer, downscale=2), 3, FRAMES).eval()
    several.load_state_dict(one.state_dict(), strict=False)
    x_btchw = torch.randn(2, 3, 3, 40, 61)
    with torch.no_grad():
        assert torch.equal(several(x_btchw)["logits_b1hw"], one(x_btchw[:, 1:2])["logits_b1hw"])


@pytest.mark.parametrize("checkpoint", [False, True])
def test_only_the_labelled_frame_changes_the_statistics_of_the_encoder(checkpoint: bool) -> None:
    """Those are the statistics with which the shrunk frames are normalised, in training and in evaluation."""
    torch.manual_seed(0)
    one = build(model_config(**SMALL), 3)
    several = build(model_config(**SMALL, mixer="conv3d", downscale=2, checkpoint_activations=checkpoint), 3, FRAMES)
    several.load_state_dict(one.state_dict(), strict=False)
    x_btchw = torch.randn(2, 3, 3, 64, 64)
    one(x_btchw[:, 1:2])
    several(x_btchw)["logits_b1hw"].sum().backward() if not checkpoint else several(x_btchw)
    for (key, expected), actual in zip(one.encoder.named_buffers(), several.encoder.buffers(), strict=True):
        assert torch.equal(actual, expected), key
    assert all(module.training for module in several.modules())


@pytest.mark.parametrize(
    "settings", [{"mixer": "conv3d", "head": "both"}, {"mixer": "lstm", "levels": [1, 3]}], ids=str
)
@pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])
def test_every_parameter_has_a_gradient(name: str, settings: dict[str, Any]) -> None:
    model = build(model_config(name, **SMALL, **settings, downscale=4), 3, FRAMES)
    for module in model.mixers.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    output = model(torch.randn(2, 3, 3, 50, 70), (25, 35))
    assert output["logits_b1hw"].shape == (2, 1, 25, 35)
    sum(logits.sum() for logits in output.values()).backward()  # type: ignore[attr-defined]
    assert without_gradient(model) == []


def test_checkpoints_keep_the_gradient() -> None:
    x_btchw = torch.randn(2, 3, 3, 64, 64)
    gradients = []
    for checkpoint in (False, True):
        torch.manual_seed(0)
        model = build(model_config(**SMALL, mixer="conv3d", downscale=2, checkpoint_activations=checkpoint), 3, FRAMES)
        for mixer in model.mixers.values():
            for block in mixer.blocks:  # type: ignore[union-attr]
                nn.init.ones_(block.scale.weight)
        model(x_btchw)["logits_b1hw"].square().mean().backward()
        gradients.append([p.grad for p in model.parameters()])
    for kept, recomputed in zip(*gradients, strict=True):
        assert torch.equal(kept, recomputed)


@pytest.mark.slow
def test_a_model_compiles_to_one_graph_in_training() -> None:
    torch.compiler.reset()
    torch.manual_seed(0)
    model = build(model_config(**SMALL, mixer="conv3d", blocks=1, downscale=2), 3, FRAMES)
    for mixer in model.mixers.values():
        nn.init.ones_(mixer.blocks[0].scale.weight)  # type: ignore[union-attr,index]
    twin, x_btchw = copy.deepcopy(model), torch.randn(2, 3, 3, 50, 70)
    logits = torch.compile(model, backend="eager", fullgraph=True)(x_btchw, (32, 32))["logits_b1hw"]
    torch.testing.assert_close(logits, twin(x_btchw, (32, 32))["logits_b1hw"], atol=1e-4, rtol=1e-4)
    assert all(module.training for module in model.modules())
