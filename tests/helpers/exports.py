"""Small detectors to export."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from timm.layers import Conv2dSame
from torch import nn

from contrail_data.composites import COMPOSITES
from contrail_data.labels.predictor import Decision
from contrail_train.inference.detector import Detector, Network, View, single_network_detector
from contrail_train.inference.predictor import Predictor
from contrail_train.models.segmenter import build
from helpers.models import model_config

SIDE = 64
SMALL = [16, 16, 16, 16, 16]
CPU = torch.device("cpu")


def network(
    encoder: str,
    frames: tuple[int, ...] = (0,),
    *,
    size: tuple[int, int] | None = None,
    each: bool = False,
    off: tuple[float, float] = (0.0, 0.0),
    targets: int = 1,
    **settings: Any,
) -> Network:
    """Return a network with random statistics and last layers; otherwise it would predict the same for every pixel."""
    model = build(model_config(encoder, channels=SMALL, **settings), 3, frames, targets)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 1.5)
            part.weight.data.uniform_(0.5, 1.5)
    if model.decoder is not None:
        for head in filter(None, (model.mask_head, model.second_mask_head)):
            head.maps.weight.data.normal_(0, 0.1)
    view = View(frames, torch.rand(3), torch.rand(3) + 0.1, each, size)
    return Network(model.to(memory_format=torch.channels_last).eval(), view, off)


class Stub(nn.Module):
    """A network of two layers with both heads, and padding that depends on the size as of encoders from TensorFlow.

    The time that an export takes grows with the number of layers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.linear = Conv2dSame(3, 1, 3, stride=2), nn.Linear(3, 1)

    def forward(self, x_btchw: torch.Tensor, size: Sequence[int]) -> dict[str, torch.Tensor]:
        x_bchw = x_btchw.mean(1)
        logits_b1hw = nn.functional.interpolate(self.convolution(x_bchw), tuple(size), mode="bilinear")
        return {"logits_b1hw": logits_b1hw, "record_logit_b1": self.linear(x_bchw.mean((2, 3)))}


def stub(
    frames: tuple[int, ...] = (0,),
    *,
    size: tuple[int, int] | None = None,
    each: bool = False,
    off: tuple[float, float] = (0.0, 0.0),
) -> Network:
    """Return a small network, for tests of what is around the networks."""
    return Network(Stub(), View(frames, torch.rand(3), torch.rand(3) + 0.1, each, size), off)


def one_stub(head: str = "mask", off: tuple[float, float] = (0.0, 0.0)) -> Detector:
    return single_network_detector(Stub(), stub().view, head, top_k=20, mask_shift=off).eval()


def one(encoder: str, head: str = "mask", frames: tuple[int, ...] = (0,), **settings: Any) -> Detector:
    stage = network(encoder, frames, head=head, **settings)
    return single_network_detector(stage.model, stage.view, head, top_k=20, mask_shift=stage.mask_shift).eval()


def predictor(detector: Detector, head: str = "mask", dtype: str = "uint8") -> Predictor:
    """Return a predictor whose threshold and gate lie within the range of its predictions for noise."""
    shape = (4, len(detector.offsets), 3, SIDE, SIDE)
    unit = torch.rand(shape)
    with torch.no_grad():
        output = detector((unit * 255).byte() if dtype == "uint8" else unit.to(getattr(torch, dtype)))
    threshold, gate = float(output.probability_bhw.median()), float(output.score_b.sort().values[:2].mean())
    return Predictor(
        path=Path("runs/mine"),
        detect=detector,
        offsets=detector.offsets,
        mask_shift=detector.mask_shift,
        device=CPU,
        composite=COMPOSITES["ash"].to_dict(),
        label_shift=(0.5, 0.5),
        decision=Decision(threshold, gate, 20, "sha256:0123"),
        trained_records=frozenset({"18446744073709551617", "a"}),
        calibrated_records=frozenset({"b"}),
        head=head,
        native=False,
        pixel=2000.0,
        size=SIDE,
        dtype=dtype,
    )


def small_predictor() -> Predictor:
    torch.manual_seed(0)
    return predictor(one("test_resnet", off=(0.5, 0.5)))
