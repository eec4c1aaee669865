"""A trained run as a predictor: stored composite in, probability on the labels' grid out."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from torch import Tensor, nn

from contrail_data.errors import ContrailError
from contrail_data.pseudo import Decision
from contrail_data.store import kind
from contrail_train.augment import to_label_frame
from contrail_train.checkpoint import file_digest, load_weights
from contrail_train.config import read_config
from contrail_train.models import build

WEIGHTS = "best.safetensors"
CALIBRATION = "calibration.json"
CONFIG = "config.yaml"


def choose_device(asked: str) -> torch.device:
    """`auto`: cuda where there is one, else cpu. Raises ContrailError for a device that is not there."""
    if asked == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(asked)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError("use cpu or cuda")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ContrailError(
            f"device {asked!r}: not usable here ({str(error).splitlines()[0][:80]}): try auto"
        ) from None
    return device


def normalise(image_btchw: Tensor, mean_c: Tensor, std_c: Tensor) -> Tensor:
    """Stored values to what the model sees: float32, zero mean and unit deviation over the train split.

    mean and std are those of values in [0, 1]; uint8 counts 1/255.
    """
    scale = 1 / 255 if image_btchw.dtype == torch.uint8 else 1.0
    x_btchw = image_btchw.float() * scale
    return (x_btchw - mean_c[:, None, None]) / std_c[:, None, None]


def statistics_tensors(statistics: dict[str, Any], device: torch.device) -> tuple[Tensor, Tensor]:
    """(mean_c, std_c) float32. A channel that never varies is left unscaled."""
    mean = torch.tensor(statistics["mean"], dtype=torch.float32, device=device)
    std = torch.tensor(statistics["std"], dtype=torch.float32, device=device)
    return mean, torch.where(std > 1e-6, std, torch.ones_like(std))


def probabilities(
    model: nn.Module, image_btchw: Tensor, mean_c: Tensor, std_c: Tensor, label_shift: tuple[float, float]
) -> Tensor:
    """(b, t, c, h, w) stored values → (b, t, h, w) float32 probability on the labels' grid; each frame alone."""
    b, t = image_btchw.shape[:2]
    x_btchw = normalise(image_btchw.flatten(0, 1)[:, None], mean_c, std_c)
    logits_b1hw = model(x_btchw)["logits_b1hw"].float()
    p_b1hw = to_label_frame(torch.sigmoid(logits_b1hw), label_shift)
    return p_b1hw.reshape(b, t, *p_b1hw.shape[-2:]).clamp(0, 1)


@dataclass(frozen=True)
class Predictor:
    model: nn.Module
    device: torch.device
    mean_c: Tensor
    std_c: Tensor
    composite: dict[str, Any]
    label_shift: tuple[float, float]
    decision: Decision
    seen_records: list[str]
    """Records of the stores the run was given: trained on, or held out and used to choose epoch and threshold."""

    def for_store(self, store: xr.Dataset) -> Predictor:
        """This predictor for the labels' grid of a store, which may lie otherwise than the training data's.

        Raises ContrailError for a store of another composite, or one without images.
        """
        self.check_store(store)
        return replace(self, label_shift=tuple(store.attrs["label_shift"]))

    @torch.inference_mode()
    def predict(self, image_btchw: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """(b, t, c, y, x) of a store → (b, t, y, x) float32 contrail probability on the labels' grid."""
        x_btchw = torch.from_numpy(image_btchw).to(self.device)
        p_bthw = probabilities(self.model, x_btchw, self.mean_c, self.std_c, self.label_shift)
        return p_bthw.cpu().numpy()

    def check_store(self, store: xr.Dataset) -> None:
        """Raises ContrailError for a store of another composite, or one without images."""
        path = store.attrs["path"]
        if kind(store) != "samples":
            raise ContrailError(f"{path}: holds {kind(store)}, no images: name the store it came from")
        ours, theirs = self.composite["channels"], store.attrs["composite"]["channels"]
        if ours != theirs:
            name = self.composite["name"]
            raise ContrailError(
                f"{path}: composite {store.attrs['composite']['name']!r}, the model was trained on {name!r}: "
                f"build the store with --composite {name}"
            )


def load_predictor(path: Path, device: str = "auto") -> Predictor:
    """The best weights of a run directory with its statistics and thresholds.

    Raises ContrailError when the directory is no finished run.
    """
    if not (path / CONFIG).is_file():
        raise ContrailError(f"{path}: no run directory (it has no {CONFIG}): name the --out of contrail-train run")
    try:
        calibration = json.loads((path / CALIBRATION).read_bytes())
        composite, shift = calibration["composite"], tuple(calibration["label_shift"])
        threshold, gate, top_k = (calibration[k] for k in ("threshold", "gate", "top_k"))
        statistics, seen = calibration["statistics"], calibration["seen_records"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ContrailError(
            f"{path}: the run is not finished (no whole {CALIBRATION}): repeat its command to finish it"
        ) from None
    config = read_config(path / CONFIG)
    where = choose_device(device)
    # The run's own weights follow: what the encoder was begun with no longer matters.
    model = build(config.model.model_copy(update={"pretrained": False}), len(composite["channels"]))
    load_weights(path / WEIGHTS, model)
    model.eval().to(where)
    decision = Decision(threshold, gate, top_k, file_digest(path / WEIGHTS))
    mean_c, std_c = statistics_tensors(statistics, where)
    return Predictor(model, where, mean_c, std_c, composite, shift, decision, seen)
