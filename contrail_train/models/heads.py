"""From features to the answer: logits of pixels, the logit of a record."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from contrail_train.models.temporal import norm

RARE_LOG_ODDS = -4.0
"""Starting bias of the mask logit, a probability of 1.8 %: contrail pixels are that rare, and the first steps
are not spent on unlearning 50 % everywhere (Lin et al. 2017, Focal Loss, section 4.1)."""
RECORD_WIDTH = 512


class MaskHead(nn.Module):
    """3×3 convolution (b, in_channels, h, w) → (b, 1, h, w): logits that start near `RARE_LOG_ODDS`.

    two_class: two maps, without and with contrail, whose difference is the logit: its binary cross-entropy is the
    cross-entropy of their softmax, as softmax(z)₁ = sigmoid(z₁ - z₀).
    """

    def __init__(self, in_channels: int, two_class: bool = False):
        super().__init__()
        self.maps = nn.Conv2d(in_channels, 1 + two_class, kernel_size=3, padding=1)
        nn.init.normal_(self.maps.weight, std=0.01)
        with torch.no_grad():
            self.maps.bias.copy_(torch.tensor([0.0, RARE_LOG_ODDS][-(1 + two_class) :]))  # type: ignore[union-attr]

    def forward(self, x_bchw: Tensor) -> Tensor:
        maps = self.maps(x_bchw)
        return maps[:, -1:] - maps[:, :1] if maps.shape[1] == 2 else maps


class RecordHead(nn.Module):
    """The classifier of the notes: 1×1 to 512 channels, maximum and mean over the image, 1024 → 512 → 1.

    (b, in_channels, h, w) → (b, 1): the logit that the record has any contrail, 0 at the start on average.
    """

    def __init__(self, in_channels: int, dropout: float, norm_kind: str):
        super().__init__()
        self.project = nn.Sequential(
            nn.Conv2d(in_channels, RECORD_WIDTH, 1, bias=False), norm(norm_kind, RECORD_WIDTH), nn.ReLU(inplace=True)
        )
        self.classify = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(2 * RECORD_WIDTH, RECORD_WIDTH),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(RECORD_WIDTH, 1),
        )
        nn.init.zeros_(self.classify[-1].bias)  # type: ignore[arg-type]

    def forward(self, x_bchw: Tensor) -> Tensor:
        x_bchw = self.project(x_bchw)
        # not adaptive pooling: these have deterministic backward passes on CUDA
        pooled_bc = torch.cat([x_bchw.amax((2, 3)), x_bchw.mean((2, 3))], dim=1)
        return torch.as_tensor(self.classify(pooled_bc))
