"""Heads: a mask from the decoder's features; a record's probability, or the Dice of its mask, from the deepest ones."""

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn import functional

from contrail_train.models.layers import Norm, make_norm

RARE_LOG_ODDS = -4.0
"""Initial bias of the mask logit, a probability of 1.8 %. Contrail pixels are that rare, and the first steps are not
spent on unlearning 50 % everywhere (Lin et al. 2017, "Focal Loss for Dense Object Detection", section 4.1)."""
RECORD_WIDTH = 512


class MaskHead(nn.Module):
    """A convolution to logits of contrail pixels, which start near `RARE_LOG_ODDS`.

    With `two_class` there are two maps, background and contrail, and their difference is the logit. Its binary
    cross-entropy is the cross-entropy of their softmax, because softmax(z)₁ = sigmoid(z₁ - z₀).

    Args:
        in_channels: Channels of the features.
        kernel_size: 1 or 3.
        two_class: Whether to predict two maps.
    """

    def __init__(self, in_channels: int, kernel_size: int = 3, two_class: bool = False):
        super().__init__()
        self.maps = nn.Conv2d(in_channels, 1 + two_class, kernel_size, padding=kernel_size // 2)
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


class ScoreHead(nn.Module):
    """Predict how well the mask of each record agrees with its label, from the deepest features and the mask.

    In each cell of the features it sees the largest probability of the mask, and the mean probability where the mask
    is, weighted by itself. See Huang et al. 2019, "Mask Scoring R-CNN".

    Args:
        in_channels: Channels of the features.
        dropout: As for `RecordHead`, whose layers it has.
        norm: Kind of normalisation.
    """

    def __init__(self, in_channels: int, dropout: float, norm: Norm):
        super().__init__()
        self.layers = RecordHead(in_channels + 2, dropout, norm)

    def forward(self, x_bchw: Tensor, probability_b1yx: Tensor) -> Tensor:
        """Predict the Dice of each record.

        Args:
            x_bchw: Features of the deepest level, with `in_channels` channels.
            probability_b1yx: The mask, at least as high and wide as the features; it receives no gradient.

        Returns:
            Logits of the Dice, (b, 1).
        """
        p_b1yx = probability_b1yx.detach().float()
        rows, columns = x_bchw.shape[2:]
        cell = p_b1yx.shape[2] // rows, p_b1yx.shape[3] // columns
        mean_b1hw, square_b1hw = functional.avg_pool2d(p_b1yx, cell), functional.avg_pool2d(p_b1yx.square(), cell)
        seen = x_bchw, functional.max_pool2d(p_b1yx, cell), square_b1hw / mean_b1hw.clamp_min(1e-6)
        # encoders without padding have smaller features than those that divide the mask
        on_grid = [part[:, :, :rows, :columns].to(x_bchw.dtype) for part in seen]
        return torch.as_tensor(self.layers(torch.cat(on_grid, dim=1)))


def logit_of_mean(maps: Sequence[Tensor]) -> Tensor:
    """Average probabilities, as logits and without losing those near 0 or 1.

    Args:
        maps: Logits, all of the same shape.

    Returns:
        The logit of the mean of their probabilities, float32.
    """
    if len(maps) == 1:
        return maps[0].float()
    contrail, clear = (
        reduce(torch.logaddexp, (functional.logsigmoid(sign * logits.float()) for logits in maps)) for sign in (1, -1)
    )
    return contrail - clear
