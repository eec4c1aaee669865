"""Neighbouring frames that are encoded only up to the deepest level that is mixed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from contrail_data.errors import ContrailError
from contrail_train.models.segmenter import Segmenter, build
from helpers.models import model_config, without_gradient

FRAMES = (-2, -1, 0, 1)
LABELLED = 2
SMALL: dict[str, Any] = {"channels": [16, 16, 8, 8, 8], "mixer": "conv3d", "blocks": 2, "levels": [0, 1]}


def mixing(encoder: str = "test_resnet", **settings: Any) -> Segmenter:
    """Build a model whose mixer changes the labelled frame."""
    torch.manual_seed(0)
    model = build(model_config(encoder, **SMALL | settings), 3, FRAMES)
    for name, module in model.mixers.named_modules():
        if name.endswith("scale"):
            nn.init.ones_(module.weight)  # type: ignore[arg-type]
    return model


@pytest.mark.parametrize("encoder", ["test_resnet", "test_convnext", "test_efficientnet"])
def test_predictions_are_those_of_neighbours_that_are_encoded_whole(encoder: str) -> None:
    whole, mixed = mixing(encoder).eval(), mixing(encoder, neighbours="mixed").eval()
    x_btchw = torch.randn(2, 4, 3, 64, 96)
    with torch.no_grad():
        expected = whole(x_btchw)["logits_b1hw"]
        torch.testing.assert_close(mixed(x_btchw)["logits_b1hw"], expected, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(mixed(x_btchw[:, [3, 0, 2, 1]])["logits_b1hw"], expected, atol=1e-3)


@pytest.mark.parametrize("encoder", ["test_resnet", "test_efficientnet"])
def test_deeper_levels_see_the_labelled_frame_only(encoder: str) -> None:
    images = []
    for level in range(4):
        model = mixing(encoder, levels=[level], neighbours="mixed")
        model.encoder.register_forward_hook(lambda _, __, features: images.append([len(x) for x in features]))
        model(torch.randn(2, 4, 3, 64, 64))
    assert images == [[8] * (level + 1) + [2] * (4 - level) for level in range(4)]


@pytest.mark.parametrize("settings", [{}, {"head": "both"}, {"checkpoint_activations": True}], ids=str)
def test_every_parameter_has_a_gradient(settings: dict[str, Any]) -> None:
    model = mixing(neighbours="mixed", **settings)
    output = model(torch.randn(2, 4, 3, 64, 64))
    sum(logits.sum() for logits in output.values()).backward()  # type: ignore[attr-defined]
    assert without_gradient(model) == []


def test_a_copy_of_a_model_predicts_the_same() -> None:
    model = mixing(neighbours="mixed").eval()
    x_btchw = torch.randn(2, 4, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(copy.deepcopy(model)(x_btchw)["logits_b1hw"], model(x_btchw)["logits_b1hw"])


@pytest.mark.parametrize(
    ("encoder", "levels", "message"),
    [
        ("test_resnet", [1, 4], r"mixed: has no effect, as level 4, the deepest, is in model\.mixer\.levels; remove"),
        ("coat_lite_tiny", [0], "mixed: timm does not build coat_lite_tiny as a sequence of stages; set whole"),
    ],
)
def test_where_neighbours_cannot_end_early_a_message_says_why(encoder: str, levels: list[int], message: str) -> None:
    with pytest.raises(ContrailError, match=message):
        mixing(encoder, levels=levels, neighbours="mixed")


@pytest.mark.slow
def test_a_model_compiles_to_one_graph_in_training() -> None:
    torch.compiler.reset()
    model = mixing(neighbours="mixed")
    twin, x_btchw = copy.deepcopy(model), torch.randn(2, 4, 3, 64, 64)
    logits = torch.compile(model, backend="eager", fullgraph=True)(x_btchw, (32, 32))["logits_b1hw"]
    torch.testing.assert_close(logits, twin(x_btchw, (32, 32))["logits_b1hw"], atol=1e-4, rtol=1e-4)
