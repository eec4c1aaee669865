"""The weights of another run that a run starts from."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from contrail_data.errors import ContrailError
from contrail_data.messages import Kind
from contrail_train.runs.calibration import find_calibration
from contrail_train.runs.checkpoint import file_digest, read_tensors
from contrail_train.runs.distributed import Ranks
from contrail_train.training.inputs import weights_file


@dataclass(frozen=True)
class Start:
    """The weights that a run starts from."""

    digest: str
    """Digest of the file."""
    seen_records: frozenset[str]
    """Records that influenced the weights; empty if the file is not in a run directory."""
    trained_records: frozenset[str]
    """Those of them that the weights were trained on."""
    parts: frozenset[str]
    """Attributes of the model into which tensors were copied."""


def start_from(path: Path, model: nn.Module, ranks: Ranks) -> Start:
    """Copy every tensor of a run's weights that the model has under the same name with the same shape.

    The rest of the model keeps its random weights. New mixers, unless they are mean or panels, begin as the identity,
    and a new stream of optical flow adds nothing, so a 2.5D model started from a 2D one predicts at first what the 2D
    one does. How many tensors were copied is printed by part, with a warning for each part of which few were.

    Args:
        path: A run directory, or its `best.safetensors`.
        model: Changed in place.
        ranks: This process among all.

    Returns:
        What was copied.

    Raises:
        ContrailError: If the run is not finished or damaged, or no tensor fits.
    """
    file = weights_file(path)
    tensors, _ = read_tensors(file)
    own = model.state_dict()
    matching = {key: value for key, value in tensors.items() if key in own and own[key].shape == value.shape}
    if not matching:
        raise ContrailError(
            f"start={path}: none of its tensors fits this model; choose a run with the same encoder or decoder"
        )
    model.load_state_dict(matching, strict=False)
    totals, copied, given = (Counter(key.split(".", 1)[0] for key in keys) for keys in (own, matching, tensors))
    parts = ", ".join(f"{part} {copied[part]} of {total} tensors" for part, total in totals.items())
    unused = [key for key in tensors if key not in matching]
    rest = f"; not used: {len(unused)}, such as {unused[0]}" if unused else ""
    ranks.say(f"started from {file}: {parts}{rest}")
    for part, total in totals.items():
        if given[part] and copied[part] < total / 2:
            ranks.say(
                f"start={path}: its {part} is a different one: {copied[part]} of {total} tensors fit", Kind.WARNING
            )
    calibration = find_calibration(file.parent)
    seen = frozenset(calibration["seen_records"] if calibration else ())
    held_out = frozenset(calibration["holdout_records"] if calibration else ())
    return Start(file_digest(file), seen, seen - held_out, frozenset(copied))
