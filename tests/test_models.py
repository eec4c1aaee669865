import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch

from contrail_data.errors import ContrailError
from contrail_train.config import LossConfig, ModelConfig
from contrail_train.losses import segmentation_loss
from contrail_train.models import Segmenter, build
from contrail_train.models.encoder import build_encoder
from contrail_train.models.heads import RARE_LOG_ODDS

SMALL = [32, 16, 16, 16, 16]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Torch's threads wait for one another by spinning: on busy cores these tests took 6 times as long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("name", "strides"),
    [
        ("tf_efficientnet_lite0", [2, 4, 8, 16, 32]),
        ("resnet10t", [2, 4, 8, 16, 32]),
        ("convnext_atto", [4, 8, 16, 32]),
        ("cspdarknet53", [1, 2, 4, 8, 16, 32]),
        ("legacy_xception", [2, 4, 8, 16, 32]),  # unpadded: features of 47 x 47 from 96 x 96
        ("swin_tiny_patch4_window7_224", [4, 8, 16, 32]),  # NHWC, made for 224 px
    ],
)
def test_any_pyramid_segments_at_full_resolution(name: str, strides: list[int]) -> None:
    model = build(ModelConfig(encoder=name, decoder_channels=SMALL, attention="scse"), in_channels=4)
    assert model.encoder.strides == strides
    for size in ((96, 96), (100, 70)):
        logits = model(torch.randn(2, 1, 4, *size))["logits_b1hw"]
        assert logits.shape == (2, 1, *size)
        assert logits.mean().item() == pytest.approx(RARE_LOG_ODDS, abs=0.5)
    logits.sum().backward()
    without = [key for key, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []  # an unused parameter would stop a distributed run


class Echo(torch.nn.Module):
    """Stands in for encoder and decoder: hands the padded image through."""

    strides = (32,)
    out_channels = 1

    def forward(self, x: Any, *size: int) -> Any:
        return x[-1] if size else [x]


def test_padding_is_cropped_where_it_was_put() -> None:
    model = Segmenter(Echo(), Echo())
    model.mask_head = torch.nn.Identity()
    for size in ((100, 70), (64, 33)):
        image = torch.rand(2, 1, 1, *size)
        assert torch.equal(model(image)["logits_b1hw"], image[:, 0])


def test_loss_falls_on_one_batch() -> None:
    torch.manual_seed(0)
    model = build(ModelConfig(decoder_channels=SMALL), in_channels=3)
    target = torch.zeros(4, 1, 64, 64)
    for i in range(4):
        target[i, :, 12 * i : 12 * i + 10] = 1.0
    image = target[:, None] + 0.3 * torch.rand(4, 1, 3, 64, 64)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        loss = segmentation_loss(model(image)["logits_b1hw"], target, torch.ones(4), LossConfig(bce=1.0, dice=1.0))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_what_the_model_does_not_take() -> None:
    model = build(ModelConfig(encoder="resnet10t", decoder_channels=SMALL), in_channels=3)
    with pytest.raises(ValueError, match="one frame"):
        model(torch.zeros(1, 2, 3, 64, 64))
    with pytest.raises(ValueError, match="too small"):
        model(torch.zeros(1, 1, 3, 31, 64))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"encoder": "resnt18"}, "did you mean resnet18"),
        ({"encoder": "vit_tiny_patch16_224"}, "choose a timm model"),
        ({"encoder": "resnet10t", "decoder_channels": [64, 32, 16, 8]}, "stride 32: give 5"),
        (
            {"encoder": "resnet10t", "decoder_channels": [64, 32, 16, 16, 8], "attention": "scse"},
            "of 16 or more",
        ),
        ({"encoder": "vgg11", "drop_path": 0.1}, "model.drop_path: vgg11"),
        ({"encoder": "resnet10t", "pretrained": "absent.pth"}, "does not exist"),
    ],
)
def test_refusals_name_key_and_remedy(settings: dict, message: str) -> None:
    with pytest.raises(ContrailError, match=message) as caught:
        build(ModelConfig(**settings), in_channels=3)
    assert "\n" not in str(caught.value)


def test_an_unreachable_hub_is_told_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(huggingface_hub, "model_info", unreachable)
    with pytest.raises(ContrailError, match=r"Name or service.*model\.pretrained=PATH"):
        build_encoder("resnet10t", 3, True, 0.0)
    # what the hub's cache holds needs no hub
    weights = timm.create_model("resnet10t").state_dict()
    safetensors.torch.save_file(weights, tmp_path / "model.safetensors")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: str(tmp_path / "model.safetensors"))
    encoder = build_encoder("resnet10t", 3, True, 0.0)
    assert torch.equal(encoder.state_dict()["backbone.conv1.0.weight"], weights["conv1.0.weight"])


def trained(name: str) -> torch.nn.Module:
    """A classifier in which no two tensors are alike, so that a wrong match cannot pass."""
    model = timm.create_model(name, num_classes=7)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.5)
    return model.eval()


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "convnext_atto"])
@pytest.mark.parametrize("file", ["plain.safetensors", "nested.pth", "prefixed.pt"])
def test_weights_of_a_classifier_by_name(name: str, file: str, tmp_path: Path) -> None:
    classifier, path = trained(name), tmp_path / file
    weights = classifier.state_dict()
    if file == "plain.safetensors":
        safetensors.torch.save_file(weights, path)
    elif file == "nested.pth":
        torch.save({"epoch": 3, "state_dict": weights}, path)
    else:
        torch.save({"model": {f"module.encoder.{k}": v for k, v in weights.items()}}, path)
    image = torch.rand(1, 3, 64, 64)
    features = build_encoder(name, 3, str(path), 0.0).eval()(image)
    expected = classifier.forward_intermediates(image, intermediates_only=True, norm=False)
    assert torch.equal(features[-1], expected[-1])


def test_weights_of_a_whole_run_serve_as_an_encoders(tmp_path: Path) -> None:
    config = ModelConfig(encoder="convnext_atto", decoder_channels=SMALL)
    model = build(config, in_channels=5)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "run.safetensors")
    again = build(config.model_copy(update={"pretrained": str(tmp_path / "run.safetensors")}), in_channels=5)
    for key, value in model.encoder.state_dict().items():
        assert torch.equal(again.encoder.state_dict()[key], value)


def test_foreign_names_match_by_order(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    weights = timm.create_model("tf_efficientnet_lite0").state_dict()
    foreign = {
        f"net{i}.{key.rpartition('.')[2]}": torch.rand_like(value)
        for i, (key, value) in enumerate(weights.items())
        if value.is_floating_point()
    }
    torch.save(foreign, tmp_path / "foreign.pth")
    with caplog.at_level(logging.INFO):
        encoder = build_encoder("tf_efficientnet_lite0", 3, str(tmp_path / "foreign.pth"), 0.0)
    assert "240 tensors matched by order, 7 others ignored" in caplog.text
    for (key, _), value in zip(
        ((k, v) for k, v in weights.items() if v.is_floating_point()), foreign.values(), strict=True
    ):
        loaded = encoder.backbone.state_dict().get(key)
        assert loaded is None or torch.equal(loaded, value)  # None: conv_head and classifier

    # one pair exchanged, of equal shape but another kind: bias before weight
    keys = list(foreign)
    keys[1], keys[2] = keys[2], keys[1]
    torch.save({key: foreign[key] for key in keys}, tmp_path / "swapped.pth")
    with pytest.raises(ContrailError, match=r"only 0 of 240 .* backbone\.conv_stem\.weight \(32, 3, 3, 3\), absent"):
        build_encoder("tf_efficientnet_lite0", 3, str(tmp_path / "swapped.pth"), 0.0)


def test_stem_is_adapted_to_other_channels(tmp_path: Path) -> None:
    weights = timm.create_model("resnet10t").state_dict()
    torch.save(weights, tmp_path / "rgb.pth")
    encoder = build_encoder("resnet10t", 9, str(tmp_path / "rgb.pth"), 0.0)
    # a grey picture repeated nine times gives what it gives repeated three times
    stem = encoder.state_dict()["backbone.conv1.0.weight"]
    assert stem.shape[1] == 9
    assert torch.allclose(stem.sum(1), weights["conv1.0.weight"].sum(1), atol=1e-6)


def test_convolutions_that_crash_in_channels_last_are_recognised() -> None:
    from contrail_train.fit import has_thin_strided_pointwise

    assert has_thin_strided_pointwise(build(ModelConfig(encoder="repvgg_a0"), 3))
    assert not has_thin_strided_pointwise(build(ModelConfig(encoder="tf_efficientnet_lite0"), 3))
