"""Heads: from features to logits of pixels, and to the logit of a record."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from contrail_train.models.layers import Norm, make_norm

RARE_LOG_ODDS = -4.0
"""Initial bias of the mask logit, a probability of 1.8 %. Contrail pixels are that rare, and the first steps are not
spent on unlearning 50 % everywhere (Lin et al. 2017, "Focal Loss for Dense Object Detection", section 4.1)."""
RECORD_WIDTH = 512


class MaskHead(nn.Module):
    """A 3×3 convolution to logits of contrail pixels, which start near `RARE_LOG_ODDS`.

    With `two_class` there are two maps, background and contrail, and their difference is the logit. Its binary
    cross-entropy is the cross-entropy of their softmax, because softmax(z)₁ = sigmoid(z₁ - z₀).

    Args:
        in_channels: Channels of the features.
        two_class: Whether to predict two maps.
    """

    def __init__(self, in_channels: int, two_class: bool = False):
        super().__init__()
        self.maps = nn.Conv2d(in_channels, 1 + two_class, kernel_size=3, padding=1)
        nn.init.normal_(self.maps.weight, std=0.01)
        with torch.no_grad():
            self.maps.bias.copy_(torch.tensor([0.0, RARE_LOG_ODDS][-(1 + two_class) :]))  # type: ignore[union-attr]

    def forward(self, x_bchw: Tensor) -> Tensor:
        """Predict pixels.

        Args:
            x_bchw: Features, with `in_channels` channels.

        Returns:
            Logits, (b, 1, h, w).
        """
        maps_bkhw = self.maps(x_bchw)
        return maps_bkhw[:, -1:] - maps_bkhw[:, :1] if maps_bkhw.shape[1] == 2 else maps_bkhw


class RecordHead(nn.Module):
    """The classifier of the notes: 1×1 to 512 channels, maximum and mean over the image, then 1024 → 512 → 1.

    Args:
        in_channels: Channels of the features.
        dropout: Probability of dropping an input of either linear layer.
        norm: Kind of normalisation.
    """

    def __init__(self, in_channels: int, dropout: float, norm: Norm):
        super().__init__()
        self.project = nn.Sequential(
            nn.Conv2d(in_channels, RECORD_WIDTH, 1, bias=False), make_norm(norm, RECORD_WIDTH), nn.ReLU(inplace=True)
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
        """Predict whether each record has any contrail.

        Args:
            x_bchw: Features of the deepest level, with `in_channels` channels.

        Returns:
            Logits, (b, 1), with mean 0 before training.
        """
        x_bchw = self.project(x_bchw)
        # reductions instead of adaptive pooling, whose backward pass is not deterministic on CUDA
        pooled_bc = torch.cat([x_bchw.amax((2, 3)), x_bchw.mean((2, 3))], dim=1)
        return torch.as_tensor(self.classify(pooled_bc))
