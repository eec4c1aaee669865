"""Augmentations that change values, not places: brightness, blur, noise, cut-out, time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from contrail_train.data.augment import resample
from contrail_train.data.draw import MAX_CHANNELS, draw
from helpers.augmentation import NO_SHIFT, augment, augment_batch, batch_of, only


def test_brightness_and_contrast_are_equal_in_all_frames() -> None:
    image, config = torch.randn(3, 4, 11, 8, 8), only(brightness_contrast=1.0)
    moved, drawn = augment(config, image).image_btchw, draw(config, 3, 8, 8, seed=0, step=0)
    gain, offset = (v[:, None, :11, None, None].float() for v in (drawn.gain_bc, drawn.offset_bc))
    torch.testing.assert_close(moved, image * gain + offset)
    assert len(drawn.gain_bc[:, :11].unique()) == 33
    with pytest.raises(ValueError, match="at most 64"):
        augment(config, torch.randn(1, 1, MAX_CHANNELS + 1, 4, 4))


@pytest.mark.parametrize(("size", "ratio"), [(None, 1), ((48, 40), 2)])
def test_blur_equals_that_of_scipy(size: tuple[int, int] | None, ratio: int) -> None:
    image, config = torch.rand(4, 2, 3, 24, 20), only(blur={"probability": 1, "sigma": 1.5})
    sigma, before = draw(config, 4, 24, 20, seed=0, step=0).blur_b, resample(image, size or (24, 20))
    moved = augment(config, image, size=size).image_btchw
    for i in range(4):
        golden = gaussian_filter(
            before[i].numpy(), ratio * float(sigma[i]), mode="nearest", radius=math.ceil(4.5 * ratio), axes=(2, 3)
        )
        np.testing.assert_allclose(moved[i], golden, atol=1e-6)
    assert (moved - before).abs().max() > 0.1


def test_noise_has_the_drawn_deviation_and_depends_only_on_its_sample() -> None:
    config = only(noise={"probability": 1, "std": 0.5})
    image, drawn = torch.zeros(4, 2, 3, 64, 64), draw(config, 4, 64, 64, seed=0, step=0)
    moved = augment(config, image).image_btchw
    assert not image.any()
    assert torch.allclose(moved.std(dim=(1, 2, 3, 4)), drawn.noise_b.float(), rtol=0.03)
    rest = augment_batch(batch_of(image[2:], torch.zeros(2, 1, 64, 64)), drawn[2:], config, NO_SHIFT)
    assert torch.equal(rest.image_btchw, moved[2:])


def test_cut_out_is_one_square_of_the_mean_in_all_frames() -> None:
    config = only(cut_out={"probability": 1, "side": 5})
    for size, side in ((None, 5), ((64, 64), 10)):
        moved = augment(config, torch.ones(6, 3, 2, 32, 32), torch.ones(6, 1, 32, 32), size=size)
        hole = moved.image_btchw == 0
        assert (hole.sum(dim=(-2, -1)) == side**2).all()
        assert ((hole.any(dim=-1).sum(dim=-1) == side) & (hole.any(dim=-2).sum(dim=-1) == side)).all()
        assert (hole == hole[:, :1, :1]).all()
        assert moved.target_bkhw.all()
    assert not augment(only(cut_out={"probability": 1, "side": 500}), torch.ones(1, 1, 1, 8, 8)).image_btchw.any()


def test_time_reversal_reverses_the_order_of_frames() -> None:
    image, config = torch.rand(8, 3, 2, 4, 4), only(time_reversal=0.5)
    moved, turned = augment(config, image).image_btchw, draw(config, 8, 4, 4, seed=0, step=0).reversed_b
    assert torch.equal(moved[turned], image[turned].flip(1))
    assert torch.equal(moved[~turned], image[~turned])
    assert 0 < turned.sum() < 8
