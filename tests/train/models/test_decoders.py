"""Decoders."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from contrail_train.models.segmenter import RARE_LOG_ODDS, build
from helpers.models import DECODERS, WIDE, model_config, without_gradient


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    ("name", "stem_stride"),
    [
        ("test_resnet", 1),
        ("convnext_atto", 1),
        pytest.param("cspdarknet53", None, marks=pytest.mark.slow),  # six levels
        pytest.param("legacy_xception", None, marks=pytest.mark.slow),  # a pixel short
        pytest.param("hrnet_w18_small", None, marks=pytest.mark.slow),  # levels with paths of their own
    ],
)
def test_any_decoder_works_on_any_pyramid(name: str, stem_stride: Any, decoder: Any) -> None:
    model = build(model_config(name, stem_stride=stem_stride, decoder=decoder, channels=WIDE), 2)
    logits = model(torch.randn(2, 1, 2, 40, 37), (20, 18))["logits_b1hw"]
    assert logits.shape == (2, 1, 20, 18)
    logits.square().sum().backward()
    assert without_gradient(model) == []
    with torch.no_grad():
        assert model.eval()(torch.randn(1, 1, 2, 64, 64))["logits_b1hw"].shape == (1, 1, 64, 64)


@pytest.mark.slow
@pytest.mark.parametrize("decoder", DECODERS)
def test_any_decoder_works_on_four_nhwc_levels(decoder: Any) -> None:
    model = build(model_config("swin_tiny_patch4_window7_224", decoder=decoder, channels=WIDE), 3)
    model(torch.randn(2, 1, 3, 50, 33))["logits_b1hw"].square().sum().backward()
    assert without_gradient(model) == []


@pytest.mark.parametrize(
    ("centre", "attention", "mixer"),
    [("fpa", "cbam", "conv3d"), ("aspp", "scse", "lstm"), (None, "cbam", "mean"), (None, "scse", None)],
)
@pytest.mark.parametrize("name", ["test_resnet", "convnext_atto"])
def test_all_parts_of_the_unet_have_gradients(name: str, mixer: Any, centre: Any, attention: Any) -> None:
    config = model_config(name, mixer=mixer, centre=centre, attention=attention, deep_supervision=True, two_class=True)
    model = build(config, 3, (-1, 0))
    output = model(torch.randn(2, 2, 3, 70, 50), (35, 25))
    assert output["auxiliary_bkhw"].shape == (2, 4, 35, 25)
    assert output["auxiliary_bkhw"].mean().item() == pytest.approx(RARE_LOG_ODDS, abs=0.5)
    (output["logits_b1hw"].sum() + output["auxiliary_bkhw"].sum()).backward()
    assert without_gradient(model) == []
    assert set(model.eval()(torch.randn(1, 2, 3, 64, 64))) == {"logits_b1hw"}


def test_nearest_and_bilinear_upsampling_differ() -> None:
    images = torch.randn(1, 1, 3, 64, 64)
    nearest, bilinear = (build(model_config(upsample=kind), 3).eval() for kind in ("nearest", "bilinear"))
    bilinear.load_state_dict(nearest.state_dict())
    assert not torch.allclose(nearest(images)["logits_b1hw"], bilinear(images)["logits_b1hw"])
