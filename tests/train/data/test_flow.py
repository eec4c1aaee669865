"""Flow of windows: neighbours warped onto the labelled frame, in batches and under symmetries, and what is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from contrail_data.errors import ContrailError
from contrail_data.labels.flow import DIS, FlowMethod
from contrail_data.labels.predictor import Symmetries
from contrail_train.config.augment import AugmentConfig
from contrail_train.config.data import DataConfig
from contrail_train.config.schema import RunConfig
from contrail_train.config.settings import with_settings
from contrail_train.data.augment import augment_flow, augment_images
from contrail_train.data.draw import draw
from contrail_train.data.flow import WindowFlow, warp_frames
from contrail_train.data.loader import load
from contrail_train.data.training_data import open_training_data
from contrail_train.inference.detector import (
    View,
    single_network_detector,
    view_of,
)
from contrail_train.inference.export import export
from contrail_train.inference.turns import symmetry_operations, turn_flow
from helpers.augmentation import batch_of, only
from helpers.exports import predictor

SIDE = 64
CPU = torch.device("cpu")


def drifting(*shifts: tuple[float, float]) -> np.ndarray:
    """Return a window of a smooth random field that lies at these (down, right) shifts, uint8 (t, c, y, x)."""
    field = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((SIDE + 40, SIDE + 40)), 3)
    field = (field - field.min()) / np.ptp(field)
    frames = [ndimage.shift(field, shift, order=3, mode="nearest")[20:-20, 20:-20] for shift in shifts]
    return np.repeat(np.rint(255 * np.clip(frames, 0, 1)).astype(np.uint8)[:, np.newaxis], 3, 1)


def wavy(*shape: int) -> torch.Tensor:
    """Return smooth flow of up to 4 pixels."""
    noise = np.random.default_rng(1).standard_normal((*shape, 2, SIDE, SIDE))
    smooth = ndimage.gaussian_filter(noise, (0,) * (len(shape) + 1) + (6, 6))
    return torch.from_numpy(4 * smooth / np.abs(smooth).max()).float()


def inner(x: torch.Tensor) -> torch.Tensor:
    return x[..., 8:-8, 8:-8]


def test_warped_neighbours_lie_on_the_labelled_frame() -> None:
    window = drifting((-3, 2), (0, 0), (3, -2), (6, -4))
    x_btchw = torch.from_numpy(window)[None].float()
    flow = WindowFlow(DIS, labelled=1).of_batch(torch.from_numpy(window)[None])
    medians = flow[0, :, :, 16:-16, 16:-16].float().flatten(2).median(2).values
    np.testing.assert_allclose(medians, [(-3, 2), (0, 0), (3, -2), (6, -4)], atol=0.3)
    warped = warp_frames(x_btchw, flow, 1)
    assert torch.equal(warped[:, 1], x_btchw[:, 1])
    before, after = (inner(x - x_btchw[:, 1:2]).abs().mean((0, 2, 3, 4)) for x in (x_btchw, warped))
    assert (after[[0, 2, 3]] < 0.2 * before[[0, 2, 3]]).all()


def test_a_reversed_window_has_the_flow_of_its_frames_in_reverse_order() -> None:
    window = drifting((-3, 2), (0, 0), (3, -2))
    flow = WindowFlow(DIS, labelled=1)
    np.testing.assert_array_equal(flow(window[::-1]), flow(window)[::-1])


@pytest.mark.parametrize(("flip", "turns"), symmetry_operations(Symmetries.DIHEDRAL))
def test_vectors_turn_with_their_frames(flip: bool, turns: int) -> None:
    x_btchw, flow_btdhw = torch.from_numpy(drifting((0, 0), (2, 3)))[None].float(), wavy(1, 2)

    def turned(x: torch.Tensor) -> torch.Tensor:
        return torch.rot90(x.flip(-1) if flip else x, turns, (-2, -1))

    ours = warp_frames(turned(x_btchw), turn_flow(flow_btdhw, flip, turns), 0)
    torch.testing.assert_close(ours, turned(warp_frames(x_btchw, flow_btdhw, 0)), atol=0.01, rtol=0)


def test_batches_bring_the_flow_of_their_frames_and_keep_what_there_is_room_for(store: Path) -> None:
    data = open_training_data(DataConfig(train=[str(store)], frames=[-1, 0], holdout=0))
    pairs: list[int] = []

    def between(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        pairs.append(1)
        return np.stack([first[0] - 1.0 * second[0], first[1]]).astype(np.float32)

    items = replace(data.train, flow=WindowFlow(FlowMethod("", between), 1, room=4 * 2 * 2 * 32 * 32 * 2))
    for expected in (9, 9 + 5):  # there is room for four of nine windows
        (batch,) = load(items, [np.arange(9)], CPU, 2, 1)
        image, flow = batch.image_btchw.numpy().astype(np.float32), batch.flow_btdhw
        assert flow is not None
        np.testing.assert_array_equal(flow[:, 0, 0], image[:, 1, 0] - image[:, 0, 0])
        np.testing.assert_array_equal(flow[:, 0, 1], image[:, 1, 1])
        assert not flow[:, 1].any()
        assert len(pairs) == expected


@pytest.mark.parametrize(
    ("config", "crop", "size"),
    [
        (only("flip", "rot90"), None, None),
        (only(affine={"probability": 1.0, "rotate": 40.0, "scale": 0.4, "shift": 0.3}), None, (96, 96)),
        (only(grid_distortion={"probability": 1.0, "cells": 3}, turn=1.0), 40, None),
        (only("time_reversal", "cutmix", "flip"), None, None),
    ],
)
def test_flow_moves_with_its_frames_and_its_vectors_turn_and_stretch(
    config: AugmentConfig, crop: int | None, size: tuple[int, int] | None
) -> None:
    """Warping and augmentation commute, also where images are reflected beyond their borders."""
    x_btchw = torch.from_numpy(drifting((0, 0), (0, 0), (0, 0)))[None, :, :1].float().repeat(8, 1, 1, 1, 1) / 255
    x_btchw[4:] = x_btchw[4:].flip(-1)
    flow_btdhw = wavy(8, 3)
    flow_btdhw[:, 1] = 0
    drawn = draw(config, 8, SIDE, SIDE, seed=0, step=0, crop=crop)

    def augmented(x: torch.Tensor) -> torch.Tensor:
        labels = batch_of(x, torch.zeros(8, 1, SIDE, SIDE))
        return augment_images(x, drawn, config, (SIDE, SIDE), size, labels=labels)

    moved = augment_flow(flow_btdhw, drawn, (SIDE, SIDE), size)
    if size is not None:  # vectors stay in stored pixels
        moved = moved * (size[0] / SIDE)
    ours, theirs = warp_frames(augmented(x_btchw), moved, 1), augmented(warp_frames(x_btchw, flow_btdhw, 1))
    unwarped = inner(augmented(x_btchw) - theirs).abs().mean()
    error = inner(ours - theirs).abs()
    assert error.mean() < 0.1 * unwarped
    assert error.quantile(0.99) < unwarped


class Seen(torch.nn.Module):
    """Keeps its input and predicts from the last frame."""

    def forward(
        self, x_btchw: torch.Tensor, size: tuple[int, int], flow_btdhw: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        self.x_btchw, self.flow_btdhw = x_btchw, flow_btdhw
        return {"logits_b1hw": x_btchw[:, -1, :1]}


def test_a_detector_sees_warped_frames_under_each_symmetry_alike() -> None:
    window_btchw = torch.from_numpy(drifting((0, 0), (4, -3)))[None]
    view = View((0, 1), torch.zeros(3), torch.ones(3), False, None, WindowFlow(DIS, 0))
    predictions = []
    for symmetries in (Symmetries.NONE, Symmetries.DIHEDRAL):
        model = Seen()
        detect = single_network_detector(model, view, "mask", top_k=1, mask_shift=(0, 0), symmetries=symmetries)
        predictions.append(detect(window_btchw).probability_bhw)
        assert inner(model.x_btchw[:, 1] - model.x_btchw[:, 0]).abs().mean() < 0.01
    torch.testing.assert_close(*predictions, atol=1e-4, rtol=0)
    with pytest.raises(ContrailError, match="needs optical flow"):
        export(predictor(detect), Path("detector.onnx"))


def test_a_detector_gives_flow_to_the_network_at_the_size_of_its_images() -> None:
    window_btchw = torch.from_numpy(drifting((0, 0), (4, -3)))[None]
    flow = WindowFlow(DIS, 0, warps=False, is_input=True)
    model = Seen()
    detect = single_network_detector(
        model, View((0, 1), torch.zeros(3), torch.ones(3), False, (96, 96), flow), "mask", top_k=1, mask_shift=(0, 0)
    )
    detect(window_btchw)
    assert model.flow_btdhw is not None
    assert model.flow_btdhw.shape == (1, 2, 2, 96, 96)
    medians = model.flow_btdhw[0, 1].flatten(1).median(1).values
    np.testing.assert_allclose(medians, (4, -3), atol=0.3)
    assert inner(model.x_btchw[:, 1] - model.x_btchw[:, 0]).abs().mean() > 0.02  # not warped


def test_a_run_warps_by_the_method_of_its_settings(tmp_path: Path) -> None:
    statistics = {"mean": [0.4] * 3, "std": [0.3] * 3}
    settings = ["data.frames=[0,1]", "model.mixer.kind=mean", "data.warp=true"]
    config = with_settings(RunConfig(), settings)
    window_btchw = torch.from_numpy(drifting((0, 0), (4, -3)))[None]
    flow = view_of(config, statistics, CPU).flow
    assert flow is not None
    assert torch.equal(flow.of_batch(window_btchw), WindowFlow(DIS, 0).of_batch(window_btchw))
    raft = with_settings(config, ["data.flow.method=raft", f"data.flow.weights={tmp_path / 'absent.pth'}"])
    with pytest.raises(ContrailError, match=r"absent\.pth: weights of RAFT"):
        view_of(raft, statistics, CPU)
    assert view_of(RunConfig(), statistics, CPU).flow is None
