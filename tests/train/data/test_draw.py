"""Random draws of augmentations: functions of seed and step, within their limits."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from contrail_data.settings.fields import group_of
from contrail_train.config.augment import AugmentConfig
from contrail_train.data.draw import Draw, draw
from helpers.augmentation import CONTRAILS, DIHEDRAL, EVERYTHING, IDENTITY, MIXING, MOVING, VALUES, only, same


def test_draws_without_affine_cover_all_eight_dihedral_matrices() -> None:
    config = AugmentConfig(flip=0.5, rot90=0.5, affine=None)
    drawn = {tuple(m.flatten().tolist()) for m in draw(config, 200, 64, 64, seed=1, step=2).matrix_b23}
    assert drawn == {tuple(m.flatten().tolist()) for m in DIHEDRAL}
    oblong = draw(config, 200, 64, 96, seed=1, step=2).matrix_b23
    assert not oblong[:, 0, 1].any()
    assert not oblong[:, 1, 0].any()


def test_draw_is_a_pure_function_of_seed_and_step() -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002
    first = draw(EVERYTHING, 8, 64, 64, seed=3, step=5, crop=48)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert same(draw(EVERYTHING, 8, 64, 64, seed=3, step=5, crop=48), first)
    other_step, other_seed = (draw(EVERYTHING, 8, 64, 64, seed=s, step=n, crop=48) for s, n in ((3, 6), (4, 5)))
    for field in dataclasses.fields(Draw):
        values = [getattr(d, field.name) for d in (first, other_step, other_seed)]
        assert not torch.equal(values[0], values[1])
        assert not torch.equal(values[0], values[2])


def test_a_draw_can_be_indexed_by_rows() -> None:
    drawn = draw(EVERYTHING, 8, 64, 64, seed=3, step=5)
    assert same(drawn[:4], draw(EVERYTHING, 4, 64, 64, seed=3, step=5))
    assert same(drawn[[5, 1]], drawn[np.array([5, 1])])
    assert torch.equal(drawn[4:6].matrix_b23, drawn.matrix_b23[4:6])
    assert len(drawn[1::2]) == 4


@pytest.mark.parametrize("changed", [*MOVING, *VALUES, *MIXING, *CONTRAILS])
def test_switching_off_an_augmentation_leaves_all_other_draws_unchanged(changed: str) -> None:
    field = {
        "brightness_contrast": {"gain_bc", "offset_bc"},
        "time_reversal": {"reversed_b"},
        "grid_distortion": {"stretch_b2n"},
        "noise": {"noise_b", "noise_seed_b"},
        "blur": {"blur_b"},
        "cut_out": {"cut_out_b4"},
        "mixup": {"mixup_b"},
        "cutmix": {"cutmix_b4"},
        "copy_paste": {"pasted_b"},
        "erase": {"erased_b"},
    }.get(changed, {"matrix_b23"})
    off = None if group_of(AugmentConfig.model_fields[changed]) else 0.0
    without = EVERYTHING.model_copy(update={changed: off})
    before, after = (
        draw(EVERYTHING, 40, 64, 64, seed=0, step=0),
        draw(without, 40, 64, 64, seed=0, step=0),
    )
    differs = {
        f.name for f in dataclasses.fields(Draw) if not torch.equal(getattr(before, f.name), getattr(after, f.name))
    }
    assert differs == field


def test_augmentations_occur_at_their_probabilities() -> None:
    rates = dict(zip([*MOVING, *VALUES, *MIXING, *CONTRAILS], np.linspace(0.2, 0.8, 15), strict=True))
    n = 4000

    def rate_of(name: str, drawn: Draw) -> float:
        chosen = {
            "grid_distortion": drawn.stretch_b2n.any(dim=2).all(dim=1),
            "brightness_contrast": (drawn.gain_bc != 1).all(dim=1) & (drawn.offset_bc != 0).all(dim=1),
            "blur": drawn.blur_b > 0,
            "noise": drawn.noise_b > 0,
            "time_reversal": drawn.reversed_b,
            "cut_out": drawn.cut_out_b4.any(dim=1),
            "mixup": drawn.mixup_b > 0,
            "cutmix": drawn.cutmix_b4.any(dim=1),
            "copy_paste": drawn.pasted_b,
            "erase": drawn.erased_b,
            "flip": drawn.matrix_b23[:, 0, 0] < 0,
        }
        return chosen.get(name, (drawn.matrix_b23 != IDENTITY).flatten(1).any(dim=1)).double().mean().item()

    for name, probability in rates.items():
        assert rate_of(name, draw(only(**{name: probability}), n, 64, 64, seed=0, step=0)) == pytest.approx(
            probability, abs=0.03
        )
        assert rate_of(name, draw(only(), n, 64, 64, seed=0, step=0)) == 0


def test_draws_stay_within_their_limits_and_cover_them() -> None:
    config = only("affine")
    matrices = draw(config, 2000, 60, 120, seed=0, step=0).matrix_b23
    shift = matrices[:, :, 2].abs()
    values = [(*zoom_and_angle(matrices), (0.7, 1.3), (-15, 15)), (shift[:, 0], shift[:, 1], (0, 6), (0, 12))]
    matrices = draw(
        only("multi_scale", turn={"probability": 1, "degrees": 40}), 2000, 60, 120, seed=0, step=0
    ).matrix_b23
    zoom, angle = zoom_and_angle(matrices)
    values.append((zoom.log2(), angle, (-1, 1), (-40, 40)))
    assert abs(zoom.log2().mean()) < 0.05  # uniform in the logarithm
    assert not matrices[:, :, 2].any()
    config = only("noise", cut_out={"probability": 1, "side": 20}, blur={"probability": 1, "sigma": 2})
    drawn = draw(config, 4000, 60, 120, seed=0, step=0)
    values.append((drawn.cut_out_b4[:, 1] * 60, drawn.cut_out_b4[:, 3] * 120, (19.99, 60.01), (19.99, 120.01)))
    assert torch.allclose(drawn.cut_out_b4[:, 1::2] - drawn.cut_out_b4[:, ::2], torch.tensor([[1 / 3, 1 / 6]]).double())
    values.append((drawn.blur_b, drawn.noise_b, (0, 2), (0, 0.1)))
    drawn = draw(only(brightness_contrast={"probability": 1, "contrast": 0.1}), 100, 60, 120, seed=0, step=0)
    values.append((drawn.offset_bc, drawn.gain_bc, (-0.2, 0.2), (0.9, 1.1)))
    drawn = draw(only(mixup=1.0, cutmix=1.0), 4000, 60, 120, seed=0, step=0)
    sides = drawn.cutmix_b4[:, 1::2] - drawn.cutmix_b4[:, ::2]
    values.append((drawn.mixup_b, sides.prod(dim=1), (0, 1), (0, 1)))
    assert drawn.mixup_b.var().item() == pytest.approx(1 / (4 * (2 * 0.4 + 1)), rel=0.05)  # of Beta(a, a)
    assert sides.prod(dim=1).mean().item() == pytest.approx(0.5, abs=0.02)
    for first, second, *limits in values:
        for value, (low, high) in zip((first, second), limits, strict=True):
            margin = (high - low) / 50
            assert low <= value.min() < low + margin
            assert high - margin < value.max() <= high


def zoom_and_angle(matrices_b23: Tensor) -> tuple[Tensor, Tensor]:
    """Return the zoom and the angle in degrees of each matrix."""
    turn = matrices_b23[:, :, :2]
    return torch.linalg.det(turn) ** -0.5, torch.rad2deg(torch.atan2(turn[:, 1, 0], turn[:, 0, 0]))


def test_crops_lie_anywhere_in_the_image_on_pixels() -> None:
    top, bottom, left, right = draw(only(), 4000, 60, 120, seed=0, step=0, crop=48).crop_b4.T * torch.tensor(
        [[60], [60], [120], [120]]
    )
    for first, last, places in ((top, bottom, 13), (left, right, 73)):
        torch.testing.assert_close(last - first, torch.full_like(first, 48.0))
        count = torch.bincount(first.round().long(), minlength=places)
        assert len(count) == places
        assert count.min() > 0.5 * 4000 / places
        torch.testing.assert_close(first, first.round())
