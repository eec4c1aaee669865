"""Heads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from contrail_train.models.heads import MaskHead, ScoreHead, logit_of_mean
from contrail_train.models.segmenter import build
from helpers.models import model_config, without_gradient


def test_the_difference_of_two_maps_has_the_cross_entropy_of_their_softmax() -> None:
    head = MaskHead(8, two_class=True)
    torch.nn.init.normal_(head.maps.weight)
    x_bchw, target_bhw = torch.randn(2, 8, 9, 7), torch.randint(0, 2, (2, 9, 7))
    binary = functional.binary_cross_entropy_with_logits(head(x_bchw)[:, 0], target_bhw.float())
    torch.testing.assert_close(binary, functional.cross_entropy(head.maps(x_bchw), target_bhw))


def test_the_maps_of_two_targets_are_averaged_for_prediction() -> None:
    model = build(model_config(head="both", deep_supervision=True), 3, targets=2)
    x_btchw = torch.randn(2, 1, 3, 40, 64)
    output = model(x_btchw, (20, 32))
    assert output["second_b1hw"].shape == output["logits_b1hw"].shape == (2, 1, 20, 32)
    parts = [*output.pop("auxiliary"), *output.values()]
    sum(part.sum() for part in parts).backward()
    assert without_gradient(model) == []
    for head, bias in ((model.mask_head, 0.5), (model.second_mask_head, -2.0)):
        torch.nn.init.normal_(head.maps.weight, std=0.1)  # type: ignore[union-attr,arg-type]
        torch.nn.init.constant_(head.maps.bias, bias)  # type: ignore[union-attr,arg-type]
    for part in model.modules():
        part.training = isinstance(part, type(model))  # batch norms with their statistics, but both maps
    each = model(x_btchw)
    expected = (each["logits_b1hw"].sigmoid() + each["second_b1hw"].sigmoid()) / 2
    predicted = model.eval()(x_btchw)
    assert set(predicted) == {"logits_b1hw", "record_logit_b1"}
    torch.testing.assert_close(predicted["logits_b1hw"].sigmoid(), expected)
    extreme = torch.tensor([-100.0, -90.0, 90.0])
    torch.testing.assert_close(logit_of_mean([extreme, extreme]), extreme)


@pytest.mark.slow
@pytest.mark.parametrize("head", ["mask", "record", "both"])
@pytest.mark.parametrize("name", ["test_resnet", "test_mambaout", "hrnet_w18_small"])
def test_outputs_match_the_head(name: str, head: Any) -> None:
    model = build(model_config(name, head=head, mixer="conv3d"), 3, (-1, 0))
    output = model(torch.randn(2, 2, 3, 40, 64))
    shapes = {key: tuple(value.shape) for key, value in output.items()}
    pixels, record = {"logits_b1hw": (2, 1, 40, 64)}, {"record_logit_b1": (2, 1)}
    assert shapes == {"mask": pixels, "record": record, "both": pixels | record}[head]
    sum(value.sum() for value in output.values()).backward()
    assert without_gradient(model) == []
    assert (model.decoder is None) == (head == "record")


def test_the_record_head_pools_the_maximum_and_the_mean() -> None:
    model = build(model_config(head="record"), 3).eval()
    assert abs(model(torch.randn(4, 1, 3, 64, 64))["record_logit_b1"].mean().item()) < 1  # no bias to begin with
    assert model.record_head is not None
    pooled: list[torch.Tensor] = []
    model.record_head.classify.register_forward_hook(lambda _, args, __: pooled.append(args[0]))
    x_bchw = torch.randn(2, model.record_head.project[0].in_channels, 3, 4)
    model.record_head(x_bchw)
    projected = model.record_head.project(x_bchw).flatten(2)
    torch.testing.assert_close(pooled[0], torch.cat([projected.max(2).values, projected.mean(2)], dim=1))


def test_the_score_head_sees_the_mask_but_does_not_change_it() -> None:
    model = build(model_config(score_head={"dropout": 0}), 3, targets=2)
    x_btchw = torch.randn(2, 1, 3, 40, 64)
    output = model(x_btchw)
    assert output["score_logit_b1"].shape == (2, 1)
    output["score_logit_b1"].sum().backward()
    assert not any(key.startswith("encoder") for key in without_gradient(model))
    assert model.mask_head.maps.weight.grad is None
    before = model.eval()(x_btchw)["score_logit_b1"]
    torch.nn.init.normal_(model.second_mask_head.maps.weight)  # type: ignore[union-attr,arg-type]
    assert not torch.allclose(model(x_btchw)["score_logit_b1"], before)


def test_maps_of_annotators_are_averaged_for_prediction() -> None:
    model = build(model_config(annotator_maps=3, score_head={}, deep_supervision=True), 3)
    x_btchw = torch.randn(2, 1, 3, 40, 64)
    output = model(x_btchw)
    assert set(output) == {"annotators_bnhw", "auxiliary", "score_logit_b1"}
    parts = [*output.pop("auxiliary"), *output.values()]
    sum(part.sum() for part in parts).backward()
    assert without_gradient(model) == []
    for part in model.modules():
        part.training = isinstance(part, type(model))  # batch norms with their statistics, but all maps
    expected = model(x_btchw)["annotators_bnhw"].sigmoid().mean(1, keepdim=True)
    torch.testing.assert_close(model.eval()(x_btchw)["logits_b1hw"].sigmoid(), expected)


def test_the_score_head_takes_features_that_do_not_divide_the_mask() -> None:
    """As those of encoders without padding."""
    head = ScoreHead(4, 0.0, "batch").eval()
    assert head(torch.randn(2, 4, 2, 8), torch.rand(2, 1, 128, 320)).shape == (2, 1)
