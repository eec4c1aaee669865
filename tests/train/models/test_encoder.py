"""Encoders, and the weights that they start from."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from huggingface_hub import constants

from contrail_data.errors import ContrailError
from contrail_train.models.encoder import build_encoder, check_encoder
from contrail_train.models.encoder_names import check_name
from contrail_train.models.heads import RARE_LOG_ODDS
from contrail_train.models.segmenter import build
from helpers.hub_server import served_hub
from helpers.models import model_config, without_gradient

ENCODERS = {
    "resnetrs50": [2, 4, 8, 16, 32],
    "tf_efficientnetv2_b0": [2, 4, 8, 16, 32],
    "convnext_atto.d2": [4, 8, 16, 32],  # the beginning of a tag
    "swin_tiny_patch4_window7_224": [4, 8, 16, 32],  # NHWC, made for 224 px
    "swinv2_tiny_window16_256": [4, 8, 16, 32],
    "coat_lite_tiny": [4, 8, 16, 32],  # gets the grid from its patch embedding
    "hrnet_w18_small": [2, 4, 8, 16, 32],
    "cspdarknet53": [1, 2, 4, 8, 16, 32],
    "resnest14d": [2, 4, 8, 16, 32],
    "maxvit_pico_rw_256": [2, 4, 8, 16, 32],  # only takes multiples of 256
}
"""Small encoders of many kinds, and the strides of their levels."""


@pytest.mark.slow
def test_images_are_padded_to_the_windows_of_an_encoder_made_for_512_pixels() -> None:
    with torch.device("meta"):
        encoder = build_encoder("maxvit_tiny_tf_512", 3, False, 0.0)
    assert encoder.multiple == 512
    assert encoder.strides == [2, 4, 8, 16, 32]


@pytest.mark.slow
@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_of_many_kinds_take_a_training_step(name: str) -> None:
    channels = 3 + 8 * (len(name) % 2)
    side = 256 if name == "maxvit_pico_rw_256" else 64
    model = build(model_config(name), channels)
    assert model.encoder.strides == ENCODERS[name]
    stem = next(model.encoder.parameters())
    before = stem.detach().clone()
    for size in ((side, side), (60, 90)):
        # the split attention of resnest normalises one pixel a sample
        logits = model(torch.randn(2 if name == "resnest14d" else 1, 1, channels, *size))["logits_b1hw"]
        assert logits.shape[2:] == size
        (logits.square().mean() / 10).backward()
    assert without_gradient(model) == []
    torch.optim.SGD(model.parameters(), lr=1e-2).step()
    assert not torch.equal(stem, before)
    assert all(bool(p.isfinite().all()) for p in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "strides"),
    [
        ("tf_efficientnet_lite0", [2, 4, 8, 16, 32]),
        ("resnet10t", [2, 4, 8, 16, 32]),
        ("convnext_atto", [4, 8, 16, 32]),
        ("legacy_xception", [2, 4, 8, 16, 32]),  # unpadded: features of 47 x 47 from 96 x 96
    ],
)
def test_any_pyramid_segments_at_full_resolution(name: str, strides: list[int]) -> None:
    model = build(model_config(name, attention="scse"), in_channels=4)
    assert model.encoder.strides == strides
    for size in ((96, 96), (100, 70)):
        logits = model(torch.randn(2, 1, 4, *size))["logits_b1hw"]
        assert logits.shape == (2, 1, *size)
        assert logits.mean().item() == pytest.approx(RARE_LOG_ODDS, abs=0.5)
    logits.sum().backward()
    assert without_gradient(model) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("swin_tiny_patch4_window7_224", 224),
        ("swinv2_tiny_window8_256", 256),
        ("coat_lite_tiny", 224),
        ("maxvit_pico_rw_256", 256),
        ("convnext_atto", 224),
    ],
)
def test_an_encoder_equals_the_timm_model_at_its_nominal_size(name: str, side: int, tmp_path: Path) -> None:
    """Windows and grids adapt to any image size; at the size in the name they match the pretrained weights."""
    classifier = timm.create_model(name, num_classes=0).eval()
    for parameter in classifier.parameters():
        if parameter.ndim == 1:  # scales that start at zero would hide errors of the windows
            parameter.data += 0.3 * torch.rand_like(parameter)
    torch.save(classifier.state_dict(), tmp_path / "weights.pth")
    encoder = build_encoder(name, 9, str(tmp_path / "weights.pth"), 0.0).eval()
    image = torch.rand(1, 3, side, side)
    with torch.no_grad():
        expected = classifier.forward_intermediates(image, intermediates_only=True, norm=False)
        for ours, theirs in zip(encoder(image.repeat(1, 3, 1, 1)), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * theirs.abs().max().item())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "strides"),
    [
        ("resnet10t", [1, 2, 4, 8, 16]),
        ("tf_efficientnet_lite0", [1, 2, 4, 8, 16]),
        ("hrnet_w18_small", [1, 2, 4, 8, 16]),
        ("convnext_atto", [2, 4, 8, 16]),
        ("swin_tiny_patch4_window7_224", [2, 4, 8, 16]),
        ("coat_lite_tiny", [2, 4, 8, 16]),
    ],
)
def test_a_stem_of_stride_one_halves_strides_and_keeps_weights(name: str, strides: list[int], tmp_path: Path) -> None:
    torch.save(trained(name).state_dict(), tmp_path / "weights.pth")
    usual = build_encoder(name, 3, str(tmp_path / "weights.pth"), 0.0).eval()
    encoder = build_encoder(name, 3, str(tmp_path / "weights.pth"), 0.0, stem_stride=1).eval()
    assert encoder.strides == strides == [stride // 2 for stride in usual.strides]
    assert encoder.multiple == usual.multiple // 2
    weights = encoder.state_dict()
    for key, tensor in usual.state_dict().items():
        assert torch.equal(weights[key], tensor), key
    image = torch.rand(1, 3, encoder.multiple, 2 * encoder.multiple)
    with torch.no_grad():
        shapes = [f.shape for f in encoder(image)]
    assert [s[2:] for s in shapes] == [(encoder.multiple // s, 2 * encoder.multiple // s) for s in strides]


@pytest.mark.slow
def test_weights_come_from_a_mirror_of_the_hub_and_later_from_the_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    weights = {name: timm.create_model("resnet10t").state_dict() for name in ("timm/resnet10t.c3_in1k", "team/own")}
    stem = "conv1.0.weight"

    def stem_of(pretrained: bool | str) -> torch.Tensor:
        return build_encoder("resnet10t", 3, pretrained, 0.0).state_dict()[f"backbone.{stem}"]

    with served_hub(monkeypatch) as hub:
        with pytest.raises(ContrailError, match=r"no such repository.*set model\.pretrained=PATH"):
            build_encoder("resnet10t", 3, True, 0.0)
        for name, tensors in weights.items():
            hub.create(name)
            file = "model.safetensors" if name.startswith("timm") else "best.safetensors"
            commit = hub.commit(name, "main", {file: safetensors.torch.save(tensors)})
        assert torch.equal(stem_of(True), weights["timm/resnet10t.c3_in1k"][stem])
        assert torch.equal(stem_of("hf-hub:team/own"), weights["team/own"][stem])
        later = hub.commit(
            "team/own", "main", {"best.safetensors": safetensors.torch.save(weights["timm/resnet10t.c3_in1k"])}
        )
        assert torch.equal(stem_of("hf://team/own"), weights["timm/resnet10t.c3_in1k"][stem])
        assert torch.equal(stem_of(f"hf://team/own@{commit}"), weights["team/own"][stem])
        hub.create("team/empty")
        with pytest.raises(ContrailError, match=r"has none of model\.safetensors, best\.safetensors"):
            check_encoder("resnet10t", "hf://team/empty")
        assert later != commit
    # the server is gone
    for _ in range(2):
        assert torch.equal(stem_of(True), weights["timm/resnet10t.c3_in1k"][stem])
        assert torch.equal(stem_of(f"hf://team/own@{commit}"), weights["team/own"][stem])
        assert torch.equal(stem_of("hf://team/own"), weights["timm/resnet10t.c3_in1k"][stem])
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ContrailError, match=r"model\.pretrained: hf://team/new: .*HF_HUB_OFFLINE is set"):
        check_encoder("resnet10t", "hf://team/new")


def test_names_of_models_are_found_in_the_source_of_timm() -> None:
    old = "vit_base_patch16_224_in21k"  # timm warns, and takes the new name
    for name in (*timm.list_models()[::40], *timm.list_pretrained()[::60], old, "torchvision/r3d_18"):
        check_name(name)
    with pytest.raises(ContrailError, match="resnet51: not a timm model; did you mean resnet"):
        check_name("resnet51")


def trained(name: str) -> torch.nn.Module:
    """A classifier in which no two tensors are equal, so that a wrong match cannot pass."""
    model = timm.create_model(name, num_classes=7)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.5)
    return model.eval()


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "convnext_atto"])
@pytest.mark.parametrize("file", ["plain.safetensors", "nested.pth", "prefixed.pt"])
def test_weights_of_a_classifier_are_matched_by_name(name: str, file: str, tmp_path: Path) -> None:
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


def test_an_encoder_can_start_from_the_weights_of_a_run(tmp_path: Path) -> None:
    config = model_config("convnext_atto")
    model = build(config, in_channels=5)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "run.safetensors")
    again = build(config.model_copy(update={"pretrained": str(tmp_path / "run.safetensors")}), in_channels=5)
    weights = again.encoder.state_dict()
    for key, value in model.encoder.state_dict().items():
        assert torch.equal(weights[key], value)


@pytest.mark.slow
def test_weights_with_foreign_names_are_matched_by_order(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
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
    by_name = encoder.backbone.state_dict()
    for (key, _), value in zip(
        ((k, v) for k, v in weights.items() if v.is_floating_point()), foreign.values(), strict=True
    ):
        loaded = by_name.get(key)
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
    # nine copies of a grey image give the same features as three copies
    stem = encoder.state_dict()["backbone.conv1.0.weight"]
    assert stem.shape[1] == 9
    assert torch.allclose(stem.sum(1), weights["conv1.0.weight"].sum(1), atol=1e-6)


def test_convolutions_that_crash_in_channels_last_are_recognised() -> None:
    from contrail_train.training.setup import has_thin_strided_pointwise

    assert has_thin_strided_pointwise(build(model_config("repvgg_a0"), 3))
    assert not has_thin_strided_pointwise(build(model_config("tf_efficientnet_lite0"), 3))
