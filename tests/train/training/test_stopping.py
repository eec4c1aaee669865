"""A signal ends training with a checkpoint; what is logged is complete after that."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from contrail_data.errors import ContrailError
from contrail_data.process import exit_on_sigterm
from contrail_train.training import fit as loop
from contrail_train.training.stopping import stop_deferred
from helpers.runs import run_steps


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Let Ctrl-C interrupt, which programs ignore that a shell started in the background."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.mark.slow
@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(
    ("number", "during", "end"),
    [(signal.SIGTERM, "train_step", SystemExit), (signal.SIGINT, "score", KeyboardInterrupt)],
)
def test_a_signal_ends_training_with_a_checkpoint(
    number: int, during: str, end: type, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    out, undisturbed, calls = tmp_path / "run", getattr(loop, during), []

    def disturbed(*args: object) -> object:
        calls.append(1)
        if len(calls) == (2 if during == "train_step" else 1):
            os.kill(os.getpid(), number)
        return undisturbed(*args)

    with monkeypatch.context() as patch:
        patch.setattr(loop, during, disturbed)
        with pytest.raises(end), exit_on_sigterm():
            run_steps(store, out, steps=5)
    step = 2 if during == "train_step" else 3  # an epoch has three
    assert [path.name for path in (out / "checkpoints").iterdir()] == [f"step-0000000{step}.safetensors"]
    with pytest.raises(ContrailError, match="holds a run with seed=0, not 3; choose another --out, or remove"):
        run_steps(store, out, "seed=3")
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1, "loss"\n[]\n')
    log = run_steps(store, out, steps=5)
    messages = capsys.readouterr().err
    assert f"resumed at step {step}" in messages
    assert messages.count("is damaged; it is left out") == 2
    assert [line["step"] for line in log if "loss" in line] == [1, 2, 3]
    assert [line["step"] for line in log if "holdout_dice" in line] == [3]
    assert scalar_steps(out / "tensorboard", "train/loss") == [1, 2, 3]
    assert scalar_steps(out / "tensorboard", "holdout/dice") == [3]


def scalar_steps(folder: Path, name: str) -> list[int]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return [event.step for event in events.Scalars(name)]


def test_a_second_ctrl_c_interrupts_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), stop_deferred() as stop:  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        assert stop.is_set()
        signal.raise_signal(signal.SIGINT)
        raise AssertionError
