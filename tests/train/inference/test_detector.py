"""Several networks as one detector: flips and turns, weights, scores, the labels' grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor, nn

from contrail_data.labels.predictor import Symmetries
from contrail_data.store.logits import encode
from contrail_train.config.schema import RunConfig
from contrail_train.config.settings import with_settings
from contrail_train.data.augment import to_label_frame
from contrail_train.data.normalise import normalise
from contrail_train.inference.detector import (
    Detector,
    Network,
    View,
    on_label_grid,
    view_of,
    weighted_mean,
)
from contrail_train.inference.turns import symmetry_operations

SIDE = 24


def view(*offsets: int) -> View:
    return View(offsets or (0,), torch.zeros(3), torch.ones(3), False, None)


class FirstChannel(nn.Module):
    """Returns logits from the first channel of the middle frame, shifted by `off`; `uneven` makes it asymmetric."""

    def __init__(self, off: tuple[float, float] = (0.0, 0.0), uneven: bool = False):
        super().__init__()
        self.off, self.uneven = off, uneven

    def forward(self, x_btchw: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
        p_b1hw = x_btchw[:, x_btchw.shape[1] // 2, :1]
        if self.uneven:
            p_b1hw = 0.75 * p_b1hw + 0.25 * p_b1hw.roll((1, 2), (2, 3))
        p_b1hw = to_label_frame(p_b1hw, self.off).clamp(1e-4, 1 - 1e-4)
        return {"logits_b1hw": torch.logit(p_b1hw), "record_logit_b1": x_btchw.mean((1, 2, 3, 4))[:, None]}


def single(network: Network, symmetries: Symmetries = Symmetries.NONE, classifiers: tuple[str, ...] = ()) -> Detector:
    options = {"top_k": 4, "symmetries": symmetries, "classifiers": classifiers}
    return Detector({"a": network}, {"a": 1.0}, {"a": 1.0}, **options)


def test_images_are_normalised_as_photographs_where_that_is_asked_for() -> None:
    config = with_settings(RunConfig(), ["data.normalise=imagenet"])
    statistics = {"mean": [0.0] * 3, "std": [2.0] * 3}
    image = torch.full((1, 1, 3, 2, 2), 255, dtype=torch.uint8)
    normalised = normalise(image, view_of(config, statistics, torch.device("cpu")))[0, 0, :, 0, 0]
    published = [(1 - mean) / std for mean, std in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))]
    assert normalised.tolist() == pytest.approx(published, rel=1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32])
def test_missing_pixels_do_not_count_when_each_image_is_normalised_by_itself(dtype: type) -> None:
    """Against masked arrays of NumPy; half a tile is missing, and a frame of another sample."""
    random, top = np.random.default_rng(0), 255 if dtype is np.uint8 else 1
    image = (random.beta(2, 5, (3, 2, 3, SIDE, SIDE)) * top).astype(dtype)
    missing = np.zeros((3, 2, 1, SIDE, SIDE), bool)
    missing[0, :, :, : SIDE // 2], missing[1, 0] = True, True
    image = np.where(missing, dtype(top), image)
    masked = np.ma.array(image.astype(np.float64) / top, mask=np.broadcast_to(missing, image.shape))
    mean, std = (part.reshape(3, 1, 3, 1, 1) for part in (masked.mean((1, 3, 4)), masked.std((1, 3, 4))))
    ours = normalise(torch.from_numpy(image), View((0, 1), torch.zeros(3), torch.ones(3), True, None)).numpy()
    np.testing.assert_allclose(ours, ((masked - mean) / std).filled(0), atol=1e-4)
    everything = normalise(
        torch.full((1, 2, 3, 8, 8), 255, dtype=torch.uint8), View((0, 1), *torch.ones(2, 3), True, None)
    )
    assert not everything.any()


def blob(row: float = 10.2, column: float = 13.7) -> Tensor:
    """Return a smooth bump, shape (1, 1, 3, h, w)."""
    y, x = np.mgrid[:SIDE, :SIDE]
    bump = np.exp(-((y - row) ** 2 + (x - column) ** 2) / 12)
    return torch.from_numpy(np.broadcast_to(bump, (1, 1, 3, SIDE, SIDE)).astype(np.float32))


@settings(max_examples=30)
@given(st.floats(-3, 3), st.floats(-3, 3))
def test_to_label_frame_is_a_linear_shift(dy: float, dx: float) -> None:
    image = np.random.default_rng(0).random((9, 11))
    moved = to_label_frame(torch.from_numpy(image)[None, None], (dy, dx))[0, 0].numpy()
    np.testing.assert_allclose(moved, ndimage.shift(image, (dy, dx), order=1, mode="nearest"), atol=1e-6)


@pytest.mark.parametrize("symmetries", [Symmetries.FLIPS, Symmetries.DIHEDRAL])
def test_predictions_averaged_over_symmetries_turn_with_the_image(symmetries: Symmetries) -> None:
    detector = single(Network(FirstChannel(uneven=True), view()), symmetries)
    x_btchw = torch.rand(2, 1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    straight = detector(x_btchw).probability_bhw
    for flip, turns in symmetry_operations(symmetries):
        turned = torch.rot90(x_btchw.flip(-1) if flip else x_btchw, turns, (-2, -1))
        restored = torch.rot90(detector(turned).probability_bhw, -turns, (-2, -1))
        torch.testing.assert_close(restored.flip(-1) if flip else restored, straight, atol=1e-5, rtol=0)
    assert (single(Network(FirstChannel(uneven=True), view()))(x_btchw).probability_bhw - straight).abs().max() > 0.05


@pytest.mark.parametrize("off", [(0.0, 0.0), (0.5, 0.5), (0.5, -1.25)])
@pytest.mark.parametrize("symmetries", list(Symmetries))
def test_predictions_lie_on_the_label_grid_for_any_label_shift_and_symmetry(
    off: tuple[float, float], symmetries: Symmetries
) -> None:
    """A network trained on shifted labels predicts with that shift in every orientation of the image; without a
    correction, an average over flips would be shifted and blurred."""
    detector = single(Network(FirstChannel(off), view(), off), symmetries)
    shift = 0.5 - detector.mask_shift[0], 0.5 - detector.mask_shift[1]
    probability = on_label_grid(detector, shift)(blob(), None).probability_bhw[0].numpy() - 1e-4
    np.testing.assert_allclose(ndimage.center_of_mass(probability.clip(0)), (10.7, 14.2), atol=0.02)
    # two interpolations blur by 0.11; a copy that is shifted the wrong way blurs by 0.17 or more
    np.testing.assert_allclose(probability, blob(10.7, 14.2)[0, 0, 0], atol=0.12)


def test_weights_scores_and_agreement_of_two_networks_match_their_definitions() -> None:
    near, far = Network(FirstChannel(), view(-1, 0, 1)), Network(FirstChannel(), view(0))
    x_btchw = torch.zeros(1, 3, 3, SIDE, SIDE)
    x_btchw[0, 1, :, 2:4, 2:4] = 0.8  # the frame that both networks predict
    pair = Detector({"near": near, "far": far}, {"near": 1.0, "far": 3.0}, {"far": 1.0}, top_k=8)
    assert pair.offsets == (-1, 0, 1)
    output = pair(x_btchw)
    assert output.probability_bhw[0, 2, 2] == pytest.approx(0.8, abs=1e-6)
    assert output.score_b[0] == pytest.approx((4 * 0.8 + 4 * 1e-4) / 8, abs=1e-6)
    assert output.agreement_b[0] == pytest.approx(1, abs=1e-6)
    valid_bhw = torch.ones(1, SIDE, SIDE, dtype=torch.bool)
    valid_bhw[0, 2] = False  # predictions of missing pixels do not count in the score
    assert pair(x_btchw, valid_bhw).score_b[0] == pytest.approx((2 * 0.8 + 6 * 1e-4) / 8, abs=1e-6)

    apart = Detector({"a": near, "b": Network(FirstChannel((8.0, 8.0)), view(0))}, {"a": 1, "b": 1}, {"a": 1}, top_k=8)
    assert apart(x_btchw).agreement_b[0] < 0.4
    assert weighted_mean({"a": torch.ones(1), "b": torch.zeros(1)}, {"a": 1.0, "b": 3.0})[0] == 0.25
    record = single(near, classifiers=("a",))(x_btchw).score_b[0]
    assert record == pytest.approx(torch.sigmoid(x_btchw.mean()).item())


@pytest.mark.parametrize("count", [2, 3, 7, 10, 11, 49])
def test_the_mean_of_equal_stages_is_a_probability(count: int) -> None:
    """The weights of 10 or 11 equal stages, as float32, sum to 1.00000012."""
    highest = torch.tensor([1.0, 0.99999994, 0.5, 0.0])
    weights = {str(i): 1 / count for i in range(count)}
    mean = weighted_mean(dict.fromkeys(weights, highest), weights)
    assert mean.max() <= 1
    torch.testing.assert_close(mean, highest, atol=1e-6, rtol=0)
    encode(mean.numpy())  # is accepted by stores and histograms
