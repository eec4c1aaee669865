"""The type in which a network computes, and what fp16 adds: a scaled loss and steps that are skipped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from contrail_data.errors import ContrailError
from contrail_train.training.precision import choose_type, describe_type, make_scaler
from helpers.runs import run_steps

GPU = torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [((6, 0), torch.float32), ((7, 0), torch.float16), ((7, 5), torch.float16), ((9, 0), torch.bfloat16)],
)
def test_a_gpu_computes_in_a_half_precision_that_it_has(
    capability: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert choose_type("auto", GPU) == dtype
    assert choose_type("fp32", GPU) == choose_type("auto", torch.device("cpu")) == torch.float32
    assert ("emulated" in describe_type(torch.bfloat16, GPU)) == (capability < (8, 0))


@pytest.mark.slow
def test_fp16_skips_a_step_that_overflows_and_resumes_to_the_same_weights_and_scale(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file

    from contrail_train.runs.checkpoint import read_tensors
    from contrail_train.training import setup

    def overflowing(dtype: torch.dtype, device: torch.device) -> torch.amp.GradScaler:
        assert make_scaler(dtype, device).get_scale() == 65536
        return torch.amp.GradScaler(device.type, init_scale=2.0**24, growth_interval=2)

    with monkeypatch.context() as patch:
        patch.setattr(setup, "make_scaler", overflowing)  # so that the first steps overflow
        settings = ("precision=fp16", "data.crop=32", "batch_size=6", "model.encoder=test_convnext")
        log = run_steps(store, tmp_path / "whole", *settings, steps=6)
        run_steps(store, tmp_path / "killed", *settings, steps=3)  # leaves the checkpoint of step 2
        run_steps(store, tmp_path / "killed", *settings, steps=6)
    first, last = log[0], [line for line in log if "loss" in line][-1]
    assert "grad_norm" not in first  # it was infinite, which JSON cannot say
    assert first["loss_scale"] == 2.0**23
    assert last["grad_norm"] > 0
    names = [f"{run}/checkpoints/step-00000006.safetensors" for run in ("whole", "killed")]
    whole, killed = (load_file(tmp_path / name) for name in names)
    assert all(tensor.equal(killed[key]) for key, tensor in whole.items())
    states = [read_tensors(tmp_path / name)[1]["scaler"] for name in names]
    assert states[0] == states[1]
    assert states[0]["growth_interval"] == 2


def test_gradients_that_overflow_at_every_scale_end_the_run(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from contrail_train.training import setup

    tiny = torch.amp.GradScaler("cpu", init_scale=2.0**-11)
    monkeypatch.setattr(setup, "make_scaler", lambda *_: tiny)
    with pytest.raises(ContrailError, match=r"up to step 1 overflow in fp16 at every scale; set precision=fp32"):
        run_steps(store, tmp_path / "run", "precision=fp16")
