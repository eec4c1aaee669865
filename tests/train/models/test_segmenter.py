"""Complete segmentation models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from contrail_data.errors import ContrailError
from contrail_train.models.segmenter import build
from helpers.models import DECODERS, WIDE, model_config


class Echo(torch.nn.Module):
    """Stands in for encoder, decoder and head, and returns the padded image."""

    strides = (32,)
    channels = (1,)
    multiple = 32

    def forward(self, x: Any, *size: int) -> Any:
        return x if size else [x]


def test_padding_is_cropped_where_it_was_added() -> None:
    model = build(model_config(), in_channels=1)
    model.encoder, model.decoder, model.mask_head = Echo(), Echo(), torch.nn.Identity()  # type: ignore[assignment]
    for size in ((100, 70), (64, 33)):
        image = torch.rand(2, 1, 1, *size)
        assert torch.equal(model(image)["logits_b1hw"], image[:, 0])
        half = (size[0] // 2, size[1] // 2)
        assert model(image, half)["logits_b1hw"].shape[2:] == half


def test_a_rim_extends_images_by_reflection_and_is_cut_off_the_mask() -> None:
    config = model_config(rim=16)
    model, plain = build(config, 3).eval(), build(config.model_copy(update={"rim": 0}), 3).eval()
    plain.load_state_dict(model.state_dict())
    x_btchw = torch.randn(2, 1, 3, 64, 96)
    extended = functional.pad(x_btchw[:, 0], (16, 16, 16, 16), mode="reflect")[:, None]
    expected = plain(extended)["logits_b1hw"][..., 16:-16, 16:-16]
    torch.testing.assert_close(model(x_btchw)["logits_b1hw"], expected)
    assert (plain(x_btchw)["logits_b1hw"] - expected).abs().max() > 1e-3


def test_maps_of_other_blocks_keep_their_resolution_for_a_target_of_that_resolution() -> None:
    model = build(model_config(deep_supervision=True), 3, own_sizes=True)
    sizes = {side: [m.shape[2:] for m in model(torch.randn(2, 1, 3, side, side))["auxiliary"]] for side in (64, 80)}
    assert sizes == {64: [(n, n) for n in (4, 8, 16, 32)], 80: [(n, n) for n in (5, 10, 20, 40)]}  # 80 is padded to 96


def test_logits_are_resized_to_a_label_smaller_than_the_image() -> None:
    model = build(model_config(), 3).eval()
    x_btchw = torch.randn(1, 1, 3, 128, 128)
    full, small = model(x_btchw)["logits_b1hw"], model(x_btchw, (64, 64))["logits_b1hw"]
    torch.testing.assert_close(small, functional.avg_pool2d(full, 2))  # equals bilinear resizing by a half


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        *({"decoder": decoder} for decoder in DECODERS),
        {"decoder": "fastfcn", "norm": "group"},
        {"centre": "fpa", "attention": "cbam", "norm": "group"},
        {"centre": "aspp", "attention": "scse", "upsample": "bilinear", "two_class": True},
        {"deep_supervision": True, "encoder": "test_convnext"},
    ],
    ids=lambda settings: "-".join(str(value) for value in settings.values()),
)
def test_a_model_overfits_one_batch(settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = build(model_config(channels=WIDE, **settings), in_channels=3)
    target = torch.zeros(2, 1, 48, 48)
    target[0, :, :24], target[1, :, :, 16:32] = 1.0, 1.0
    image = target[:, None] + 0.2 * torch.rand(2, 1, 3, 48, 48)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses: list[float] = []
    while not losses or losses[-1] >= 0.05:  # a thirtieth of the initial loss, a tenth of that of a constant
        assert len(losses) < 40, losses
        output = model(image)
        loss = functional.binary_cross_entropy_with_logits(output["logits_b1hw"], target)
        losses.append(loss.item())
        for map_b1hw in output.get("auxiliary", []):
            loss = loss + functional.binary_cross_entropy_with_logits(map_b1hw, target) / 4
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


@pytest.mark.parametrize(
    "settings",
    [*({"decoder": decoder} for decoder in DECODERS), *({"centre": c} for c in ("fpa", "aspp", "conv"))],
    ids=str,
)
def test_a_batch_of_one_sample_can_be_normalised(settings: dict[str, Any]) -> None:
    model = build(model_config(channels=WIDE, head="both", **settings), 3)
    model(torch.randn(1, 1, 3, 64, 64))


def test_group_norm_leaves_no_batch_norm_outside_the_encoder() -> None:
    for settings in ({"centre": "fpa"}, {"decoder": "fastfcn"}, {"decoder": "manet"}, {"decoder": "upernet"}):
        config = model_config(channels=WIDE, norm="group", mixer="conv3d", **settings)
        model = build(config, 3, (-1, 0))
        norms = [key for key, m in model.named_modules() if isinstance(m, torch.nn.BatchNorm2d)]
        assert norms
        assert all(key.startswith("encoder.") for key in norms)


@pytest.mark.slow
def test_a_model_compiles_to_one_graph() -> None:
    torch.compiler.reset()
    config = model_config("coat_lite_tiny", mixer="conv3d", levels=[3], blocks=1, head="both")
    model = build(config, 3, (-1, 0, 1)).eval()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    images = torch.randn(2, 3, 3, 50, 70)
    with torch.no_grad():
        outputs = compiled(images, (32, 32))
        for key, expected in model(images, (32, 32)).items():
            torch.testing.assert_close(outputs[key], expected, atol=1e-4, rtol=1e-4)


def test_images_of_wrong_size_or_frame_count_are_refused() -> None:
    model = build(model_config(), in_channels=3)
    with pytest.raises(ValueError, match="one frame per sample, not 2"):
        model(torch.zeros(1, 2, 3, 64, 64))
    with pytest.raises(ValueError, match="too small"):
        model(torch.zeros(1, 1, 3, 31, 64))
    model = build(model_config(), 3, (-1, 0, 1))
    with pytest.raises(ValueError, match="3 frames per sample, not 1"):
        model(torch.zeros(1, 1, 3, 64, 64))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"encoder": "resnt18"}, "did you mean resnet18"),
        ({"encoder": "vit_tiny_patch16_224"}, "choose a timm model"),
        ({"encoder": "convnext_tiny.in1"}, "convnext_tiny.in12k"),
        ({"encoder": "convnext_tiny.dinov9"}, "convnext_tiny.dinov3_lvd1689m"),
        ({"channels": [64, 32, 16, 8]}, "stride 32; give 5"),
        ({"channels": [64, 32, 16, 16, 8], "attention": "scse"}, "of 16 or more"),
        ({"channels": [64, 32, 16, 16, 8], "decoder": "manet"}, "of 16 or more"),
        ({"channels": [48], "decoder": "fpn"}, "multiple of 64"),
        ({"channels": [2], "decoder": "fastfcn"}, "of 4 or more"),
        ({"encoder": "shvit_s1", "channels": WIDE, "decoder": "upernet"}, "needs a level of stride 4"),
        ({"encoder": "vgg11", "drop_path": 0.1}, "model.drop_path: vgg11"),
        ({"encoder": "vgg11", "stem_stride": 1}, "model.stem_stride=1: vgg11"),
        ({"encoder": "cspdarknet53", "stem_stride": 1}, "cspdarknet53 cannot have a finer stem"),
        ({"pretrained": "absent.pth"}, "does not exist"),
    ],
)
def test_refusals_name_key_and_remedy(settings: dict, message: str) -> None:
    with torch.device("meta"), pytest.raises(ContrailError, match=message) as caught:
        build(model_config(**settings), in_channels=3)
    assert "\n" not in str(caught.value)
