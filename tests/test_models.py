import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch
from torch.nn import functional

from contrail_data.errors import ContrailError
from contrail_train.config import LossConfig, ModelConfig
from contrail_train.losses import total_loss
from contrail_train.models import build
from contrail_train.models.encoder import build_encoder
from contrail_train.models.heads import RARE_LOG_ODDS, MaskHead

SMALL = [32, 16, 16, 16, 16]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Torch's threads wait for one another by spinning: on busy cores these tests took 6 times as long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


ENCODERS = {
    "tf_efficientnet_lite0": [2, 4, 8, 16, 32],
    "resnet10t": [2, 4, 8, 16, 32],
    "legacy_xception": [2, 4, 8, 16, 32],  # unpadded: features of 47 x 47 from 96 x 96
    "resnetrs50": [2, 4, 8, 16, 32],
    "tf_efficientnetv2_s": [2, 4, 8, 16, 32],
    "convnext_base": [4, 8, 16, 32],
    "swin_base_patch4_window12_384": [4, 8, 16, 32],  # NHWC, made for 384 px
    "swinv2_base_window16_256": [4, 8, 16, 32],
    "swinv2_base_window12to24_192to384": [4, 8, 16, 32],
    "coat_lite_medium": [4, 8, 16, 32],  # asks its patch embedding for the grid
    "hrnet_w18": [2, 4, 8, 16, 32],
    "cspdarknet53": [1, 2, 4, 8, 16, 32],
    "resnest101e": [2, 4, 8, 16, 32],
    "maxvit_tiny_rw_256": [2, 4, 8, 16, 32],  # windows of 8 at each level
    "convnext_tiny.dinov3": [4, 8, 16, 32],  # a tag that is only begun
}


@pytest.mark.parametrize("name", ENCODERS)
def test_any_pyramid_segments_at_any_size_and_learns(name: str) -> None:
    """256 px, and a size that is no multiple of 32; a step moves every weight that has a gradient."""
    torch.manual_seed(0)
    model = build(ModelConfig(encoder=name, decoder_channels=SMALL), in_channels=4)
    assert model.encoder.strides == ENCODERS[name]
    with torch.no_grad():
        logits = model.eval()(torch.randn(1, 1, 4, 256, 256))["logits_b1hw"]
    assert logits.shape == (1, 1, 256, 256)
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)
    logits = model.train()(torch.randn(2, 1, 4, 100, 70))["logits_b1hw"]
    assert logits.shape == (2, 1, 100, 70)
    assert logits.mean().item() == pytest.approx(RARE_LOG_ODDS, abs=0.5)
    logits.square().mean().backward()
    without = [key for key, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []  # an unused parameter would stop a distributed run
    before = model.mask_head.maps.weight.clone()
    optimiser.step()
    assert not torch.equal(before, model.mask_head.maps.weight)


@pytest.mark.parametrize(
    "name", ["resnetrs50", "hrnet_w18", "convnext_atto", "coat_tiny", "swin_tiny_patch4_window7_224"]
)
def test_a_finer_stem_doubles_every_level(name: str) -> None:
    coarse = build_encoder(name, 3, False, 0.0)
    fine = build_encoder(name, 3, False, 0.0, stem_stride=1).eval()
    assert [2 * s for s in fine.strides] == coarse.strides
    assert fine.state_dict().keys() == coarse.state_dict().keys()  # pretrained weights serve
    with torch.no_grad():
        shapes = [f.shape[2:] for f in fine(torch.rand(1, 3, 64, 96))]
    assert shapes == [(64 // s, 96 // s) for s in fine.strides]


DECODERS = get_args(ModelConfig.model_fields["decoder"].annotation)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto", "swin_tiny_patch4_window7_224", "cspdarknet53"])
def test_every_decoder_takes_every_pyramid(decoder: str, name: str) -> None:
    """Of 5 levels, 4, 4 in NHWC and 6; without an unused weight, whatever mixes the frames."""
    config = ModelConfig(encoder=name, decoder=decoder, decoder_channels=[64, 32, 16, 16, 16], mixer="conv3d")
    model = build(config, 3, [-1, 0])
    logits = model(torch.randn(2, 2, 3, 100, 70))["logits_b1hw"]
    assert logits.shape == (2, 1, 100, 70)
    logits.square().mean().backward()
    assert [key for key, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto"])
def test_every_decoder_takes_a_finer_stem(decoder: str, name: str) -> None:
    config = ModelConfig(encoder=name, decoder=decoder, decoder_channels=[64, 32, 16, 16, 16], stem_stride=1)
    logits = build(config, 3)(torch.randn(2, 1, 3, 64, 64))["logits_b1hw"]
    assert logits.shape == (2, 1, 64, 64)


VARIANTS: list[dict[str, Any]] = [
    {"attention": "scse"},
    {"attention": "cbam"},
    {"centre": "fpa"},
    {"centre": "aspp"},
    {"norm": "group"},
    {"upsample": "bilinear"},
    {"deep_supervision": True},
    {"two_class": True},
    {"head": "record"},
    {"head": "both"},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("mixer", ["conv3d", "lstm", "mean", "none"])
def test_every_variant_uses_all_its_weights(variant: dict[str, Any], mixer: str) -> None:
    config = ModelConfig(encoder="resnet10t", decoder_channels=SMALL, mixer=mixer, **variant)
    output = build(config, 3, [-1, 0, 1])(torch.randn(2, 3, 3, 64, 64))
    heads = {"record": {"record_logit_b1"}, "both": {"record_logit_b1", "logits_b1hw"}}
    wanted = heads.get(variant.get("head", ""), {"logits_b1hw"})
    assert set(output) == wanted | ({"auxiliary_bkhw"} if "deep_supervision" in variant else set())
    sum(value.square().mean() for value in output.values()).backward()
    model_has = build(config, 3, [-1, 0, 1])
    assert {name.split(".")[0] for name, _ in model_has.named_parameters()} <= {
        *("encoder", "mixers", "decoder", "mask_head", "auxiliary_heads", "record_head")
    }


def test_two_classes_are_a_softmax() -> None:
    head = MaskHead(8, two_class=True)
    torch.nn.init.normal_(head.maps.weight)
    x, target = torch.randn(2, 8, 6, 6), torch.rand(2, 6, 6) > 0.5
    binary = functional.binary_cross_entropy_with_logits(head(x)[:, 0], target.float())
    torch.testing.assert_close(binary, functional.cross_entropy(head.maps(x), target.long()))


def test_an_image_larger_than_its_label() -> None:
    model = build(ModelConfig(encoder="resnet10t", decoder_channels=SMALL), 3).eval()
    x_btchw = torch.randn(1, 1, 3, 128, 128)
    full, small = model(x_btchw)["logits_b1hw"], model(x_btchw, (64, 64))["logits_b1hw"]
    assert small.shape == (1, 1, 64, 64)
    torch.testing.assert_close(small, functional.avg_pool2d(full, 2))  # what bilinear is at a half


def test_a_compiled_model_is_the_model() -> None:
    torch.manual_seed(0)
    config = ModelConfig(encoder="resnet10t", decoder_channels=SMALL, mixer="conv3d", head="both")
    model = build(config, 3, [-1, 0, 1]).eval()
    compiled = torch.compile(model, backend="eager", fullgraph=True)  # one graph: nothing in it waits for Python
    x_btchw = torch.randn(2, 3, 3, 64, 64)
    with torch.no_grad():
        for key, value in model(x_btchw, (32, 32)).items():
            torch.testing.assert_close(compiled(x_btchw, (32, 32))[key], value)


class Echo(torch.nn.Module):
    """Stands in for encoder and decoder: hands the padded image through."""

    multiple = 32

    def forward(self, x: Any, *size: int) -> Any:
        return x[-1] if size else [x]


def test_padding_is_cropped_where_it_was_put() -> None:
    model = build(ModelConfig(encoder="resnet10t", decoder_channels=SMALL), in_channels=1)
    model.encoder, model.decoder, model.mask_head = Echo(), Echo(), torch.nn.Identity()
    for size in ((100, 70), (64, 33)):
        image = torch.rand(2, 1, 1, *size)
        assert torch.equal(model(image)["logits_b1hw"], image[:, 0])


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_loss_of_one_batch_falls_to_a_tenth(decoder: str) -> None:
    torch.manual_seed(0)
    config = ModelConfig(encoder="resnet10t", decoder=decoder, decoder_channels=[64, 32, 16, 16, 16])
    model = build(config, in_channels=3)
    target = torch.zeros(4, 1, 64, 64)
    for i in range(4):
        target[i, :, 12 * i : 12 * i + 10] = 1.0
    image = target[:, None] + 0.3 * torch.rand(4, 1, 3, 64, 64)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    first = None
    for _ in range(60):
        loss = total_loss(model(image), target, torch.ones(4, 1), torch.ones(4), LossConfig(bce=1.0, dice=1.0))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        first = first or loss.item()
        if loss.item() < 0.1 * first:
            return
    raise AssertionError(f"{first} to {loss.item()}")


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
        ({"encoder": "convnext_tiny.in1"}, "convnext_tiny.in12k"),
        ({"encoder": "cspdarknet53", "stem_stride": 1}, "cspdarknet53 cannot have a finer stem"),
        ({"encoder": "resnet10t", "decoder": "fpn", "decoder_channels": [96]}, "multiple of 64"),
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
