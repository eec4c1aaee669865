import logging
from pathlib import Path
from typing import Any, get_args

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch
from torch.nn import functional

from contrail_data.errors import ContrailError
from contrail_train.config.schema import ModelConfig
from contrail_train.models.encoder import build_encoder
from contrail_train.models.heads import RARE_LOG_ODDS, MaskHead
from contrail_train.models.segmenter import build

SMALL = [32, 16, 16, 16, 16]


ENCODERS = {
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
    "maxvit_tiny_rw_256": [2, 4, 8, 16, 32],  # takes multiples of 256 alone
    "convnext_tiny.dinov3": [4, 8, 16, 32],
}
"""Those of the notes, and their strides."""


def without_gradient(model: torch.nn.Module) -> list[str]:
    """Parameters that would stop a distributed run."""
    return [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None]


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_of_the_notes_take_a_step(name: str) -> None:
    channels = 3 + 8 * (len(name) % 2)
    # windows of 24 pad every level: 12 s at 256
    side = {"swinv2_base_window12to24_192to384": 64, "swinv2_base_window16_256": 128, "convnext_base": 128}.get(
        name, 256
    )
    model = build(ModelConfig(encoder=name, decoder_channels=SMALL), channels)
    assert model.encoder.strides == ENCODERS[name]
    stem = next(model.encoder.parameters())
    before = stem.detach().clone()
    for size in ((side, side), (60, 90)):
        # the split attention of resnest normalises one pixel a sample
        logits = model(torch.randn(2 if name == "resnest101e" else 1, 1, channels, *size))["logits_b1hw"]
        assert logits.shape[2:] == size
        (logits.square().mean() / 10).backward()
    assert without_gradient(model) == []
    torch.optim.SGD(model.parameters(), lr=1e-2).step()
    assert not torch.equal(stem, before)
    assert all(bool(p.isfinite().all()) for p in model.parameters())


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
    assert without_gradient(model) == []


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("swin_tiny_patch4_window7_224", 224),
        ("swinv2_tiny_window8_256", 256),
        ("coat_lite_tiny", 224),
        ("maxvit_tiny_rw_256", 256),
        ("convnext_atto", 224),
    ],
)
def test_at_its_own_size_an_encoder_is_the_model_of_that_name(name: str, side: int, tmp_path: Path) -> None:
    """Windows and grids that bend to any size are, at the size in the name, those that weights were trained with."""
    classifier = timm.create_model(name, num_classes=0).eval()
    for parameter in classifier.parameters():
        if parameter.ndim == 1:  # scales that begin at zero would hide windows
            parameter.data += 0.3 * torch.rand_like(parameter)
    torch.save(classifier.state_dict(), tmp_path / "weights.pth")
    encoder = build_encoder(name, 9, str(tmp_path / "weights.pth"), 0.0).eval()
    image = torch.rand(1, 3, side, side)
    expected = classifier.forward_intermediates(image, intermediates_only=True, norm=False)
    with torch.no_grad():
        for ours, theirs in zip(encoder(image.repeat(1, 3, 1, 1)), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * theirs.abs().max().item())


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
def test_a_stem_that_does_not_stride(name: str, strides: list[int], tmp_path: Path) -> None:
    torch.save(trained(name).state_dict(), tmp_path / "weights.pth")
    usual = build_encoder(name, 3, str(tmp_path / "weights.pth"), 0.0).eval()
    encoder = build_encoder(name, 3, str(tmp_path / "weights.pth"), 0.0, stem_stride=1).eval()
    assert encoder.strides == strides == [stride // 2 for stride in usual.strides]
    assert encoder.multiple == usual.multiple // 2
    for key, tensor in usual.state_dict().items():
        assert torch.equal(encoder.state_dict()[key], tensor), key
    image = torch.rand(1, 3, encoder.multiple, 2 * encoder.multiple)
    with torch.no_grad():
        shapes = [f.shape for f in encoder(image)]
    assert [s[2:] for s in shapes] == [(encoder.multiple // s, 2 * encoder.multiple // s) for s in strides]


class Echo(torch.nn.Module):
    """Stands in for encoder, decoder and head: hands the padded image through."""

    strides = (32,)
    channels = (1,)
    multiple = 32

    def forward(self, x: Any, *size: int) -> Any:
        return x[-1] if size else [x]


def test_padding_is_cropped_where_it_was_put() -> None:
    model = build(ModelConfig(encoder="resnet10t", decoder_channels=SMALL), in_channels=1)
    model.encoder, model.decoder, model.mask_head = Echo(), Echo(), torch.nn.Identity()  # type: ignore[assignment]
    for size in ((100, 70), (64, 33)):
        image = torch.rand(2, 1, 1, *size)
        assert torch.equal(model(image)["logits_b1hw"], image[:, 0])
        half = (size[0] // 2, size[1] // 2)
        assert model(image, half)["logits_b1hw"].shape[2:] == half


def test_an_image_larger_than_its_label() -> None:
    model = build(ModelConfig(encoder="resnet10t", decoder_channels=SMALL), 3).eval()
    x_btchw = torch.randn(1, 1, 3, 128, 128)
    full, small = model(x_btchw)["logits_b1hw"], model(x_btchw, (64, 64))["logits_b1hw"]
    torch.testing.assert_close(small, functional.avg_pool2d(full, 2))  # what bilinear is at a half


DECODERS = get_args(ModelConfig.model_fields["decoder"].annotation)
WIDE = [64, 32, 16, 16, 16]  # fpn normalises groups of 32


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    ("name", "stem_stride"),
    [
        ("resnet10t", 1),
        ("convnext_atto", 1),
        ("cspdarknet53", None),  # six levels
        ("legacy_xception", None),  # a pixel short
        ("hrnet_w18_small", None),  # levels with paths of their own
    ],
)
def test_any_decoder_on_any_pyramid(name: str, stem_stride: Any, decoder: Any) -> None:
    model = build(ModelConfig(encoder=name, stem_stride=stem_stride, decoder=decoder, decoder_channels=WIDE), 2)
    logits = model(torch.randn(2, 1, 2, 40, 37), (20, 18))["logits_b1hw"]
    assert logits.shape == (2, 1, 20, 18)
    logits.square().sum().backward()
    assert without_gradient(model) == []
    with torch.no_grad():
        assert model.eval()(torch.randn(1, 1, 2, 64, 64))["logits_b1hw"].shape == (1, 1, 64, 64)


@pytest.mark.parametrize("decoder", DECODERS)
def test_any_decoder_on_four_levels_in_nhwc(decoder: Any) -> None:
    model = build(ModelConfig(encoder="swin_tiny_patch4_window7_224", decoder=decoder, decoder_channels=WIDE), 3)
    model(torch.randn(2, 1, 3, 50, 33))["logits_b1hw"].square().sum().backward()
    assert without_gradient(model) == []


@pytest.mark.parametrize(
    "settings",
    [
        *({"decoder": decoder} for decoder in DECODERS),
        {"decoder": "fastfcn", "norm": "group"},
        {"centre": "fpa", "attention": "cbam", "norm": "group"},
        {"centre": "aspp", "attention": "scse", "upsample": "bilinear", "two_class": True},
        {"deep_supervision": True, "encoder": "convnext_atto"},
    ],
    ids=lambda settings: "-".join(str(value) for value in settings.values()),
)
def test_loss_of_one_batch_falls_below_a_tenth(settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = build(ModelConfig(**{"encoder": "resnet10t", "decoder_channels": WIDE, **settings}), in_channels=3)
    target = torch.zeros(2, 1, 64, 64)
    target[0, :, :32], target[1, :, :, 16:32] = 1.0, 1.0
    image = target[:, None] + 0.2 * torch.rand(2, 1, 3, 64, 64)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses: list[float] = []
    while not losses or losses[-1] >= 0.05:  # a thirtieth of the start, a tenth of what knowing nothing costs
        assert len(losses) < 40, losses
        output = model(image)
        loss = functional.binary_cross_entropy_with_logits(output["logits_b1hw"], target)
        losses.append(loss.item())
        if "auxiliary_bkhw" in output:
            maps = output["auxiliary_bkhw"]
            loss = loss + functional.binary_cross_entropy_with_logits(maps, target.expand_as(maps))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


@pytest.mark.parametrize(
    "settings", [*({"decoder": decoder} for decoder in DECODERS), {"centre": "fpa"}, {"centre": "aspp"}], ids=str
)
def test_one_sample_a_step_can_be_normalised(settings: dict[str, Any]) -> None:
    model = build(ModelConfig(encoder="resnet10t", decoder_channels=WIDE, head="both", **settings), 3)
    model(torch.randn(1, 1, 3, 64, 64))


def test_group_norm_leaves_no_batch_norm_outside_the_encoder() -> None:
    for settings in ({"centre": "fpa"}, {"decoder": "fastfcn"}, {"decoder": "manet"}, {"decoder": "upernet"}):
        config = ModelConfig(encoder="resnet10t", decoder_channels=WIDE, norm="group", mixer="conv3d", **settings)
        model = build(config, 3, (-1, 0))
        norms = [key for key, m in model.named_modules() if isinstance(m, torch.nn.BatchNorm2d)]
        assert norms
        assert all(key.startswith("encoder.") for key in norms)


@pytest.mark.parametrize(
    ("centre", "attention", "mixer"),
    [("fpa", "cbam", "conv3d"), ("aspp", "scse", "lstm"), (None, "cbam", "mean"), (None, "scse", "none")],
)
@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto"])
def test_parts_of_the_unet(name: str, mixer: Any, centre: Any, attention: Any) -> None:
    config = ModelConfig(
        encoder=name,
        mixer=mixer,
        decoder_channels=SMALL,
        centre=centre,
        attention=attention,
        deep_supervision=True,
        two_class=True,
    )
    model = build(config, 3, (-1, 0))
    output = model(torch.randn(2, 2, 3, 70, 50), (35, 25))
    assert output["auxiliary_bkhw"].shape == (2, 4, 35, 25)
    assert output["auxiliary_bkhw"].mean().item() == pytest.approx(RARE_LOG_ODDS, abs=0.5)
    (output["logits_b1hw"].sum() + output["auxiliary_bkhw"].sum()).backward()
    assert without_gradient(model) == []
    assert set(model.eval()(torch.randn(1, 2, 3, 64, 64))) == {"logits_b1hw"}


def test_upsampling_of_the_unet() -> None:
    images = torch.randn(1, 1, 3, 64, 64)
    nearest, bilinear = (
        build(ModelConfig(encoder="resnet10t", decoder_channels=SMALL, upsample=kind), 3).eval()
        for kind in ("nearest", "bilinear")
    )
    bilinear.load_state_dict(nearest.state_dict())
    assert not torch.allclose(nearest(images)["logits_b1hw"], bilinear(images)["logits_b1hw"])


def test_the_difference_of_two_maps_has_the_cross_entropy_of_their_softmax() -> None:
    head = MaskHead(8, two_class=True)
    torch.nn.init.normal_(head.maps.weight)
    x_bchw, target_bhw = torch.randn(2, 8, 9, 7), torch.randint(0, 2, (2, 9, 7))
    binary = functional.binary_cross_entropy_with_logits(head(x_bchw)[:, 0], target_bhw.float())
    torch.testing.assert_close(binary, functional.cross_entropy(head.maps(x_bchw), target_bhw))


@pytest.mark.parametrize("head", ["mask", "record", "both"])
@pytest.mark.parametrize("name", ["resnet10t", "swin_tiny_patch4_window7_224", "hrnet_w18_small"])
def test_heads(name: str, head: Any) -> None:
    model = build(ModelConfig(encoder=name, decoder_channels=SMALL, head=head, mixer="conv3d"), 3, (-1, 0))
    output = model(torch.randn(2, 2, 3, 40, 64))
    shapes = {key: tuple(value.shape) for key, value in output.items()}
    pixels, record = {"logits_b1hw": (2, 1, 40, 64)}, {"record_logit_b1": (2, 1)}
    assert shapes == {"mask": pixels, "record": record, "both": pixels | record}[head]
    sum(value.sum() for value in output.values()).backward()
    assert without_gradient(model) == []
    assert (model.decoder is None) == (head == "record")


def test_the_record_head_sees_the_maximum_and_the_mean() -> None:
    model = build(ModelConfig(encoder="resnet10t", head="record", record_dropout=0.5), 3).eval()
    assert abs(model(torch.randn(4, 1, 3, 64, 64))["record_logit_b1"].mean().item()) < 1  # no bias to begin with
    assert model.record_head is not None
    pooled: list[torch.Tensor] = []
    model.record_head.classify.register_forward_hook(lambda _, args, __: pooled.append(args[0]))
    x_bchw = torch.randn(2, 512, 3, 4)
    model.record_head(x_bchw)
    projected = model.record_head.project(x_bchw).flatten(2)
    torch.testing.assert_close(pooled[0], torch.cat([projected.max(2).values, projected.mean(2)], dim=1))


def test_one_graph_for_the_compiler() -> None:
    torch.compiler.reset()
    config = ModelConfig(encoder="coat_lite_tiny", decoder_channels=SMALL, mixer="conv3d", mix_blocks=1, head="both")
    model = build(config, 3, (-1, 0, 1)).eval()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    images = torch.randn(2, 3, 3, 50, 70)
    with torch.no_grad():
        made = compiled(images, (32, 32))
        for key, expected in model(images, (32, 32)).items():
            torch.testing.assert_close(made[key], expected, atol=1e-4, rtol=1e-4)


def test_what_the_model_does_not_take() -> None:
    model = build(ModelConfig(encoder="resnet10t", decoder_channels=SMALL), in_channels=3)
    with pytest.raises(ValueError, match="one frame a sample, not 2"):
        model(torch.zeros(1, 2, 3, 64, 64))
    with pytest.raises(ValueError, match="too small"):
        model(torch.zeros(1, 1, 3, 31, 64))
    model = build(ModelConfig(encoder="resnet10t", decoder_channels=SMALL), 3, (-1, 0, 1))
    with pytest.raises(ValueError, match="3 frames a sample, not 1"):
        model(torch.zeros(1, 1, 3, 64, 64))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"encoder": "resnt18"}, "did you mean resnet18"),
        ({"encoder": "vit_tiny_patch16_224"}, "choose a timm model"),
        ({"encoder": "convnext_tiny.in1"}, "convnext_tiny.in12k"),
        ({"encoder": "convnext_tiny.dinov9"}, "convnext_tiny.dinov3_lvd1689m"),
        ({"encoder": "resnet10t", "decoder_channels": [64, 32, 16, 8]}, "stride 32: give 5"),
        (
            {"encoder": "resnet10t", "decoder_channels": [64, 32, 16, 16, 8], "attention": "scse"},
            "of 16 or more",
        ),
        ({"encoder": "resnet10t", "decoder_channels": [64, 32, 16, 16, 8], "decoder": "manet"}, "of 16 or more"),
        ({"encoder": "resnet10t", "decoder_channels": [48], "decoder": "fpn"}, "multiple of 64"),
        ({"encoder": "resnet10t", "decoder_channels": [2], "decoder": "fastfcn"}, "of 4 or more"),
        ({"encoder": "shvit_s1", "decoder_channels": WIDE, "decoder": "upernet"}, "needs a level of stride 4"),
        ({"encoder": "vgg11", "drop_path": 0.1}, "model.drop_path: vgg11"),
        ({"encoder": "vgg11", "stem_stride": 1}, "model.stem_stride=1: vgg11"),
        ({"encoder": "cspdarknet53", "stem_stride": 1}, "cspdarknet53 cannot have a finer stem"),
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
    from contrail_train.training.fit import has_thin_strided_pointwise

    assert has_thin_strided_pointwise(build(ModelConfig(encoder="repvgg_a0"), 3))
    assert not has_thin_strided_pointwise(build(ModelConfig(encoder="tf_efficientnet_lite0"), 3))
