"""A trained run as a predictor: stored composite in, probability on the labels' grid out."""

from __future__ import annotations

import csv
import io
import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from torch import Tensor, nn

from contrail_data.errors import ContrailError
from contrail_data.places import write_atomically
from contrail_data.progress import progress
from contrail_data.pseudo import Decision, frames_to_predict
from contrail_data.store import kind, pixel_reader, read_scalars
from contrail_train.augment import resample, to_label_frame
from contrail_train.checkpoint import file_digest, load_weights
from contrail_train.config import RunConfig, read_config
from contrail_train.models import build
from contrail_train.rundir import CALIBRATION, CONFIG, WEIGHTS

log = logging.getLogger(__name__)


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


@dataclass(frozen=True)
class View:
    """How stored frames become what a model sees."""

    offsets: tuple[int, ...]
    """Frames, from the one that is predicted."""
    mean_c: Tensor
    std_c: Tensor
    """Of values in [0, 1] over the train split; a channel that never varies is left unscaled."""
    each_image: bool
    """Normalise by each sample's own mean and deviation instead."""
    size: tuple[int, int] | None
    """Height and width the model works at; None: as stored."""


def view_of(config: RunConfig, statistics: dict[str, Any], device: torch.device) -> View:
    mean = torch.tensor(statistics["mean"], dtype=torch.float32, device=device)
    std = torch.tensor(statistics["std"], dtype=torch.float32, device=device)
    side = config.model.image_size
    return View(
        tuple(config.data.frames),
        mean,
        torch.where(std > 1e-6, std, torch.ones_like(std)),
        config.data.normalise == "image",
        None if side is None else (side, side),
    )


def normalise(image_btchw: Tensor, view: View) -> Tensor:
    """Stored values, uint8 counting 1/255, to float32 of zero mean and unit deviation."""
    scale = 1 / 255 if image_btchw.dtype == torch.uint8 else 1.0
    x_btchw = image_btchw.float() * scale
    if view.each_image:
        std_b1c11, mean_b1c11 = torch.std_mean(x_btchw, (1, 3, 4), correction=0, keepdim=True)
        return (x_btchw - mean_b1c11) / std_b1c11.clamp_min(1e-3)  # a flat channel is left flat
    return (x_btchw - view.mean_c[:, None, None]) / view.std_c[:, None, None]


def outputs(model: nn.Module, image_btchw: Tensor, view: View) -> dict[str, Tensor]:
    """What the model makes of windows of stored frames, (b, len(view.offsets), c, h, w), at the stored size."""
    x_btchw = normalise(image_btchw, view)
    if view.size is not None:
        x_btchw = resample(x_btchw, view.size)
    return dict(model(x_btchw, image_btchw.shape[-2:]))


def probabilities(model: nn.Module, image_btchw: Tensor, view: View, label_shift: tuple[float, float]) -> Tensor:
    """Consecutive stored frames (b, t, c, h, w) → (b, t - span, h, w) float32 probability on the labels' grid.

    One for each frame that has all its neighbours among those given: span = last - first of `view.offsets`.
    """
    first, span = view.offsets[0], view.offsets[-1] - view.offsets[0]
    starts = range(image_btchw.shape[1] - span)
    windows_bntchw = torch.stack([image_btchw[:, [s + o - first for o in view.offsets]] for s in starts], dim=1)
    p_bhw = window_probability(model, windows_bntchw.flatten(0, 1), view, label_shift)
    return p_bhw.reshape(*windows_bntchw.shape[:2], *p_bhw.shape[1:])


def window_probability(model: nn.Module, window_btchw: Tensor, view: View, label_shift: tuple[float, float]) -> Tensor:
    """Windows of stored frames → (b, h, w) float32 probability of the frame that is predicted, on the labels' grid."""
    logits_b1hw = outputs(model, window_btchw, view)["logits_b1hw"].float()
    return to_label_frame(torch.sigmoid(logits_b1hw), label_shift)[:, 0].clamp(0, 1)


def record_probability(model: nn.Module, window_btchw: Tensor, view: View) -> Tensor:
    """Windows of stored frames → (b) float32 probability that the record has a contrail."""
    return torch.sigmoid(outputs(model, window_btchw, view)["record_logit_b1"].float())[:, 0]


@dataclass(frozen=True)
class Predictor:
    run: Path
    model: nn.Module
    device: torch.device
    view: View
    composite: dict[str, Any]
    label_shift: tuple[float, float]
    decision: Decision
    seen_records: list[str]
    """Records of the stores the run was given: trained on, or held out and used to choose epoch and threshold."""
    head: str
    """As in `ModelConfig`."""
    native: bool
    """Trained on windows of an imager's own grid, not on UTM tiles."""
    pixel: float
    """Metres, of the tiles it was trained on."""
    size: int
    """Pixels of their side."""
    dtype: str
    """Of the stored images."""

    @property
    def offsets(self) -> tuple[int, ...]:
        return self.view.offsets

    def for_store(self, store: xr.Dataset) -> Predictor:
        """This predictor for the labels' grid of a store, which may lie otherwise than the training data's.

        Raises ContrailError for a store of another composite, or one without images.
        """
        self.check_store(store)
        if (side := store.sizes["y"]) != self.size:
            log.warning(
                "warning: %s has tiles of %d pixels, the run was trained on %d: is a contrail as wide as it learnt?",
                *(store.attrs["path"], side, self.size),
            )
        return replace(self, label_shift=tuple(store.attrs["label_shift"]))

    def for_masks(self) -> Predictor:
        """This predictor, if it has masks to give. Raises ContrailError for a classifier of records."""
        if self.head == "record":
            raise ContrailError(
                f"{self.run}: tells records, not pixels: name a run with model.head=mask or both, or "
                "`contrail-train predict -o NAME.csv` for its probabilities of records"
            )
        return self

    @torch.inference_mode()
    def predict_records(self, window_btchw: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Windows of stored frames (b, len(offsets), c, y, x) → (b) float32 probability of any contrail."""
        x_btchw = torch.from_numpy(window_btchw).to(self.device)
        return record_probability(self.model, x_btchw, self.view).cpu().numpy()

    @torch.inference_mode()
    def predict(self, image_btchw: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Consecutive frames (b, t, c, y, x) of a store → (b, t - span, y, x) float32 contrail probability on the
        labels' grid, for the frames that have their neighbours; span = last - first of `offsets`, 0 in 2D."""
        x_btchw = torch.from_numpy(image_btchw).to(self.device)
        return probabilities(self.model, x_btchw, self.view, self.label_shift).cpu().numpy()

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
        grid = calibration["grid"]
        kind_of_tile = bool(grid["native"]), float(grid["pixel"]), int(grid["size"]), str(grid["dtype"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ContrailError(
            f"{path}: the run is not finished (no whole {CALIBRATION}): repeat its command to finish it"
        ) from None
    config = read_config(path / CONFIG)
    where = choose_device(device)
    # The run's own weights follow: what the encoder was begun with no longer matters.
    plain = config.model.model_copy(update={"pretrained": False})
    model = build(plain, len(composite["channels"]), config.data.frames)
    load_weights(path / WEIGHTS, model)
    model.eval().to(where)
    decision = Decision(threshold, gate, top_k, file_digest(path / WEIGHTS))
    view = view_of(config, statistics, where)
    return Predictor(path, model, where, view, composite, shift, decision, seen, config.model.head, *kind_of_tile)


def record_table(model: Predictor, store: xr.Dataset, out: Path, *, all_frames: bool, batch: int) -> int:
    """Probability that a frame has any contrail, for the frames of a store, as a CSV file; returns how many.

    Columns: record_id, frame (index in the sample), probability, contrail (0 or 1: the probability is the run's
    threshold or more; empty where a run of `head=both` has none for records), model and store (digests). Written whole
    or not at all. Raises ContrailError for a run without a record head, or a store that lacks the frames it looks at.
    """
    if model.head == "mask":
        raise ContrailError(f"{model.run}: has no record head (model.head=mask): give -o NAME.zarr for masks")
    scalars = read_scalars(store)
    frames = frames_to_predict(scalars, store, all_frames, model.offsets)
    read_image = pixel_reader(store)
    windows = [(sample, int(frame)) for sample, row in enumerate(frames) for frame in row]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["record_id", "frame", "probability", "contrail", "model", "store"])
    with progress("records", len(windows), unit="frames") as advance:
        for start in range(0, len(windows), batch):
            part = windows[start : start + batch]
            x_btchw = np.empty((len(part), len(model.offsets), *store["image"].shape[2:]), store["image"].dtype)
            for (sample, frame), x_tchw in zip(part, x_btchw, strict=True):
                read_image(sample, [frame + offset for offset in model.offsets], x_tchw)
            for (sample, frame), p in zip(part, model.predict_records(x_btchw), strict=True):
                contrail = int(p >= model.decision.threshold) if model.head == "record" else ""
                name = str(scalars["record_id"].values[sample])
                table.writerow([name, frame, f"{p:.6f}", contrail, model.decision.model, store.attrs["digest"]])
            advance(len(part))
    write_atomically(out, [text.getvalue().encode()])
    return len(windows)
