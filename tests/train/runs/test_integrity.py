"""Nothing that a run has written is used after it was damaged or exchanged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from typing_extensions import TypedDict

from contrail_data.errors import ContrailError
from contrail_train.runs.calibration import read_calibration
from contrail_train.runs.checkpoint import Trained, TrainingState, read_tensors, save_mean, save_tensors
from contrail_train.runs.sealed import read_json, write_json


class Small(TypedDict):
    name: str
    values: list[float]


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def edit(file: str, change: Callable[[dict], object]) -> Callable[[Path], None]:
    def apply(run: Path) -> None:
        document = yaml.safe_load((run / file).read_text())
        change(document)
        (run / file).write_text(json.dumps(document))

    return apply


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (edit("calibration.json", lambda c: c.update(seen_records=[])), "damaged .its content is not what was written"),
        (edit("calibration.json", lambda c: c.update(seen_records=[], digest=None)), "damaged .seen_records: "),
        (edit("calibration.json", lambda c: c.update(threshold=0.3)), "damaged .its content is not what was written"),
        (edit("calibration.json", lambda c: (c.pop("digest"), c.update(gate="0.5"))), "damaged .gate: "),
        (edit("config.yaml", lambda c: c.update(epochs=99)), r"config.yaml: not the file that the run ended with"),
        (lambda run: flip(run / "best.safetensors", 80_000), r"best.safetensors: not the file that the run ended with"),
    ],
)
def test_a_calibration_is_refused_beside_what_it_does_not_belong_to(
    finished: Path, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    damage(tmp_path / "run")
    with pytest.raises(ContrailError, match=message):
        read_calibration(tmp_path / "run")


def test_no_flipped_bit_of_weights_or_documents_changes_what_is_read(tmp_path: Path) -> None:
    tensors = {"w": torch.arange(6.0).reshape(2, 3), "half": torch.ones(3, dtype=torch.bfloat16), "n": torch.tensor(7)}
    weights, document = tmp_path / "w.safetensors", tmp_path / "d.json"
    save_tensors(weights, tensors, {"step": 1})
    write_json(document, {"name": "a", "values": [0.5, 1.0]})
    refused = 0
    for path in (weights, document):
        for bit in range(0, 8 * path.stat().st_size, 11):
            flip(path, bit)
            try:
                if path == document:
                    assert read_json(path, Small, "") == {"name": "a", "values": [0.5, 1.0]}
                else:
                    read, metadata = read_tensors(path)
                    assert metadata["step"] == 1
                    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())
            except ContrailError:
                refused += 1
            flip(path, bit)
        assert refused
    save_mean(tmp_path / "mean.safetensors", [weights, weights], {})
    flip(weights, 8 * weights.stat().st_size - 5)
    with pytest.raises(ContrailError, match="damaged"):
        save_mean(tmp_path / "mean.safetensors", [weights, weights], {})


def test_a_damaged_checkpoint_is_reported_and_the_one_before_it_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, average = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    trained = Trained(
        model=model,
        average=average,
        optimiser=torch.optim.AdamW(model.parameters()),
        scaler=torch.amp.GradScaler("cpu", enabled=False),
    )
    clock = iter(range(0, 1000, 60))
    monkeypatch.setattr("contrail_train.runs.checkpoint.time.monotonic", lambda: next(clock))
    state = TrainingState(micro_batch=4)
    for state.step in (5, 6):
        with torch.no_grad():
            model.weight.fill_(state.step)
        state.save(tmp_path, trained)
    flip(tmp_path / "checkpoints/step-00000006.safetensors", -5)
    messages: list[str] = []
    resumed = TrainingState(micro_batch=1)
    assert resumed.load(tmp_path, trained, messages.append)
    assert (resumed.step, resumed.micro_batch, model.weight[0, 0].item()) == (5, 4, 5)
    assert len(messages) == 1
    assert "step-00000006.safetensors: damaged" in messages[0]
    resumed.save(tmp_path, trained)
    assert resumed.seconds == 60 + 60  # of both processes


def test_equal_weights_are_equal_files(tmp_path: Path) -> None:
    for i in range(16):  # of eight keys, the order could be the same by chance
        save_tensors(tmp_path / f"{i}", {name: torch.ones(1) for name in "abcdefgh"}, {"step": 1, "holdout_dice": 0.5})
    assert len({(tmp_path / f"{i}").read_bytes() for i in range(16)}) == 1
