"""One step: micro-batches and the message when memory runs out."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from contrail_train.config.schema import RunConfig
from contrail_train.config.settings import with_settings
from contrail_train.data.loader import Batch
from contrail_train.inference.detector import view_of
from contrail_train.runs.checkpoint import TrainingState
from contrail_train.runs.distributed import ALONE
from contrail_train.training.step import train_step

SIDE, COUNT = 24, 7
EVERY_MEAN = ("loss.bce=1", "loss.focal.weight=0.5", "loss.pos_weight=3", "loss.label_smoothing=0.1")
MIXING = ("augment.mixup.probability=0.5", "augment.cutmix=0.5", "augment.affine.shift=0.5", "augment.redraw=2")
SOFT = ("data.second_target=mean", "loss.second_target=0.4")
BOTH = ("model.record_head={}", "loss.record=0.7")
ANNOTATORS = ("model.annotator_maps=2", *EVERY_MEAN, *MIXING)
AUXILIARY = ("model.record_head.auxiliary=true", "loss.record=0.7")


class Pixelwise(nn.Module):
    """Predicts every map from each pixel and the record from the mean; no sample affects another one."""

    def __init__(self, has_record_head: bool, has_second: bool, has_annotators: bool) -> None:
        super().__init__()
        self.has_second, self.has_annotators = has_second, has_annotators
        torch.manual_seed(0)
        self.maps, self.record = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 1) if has_record_head else None

    def forward(self, x_btchw: Tensor, size: tuple[int, int]) -> dict[str, Any]:
        if len(x_btchw) > self.most:
            raise torch.OutOfMemoryError
        maps = self.maps(x_btchw[:, 0])
        output: dict[str, Any] = {"logits_b1hw": maps[:, :1], "auxiliary": maps[:, 1:].split(1, dim=1)}
        output |= {"second_b1hw": maps[:, 2:]} if self.has_second else {}
        if self.has_annotators:
            output = {"annotators_bnhw": maps[:, :2], "score_logit_b1": maps.mean((2, 3))[:, :1]}
        return output | ({"record_logit_b1": self.record(x_btchw.mean((1, 3, 4)))} if self.record else {})

    most = COUNT


def gradients(micro_batch: int, *settings: str, most: int = COUNT) -> tuple[Tensor, list[Tensor]]:
    """Take a step on one batch; return its loss and gradients."""
    config = with_settings(RunConfig(), ["device=cpu", "optim.clip=1e9", f"batch_size={COUNT}", *settings])
    random = np.random.default_rng(0)
    target = np.zeros((COUNT, 1, SIDE, SIDE), np.uint8)
    for i in (0, 1, 4, 6):
        target[i, 0, 3 * i : 3 * i + 4, 2:20] = 255
    valid = (random.random(target.shape) < np.linspace(0.2, 1, COUNT)[:, None, None, None]).astype(np.uint8)
    annotators = config.model.annotator_maps or 0
    targets = [target, target // 2, target[..., ::-1]][: annotators + 1 if annotators else len(config.data.targets)]
    batch = Batch(
        torch.from_numpy(random.integers(0, 255, (COUNT, 1, 3, SIDE, SIDE), np.uint8)),
        torch.from_numpy(np.concatenate(targets, axis=1)),
        torch.from_numpy(target.max((1, 2, 3))[:, None] / np.float32(255)),
        torch.tensor([1.0, 0.5, 1.0, 0.25, 1.0, 2.0, 1.0]),
        torch.from_numpy(valid),
        annotators_b=torch.tensor([2, 1, 2, 0, 1, 2, 2], dtype=torch.uint8) if annotators else None,
    )
    model = Pixelwise(config.model.record_head is not None, config.data.second_target is not None, annotators > 0)
    model.most = most
    optimiser = torch.optim.SGD(model.parameters(), lr=0.0)
    optimiser.param_groups[0]["peak_lr"] = 0.0
    setup: Any = SimpleNamespace(
        config=config, ranks=ALONE, device=torch.device("cpu"), autocast=nullcontext, total_steps=10,
        scaler=torch.amp.GradScaler("cpu", enabled=False), label_shift=(0.5, 0.5),
        model=model, parallel=model, optimiser=optimiser, average=SimpleNamespace(update=lambda *_, **__: None),
        view=view_of(config, {"mean": [0.4] * 3, "std": [0.3] * 3}, torch.device("cpu")),
    )  # fmt: skip
    loss, _ = train_step(setup, TrainingState(micro_batch), batch, np.arange(COUNT))
    return loss, [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("micro_batch", [1, 3, 4])
@pytest.mark.parametrize(
    "settings", [EVERY_MEAN, (*EVERY_MEAN, *MIXING), BOTH, (*EVERY_MEAN, *MIXING, *SOFT, *BOTH), AUXILIARY, ANNOTATORS]
)
def test_micro_batches_have_the_gradient_of_the_whole_batch(micro_batch: int, settings: tuple[str, ...]) -> None:
    """With missing pixels, unequal weights, mixtures across micro-batches, and masks of positive records only."""
    whole_loss, whole = gradients(COUNT, *settings)
    loss, parts = gradients(micro_batch, *settings)
    assert loss.item() == pytest.approx(whole_loss.item(), rel=1e-5)
    for ours, expected in zip(parts, whole, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)


def test_all_records_teach_the_mask_beside_an_auxiliary_record_head() -> None:
    (mask, *_), (alone, *_) = gradients(COUNT, *AUXILIARY)[1], gradients(COUNT)[1]
    torch.testing.assert_close(mask, alone)
    (of_positives, *_) = gradients(COUNT, *BOTH)[1]
    assert not torch.allclose(of_positives, alone, rtol=0.1)


def test_ratios_are_means_over_micro_batches_by_weight() -> None:
    """Dice by micro-batch is another loss, as the schema says; with a single one it is that of the batch."""
    ratios = ("loss.dice=1", "loss.symmetric_dice=0.5", "loss.lovasz=0.5", "loss.tversky.weight=0.5")
    whole_loss, _ = gradients(COUNT, *ratios)
    loss, _ = gradients(3, *ratios)
    assert loss.item() != pytest.approx(whole_loss.item(), rel=1e-3)
    assert loss.item() == pytest.approx(whole_loss.item(), rel=0.2)


def test_dice_of_a_large_smoothing_has_the_gradient_of_the_whole_batch() -> None:
    """Then the loss is nearly linear, and micro-batches add their share of the smoothing."""
    settings = ("loss.bce=0", "loss.dice=1000", "loss.dice_numerator=7e5", "loss.dice_denominator=1e6")
    _, whole = gradients(COUNT, *settings)
    _, parts = gradients(3, *settings)
    for ours, expected in zip(parts, whole, strict=True):
        torch.testing.assert_close(ours, expected, rtol=0.01, atol=1e-6)


def test_running_out_of_memory_says_what_else_changes(capsys: pytest.CaptureFixture[str]) -> None:
    _, whole = gradients(COUNT)
    _, halved = gradients(COUNT, most=4)
    torch.testing.assert_close(halved[0], whole[0], rtol=1e-4, atol=1e-6)
    assert capsys.readouterr().err.endswith("from now on 4 samples pass through the model at once\n")
    gradients(COUNT, "loss.dice=1", most=4)
    assert capsys.readouterr().err.endswith("at once, and loss.dice is computed over these, not over the batch\n")
