"""Begin a run with the weights of another: what matches by name and shape is taken over, and told."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from contrail_data.errors import ContrailError
from contrail_train.runs.checkpoint import file_digest, read_tensors
from contrail_train.runs.directory import CALIBRATION, WEIGHTS


@dataclass(frozen=True)
class Start:
    report: list[str]
    """Lines: what matched, part by part, and a warning for each part that hardly did."""
    digest: str
    seen_records: tuple[str, ...]
    """Records that the weights have seen in training or that chose them; empty where the file does not tell."""
    trained_records: tuple[str, ...]


def weights_file(path: Path) -> Path:
    """The weights that `start=path` names. Raises ContrailError where there are none."""
    file = path / WEIGHTS if path.is_dir() else path
    if not file.is_file():
        raise ContrailError(f"start={path}: neither a finished run nor its weights: name the --out of a finished run")
    return file


def start_from(path: Path, model: nn.Module) -> Start:
    """Load into `model` every tensor of a run's weights that it has under the same name with the same shape.

    path: a run directory, or its best.safetensors. The rest of the model stays as drawn: new mixers begin as the
    identity, so a 2.5D model started from a 2D one first gives what that gave. Raises ContrailError for a run that
    is not finished, or one of which nothing fits.
    """
    file = weights_file(path)
    tensors, _ = read_tensors(file)
    own = model.state_dict()
    fits = {key: value for key, value in tensors.items() if key in own and own[key].shape == value.shape}
    if not fits:
        raise ContrailError(f"start={path}: no tensor of it fits this model: choose a run with its encoder or decoder")
    model.load_state_dict(fits, strict=False)
    there, taken = (Counter(key.split(".", 1)[0] for key in keys) for keys in (own, fits))
    parts = ", ".join(f"{part} {taken[part]} of {n} tensors" for part, n in there.items())
    misfits = [key for key in tensors if key not in fits]
    rest = f"; not used: {len(misfits)} such as {misfits[0]}" if misfits else ""
    seen: list[str] = []
    held: list[str] = []
    try:
        calibration = json.loads((file.parent / CALIBRATION).read_bytes())
        seen, held = calibration["seen_records"], calibration["holdout_records"]
    except (OSError, ValueError, KeyError):
        pass  # weights alone: nothing is known of what they saw
    report = [f"started from {file}: {parts}{rest}"]
    came = Counter(key.split(".", 1)[0] for key in tensors)
    for part, count in there.items():
        if came[part] and taken[part] < count / 2:
            report.append(f"warning: start={path}: its {part} is another one: {taken[part]} of {count} tensors fit")
    return Start(report, file_digest(file), tuple(seen), tuple(sorted(set(seen) - set(held))))
