"""Contrails that are erased, and contrails that are copied into samples without any."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from contrail_train.data.augment import draw_labels
from helpers.augmentation import augment, batch_of, only, same

CONTRAIL = (slice(12, 15), slice(6, 26))
SHIFT = 1.0, 2.0
"""Of the label against the image, whole pixels."""


def lines(background: list[float], contrails: list[bool]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images (b, 2, 3, 32, 32) of a constant background, some with a contrail of 9, and their shifted labels."""
    image = torch.tensor(background)[:, None, None, None, None].repeat(1, 2, 3, 32, 32)
    target = torch.zeros(len(background), 1, 32, 32)
    for sample, has_contrail in enumerate(contrails):
        if has_contrail:
            image[sample, ..., *CONTRAIL] = 9
            target[sample, 0, 13:16, 8:28] = 1
    return image, target


@pytest.mark.parametrize("size", [None, (64, 64)])
def test_an_erased_contrail_looks_like_its_surroundings_and_leaves_no_label(size: tuple[int, int] | None) -> None:
    image, target = lines([1.0, -2.0, 3.0], [True, False, True])
    moved = augment(only("erase"), image, target, SHIFT, size=size)
    for sample, background in enumerate((1.0, -2.0, 3.0)):
        torch.testing.assert_close(moved.image_btchw[sample], torch.full_like(moved.image_btchw[sample], background))
    assert not moved.target_bkhw.any()
    assert not moved.positive_b1.any()


def test_a_contrail_is_copied_only_into_a_partner_without_one() -> None:
    image, target = lines([1.0, -2.0, 3.0, 4.0, 5.0, 6.0], [True, False, True, True, False, False])
    valid = torch.ones(6, 1, 32, 32)
    valid[1, 0, 13] = 0
    moved = augment(only("copy_paste"), image, target, SHIFT, valid_b1hw=valid)
    others = [0, 2, 3, 4, 5]
    assert torch.equal(moved.image_btchw[others], image[others])
    assert moved.positive_b1[:, 0].tolist() == [1, 1, 1, 1, 0, 0]
    assert torch.equal(moved.target_bkhw[1], moved.target_bkhw[0])
    torch.testing.assert_close(moved.image_btchw[1, ..., *CONTRAIL], torch.full((2, 3, 3, 20), -2.0 + 8))
    rows, columns = slice(9, 18), slice(3, 29)  # the contrail, and three pixels around it
    outside = torch.ones(32, 32, dtype=torch.bool)
    outside[rows, columns] = False
    assert (moved.image_btchw[1][..., outside] == -2).all()
    assert moved.valid_b1hw is not None
    assert not moved.valid_b1hw[1, 0, 13].any()
    assert moved.valid_b1hw[[0, 2]].all()


def test_erasing_is_not_mistaken_for_a_contrail_that_left_the_image() -> None:
    given = batch_of(*lines([0.0] * 8, [True] * 8))
    settings = {"affine": 1.0, "erase": 0.5}
    first, _ = draw_labels(given, np.arange(8), 8, only(**settings), SHIFT, seed=0, step=0)
    kept, labels = draw_labels(given, np.arange(8), 8, only(**settings, redraw=5), SHIFT, seed=0, step=0)
    assert same(first, kept)
    assert 0 < int(labels.positive_b1.sum()) < 8
