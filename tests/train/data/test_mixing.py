"""Mixtures of samples, and which records stay positive when contrails leave the image."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from contrail_train.data.augment import draw_labels
from contrail_train.data.draw import Draw, draw
from contrail_train.data.loader import Batch, share_of
from helpers.augmentation import EVERYTHING, NO_SHIFT, augment, augment_batch, batch_of, only, same


def test_mixup_blends_image_label_and_record_alike() -> None:
    image, config = torch.rand(5, 2, 3, 8, 8), only(mixup=1.0)
    target = (torch.rand(5, 1, 8, 8) < 0.3).float()
    target[1] = 0
    valid = (torch.rand(5, 1, 8, 8) < 0.8).float()
    share, partner = draw(config, 5, 8, 8, seed=0, step=0).mixup_b.float(), [1, 0, 3, 2, 4]
    moved = augment(config, image, target, valid_b1hw=valid)
    positive = target.amax(dim=(1, 2, 3))[:, None]
    for before, after in ((image, moved.image_btchw), (target, moved.target_bkhw), (positive, moved.positive_b1)):
        s = share.reshape(5, *[1] * (before.ndim - 1))
        torch.testing.assert_close(after, (1 - s) * before + s * before[partner])
    assert moved.valid_b1hw is not None
    assert torch.equal(moved.valid_b1hw, valid * valid[partner])
    either = augment(only(mixup={"probability": 1, "labels": "or"}), image, target)
    assert torch.equal(either.image_btchw, moved.image_btchw)
    assert torch.equal(either.target_bkhw, torch.maximum(target, target[partner]))
    assert torch.equal(either.positive_b1, torch.maximum(positive, positive[partner]))


@pytest.mark.parametrize("size", [None, (64, 64)])
def test_cutmix_pastes_image_label_and_validity_of_one_rectangle(size: tuple[int, int] | None) -> None:
    number = torch.arange(6.0).reshape(6, 1, 1, 1)
    image, target = number[..., None].expand(6, 2, 3, 32, 32), number.expand(6, 1, 32, 32)
    valid = (number % 2).expand(6, 1, 32, 32)
    config = only(cutmix=1.0)
    moved, partner = augment(config, image, target, size=size, valid_b1hw=valid), [1, 0, 3, 2, 5, 4]
    drawn = draw(config, 6, 32, 32, seed=0, step=0).cutmix_b4
    for i in range(6):
        inside = moved.target_bkhw[i, 0] == partner[i]
        area = ((drawn[i, 1] - drawn[i, 0]) * (drawn[i, 3] - drawn[i, 2])).item()
        assert inside.float().mean().item() == pytest.approx(area)
        assert ((moved.target_bkhw[i] == i) | inside).all()
        in_image = inside if size is None else inside.repeat_interleave(2, 0).repeat_interleave(2, 1)
        assert ((moved.image_btchw[i] == partner[i]) == in_image).all()
        assert moved.valid_b1hw is not None
        assert torch.equal(moved.valid_b1hw[i, 0], torch.where(inside, float(partner[i] % 2), float(i % 2)))
        assert moved.positive_b1[i].item() == max(i, partner[i])
    single = augment(EVERYTHING, torch.rand(1, 1, 1, 8, 8))
    assert single.image_btchw.isfinite().all()


SWEEPING = {"affine": {"probability": 1, "shift": 0.5}, "turn": {"probability": 0.5}, "multi_scale": 0.5}


def records(n: int, side: int = 48) -> Batch:
    """Return a batch in which every other record has a short contrail, most near a border."""
    target, random = torch.zeros(n, 1, side, side), np.random.default_rng(0)
    for i in range(0, n, 2):
        y, x = random.choice([1, 4, 20, side - 6], 2)
        target[i, 0, y, x : x + 5] = 1
    return batch_of(torch.rand(n, 1, 1, side, side), target)


@pytest.mark.parametrize("settings", [SWEEPING, {"cutmix": 1.0}, {"cutmix": 0.5, **SWEEPING}])
def test_a_record_is_positive_while_a_contrail_is_left_in_the_image(settings: dict[str, Any]) -> None:
    """By counting the pixels of contrail that lie in the image and outside a pasted rectangle."""
    config, given, stale = only(**settings), records(400), 0
    moved = augment_batch(given, draw(config, 400, 48, 48, seed=0, step=0), config, (0.5, 0.5))
    peak = moved.target_bkhw.numpy().max((1, 2, 3))
    positive = moved.positive_b1[:, 0].numpy()
    assert not positive[peak == 0].any()
    assert positive[peak >= 0.5].all()
    assert set(positive.tolist()) == {0.0, 1.0}
    had_one = given.positive_b1[:, 0].numpy() > 0
    if "cutmix" in settings:
        had_one |= had_one.reshape(-1, 2)[:, ::-1].ravel()
    stale = (had_one & (peak == 0)).mean()
    assert stale > 0.1  # so many would have been positive without a contrail


def test_a_positive_record_with_an_empty_target_stays_positive() -> None:
    """The teacher's gate, or rounding, may empty the target of the mask; the record's label is still human."""
    empty = batch_of(torch.zeros(2, 1, 1, 32, 32), torch.zeros(2, 1, 32, 32))
    given = replace(empty, positive_b1=torch.ones(2, 1))
    config = only(**SWEEPING)
    assert augment_batch(given, draw(config, 2, 32, 32, seed=0, step=0), config, (0.5, 0.5)).positive_b1.all()


def test_the_record_of_a_soft_label_follows_its_core() -> None:
    target = torch.zeros(2, 1, 32, 32)
    target[:, 0, 4, 4:12] = 1
    target[:, 0, 16, 4:28] = 0.15  # seen by few annotators
    given = batch_of(torch.zeros(2, 1, 1, 32, 32), target)
    drawn = draw(only(), 2, 32, 32, seed=0, step=0)
    drawn.matrix_b23[1, 0, 2] = 8  # the core leaves at the top, but for its reflection's few rows
    drawn.matrix_b23[1, :, :2] *= 0.4
    assert augment_batch(given, drawn, only(), NO_SHIFT).positive_b1[:, 0].tolist() == [1, 0]


def test_redrawing_keeps_positives_and_is_a_function_of_seed_and_step() -> None:
    given, own = records(200), np.arange(200)
    base = {"cutmix": 0.5, **SWEEPING}

    def labels(own: np.ndarray, step: int = 0, **settings: Any) -> tuple[Draw, Batch]:
        part = Batch(*(v[own] if v is not None else None for v in vars(given).values()))
        return draw_labels(part, own, 200, only(**base, **settings), (0.5, 0.5), seed=0, step=step)

    once, never = labels(own)[1].positive_b1, labels(own, redraw=0)[1].positive_b1
    assert torch.equal(once, never)
    positive = given.positive_b1 > 0
    assert (once[positive] == 0).float().mean() > 0.1
    drawn, kept = labels(own, redraw=20)
    assert (kept.positive_b1[positive] > 0).all()
    first = draw(only(**base), 200, 48, 48, seed=0, step=0)
    again = (drawn.matrix_b23 != first.matrix_b23).flatten(1).any(1) | (drawn.cutmix_b4 != first.cutmix_b4).any(1)
    assert not again[~positive[:, 0]].any()
    assert same(drawn, labels(own, redraw=20)[0])
    assert not same(drawn, labels(own, step=1, redraw=20)[0])
    pairs = np.flatnonzero(own // 2 % 3 == 1)  # those of one of three processes
    assert same(labels(pairs, redraw=20)[0], drawn[pairs])


@pytest.mark.parametrize(("count", "world"), [(8, 2), (7, 2), (5, 3), (2, 3)])
def test_processes_mix_the_samples_that_one_process_mixes(count: int, world: int) -> None:
    config = only(mixup=0.8, cutmix=0.5, affine=0.5)
    given = batch_of(torch.randn(count, 1, 2, 16, 16), (torch.rand(count, 1, 16, 16) < 0.1).float())
    drawn = draw(config, count, 16, 16, seed=0, step=0)
    whole = augment_batch(given, drawn, config, (0.5, 0.5))
    for rank in range(world):
        own, owned = share_of(count, rank, world, config.together)
        part = Batch(*(None if v is None else v[own] for v in vars(given).values()))
        moved = augment_batch(part, drawn[own], config, (0.5, 0.5))
        for name in ("image_btchw", "target_bkhw", "positive_b1"):
            torch.testing.assert_close(getattr(moved, name)[:owned], getattr(whole, name)[own[:owned]])
