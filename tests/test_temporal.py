"""Mixing frames: the cone against plain 3-D convolutions, and what a mixer begins as."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from contrail_train.config import ModelConfig
from contrail_train.models import build
from contrail_train.models.temporal import Block3d, Blocks3d, build_mixer


def plain(blocks: Blocks3d, x_btchw: Tensor) -> Tensor:
    """The same blocks as the notes wrote them: all frames, 3-D convolutions, 3-D batch norms."""

    def pointwise(conv: nn.Conv2d, x_bcthw: Tensor) -> Tensor:
        return functional.conv3d(x_bcthw, conv.weight[:, :, None])

    def normed(norm: nn.BatchNorm2d, x_bcthw: Tensor) -> Tensor:
        return functional.batch_norm(x_bcthw, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)

    x = x_btchw.transpose(1, 2)
    for block in blocks.blocks:
        assert isinstance(block, Block3d)
        y = torch.relu(normed(block.reduce[1], pointwise(block.reduce[0], x)))
        y = pointwise(block.reduce[3], y)
        weight = torch.stack([tap.weight for tap in block.depthwise], dim=2)
        y = functional.conv3d(y, weight, padding=1, groups=len(weight))
        y = torch.relu(normed(block.expand[0], y))
        x = x + normed(block.scale, pointwise(block.expand[2], y))
    return x[:, :, blocks.labelled]


def shaken(module: nn.Module) -> nn.Module:
    """No norm left as it was made, none with a scale of zero."""
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            for tensor in (m.weight.data, m.running_var):
                tensor.uniform_(0.5, 1.5)
            for tensor in (m.bias.data, m.running_mean):
                tensor.normal_(0, 0.3)
    return module.eval()


@pytest.mark.parametrize(
    ("frames", "labelled", "blocks"),
    [(7, 3, 3), (5, 2, 3), (8, 4, 3), (4, 3, 3), (3, 0, 1), (7, 3, 6), (2, 1, 2), (8, 4, 1)],
)
def test_the_cone_gives_what_all_frames_would(frames: int, labelled: int, blocks: int) -> None:
    torch.manual_seed(0)
    mixer = shaken(Blocks3d(16, frames, labelled, blocks, "batch"))
    x_btchw = torch.randn(2, frames, 16, 6, 5)
    with torch.no_grad():
        torch.testing.assert_close(mixer(x_btchw), plain(mixer, x_btchw), rtol=1e-5, atol=1e-5)


def test_the_cone_leaves_out_what_the_labelled_frame_does_not_see() -> None:
    mixer = Blocks3d(8, 7, 3, 3, "batch")
    seen: list[int] = []
    for block in mixer.blocks:
        block.register_forward_hook(lambda _, inputs, out: seen.append(out.shape[1]))
    mixer(torch.randn(1, 7, 8, 4, 4))
    assert seen == [5, 3, 1]


@pytest.mark.parametrize("kind", ["conv3d", "lstm"])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_mixer_begins_as_the_labelled_frame(kind: str, norm: str) -> None:
    mixer = build_mixer(kind, 12, 5, 3, 2, norm)
    x_btchw = torch.randn(2, 5, 12, 4, 6)
    assert torch.equal(mixer(x_btchw), x_btchw[:, 3])
    mixer(x_btchw).sum().backward()
    assert all(p.grad is not None for p in mixer.parameters())


@pytest.mark.parametrize(("kind", "labelled"), [("conv3d", 2), ("lstm", 2), ("lstm", 4), ("mean", 2)])
def test_a_mixer_looks_at_every_frame(kind: str, labelled: int) -> None:
    torch.manual_seed(0)
    mixer = shaken(build_mixer(kind, 12, 5, labelled, 2, "batch"))
    x_btchw = torch.randn(1, 5, 12, 4, 6, requires_grad=True)
    mixer(x_btchw).square().sum().backward()
    assert x_btchw.grad is not None
    assert (x_btchw.grad.abs().sum((0, 2, 3, 4)) > 0).all()


def test_weights_of_one_frame_give_the_same_in_several() -> None:
    config = ModelConfig(encoder="resnet10t", decoder_channels=[16] * 5)
    single = build(config, 3).eval()
    several = build(config.model_copy(update={"mixer": "conv3d"}), 3, [-2, -1, 0, 1]).eval()
    several.load_state_dict(single.state_dict(), strict=False)
    x_btchw = torch.randn(2, 4, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(several(x_btchw)["logits_b1hw"], single(x_btchw[:, 2:3])["logits_b1hw"])


def test_levels_that_are_not_mixed_have_the_labelled_frame() -> None:
    config = ModelConfig(encoder="resnet10t", decoder_channels=[16] * 5, mixer="mean", mix_levels=[4])
    model = build(config, 3, [-1, 0, 1])
    assert list(model.mixers) == ["4"]
    unmixed = build(config.model_copy(update={"mixer": "none"}), 3, [-1, 0, 1])
    calls: list[int] = []
    unmixed.encoder.register_forward_hook(lambda _, inputs, out: calls.append(len(inputs[0])))
    unmixed(torch.randn(2, 3, 3, 64, 64))
    assert calls == [2]  # other frames do not even go through the encoder
