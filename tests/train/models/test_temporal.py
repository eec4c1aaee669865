"""Mixers of several frames, compared with plain 3-D convolutions and with the model of one frame."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from contrail_data.errors import ContrailError
from contrail_train.config.model import MixerConfig
from contrail_train.models.panels import Panels
from contrail_train.models.segmenter import build
from contrail_train.models.temporal import Block3d, Blocks3d, build_mixer
from contrail_train.models.transformer import PixelTransformer
from contrail_train.models.valid3d import ValidConvs3d
from helpers.models import model_config

SMALL: dict[str, Any] = {"channels": [16, 16, 8, 8, 8]}


def scramble(module: nn.Module) -> None:
    """Randomise scales and statistics, because initial values of 0 and 1 would hide errors."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.uniform_(part.bias, -0.5, 0.5)
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_mean, -0.5, 0.5)  # type: ignore[arg-type]
            nn.init.uniform_(part.running_var, 0.5, 1.5)  # type: ignore[arg-type]


def normed(x_bcthw: Tensor, norm: Any) -> Tensor:
    if isinstance(norm, nn.GroupNorm):  # each frame separately
        return torch.stack([norm(frame) for frame in x_bcthw.unbind(2)], dim=2)
    return functional.batch_norm(x_bcthw, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)


def plain(block: Block3d, x_bcthw: Tensor) -> Tensor:
    """Apply the block as plain 3-D convolutions over all frames."""
    first, norm1, _, second = block.reduce
    norm2, _, last = block.expand
    x = functional.relu(normed(functional.conv3d(x_bcthw, first.weight[:, :, None]), norm1))  # type: ignore[union-attr,index]
    x = functional.conv3d(x, second.weight[:, :, None])  # type: ignore[union-attr,index]
    weight = torch.stack([tap.weight for tap in block.depthwise], dim=2)  # type: ignore[misc]
    x = functional.relu(normed(functional.conv3d(x, weight, padding=1, groups=x.shape[1]), norm2))
    if isinstance(block.shortcut, nn.Sequential):
        matrix, norm = block.shortcut
        x_bcthw = normed(functional.conv3d(x_bcthw, matrix.weight[:, :, None]), norm)  # type: ignore[union-attr,index]
    return x_bcthw + normed(functional.conv3d(x, last.weight[:, :, None]), block.scale)  # type: ignore[union-attr,index]


@pytest.mark.parametrize("kind", ["conv3d", "valid3d", "lstm", "transformer", "mean"])
@pytest.mark.parametrize("own_frame", ["add", "concat"])
def test_the_labelled_frame_joins_its_mixed_features_in_equal_parts_at_first(kind: Any, own_frame: Any) -> None:
    mixer = build_mixer(MixerConfig(kind=kind), 12, 5, 3, "batch").eval()
    scramble(mixer)
    joined = build_mixer(MixerConfig(kind=kind, own_frame=own_frame), 12, 5, 3, "batch").eval()
    missing, unexpected = joined.load_state_dict(mixer.state_dict(), strict=False)
    assert unexpected == []
    assert [*missing] == ["own_frame.join.weight"] * (own_frame == "concat")
    x_tbchw = torch.randn(5, 2, 12, 4, 6)
    with torch.no_grad():
        expected = (mixer(x_tbchw) + x_tbchw[3]) / 2
        torch.testing.assert_close(joined(x_tbchw), expected)
    assert not torch.equal(expected, x_tbchw[3])


@pytest.mark.parametrize(("norm", "shortcut"), [("batch", "identity"), ("group", "identity"), ("batch", "conv")])
@pytest.mark.parametrize(
    ("frames", "labelled", "blocks"),
    [(7, 3, 3), (5, 2, 3), (8, 4, 3), (8, 4, 1), (7, 3, 6), (4, 3, 3), (8, 7, 2), (3, 0, 2), (2, 1, 2)],
)
def test_the_cone_equals_plain_3d_convolutions(
    frames: int, labelled: int, blocks: int, norm: Any, shortcut: Any
) -> None:
    torch.manual_seed(frames * blocks)
    cone = Blocks3d(24, frames, labelled, blocks, norm, shortcut).eval()
    scramble(cone)
    x_tbchw = torch.randn(frames, 2, 24, 6, 5)
    expected = x_tbchw.permute(1, 2, 0, 3, 4)
    for block in cone.blocks:
        expected = plain(block, expected)  # type: ignore[arg-type]
    with torch.no_grad():
        torch.testing.assert_close(cone(x_tbchw), expected[:, :, labelled], atol=1e-5, rtol=1e-5)
        last = x_tbchw.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, (frames, 2))
        torch.testing.assert_close(cone(last), expected[:, :, labelled], atol=1e-5, rtol=1e-5)


def test_the_cone_computes_only_the_frames_it_needs() -> None:
    cone, seen = Blocks3d(8, 7, 3, 3, "batch", "conv"), []
    for module in cone.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _, args, __: seen.append(len(args[0])))
    cone(torch.randn(7, 1, 8, 4, 4))
    # reduce twice, three taps, shortcut, expand
    assert seen == [7, 7, 5, 5, 5, 5, 5, 5, 5, 3, 3, 3, 3, 3, 3, 3, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("kind", ["conv3d", "valid3d", "lstm", "transformer"])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_an_untrained_mixer_returns_the_labelled_frame(kind: Any, norm: Any) -> None:
    x_tbchw = torch.randn(5, 2, 12, 4, 6)
    assert torch.equal(build_mixer(MixerConfig(kind=kind), 12, 5, 3, norm)(x_tbchw), x_tbchw[3])


def test_a_convolved_shortcut_starts_as_the_identity_but_for_its_norm() -> None:
    x_tbchw = torch.randn(5, 2, 12, 4, 6)
    mixer = build_mixer(MixerConfig(shortcut="conv"), 12, 5, 3, "batch")
    torch.testing.assert_close(mixer.eval()(x_tbchw), x_tbchw[3], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("mixer", "norm"), [("conv3d", "batch"), ("conv3d", "group"), ("lstm", "batch")])
def test_a_multi_frame_model_starts_with_the_predictions_of_its_single_frame_model(mixer: Any, norm: Any) -> None:
    one = build(model_config(**SMALL, norm=norm), 3).eval()
    several = build(model_config(**SMALL, norm=norm, mixer=mixer), 3, (-3, -2, -1, 0, 1)).eval()
    missing = several.load_state_dict(one.state_dict(), strict=False)
    assert not missing.unexpected_keys
    assert all(key.startswith("mixers.") for key in missing.missing_keys)
    x_btchw = torch.randn(2, 5, 3, 40, 64)
    with torch.no_grad():
        expected = one(x_btchw[:, 3:4])["logits_b1hw"]
        torch.testing.assert_close(several(x_btchw)["logits_b1hw"], expected, atol=1e-5, rtol=1e-5)


def influence(model: nn.Module, frames: int) -> list[bool]:
    """Return which frames the output depends on, by gradient."""
    scramble(model)
    x_btchw = torch.randn(2, frames, 3, 32, 32, requires_grad=True)
    model.eval()(x_btchw)["logits_b1hw"].square().sum().backward()
    assert x_btchw.grad is not None
    return [bool(frame.any()) for frame in x_btchw.grad.unbind(1)]


@pytest.mark.parametrize(
    ("mixer", "frames", "expected"),
    [
        ("conv3d", range(-4, 4), [0, 1, 1, 1, 1, 1, 1, 1]),  # three blocks reach three frames far
        ("conv3d", range(-4, 1), [0, 1, 1, 1, 1]),
        ("lstm", range(-4, 4), [1] * 8),
        ("lstm", [-4, 0], [1, 1]),
        ("valid3d", [-2, -1, 0], [1, 1, 1]),
        ("transformer", range(-4, 4), [1] * 8),
        ("mean", range(-4, 4), [1] * 8),
        (None, range(-4, 4), [0, 0, 0, 0, 1, 0, 0, 0]),
    ],
)
def test_only_frames_that_influence_the_output_are_encoded(mixer: Any, frames: Any, expected: list[int]) -> None:
    model, encoded = build(model_config(**SMALL, mixer=mixer), 3, frames), []
    model.encoder.register_forward_hook(lambda _, args, __: encoded.append(len(args[0])))
    assert influence(model, len(frames)) == [bool(e) for e in expected]
    assert encoded == [2 * sum(expected)]  # no other frames are encoded


def test_order_in_time_matters_to_every_mixer_but_the_mean() -> None:
    x_tbchw = torch.randn(3, 2, 16, 4, 4)
    for kind in ("conv3d", "valid3d", "lstm", "transformer", "mean"):
        same = kind == "mean"
        mixer = build_mixer(MixerConfig(kind=kind), 16, 3, 1, "batch").eval()
        scramble(mixer)
        with torch.no_grad():
            assert torch.allclose(mixer(x_tbchw), mixer(x_tbchw.flip(0)), atol=1e-6) == same


def test_valid_convolutions_equal_plain_3d_convolutions() -> None:
    mixer = ValidConvs3d(12, 4, 3, "batch").eval()
    scramble(mixer)
    x_tbchw = torch.randn(4, 2, 12, 6, 5)
    expected = x_tbchw.permute(1, 2, 0, 3, 4)
    for i, (convolution, norm) in enumerate(zip(mixer.convolutions, mixer.norms, strict=True)):
        weight = torch.stack(convolution.weight.split(12, dim=1), dim=2)  # type: ignore[operator,union-attr,arg-type]
        expected = normed(functional.conv3d(expected, weight, padding=(0, 1, 1)), norm)
        expected = expected.relu() if i < 2 else expected
    assert expected.shape[2] == 1  # three convolutions of two frames turn four frames into one
    with torch.no_grad():
        torch.testing.assert_close(mixer(x_tbchw), x_tbchw[3] + expected[:, :, 0], atol=1e-5, rtol=1e-5)


def test_a_pixel_of_the_transformer_sees_no_other_pixel() -> None:
    mixer = PixelTransformer(16, 3, 1, 2, "batch").eval()
    scramble(mixer)
    x_tbchw = torch.randn(3, 1, 16, 4, 4, requires_grad=True)
    mixer(x_tbchw)[0, :, 1, 2].square().sum().backward()
    assert x_tbchw.grad is not None
    seen_thw = x_tbchw.grad[:, 0].any(1)
    assert seen_thw[:, 1, 2].all()
    assert int(seen_thw.sum()) == 3


@pytest.mark.parametrize(
    ("frames", "shape"), [(2, (1, 2)), (3, (2, 2)), (4, (2, 2)), (5, (2, 3)), (6, (2, 3)), (7, (3, 3)), (8, (3, 3))]
)
def test_the_panel_of_the_labelled_frame_is_cut_out_of_the_features(frames: int, shape: tuple[int, int]) -> None:
    x_tbchw = torch.randn(frames, 2, 3, 8, 16)
    for labelled in range(frames):
        panels = Panels(frames, labelled)
        joined = panels.join(x_tbchw)
        assert joined.shape == (2, 3, 8 * shape[0], 16 * shape[1])
        assert torch.equal(panels.crop(joined), x_tbchw[labelled])
        assert torch.equal(panels.crop(joined[..., ::4, ::4]), x_tbchw[labelled, ..., ::4, ::4])  # at stride 4
    assert joined.sum() == pytest.approx(float(x_tbchw.sum()), abs=1e-3)  # the other panels are zero


def test_panels_pass_through_the_encoder_as_one_image() -> None:
    model, encoded = build(model_config(**SMALL, mixer="panels"), 3, (-2, -1, 0)).eval(), []
    model.encoder.register_forward_hook(lambda _, args, __: encoded.append(args[0].shape))
    x_btchw = torch.randn(2, 3, 3, 40, 64)
    logits = model(x_btchw)["logits_b1hw"]
    assert encoded == [(2, 3, 128, 128)]  # 40 rows are padded to 64 before they are joined
    assert logits.shape == (2, 1, 40, 64)
    x_btchw[:, 0] += 1  # the frame above the labelled one
    assert not torch.equal(model(x_btchw)["logits_b1hw"], logits)


def test_levels_that_are_not_mixed_pass_on_the_labelled_frame() -> None:
    torch.manual_seed(0)
    model = build(model_config(**SMALL, mixer="mean", levels=[3, 4]), 3, (-1, 0, 1)).eval()
    assert list(model.mixers) == ["3", "4"]
    decoder_inputs: list[list[Tensor]] = []
    assert model.decoder is not None
    model.decoder.register_forward_hook(lambda _, args, __: decoder_inputs.append(args[0]))
    x_btchw = torch.randn(2, 3, 3, 64, 64)
    with torch.no_grad():
        model(x_btchw)
        each = [model.encoder(frame) for frame in x_btchw.unbind(1)]
    for level, features in enumerate(decoder_inputs[0]):
        frames = [each[t][level] for t in range(3)]
        torch.testing.assert_close(features, sum(frames) / 3 if level >= 3 else frames[1], atol=1e-4, rtol=1e-4)


def test_a_record_head_mixes_only_the_deepest_level() -> None:
    model = build(model_config(**SMALL, head="record", mixer="conv3d", blocks=6), 3, (-1, 0, 1))
    assert list(model.mixers) == ["4"]
    assert len(model.mixers["4"].blocks) == 6  # type: ignore[arg-type]


@pytest.mark.parametrize("frames", [range(-t // 2, -t // 2 + t) for t in range(2, 9)] + [range(-7, 1), [-7, -3, 0]])
@pytest.mark.parametrize("mixer", ["conv3d", "valid3d", "lstm", "transformer"])
def test_every_parameter_has_a_gradient_for_any_window_of_frames(frames: Any, mixer: Any) -> None:
    blocks = None if mixer == "valid3d" else 2
    config = model_config(**SMALL, mixer=mixer, blocks=blocks, head="both")
    assert config.mixer is not None
    config.mixer.own_frame = "concat"
    model = build(config, 3, frames)
    output = model(torch.randn(2, len(frames), 3, 32, 32))
    (output["logits_b1hw"].sum() + output["record_logit_b1"].sum()).backward()
    assert [key for key, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("mixer", ["conv3d", "valid3d", "lstm", "transformer", "panels", "mean"])
def test_gradients_are_finite_in_half_precision(mixer: Any) -> None:
    model = build(model_config(**SMALL, mixer=mixer), 3, (-1, 0, 1))
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(torch.randn(2, 3, 3, 32, 32))["logits_b1hw"]
    logits.float().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"levels": [5]}, r"model\.mixer\.levels: test_resnet has levels 0 to 4, not 5"),
        ({"levels": [0], "head": "record"}, r"model\.mixer\.levels: level 0 has no effect.* only levels \[4\]"),
        ({"levels": [2], "decoder": "deeplabv3plus"}, r"model\.mixer\.levels: .* only levels \[1, 4\]"),
    ],
)
def test_missing_or_unused_levels_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ContrailError, match=message):
        build(model_config(**SMALL, mixer="conv3d", **settings), 3, (-1, 0, 1))


@pytest.mark.slow
def test_a_multi_frame_model_learns_what_a_single_frame_cannot_show() -> None:
    """Lines that are also in the earlier frame are not contrails, so a single frame does not show which line is one."""
    rng = torch.Generator().manual_seed(0)

    def batch() -> tuple[Tensor, Tensor]:
        x_btchw, target = torch.zeros(4, 3, 1, 32, 32), torch.zeros(4, 1, 32, 32)
        for sample in range(4):
            old, new = torch.randperm(16, generator=rng)[:2] * 2
            x_btchw[sample, :, :, old], x_btchw[sample, 1:, :, new], target[sample, :, new] = 1.0, 1.0, 1.0
        return x_btchw, target

    def loss_after(steps: int, frames: list[int]) -> float:
        torch.manual_seed(0)
        mixing = {"mixer": "conv3d", "levels": [0], "blocks": 1} if len(frames) > 1 else {}
        model = build(model_config(**mixing, channels=[16, 8, 8, 8, 8]), 1, frames)
        optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
        losses = []
        for _ in range(steps):
            x_btchw, target = batch()
            logits = model(x_btchw[:, [1 + frame for frame in frames]])["logits_b1hw"]
            loss = functional.binary_cross_entropy_with_logits(logits, target)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        return sum(losses[-10:]) / 10

    chance = 2 / 32 * 0.6931  # the loss if each of the two lines may be the contrail
    assert loss_after(40, [0]) > 0.9 * chance
    assert loss_after(60, [-1, 0, 1]) < 0.5 * chance
