"""A user's own training script in plain torch and segmentation-models-pytorch, the peer of our trainer."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import segmentation_models_pytorch as smp
import timm
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

ENCODER = "tf_efficientnet_lite0"


def train_plain(
    images: npt.NDArray[np.uint8],
    masks: npt.NDArray[np.uint8],
    weights: str | None,
    *,
    steps: int,
    batch: int,
    seed: int,
) -> tuple[torch.nn.Module, Tensor, Tensor]:
    """Train a UNet with flips and quarter turns, cross-entropy and a quarter of Dice, AdamW and a cosine.

    Args:
        images: (n, channel, y, x).
        masks: (n, y, x), 0 or 1.
        weights: File of the encoder's weights; None for random ones.
        steps: Number of steps.
        batch: Samples in each.
        seed: Seed of everything random.

    Returns:
        The network in evaluation mode, and the mean and standard deviation of the channels.
    """
    torch.manual_seed(seed)
    x, y = torch.from_numpy(images), torch.from_numpy(masks).float()[:, None]
    mean, std = (f(x.float() / 255, dim=(0, 2, 3)).view(-1, 1, 1) for f in (torch.mean, torch.std))
    model = smp.Unet(f"tu-{ENCODER}", encoder_weights=None, in_channels=3)
    if weights:
        names = timm.create_model(ENCODER).state_dict()  # the file's tensors have other names, but the same order
        tensors = torch.load(weights, weights_only=True).values()
        model.encoder.model.load_state_dict(dict(zip(names, tensors, strict=True)), strict=False)
    model.to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step in range(steps):
        if step * batch % len(x) < batch:
            order = torch.randperm(len(x))
        rows = order[torch.arange(step * batch, (step + 1) * batch) % len(x)]
        image, mask = (x[rows].float() / 255 - mean) / std, y[rows]
        turns, axes = int(torch.randint(4, ())), [axis for axis in (2, 3) if torch.rand(()) < 0.5]
        image, mask = (part.rot90(turns, (2, 3)).flip(axes) for part in (image, mask))
        logits = model(image.contiguous(memory_format=torch.channels_last))
        p = logits.sigmoid()
        dice = (2 * (p * mask).sum() + 1) / (p.sum() + mask.sum() + 1)
        loss = binary_cross_entropy_with_logits(logits, mask) + 0.25 * (1 - dice)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        optimiser.step()
        schedule.step()
    return model.eval(), mean, std
