"""Video models of torchvision as encoders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import get_model

from contrail_data.errors import ContrailError
from contrail_train.config.model import ModelConfig
from contrail_train.models.segmenter import build
from contrail_train.models.video import build_video_encoder
from helpers.models import model_config, without_gradient
from helpers.runs import run_steps

SMALL = "torchvision/s3d"


def encoder(name: str, frames: int = 3, labelled: int = 1, channels: int = 3, **options: Any) -> Any:
    settings = {"pretrained": False, "drop_path": 0.0} | options
    return build_video_encoder(f"torchvision/{name}", channels, frames, labelled, **settings).eval()


@pytest.mark.parametrize(("name", "levels"), [("r3d_18", 4), ("r2plus1d_18", 4), ("s3d", 5), ("swin3d_t", 4)])
def test_every_level_is_the_labelled_frame_of_a_stage(name: str, levels: int) -> None:
    with torch.device("meta"):
        model = encoder(name, frames=5, labelled=4)
        features = model(torch.empty(5, 2, 3, 64, 128))
    deepest = 32 if name in ("s3d", "swin3d_t") else 16
    assert model.strides == [deepest >> i for i in reversed(range(levels))]
    shapes = [(2, c, 64 // s, 128 // s) for c, s in zip(model.channels, model.strides, strict=True)]
    assert [tuple(f.shape) for f in features] == shapes


@pytest.mark.parametrize("name", ["mc3_18", pytest.param("swin3d_t", marks=pytest.mark.slow)])
def test_weights_of_torchvision_give_the_features_of_torchvision(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = get_model(name).eval()
    torch.save(plain.state_dict(), tmp_path / "a.pth")
    ours = encoder(name, frames=1, labelled=0, pretrained=str(tmp_path / "a.pth"))
    clip_bcthw, deepest = torch.randn(2, 3, 1, 64, 64), []
    part = plain.layer4 if name == "mc3_18" else plain.features
    part.register_forward_hook(lambda _, __, output: deepest.append(output))
    with torch.no_grad():
        plain(clip_bcthw)
        expected = deepest[0][:, :, 0] if name == "mc3_18" else deepest[0][:, 0].permute(0, 3, 1, 2)
        torch.testing.assert_close(ours(clip_bcthw.permute(2, 0, 1, 3, 4))[-1], expected)
    torch.save({"a": torch.zeros(1)}, tmp_path / "b.pth")
    with pytest.raises(ContrailError, match=r"only 0 of \d+ tensors of torchvision/s3d are in it"):
        encoder("s3d", pretrained=str(tmp_path / "b.pth"))


def test_a_first_convolution_is_adapted_to_other_channels(tmp_path: Path) -> None:
    plain = get_model("mc3_18").eval()
    torch.save(plain.state_dict(), tmp_path / "a.pth")
    stem = encoder("mc3_18", channels=6, pretrained=str(tmp_path / "a.pth")).backbone.stem[0]
    torch.testing.assert_close(stem.weight, plain.stem[0].weight.repeat(1, 2, 1, 1, 1) / 2)


def test_a_mask_depends_on_all_frames_and_their_order() -> None:
    torch.manual_seed(0)
    model = build(model_config(SMALL), 3, (-2, -1, 0))
    x_btchw = torch.randn(2, 3, 3, 40, 64, requires_grad=True)
    model(x_btchw)["logits_b1hw"].square().sum().backward()
    assert without_gradient(model) == []
    assert x_btchw.grad is not None
    assert x_btchw.grad.abs().amax((0, 2, 3, 4)).min() > 0
    with torch.no_grad():
        logits = model.eval()(x_btchw)["logits_b1hw"]
        assert not torch.allclose(model(x_btchw.flip(1))["logits_b1hw"], logits)


@pytest.mark.slow
def test_a_run_trains_a_video_model(store: Path, tmp_path: Path) -> None:
    settings = [f"model.encoder={SMALL}", "model.drop_path=0", "data.frames=[-1,0,1]", "model.image_size=32"]
    log = run_steps(store, tmp_path / "run", *settings, "model.checkpoint_activations=true")
    assert [row["step"] for row in log if "loss" in row][:2] == [1, 2]


def test_recomputed_stages_have_the_same_gradient() -> None:
    gradients = []
    for recomputes in (False, True):
        torch.manual_seed(0)
        model = build(model_config(SMALL, checkpoint_activations=recomputes), 3, (-1, 0))
        torch.manual_seed(0)
        model(torch.randn(2, 2, 3, 32, 32))["logits_b1hw"].sum().backward()
        gradients.append(model.encoder.backbone.get_parameter("features.0.0.0.weight").grad)
    torch.testing.assert_close(*gradients)


def test_stochastic_depth_is_a_setting_where_a_model_has_it() -> None:
    from torchvision.ops import StochasticDepth

    with torch.device("meta"):
        rates = [m.p for m in encoder("swin3d_t", drop_path=0.4).modules() if isinstance(m, StochasticDepth)]
        assert rates[0] == 0
        assert max(rates) == pytest.approx(0.4)
        with pytest.raises(ContrailError, match=r"model\.drop_path: torchvision/r3d_18 has no stochastic depth"):
            encoder("r3d_18", drop_path=0.4)


def test_other_names_and_mixers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"torchvision/x3d: not a video model; choose torchvision/ with r3d_18, "):
        ModelConfig(encoder="torchvision/x3d")
    with pytest.raises(ValueError, match=r"model\.mixer=.* has no effect: it needs an encoder of single images"):
        ModelConfig(encoder=SMALL, mixer={})
