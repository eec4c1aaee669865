"""Masks that are refined point by point."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from contrail_train.config.model import ModelConfig, PointRendConfig
from contrail_train.models.point_rend import PointRend, at_places
from contrail_train.models.segmenter import build
from helpers.models import WIDE, model_config, without_gradient


def changing(channels: int = 4, **settings: Any) -> PointRend:
    """Return a network that sets every point's logit to at least 10 more than it was."""
    point_rend = PointRend(channels, PointRendConfig(width=8, **settings))
    torch.nn.init.constant_(point_rend.last.bias, 10.0)  # type: ignore[arg-type]
    return point_rend


def test_only_the_most_uncertain_pixels_of_a_mask_are_refined_after_each_doubling() -> None:
    logits, features = torch.full((2, 1, 4, 8), 20.0), torch.randn(2, 4, 4, 8)
    logits[:, :, 1, 2] = 0.5
    with torch.no_grad():
        once = changing(points=1).refine(logits, features, (4, 8))
        twice = changing(points=1).refine(logits, features, (8, 16))
    changed = (once != logits).nonzero().tolist()
    assert changed == [[0, 0, 1, 2], [1, 0, 1, 2]]
    assert once[:, 0, 1, 2].tolist() == [10.5, 10.5]
    expected = torch.nn.functional.interpolate(logits, (8, 16), mode="bilinear")
    assert (twice != expected).flatten(1).sum(1).tolist() == [1, 1]  # four pixels are as uncertain as each other
    with torch.no_grad():
        assert changing(points=4).refine(logits, features, (32, 64)).shape == (2, 1, 32, 64)


def test_points_of_training_are_mostly_uncertain_ones_within_the_image() -> None:
    torch.manual_seed(0)
    logits = torch.full((1, 1, 8, 16), 9.0)
    logits[..., 8:12] = 0.1  # x from 0 to 0.5
    features = torch.randn(1, 4, 8, 16)
    network = changing(points=1000, uncertain=0.8, oversample=5.0)
    # an image that is the right half of the padded one
    points_b1n, places_bn2 = network.at_drawn_points(logits, features, (0.5, 1.0), (0.5, 0.0))
    assert points_b1n.shape == (1, 1, 1000)
    assert places_bn2.abs().max() <= 1
    is_uncertain = places_bn2[0, :, 0] < 0
    assert is_uncertain[:800].all()  # candidates suffice
    assert 70 < is_uncertain[800:].sum() < 130  # half of the others
    padded_bn2 = torch.stack([(places_bn2[..., 0] + 1) / 2, places_bn2[..., 1]], dim=2)
    torch.testing.assert_close(points_b1n, at_places(logits, padded_bn2) + 10)


@pytest.mark.parametrize("decoder", ["unet", "fpn"])
def test_a_new_network_refines_nothing_and_learns(decoder: Any) -> None:
    torch.manual_seed(0)
    config = model_config(decoder=decoder, channels=WIDE, point_rend=PointRendConfig(points=64, width=8))
    model = build(config, 3)
    x_btchw = torch.randn(2, 1, 3, 70, 50)
    output = model(x_btchw)
    (output["logits_b1hw"].sum() + output["points_b1n"].sum()).backward()
    assert without_gradient(model) == []
    assert set(model.eval()(x_btchw)) == {"logits_b1hw"}
    plain = build(model_config(decoder=decoder, channels=WIDE), 3).eval()
    plain.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        expected = plain(x_btchw)["logits_b1hw"]
        if decoder == "unet":  # others are enlarged in steps
            torch.testing.assert_close(model(x_btchw)["logits_b1hw"], expected)
        torch.nn.init.constant_(model.point_rend.last.bias, 1.0)  # type: ignore[union-attr,arg-type]
        assert (model(x_btchw)["logits_b1hw"] - expected).max() > 0.4


def test_several_maps_of_annotators_are_not_refined() -> None:
    with pytest.raises(ValueError, match=r"point_rend: refines a single map, and model\.annotator_maps has several"):
        ModelConfig(annotator_maps=2, decoder={"point_rend": {}})
