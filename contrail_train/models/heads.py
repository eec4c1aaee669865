"""From decoder features to the answer."""

from __future__ import annotations

from torch import nn

RARE_LOG_ODDS = -4.0
"""Starting bias of the mask logit, a probability of 1.8 %: contrail pixels are that rare, and the first steps
are not spent on unlearning 50 % everywhere (Lin et al. 2017, Focal Loss, section 4.1)."""


def mask_head(in_channels: int) -> nn.Conv2d:
    """3×3 convolution (b, in_channels, h, w) → (b, 1, h, w): logits that start near `RARE_LOG_ODDS`."""
    head = nn.Conv2d(in_channels, 1, kernel_size=3, padding=1)
    nn.init.normal_(head.weight, std=0.01)
    nn.init.constant_(head.bias, RARE_LOG_ODDS)  # type: ignore[arg-type]
    return head
