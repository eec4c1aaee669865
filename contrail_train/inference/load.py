"""Whatever can predict, by its path."""

from __future__ import annotations

from pathlib import Path

from contrail_data.errors import ContrailError
from contrail_data.labels.predictor import Symmetries
from contrail_train.inference.exported import SUFFIXES, load_exported
from contrail_train.inference.pipeline import load_pipeline
from contrail_train.inference.predictor import Predictor
from contrail_train.inference.run import load_run
from contrail_train.runs.device import choose_device
from contrail_train.runs.directory import PIPELINE


def load_predictor(path: Path, device: str = "auto", symmetries: Symmetries | None = None) -> Predictor:
    """Load a finished run, a pipeline or an exported file as a predictor.

    Args:
        path: Run or pipeline directory, or a `.pt2` or `.onnx` file.
        device: `auto` selects CUDA if available, otherwise the CPU.
        symmetries: Transformed copies of an image to average over. None for the pipeline's own setting, and none for a
            run.

    Returns:
        A predictor whose probabilities lie on the label grid.

    Raises:
        ContrailError: If `path` is not a finished run, a pipeline or an exported file.
    """
    chosen = choose_device(device)
    if path.suffix in SUFFIXES:
        if symmetries is not None:
            raise ContrailError(f"{path}: an exported file has its own setting; omit --tta")
        return load_exported(path, chosen)
    if (path / PIPELINE).is_file():
        return load_pipeline(path, chosen, symmetries)
    return load_run(path, chosen, symmetries or Symmetries.NONE)
