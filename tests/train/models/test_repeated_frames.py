"""Frames that several windows share are encoded once, and predictions stay what they are."""

from __future__ import annotations

import torch
from torch import Tensor

from contrail_data.labels.predictor import Symmetries
from contrail_train.inference.detector import View, single_network_detector
from contrail_train.models.repeated_frames import distinct_frames
from contrail_train.models.segmenter import Segmenter, build
from helpers.models import model_config


def windows_of(frames_tchw: Tensor) -> Tensor:
    """Return the windows of three frames around all frames but the first and the last."""
    return frames_tchw.unfold(0, 3, 1).movedim(-1, 1).contiguous()


def encoded_frames(model: Segmenter, x_btchw: Tensor) -> tuple[Tensor, int]:
    """Return the logits, and how many frames the encoder has seen for them."""
    counts = []
    hook = model.encoder.register_forward_pre_hook(lambda _, inputs: counts.append(len(inputs[0])))
    with torch.no_grad():
        logits_b1hw = model(x_btchw)["logits_b1hw"]
    hook.remove()
    return logits_b1hw, sum(counts)


def model_of_three_frames() -> Segmenter:
    torch.manual_seed(0)
    return build(model_config(mixer="conv3d"), 3, (-1, 0, 1)).eval()


def test_windows_of_a_sample_encode_each_of_its_frames_once() -> None:
    model = model_of_three_frames()
    windows_btchw = windows_of(torch.randn(8, 3, 64, 64))
    logits_b1hw, count = encoded_frames(model, windows_btchw)
    assert count == 8
    alone = [encoded_frames(model, window[None]) for window in windows_btchw]
    assert [frames for _, frames in alone] == [3] * 6
    torch.testing.assert_close(logits_b1hw, torch.cat([logits for logits, _ in alone]))


def test_flipped_windows_encode_each_frame_once_for_each_flip() -> None:
    model = model_of_three_frames()
    view = View((-1, 0, 1), torch.zeros(3), torch.ones(3), False, None)
    options = {"top_k": 1, "mask_shift": (0.0, 0.0), "symmetries": Symmetries.FLIPS}
    detector = single_network_detector(model, view, "mask", **options).eval()
    counts: list[int] = []
    model.encoder.register_forward_pre_hook(lambda _, inputs: counts.append(len(inputs[0])))
    with torch.no_grad():
        detector(windows_of(torch.rand(8, 3, 64, 64)))
    assert counts == [8] * 4


def test_frames_that_differ_in_one_pixel_are_different_frames() -> None:
    frames_tchw = torch.zeros(4, 3, 32, 32)
    frames_tchw[1, 0, 0, 0] = 1
    frames_tchw[2, 0, 0, 1] = 1  # of the same sum
    first, kind = distinct_frames(frames_tchw)
    assert first.tolist() == [0, 1, 2]
    assert kind.tolist() == [0, 1, 2, 0]


def test_training_encodes_every_frame_as_batch_norms_see_them() -> None:
    model = model_of_three_frames().train()
    assert encoded_frames(model, windows_of(torch.randn(5, 3, 64, 64)))[1] == 9
