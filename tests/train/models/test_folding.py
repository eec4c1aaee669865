"""Networks with batch norms folded into convolutions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from contrail_train.models.folding import prepare_for_cpu
from contrail_train.models.layers import batch_norms
from contrail_train.models.segmenter import build
from helpers.models import model_config


def trained(model: nn.Module, x: Tensor) -> nn.Module:
    """Give batch norms statistics and weights that matter."""
    with torch.no_grad():
        for _ in range(2):
            model(x)
        for norm in batch_norms(model):
            nn.init.normal_(norm.weight, 1, 0.2)
            nn.init.normal_(norm.bias, 0, 0.2)
    return model.eval()


@pytest.mark.parametrize(
    ("encoder", "settings", "kept"),
    [("resnet10t", {}, 0), ("tf_efficientnet_lite0", {}, 0), ("resnet10t", {"mixer": "conv3d", "downscale": 2}, 15)],
)
def test_a_prepared_network_gives_the_same_logits(encoder: str, settings: dict[str, Any], kept: int) -> None:
    torch.manual_seed(0)
    frames = (-1, 0, 1) if settings else (0,)
    x_btchw = torch.randn(2, len(frames), 3, 64, 96)
    model = trained(build(model_config(encoder, **settings), 3, frames), x_btchw)
    with torch.no_grad():
        before = model(x_btchw)["logits_b1hw"]
        prepare_for_cpu(model, torch.zeros(1, len(frames), 3, 64, 64))
        after = model(x_btchw)["logits_b1hw"]
    assert len(batch_norms(model)) == kept  # norms that come before their convolution
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5 * float(before.abs().max()))


class Branches(nn.Module):
    """Norms that must not be folded: of an output with another user, of two inputs, and of no convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(3))

    def forward(self, x_bchw: Tensor) -> Tensor:
        """Use the outputs in these ways."""
        y_bchw = self.first(x_bchw)
        y_bchw = y_bchw + self.norms[0](y_bchw)
        z_bchw = self.norms[1](self.second(y_bchw)) + self.norms[1](self.third(y_bchw))
        return torch.as_tensor(self.norms[2](z_bchw))


def test_a_norm_is_kept_if_its_convolution_serves_others_or_it_serves_other_convolutions() -> None:
    torch.manual_seed(0)
    x_bchw = torch.randn(2, 3, 8, 8)
    model = trained(Branches(), x_bchw)
    before = model(x_bchw)
    prepare_for_cpu(model, x_bchw[:1])
    assert len(batch_norms(model)) == 3
    torch.testing.assert_close(model(x_bchw), before)
