"""A trained run, pipeline or exported file as a predictor: stored composite in, probability on the labels' grid out."""

from __future__ import annotations

import csv
import hashlib
import io
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr

from contrail_data.command import Symmetries
from contrail_data.errors import ContrailError
from contrail_data.places import write_atomically
from contrail_data.progress import progress
from contrail_data.pseudo import Decision, Frames, Predicted, frames_to_predict, label_store
from contrail_data.store import kind, pixel_reader, read_scalars
from contrail_train.checkpoint import file_digest, load_weights
from contrail_train.config import read_config
from contrail_train.detector import Detect, Shift, onto_labels, single, view_of
from contrail_train.models import build
from contrail_train.rundir import CALIBRATION, CONFIG, PIPELINE, STAGES, WEIGHTS, finished

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
class Predictor:
    path: Path
    """Of the run, pipeline or file."""
    detect: Detect
    offsets: tuple[int, ...]
    """Frames that it looks at, from the one that it tells of."""
    off: Shift
    """How far what it tells lies off the image."""
    device: torch.device
    composite: dict[str, Any]
    label_shift: Shift
    """How far the labels' grid lies off the image."""
    decision: Decision
    trained_records: frozenset[str]
    calibrated_records: frozenset[str]
    """Records held out, by which epochs, thresholds and weights were chosen."""
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
    def on_labels(self) -> Detect:
        """What it tells, on the labels' grid."""
        return onto_labels(self.detect, (self.label_shift[0] - self.off[0], self.label_shift[1] - self.off[1]))

    def for_store(self, store: xr.Dataset) -> Predictor:
        """This predictor for the labels' grid of a store, which may lie otherwise than the training data's.

        Raises ContrailError for a store of another composite, or one without images.
        """
        self.check_store(store)
        if (side := store.sizes["y"]) != self.size:
            log.warning(
                "warning: %s has tiles of %d pixels, the model was trained on %d: is a contrail as wide as it learnt?",
                *(store.attrs["path"], side, self.size),
            )
        return replace(self, label_shift=tuple(store.attrs["label_shift"]))

    def for_masks(self) -> Predictor:
        """This predictor, if it has masks to give. Raises ContrailError for a classifier of records."""
        if self.head == "record":
            raise ContrailError(
                f"{self.path}: tells records, not pixels: name a run with model.head=mask or both, or "
                "`contrail-train predict -o NAME.csv` for its probabilities of records"
            )
        return self

    @torch.inference_mode()
    def predict(self, window_btchw: npt.NDArray[Any], valid_bhw: npt.NDArray[np.bool_] | None = None) -> Predicted:
        """Windows of stored frames (b, len(offsets), c, y, x), and where the frame that is told of has pixels → what is
        told of it, on the labels' grid. No score counts what is told where there is no pixel."""
        valid = None if valid_bhw is None else torch.from_numpy(valid_bhw).to(self.device)
        told = self.on_labels(torch.from_numpy(window_btchw).to(self.device), valid)
        return Predicted(*(part.cpu().numpy() for part in told))

    def label(
        self, store: xr.Dataset, out: str | Path, store_kind: Literal["pseudo-labels", "predictions"], **how: Any
    ) -> tuple[str, int]:
        """`label_store` by this predictor, with what that store will tell of it; `how`: frames, samples, batch ..."""
        own = self.for_masks().for_store(store)
        known = {"offsets": own.offsets, "trained_records": own.trained_records}
        return label_store(store, own.predict, own.decision, out, store_kind=store_kind, **known, **how)

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


def load_predictor(path: Path, device: str = "auto", symmetries: Symmetries | None = None) -> Predictor:
    """A finished run or pipeline by its directory, or an exported file.

    symmetries: over which copies of an image to average, as in `detector.Symmetries`; None: none of a run, a
    pipeline's own. Raises ContrailError for what is none of these or not finished.
    """
    from contrail_train.export import SUFFIXES, load_exported
    from contrail_train.pipeline import load_pipeline

    where = choose_device(device)
    if path.suffix in SUFFIXES:
        if symmetries is not None:
            raise ContrailError(f"{path}: an exported file asks as it was exported to: leave --tta away")
        return load_exported(path, where)
    if (path / PIPELINE).is_file():
        return load_pipeline(path, where, symmetries)
    return load_run(path, where, symmetries or "none")


def check_run(path: Path) -> None:
    """Raises ContrailError for what is no run directory."""
    if (path / PIPELINE).is_file():
        raise ContrailError(f"{path}: is a pipeline, not a run: name one of the runs in {path / STAGES}")
    if not (path / CONFIG).is_file():
        raise ContrailError(
            f"{path}: no run directory (it has no {CONFIG}): name the --out of contrail-train run or pipeline, or a "
            "file that export wrote"
        )


def read_calibration(path: Path) -> dict[str, Any]:
    """What a finished run or pipeline knows of itself. Raises ContrailError for one that is not finished, damaged, or
    whose weights are not those that it was calibrated with."""
    if (calibration := finished(path)) is None:
        raise ContrailError(f"{path}: is not finished (it has no {CALIBRATION}): repeat its command to finish it")
    needed = ("top_k", "composite", "label_shift", "off", "grid", "holdout_records", "seen_records")
    levels = [calibration.get(key) for key in ("threshold", "gate")]
    sound = all(isinstance(level, float | int) and 0 <= level <= 1 for level in levels)
    if not sound or any(key not in calibration for key in needed):
        raise ContrailError(
            f"{path / CALIBRATION}: damaged, or of another version of contrail: remove it, and repeat the command that "
            "made it"
        )
    whole = (path / WEIGHTS).is_file() and calibration.get("weights") == file_digest(path / WEIGHTS)
    if not whole and not (path / PIPELINE).is_file():
        raise ContrailError(
            f"{path / WEIGHTS}: is not the file that the run ended with: restore it, or remove {path} and train again"
        )
    return calibration


def known_of(calibration: dict[str, Any]) -> dict[str, Any]:
    """The fields of a `Predictor` that a calibration states."""
    held, grid = frozenset(calibration["holdout_records"]), calibration["grid"]
    return {
        "composite": calibration["composite"],
        "label_shift": tuple(calibration["label_shift"]),
        "off": tuple(calibration["off"]),
        "trained_records": frozenset(calibration["seen_records"]) - held,
        "calibrated_records": held,
        "native": bool(grid["native"]),
        "pixel": float(grid["pixel"]),
        "size": int(grid["size"]),
        "dtype": str(grid["dtype"]),
    }


def load_run(path: Path, device: torch.device, symmetries: Symmetries) -> Predictor:
    """The best weights of a run directory with its statistics and thresholds. Raises ContrailError when the directory
    is no finished run."""
    check_run(path)
    calibration = read_calibration(path)
    config = read_config(path / CONFIG)
    # The run's own weights follow: what the encoder was begun with no longer matters.
    plain = config.model.model_copy(update={"pretrained": False})
    model = build(plain, len(calibration["composite"]["channels"]), config.data.frames)
    load_weights(path / WEIGHTS, model)
    model.eval().to(device)
    view = view_of(config, calibration["statistics"], device)
    known, head, top_k = known_of(calibration), config.model.head, calibration["top_k"]
    detector = single(model, view, head, top_k=top_k, off=known["off"], symmetries=symmetries).eval()
    digest = calibration["weights"]
    if symmetries != "none":  # other answers, another name
        digest = "sha256:" + hashlib.sha256(f"{digest} {symmetries}".encode()).hexdigest()
    decision = Decision(calibration["threshold"], calibration["gate"], top_k, digest)
    known["off"] = detector.off
    return Predictor(path, detector, detector.offsets, device=device, decision=decision, head=head, **known)


def record_table(model: Predictor, store: xr.Dataset, out: Path, *, frames: Frames, batch: int) -> int:
    """Probability that a frame has any contrail, for the frames of a store, as a CSV file; returns how many.

    Columns: record_id, frame (index in the sample), probability, contrail (0 or 1: the probability is the run's
    threshold or more, of `head=both` its gate; empty where that has none), model and store (digests). Written whole
    or not at all. Raises ContrailError for a run without a record head, or a store that lacks the frames it looks at.
    """
    if model.head == "mask":
        raise ContrailError(
            f"{model.path}: tells pixels (model.head=mask): frame_score in -o NAME.zarr is its score of a frame"
        )
    limit = model.decision.threshold if model.head == "record" else model.decision.gate
    scalars = read_scalars(store)
    wanted = frames_to_predict(scalars, store, frames, model.offsets)
    read_image = pixel_reader(store)
    windows = [(sample, int(frame)) for sample, row in enumerate(wanted) for frame in row]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["record_id", "frame", "probability", "contrail", "model", "store"])
    with progress("records", len(windows), unit="frames") as advance:
        for start in range(0, len(windows), batch):
            part = windows[start : start + batch]
            x_btchw = np.empty((len(part), len(model.offsets), *store["image"].shape[2:]), store["image"].dtype)
            for (sample, frame), x_tchw in zip(part, x_btchw, strict=True):
                read_image(sample, [frame + offset for offset in model.offsets], x_tchw)
            for (sample, frame), p in zip(part, model.predict(x_btchw).score, strict=True):
                contrail = int(p >= limit) if limit > 0 else ""
                name = str(scalars["record_id"].values[sample])
                table.writerow([name, frame, f"{p:.6f}", contrail, model.decision.model, store.attrs["digest"]])
            advance(len(part))
    write_atomically(out, [text.getvalue().encode()])
    return len(windows)
