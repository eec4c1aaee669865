"""Decoders."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from contrail_data.errors import ContrailError
from contrail_train.models.decoders import build_decoder
from contrail_train.models.heads import RARE_LOG_ODDS
from contrail_train.models.layers import PixelShuffle
from contrail_train.models.segmenter import build
from helpers.models import DECODERS, WIDE, model_config, without_gradient


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    ("strides", "short"),
    [
        ([4, 8, 16, 32], 0),  # of transformers and ConvNeXt
        ([2, 4, 8, 16], 0),  # the same with a stem of stride 1
        ([2, 4, 8, 16, 32], 1),  # of Xception, which does not pad: its levels are a pixel short
        ([1, 2, 4, 8, 16, 32], 0),  # of CSPDarknet
    ],
)
def test_any_decoder_works_on_any_pyramid(strides: list[int], short: int, decoder: Any) -> None:
    config = model_config(decoder=decoder, channels=WIDE, stem_stride=1 if strides[-1] == 16 else None)
    channels = [8 * (level + 2) for level in range(len(strides))]
    model = build_decoder(channels, strides, config).eval()
    pyramid = list(zip(channels, strides, strict=True))
    features = [torch.randn(1, width, 128 // stride - short, 64 // stride - short) for width, stride in pyramid]
    used = [features[strides.index(stride)].requires_grad_() for stride in model.strides]
    maps = model(features, 128, 64)
    assert [map_bchw.shape[1] for map_bchw in maps] == list(model.out_channels)
    sum(map_bchw.square().mean() for map_bchw in maps).backward()
    assert without_gradient(model) == []
    assert all(level.grad is not None for level in used)


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_model_with_any_decoder_takes_images_of_any_size(decoder: Any) -> None:
    model = build(model_config(stem_stride=1, decoder=decoder, channels=WIDE), 2)
    logits = model(torch.randn(2, 1, 2, 40, 37), (20, 18))["logits_b1hw"]
    assert logits.shape == (2, 1, 20, 18)
    logits.square().sum().backward()
    assert without_gradient(model) == []
    with torch.no_grad():
        assert model.eval()(torch.randn(1, 1, 2, 64, 64))["logits_b1hw"].shape == (1, 1, 64, 64)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "decoder"),
    [("hrnet_w18_small", "unet"), ("hrnet_w18_small", "fastfcn"), ("swin_tiny_patch4_window7_224", "deeplabv3plus")],
)
def test_parts_of_an_encoder_that_a_decoder_does_not_use_are_left_out(name: str, decoder: str) -> None:
    """The levels of HRNet have paths of their own; those of Swin are (batch, height, width, channels)."""
    model = build(model_config(name, decoder=decoder, channels=WIDE), 3)
    model(torch.randn(2, 1, 3, 50, 33))["logits_b1hw"].square().sum().backward()
    assert without_gradient(model) == []


@pytest.mark.parametrize(
    ("centre", "attention", "mixer"),
    [("fpa", "cbam", "conv3d"), ("aspp", "scse", "lstm"), ("conv", "cbam", "panels"), (None, "scse", None)],
)
@pytest.mark.parametrize(("name", "upsample"), [("test_resnet", "nearest"), ("test_convnext", "pixel_shuffle")])
def test_all_parts_of_the_unet_have_gradients(
    name: str, upsample: Any, mixer: Any, centre: Any, attention: Any
) -> None:
    settings = {"centre": centre, "attention": attention, "upsample": upsample}
    config = model_config(name, mixer=mixer, deep_supervision=True, two_class=True, **settings)
    model = build(config, 3, (-1, 0))
    output = model(torch.randn(2, 2, 3, 70, 50), (35, 25))
    auxiliary_bkhw = torch.cat(output["auxiliary"], dim=1)
    assert auxiliary_bkhw.shape == (2, 4, 35, 25)
    assert auxiliary_bkhw.mean().item() == pytest.approx(RARE_LOG_ODDS, abs=0.5)
    (output["logits_b1hw"].sum() + auxiliary_bkhw.sum()).backward()
    assert without_gradient(model) == []
    assert set(model.eval()(torch.randn(1, 2, 3, 64, 64))) == {"logits_b1hw"}


@pytest.mark.parametrize("attention", ["scse", "cbam"])
def test_all_parts_of_fastfcn_have_gradients(attention: Any) -> None:
    settings = {"attention": attention, "deep_supervision": True, "decoder": "fastfcn", "first_level": True}
    model = build(model_config("convnext_atto", channels=[64], **settings), 3)
    output = model(torch.randn(2, 1, 3, 70, 50), (35, 25))
    maps = [output["logits_b1hw"], *output["auxiliary"]]  # of the ASPP and of two blocks
    assert [map_b1hw.shape for map_b1hw in maps] == 4 * [(2, 1, 35, 25)]
    sum(map_b1hw.sum() for map_b1hw in maps).backward()  # type: ignore[union-attr]
    assert without_gradient(model) == []


@pytest.mark.parametrize("decoder", ["unet", "fastfcn"])
def test_an_enlarged_first_level_takes_the_place_of_a_missing_one(decoder: Any) -> None:
    channels, strides = [8, 12, 16, 20], [4, 8, 16, 32]
    config = model_config(decoder=decoder, first_level=True)
    torch.manual_seed(0)
    enlarging = build_decoder(channels, strides, config).eval()
    torch.manual_seed(0)
    joining = build_decoder([8, *channels], [2, *strides], model_config(decoder=decoder)).eval()
    features = [
        torch.randn(1, width, 128 // stride, 64 // stride) for width, stride in zip(channels, strides, strict=True)
    ]
    finer_bchw = features[0].repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    with torch.no_grad():
        expected = joining([finer_bchw, *features], 128, 64)[-1]
        torch.testing.assert_close(enlarging(features, 128, 64)[-1], expected)
    with pytest.raises(ContrailError, match=r"first_level: test_resnet has a level of stride 2 itself"):
        build(model_config(decoder=decoder, first_level=True), 3)


def test_aligned_corners_keep_the_corner_pixels_in_place() -> None:
    decoder = build_decoder([8], [2], model_config(upsample="bilinear", align_corners=True, channels=[16])).eval()
    seen: list[torch.Tensor] = []
    decoder.blocks[0].conv1.register_forward_hook(lambda _, args, __: seen.append(args[0]))  # type: ignore[union-attr]
    x_bchw = torch.randn(1, 8, 5, 4)
    decoder([x_bchw], 10, 8)
    assert torch.equal(seen[0][..., ::9, ::7], x_bchw[..., ::4, ::3])


def test_the_mask_head_can_be_a_single_matrix() -> None:
    heads = {kernel: build(model_config(mask_kernel=kernel), 3).mask_head for kernel in (1, 3)}
    assert {kernel: tuple(head.maps.weight.shape) for kernel, head in heads.items()} == {
        1: (1, 16, 1, 1),
        3: (1, 16, 3, 3),
    }


def test_nearest_and_bilinear_upsampling_differ() -> None:
    images = torch.randn(1, 1, 3, 64, 64)
    nearest, bilinear = (build(model_config(upsample=kind), 3).eval() for kind in ("nearest", "bilinear"))
    bilinear.load_state_dict(nearest.state_dict())
    assert not torch.allclose(nearest(images)["logits_b1hw"], bilinear(images)["logits_b1hw"])


def test_pixel_shuffling_starts_as_nearest_upsampling_and_can_tell_the_four_pixels_apart() -> None:
    shuffle, x_bchw = PixelShuffle(6, 5), torch.randn(2, 6, 3, 4)
    convolution = shuffle[0]
    weight, bias = convolution.weight[::4], convolution.bias[::4]  # type: ignore[index]
    expected = functional.interpolate(functional.conv2d(x_bchw, weight, bias), scale_factor=2)
    torch.testing.assert_close(shuffle(x_bchw), expected)
    torch.nn.init.normal_(convolution.weight)  # type: ignore[arg-type]
    assert not torch.allclose(shuffle(x_bchw)[..., ::2, ::2], shuffle(x_bchw)[..., 1::2, 1::2])
    model = build(model_config(upsample="pixel_shuffle"), 3)
    for up in model.decoder.ups:  # type: ignore[union-attr]
        assert torch.equal(up[0].weight[::4], up[0].weight[3::4])  # type: ignore[index]
    assert model(torch.randn(1, 1, 3, 40, 37))["logits_b1hw"].shape == (1, 1, 40, 37)


def test_a_level_that_is_a_pixel_short_is_joined_after_pixel_shuffling() -> None:
    decoder = build_decoder([8, 16, 24], [2, 4, 8], model_config(upsample="pixel_shuffle", channels=[16, 16, 16]))
    features = [torch.randn(1, c, 64 // s - 1, 64 // s - 1) for c, s in ((8, 2), (16, 4), (24, 8))]
    assert [map_bchw.shape[2] for map_bchw in decoder(features, 64, 64)] == [15, 31, 64]
