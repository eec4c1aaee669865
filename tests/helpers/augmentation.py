"""Batches and settings for tests of augmentation."""

from __future__ import annotations

import dataclasses
from itertools import product
from typing import Any

import torch
from torch import Tensor

from contrail_data.settings.fields import group_of
from contrail_train.config.augment import AugmentConfig
from contrail_train.data.augment import augment_images, augment_labels
from contrail_train.data.draw import Draw, draw
from contrail_train.data.loader import Batch

DIHEDRAL = [
    torch.tensor(rows, dtype=torch.float64)
    for a, b in product((-1.0, 1.0), repeat=2)
    for rows in ([[a, 0, 0], [0, b, 0]], [[0, a, 0], [b, 0, 0]])
]

MOVING = ["flip", "rot90", "affine", "turn", "multi_scale", "grid_distortion"]
VALUES = ["brightness_contrast", "blur", "noise", "time_reversal", "cut_out"]
MIXING = ["mixup", "cutmix"]
CONTRAILS = ["copy_paste", "erase"]
NO_SHIFT = (0.0, 0.0)
IDENTITY = torch.eye(2, 3, dtype=torch.float64)[None]


def only(*names: str, **settings: Any) -> AugmentConfig:
    """Return a config of only these augmentations: names have probability 1, groups take a probability or settings."""
    chosen: dict[str, Any] = {"flip": 0.0, "rot90": 0.0, "affine": None, **dict.fromkeys(names, 1.0), **settings}
    for name, value in chosen.items():
        if group_of(AugmentConfig.model_fields[name]) and isinstance(value, float):
            chosen[name] = {"probability": value}
    return AugmentConfig(**chosen)


EVERYTHING = only(**dict.fromkeys([*MOVING, *VALUES, *MIXING, *CONTRAILS], 0.5))


def augment_batch(
    batch: Batch,
    drawn: Draw,
    config: AugmentConfig,
    label_shift: tuple[float, float],
    size: tuple[int, int] | None = None,
) -> Batch:
    """Apply a draw to a batch of normalised images, as a training step does."""
    height, width = batch.target_bkhw.shape[-2:]
    labels = augment_labels(batch, drawn, config, label_shift)
    x_btchw = augment_images(batch.image_btchw, drawn, config, (height, width), size, labels=labels)
    return dataclasses.replace(labels, image_btchw=x_btchw)


def augment(
    config: AugmentConfig,
    image_btchw: Tensor,
    target_bkhw: Tensor | None = None,
    label_shift: tuple[float, float] = NO_SHIFT,
    step: int = 0,
    size: tuple[int, int] | None = None,
    valid_b1hw: Tensor | None = None,
) -> Batch:
    """Draw for a whole batch and apply; without a target, an empty one of the image's size."""
    if target_bkhw is None:
        target_bkhw = torch.zeros(len(image_btchw), 1, *image_btchw.shape[-2:])
    drawn = draw(config, len(image_btchw), target_bkhw.shape[-2], target_bkhw.shape[-1], seed=0, step=step)
    return augment_batch(batch_of(image_btchw, target_bkhw, valid_b1hw), drawn, config, label_shift, size)


def batch_of(image_btchw: Tensor, target_bkhw: Tensor, valid_b1hw: Tensor | None = None) -> Batch:
    """Return a batch of records that are as positive as their most certain pixel."""
    positive_b1 = target_bkhw.amax(dim=(1, 2, 3))[:, None]
    return Batch(image_btchw, target_bkhw, positive_b1, torch.ones(len(image_btchw)), valid_b1hw)


def blob(height: int, width: int, y: float, x: float) -> Tensor:
    """Return a Gaussian of 3 px, shape (1, 1, h, w), about a point given in pixels from the image's centre."""
    rows = torch.arange(height) - (height - 1) / 2 - y
    columns = torch.arange(width) - (width - 1) / 2 - x
    return torch.exp(-(rows[:, None] ** 2 + columns**2) / 18)[None, None]


def same(a: Draw, b: Draw) -> bool:
    return all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(Draw))
