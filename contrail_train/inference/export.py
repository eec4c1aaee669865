"""A detector as one file that needs neither this code nor a run directory: torch's .pt2, or .onnx.

The graph takes `window` (batch, time, channel, y, x), frames as stored at `offsets` from the one it tells of, batch 1
or more. Normalisation, networks, weights, flips and turns, thresholds and gate are inside. It returns, by name:

    probability  float32 (batch, y, x), of a classifier of records (batch, 1, 1)
    mask         uint8 (batch, y, x) 0/1: probability at the threshold or over it where the gate is open
    score        float32 (batch), what the gate compares
    agreement    float32 (batch), of the networks of a pipeline

Masks lie `off` off the image, in (down, right) pixels, and the labels that thresholds were fitted on `label_shift`.
Both, and all else that a `Predictor` knows, are JSON under the key "contrail": of .pt2 an extra file, of .onnx a
metadata property.
"""

from __future__ import annotations

import copy
import importlib
import importlib.metadata
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from torch import Tensor, nn

from contrail_data.errors import ContrailError
from contrail_data.labels.predictor import Decision
from contrail_data.labels.write import frames_to_predict
from contrail_data.storage.files import check_new, write_atomically
from contrail_data.store.reader import pixel_reader, read_scalars
from contrail_train.inference.detector import Detector
from contrail_train.inference.exported import (
    FORMAT,
    OUTPUTS,
    SUFFIXES,
    Ask,
    Metadata,
    file_checksum,
    import_extra,
    open_exported,
    quiet,
)
from contrail_train.inference.predictor import Predictor
from contrail_train.inference.untrusted_pt2 import KEY

TOLERANCE = 1e-4  # of probabilities and scores; sums are taken in another order
OF_STORE = 8  # windows of a store to compare on


@dataclass(frozen=True)
class Check:
    """A file as read back, beside the model it was made from."""

    windows: int
    probability: float
    """Largest difference; so of score and agreement."""
    score: float
    agreement: float
    pixels: int
    marked: int
    """Pixels in the model's masks."""
    differ: int
    """Pixels of the masks that are not alike."""


class _Graph(nn.Module):
    """What is written: a detector and its decision."""

    def __init__(self, detector: Detector, decision: Decision):
        super().__init__()
        self.detector, self.threshold, self.gate = detector, decision.threshold, decision.gate

    def forward(self, window: Tensor) -> dict[str, Tensor]:
        told = self.detector(window)
        opened_b11 = (told.score_b >= self.gate)[:, None, None]
        mask_bhw = ((told.probability_bhw >= self.threshold) & opened_b11).to(torch.uint8)
        return dict(zip(OUTPUTS, (told.probability_bhw, mask_bhw, told.score_b, told.agreement_b), strict=True))


@torch.no_grad()
def export(model: Predictor, out: Path, *, store: xr.Dataset | None = None, overwrite: bool = False) -> Check:
    """Write a run or pipeline to `out`, .pt2 or .onnx, read it back and compare.

    store: compare on its first samples as well as on made-up windows. The file appears whole, and only if it answers
    as the model does. Raises ContrailError for an `out` that cannot be, a model that is a file already or that cannot
    be written in this form, and where probability or score differ by more than `TOLERANCE`, or a mask anywhere but at
    its threshold.
    """
    if out.suffix not in SUFFIXES:
        raise ContrailError(f"{out}: is written as .pt2 or .onnx: name the file so")
    if not isinstance(model.detect, Detector):
        raise ContrailError(f"{model.path}: is an exported file: name the run or pipeline that it was made from")
    check_new(out, overwrite)
    if out.suffix == ".onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            import_extra(package, out)
    known = metadata_of(model)
    # A copy, as weights that want gradients would do so in the file.
    graph = _Graph(copy.deepcopy(model.detect).cpu().requires_grad_(False), model.decision).eval()
    probes = list(_probes(known))
    if store is not None:
        model.check_store(store)
        probes.append(_windows(store, known))
    text = known.model_dump_json()
    staged = out.with_name(f".{out.stem}.partial{out.suffix}")  # its suffix tells how it is read
    try:
        write_atomically(staged, [_written(graph, probes[1], text, out)])
        check = compare(graph, open_exported(staged, torch.device("cpu"))[1], probes, out)
        staged.replace(out)
    finally:
        staged.unlink(missing_ok=True)
    return check


def metadata_of(model: Predictor) -> Metadata:
    """Of a run or pipeline, as loaded. Raises ContrailError for what no graph can hold, such as another dtype."""
    assert isinstance(model.detect, Detector)
    return Metadata(
        format=FORMAT,
        source=model.path.resolve().name,
        versions={name: importlib.metadata.version(name) for name in ("contrail-kit", "torch", "timm")},
        offsets=model.offsets,
        off=model.off,
        composite=model.composite,
        label_shift=model.label_shift,
        decision=model.decision,
        head=model.head,
        native=model.native,
        pixel=model.pixel,
        size=model.size,
        dtype=model.dtype,
        symmetries=model.detect.symmetries,
        trained_records=tuple(sorted(model.trained_records)),
        calibrated_records=tuple(sorted(model.calibrated_records)),
    )


# ---- writing -------------------------------------------------------------------------------------------------------


def _written(graph: _Graph, window_btchw: Tensor, text: str, out: Path) -> bytes:
    """The file's bytes, the same for the same model. window_btchw: an example of 2 samples or more, as 1 would be taken
    for the only batch.
    """
    try:
        with quiet():
            program = torch.export.export(
                graph, (window_btchw,), dynamic_shapes={"window": {0: torch.export.Dim("batch", min=1)}}
            )
            return (_pt2 if out.suffix == ".pt2" else _onnx)(program, text)
    except Exception as error:  # tracing fails in as many ways as there are layers
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ContrailError(
            f"{out}: this model cannot be written as {out.suffix} ({reason}): try the other of .pt2 and .onnx"
        ) from error


def _pt2(program: torch.export.ExportedProgram, text: str) -> bytes:
    for node in program.graph.nodes:  # all others tell of files and addresses of this machine
        node.meta = {key: value for key, value in node.meta.items() if key == "val"}
    program.example_inputs = None  # would be pickled
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={KEY: text})
    return file.getvalue()


def _onnx(program: torch.export.ExportedProgram, text: str) -> bytes:
    made = torch.onnx.export(program, dynamo=True, input_names=["window"], output_names=list(OUTPUTS), verbose=False)
    assert made is not None
    for node in made.model.graph:
        node.metadata_props.clear()  # as above
    made.model.metadata_props.clear()
    made.model.metadata_props[KEY] = text
    content = made.model_proto.SerializeToString(deterministic=True)
    return bytes(content + file_checksum(content))


# ---- comparing -----------------------------------------------------------------------------------------------------


def _probes(known: Metadata) -> Iterator[Tensor]:
    """Batches of 1 and 3 windows: noise; its smooth kin with streaks, all lowest, all highest; edges and a ramp."""
    rng = np.random.default_rng(0)
    noise = rng.random(known.shape)
    yield _stored(noise[None], known)
    y, x = np.mgrid[: known.size, : known.size] / known.size
    smooth = np.broadcast_to(0.5 + 0.25 * np.sin(9 * x + 2 * y) * np.cos(7 * y), known.shape).copy()
    smooth[..., known.size // 3, :] = 0.95
    smooth[..., np.arange(known.size), np.arange(known.size)] = 0.05
    yield _stored(np.stack([smooth, np.zeros(known.shape), np.ones(known.shape)]), known)
    edges = np.broadcast_to((x > 0.5) ^ (y > 0.3), known.shape).astype(float)
    yield _stored(np.stack([edges, np.broadcast_to(x * y, known.shape), 0.5 * smooth + 0.5 * noise]), known)


def _stored(unit: npt.NDArray[np.float64], known: Metadata) -> Tensor:
    """Values in [0, 1] as a store of the dtype holds them."""
    return torch.from_numpy(
        np.rint(unit * 255).astype(np.uint8) if known.dtype == "uint8" else unit.astype(known.dtype)
    )


def _windows(store: xr.Dataset, known: Metadata) -> Tensor:
    """The frames around the labelled one of the first samples of a store."""
    if (theirs := (store.sizes["y"], str(store["image"].dtype))) != (known.size, known.dtype):
        raise ContrailError(
            f"{store.attrs['path']}: has {theirs[1]} images of {theirs[0]} pixels, the model takes {known.dtype} ones "
            f"of {known.size}: compare on a store like that it was trained on"
        )
    wanted = frames_to_predict(read_scalars(store), store, "labelled", known.offsets)[:OF_STORE, 0]
    read = pixel_reader(store)
    x_btchw = np.empty((len(wanted), *known.shape), known.dtype)
    for sample, frame in enumerate(wanted.tolist()):
        read(sample, [frame + offset for offset in known.offsets], x_btchw[sample])
    return torch.from_numpy(x_btchw)


def compare(model: Callable[[Tensor], dict[str, Tensor]], file: Ask, probes: Sequence[Tensor], out: Path) -> Check:
    """The outputs of both on batches of windows. Raises ContrailError where they differ by more than they may."""
    largest = dict.fromkeys(OUTPUTS, 0.0)
    pixels = marked = differ = 0
    threshold, gate = float(model.threshold), float(model.gate)  # type: ignore[attr-defined]
    for window_btchw in probes:
        ours, theirs = model(window_btchw), file(window_btchw)
        for name in OUTPUTS:
            if ours[name].shape != theirs[name].shape or not bool(theirs[name].isfinite().all()):
                raise ContrailError(f"{out}: not written: as read back, its {name} is not what the model's is")
            if name != "mask":
                largest[name] = max(largest[name], float((ours[name] - theirs[name]).abs().max()))
        at_threshold_bhw = (ours["probability"] - threshold).abs() <= TOLERANCE
        at_gate_b11 = ((ours["score"] - gate).abs() <= TOLERANCE)[:, None, None]
        wrong_bhw = ours["mask"] != theirs["mask"]
        if bool((wrong_bhw & ~at_threshold_bhw & ~at_gate_b11).any()):
            raise ContrailError(
                f"{out}: not written: as read back, its masks differ from the model's off the threshold: try the other "
                "of .pt2 and .onnx"
            )
        pixels, marked = pixels + wrong_bhw.numel(), marked + int(ours["mask"].sum())
        differ += int(wrong_bhw.sum())
    for name in ("probability", "score"):
        if largest[name] > TOLERANCE:
            raise ContrailError(
                f"{out}: not written: as read back, its {name} differs from the model's by {largest[name]:.1e}, more "
                f"than {TOLERANCE:.0e}: try the other of .pt2 and .onnx"
            )
    count = sum(len(window) for window in probes)
    return Check(count, largest["probability"], largest["score"], largest["agreement"], pixels, marked, differ)
