"""A detector as one file that needs neither this package nor a run directory: torch's `.pt2`, or `.onnx`.

The graph takes `window` (batch, time, channel, y, x), the frames as stored at `offsets` relative to the predicted
frame, for any batch. Normalisation, networks, weights, symmetries, thresholds and gate are inside. It returns, by name:

    probability  float32 (batch, y, x); (batch, 1, 1) for a classifier of records
    mask         uint8 (batch, y, x) 0/1: whether the probability reaches the threshold and the score the gate
    score        float32 (batch), what the gate compares
    agreement    float32 (batch), agreement between the networks of a pipeline

Masks are `off` off the image, in (down, right) pixels, and the labels that thresholds were fitted on `label_shift`.
Both, and everything else that a `Predictor` states, are JSON under the key "contrail": an extra file of a .pt2, a
metadata property of an .onnx.
"""

import copy
import importlib.metadata
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from torch import Tensor, nn

from contrail_data.errors import ContrailError
from contrail_data.labels.frames import frames_to_predict
from contrail_data.labels.predictor import LABELLED_FRAME, Decision
from contrail_data.storage.files import atomic_files, partial_path, reported_errors
from contrail_data.store.reader import read_scalars
from contrail_train.inference.detector import Detector
from contrail_train.inference.exported import (
    FORMAT,
    METADATA_KEY,
    OUTPUTS,
    Metadata,
    RunGraph,
    checksum_trailer,
    import_optional,
    open_graph,
    silence_torch,
)
from contrail_train.inference.names import check_exported
from contrail_train.inference.predictor import Predictor

TOLERANCE = 1e-4
"""Largest difference of probabilities and scores, whose sums are taken in another order."""
_OTHER_FORMAT = "try the other of .pt2 and .onnx"
_STORE_WINDOWS = 8
"""Windows of a store to compare on."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How a file, as read back, differs from the model it was exported from."""

    windows: int
    probability: float
    """Largest difference of the probability."""
    score: float
    """Largest difference of the score."""
    pixels: int
    marked: int
    """Pixels in the model's masks."""
    differing: int
    """Pixels at which the masks differ."""


class ExportGraph(nn.Module):
    """The graph that is written: a detector and its decision.

    Args:
        detector: The networks.
        decision: Their thresholds.
    """

    def __init__(self, detector: Detector, decision: Decision):
        super().__init__()
        self.detector, self.decision = detector, decision

    def forward(self, window: Tensor) -> dict[str, Tensor]:
        """Predict windows of frames.

        Args:
            window: Frames as stored, (batch, time, channel, y, x).

        Returns:
            The outputs by name, see the module.
        """
        probability_bhw, score_b, agreement_b = self.detector(window)
        open_b11 = (score_b >= self.decision.gate)[:, None, None]
        mask_bhw = ((probability_bhw >= self.decision.threshold) & open_b11).to(torch.uint8)
        return {"probability": probability_bhw, "mask": mask_bhw, "score": score_b, "agreement": agreement_b}


@torch.no_grad()
def export(model: Predictor, out: Path, *, store: xr.Dataset | None = None, overwrite: bool = False) -> Comparison:
    """Write a run or pipeline to one file, read it back and compare the two.

    The file appears complete, and only if it predicts what the model does.

    Args:
        model: A run or pipeline, on the CPU.
        out: The file, `.pt2` or `.onnx`.
        store: A store whose first samples are compared on as well as synthetic windows.
        overwrite: Whether an existing file may be replaced.

    Returns:
        The differences.

    Raises:
        ContrailError: If the file cannot be written, the model is an exported file, needs optical flow or cannot be
            written in this form, or the file predicts something else: a probability or score differs by more than
            `TOLERANCE`, or a mask anywhere but at its threshold.
    """
    check_exported(out, overwrite)
    if not isinstance(model.detect, Detector):
        raise ContrailError(f"{model.path}: is an exported file; name the run or pipeline that it was exported from")
    if any(network.flow is not None for network in model.detect.networks.values()):
        raise ContrailError(
            f"{model.path}: needs optical flow, which is computed outside of the network and cannot be written to a "
            "file; predict with the run or pipeline itself"
        )
    if out.suffix == ".onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            import_optional(package, out)
    metadata = _metadata(model, model.detect)
    # A copy: parameters that require gradients would do so in the file.
    decision = model.with_fixed_shift().decision  # the masks in the file are not on the label grid
    graph = ExportGraph(copy.deepcopy(model.detect).cpu().requires_grad_(False), decision).eval()
    probes = list(_synthetic_windows(metadata))
    if store is not None:
        model.check_store(store)
        probes.append(_store_windows(store, model))
    content = _serialise(graph, probes[1], metadata.model_dump_json(), out)
    staged = partial_path(out)
    try:
        with reported_errors(str(out), "written"):
            with atomic_files([staged]) as (write,):
                write(content)
            comparison = compare(graph, open_graph(staged, torch.device("cpu"))[1], probes, out)
            staged.replace(out)
    finally:
        staged.unlink(missing_ok=True)  # there only if something failed
    return comparison


def _metadata(model: Predictor, detector: Detector) -> Metadata:
    return Metadata(
        format=FORMAT,
        source=model.path.resolve().name,
        versions={name: importlib.metadata.version(name) for name in ("contrail-kit", "torch", "timm")},
        off=model.mask_shift,
        symmetries=detector.symmetries,
        **{name: value for name, value in vars(model).items() if name in Metadata.model_fields},
    )


# ---- writing -------------------------------------------------------------------------------------------------------


def _serialise(graph: ExportGraph, window_btchw: Tensor, metadata: str, out: Path) -> bytes:
    # The bytes are the same for the same model. The example has 2 samples or more: 1 would become the only batch size.
    try:
        with silence_torch():
            program = torch.export.export(
                graph, (window_btchw,), dynamic_shapes={"window": {0: torch.export.Dim("batch", min=1)}}
            )
            return (_serialise_pt2 if out.suffix == ".pt2" else _serialise_onnx)(program, metadata)
    except Exception as error:  # tracing fails in as many ways as there are layers
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ContrailError(f"{out}: the model cannot be written in this form ({reason}); {_OTHER_FORMAT}") from error


def _serialise_pt2(program: torch.export.ExportedProgram, metadata: str) -> bytes:
    for node in program.graph.nodes:  # other entries contain paths and addresses of this machine
        node.meta = {key: value for key, value in node.meta.items() if key == "val"}
    program.example_inputs = None  # would be pickled
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={METADATA_KEY: metadata})
    return file.getvalue()


def _serialise_onnx(program: torch.export.ExportedProgram, metadata: str) -> bytes:
    file = torch.onnx.export(program, dynamo=True, input_names=["window"], output_names=list(OUTPUTS), verbose=False)
    assert file is not None
    for node in file.model.graph:
        node.metadata_props.clear()  # contain paths of this machine
    file.model.metadata_props.clear()
    file.model.metadata_props[METADATA_KEY] = metadata
    content = file.model_proto.SerializeToString(deterministic=True)
    return bytes(content + checksum_trailer(content))


# ---- comparing -----------------------------------------------------------------------------------------------------


def _synthetic_windows(metadata: Metadata) -> Iterator[Tensor]:
    """Batches of 1 and 3 windows: noise; a smooth field with streaks, all 0, all 1; edges, a ramp, a mixture."""
    shape, size = metadata.shape, metadata.size
    noise = np.random.default_rng(0).random(shape)
    y, x = np.mgrid[:size, :size] / size
    smooth = np.broadcast_to(0.5 + 0.25 * np.sin(9 * x + 2 * y) * np.cos(7 * y), shape).copy()
    smooth[..., size // 3, :] = 0.95
    smooth[..., np.arange(size), np.arange(size)] = 0.05
    edges = np.broadcast_to((x > 0.5) ^ (y > 0.3), shape).astype(float)
    yield _as_stored(noise[None], metadata.dtype)
    yield _as_stored(np.stack([smooth, np.zeros(shape), np.ones(shape)]), metadata.dtype)
    yield _as_stored(np.stack([edges, np.broadcast_to(x * y, shape), 0.5 * smooth + 0.5 * noise]), metadata.dtype)


def _as_stored(unit: npt.NDArray[np.float64], dtype: str) -> Tensor:
    """Values in [0, 1] as a store of the dtype holds them."""
    return torch.from_numpy(np.rint(unit * 255).astype(np.uint8) if dtype == "uint8" else unit.astype(dtype))


def _store_windows(store: xr.Dataset, model: Predictor) -> Tensor:
    # The frames around the labelled one, of the first samples.
    if (own := (store.sizes["y"], str(store["image"].dtype))) != (model.size, model.dtype):
        needed = f"{model.dtype} images of {model.size} pixels"
        raise ContrailError(f"{store.attrs['path']}: has {own[1]} images of {own[0]} pixels; give a store of {needed}")
    frames_nt = frames_to_predict(read_scalars(store), store, LABELLED_FRAME, model.offsets, model.repeats_edges)
    frames = frames_nt[:_STORE_WINDOWS, 0]
    return torch.from_numpy(model.window_reader(store)(list(enumerate(frames.tolist()))))


def compare(graph: ExportGraph, run_graph: RunGraph, probes: Sequence[Tensor], out: Path) -> Comparison:
    """Compare the outputs of a graph and of the file written from it.

    Args:
        graph: The graph.
        run_graph: The file as read back.
        probes: Batches of windows to compare on.
        out: The file, for messages.

    Returns:
        The differences.

    Raises:
        ContrailError: If they differ by more than is allowed, see `export`.
    """
    pairs = [(graph(window_btchw), run_graph(window_btchw)) for window_btchw in probes]
    for name in OUTPUTS:
        if any(a[name].shape != b[name].shape or not bool(b[name].isfinite().all()) for a, b in pairs):
            raise ContrailError(f"{out}: not written: the {name} as read back has another shape or is not finite")
    ours, theirs = (
        {name: torch.cat([o[name] for o in outputs]) for name in OUTPUTS} for outputs in zip(*pairs, strict=True)
    )
    at_threshold_bhw = (ours["probability"] - graph.decision.threshold).abs() <= TOLERANCE
    at_gate_b11 = ((ours["score"] - graph.decision.gate).abs() <= TOLERANCE)[:, None, None]
    differing_bhw = ours["mask"] != theirs["mask"]
    if bool((differing_bhw & ~at_threshold_bhw & ~at_gate_b11).any()):
        raise ContrailError(f"{out}: not written: masks differ away from the threshold; {_OTHER_FORMAT}")
    differences = {name: float((ours[name] - theirs[name]).abs().max()) for name in ("probability", "score")}
    for name, difference in differences.items():
        if difference > TOLERANCE:
            limit = f"{difference:.1e}, more than {TOLERANCE:.0e}"
            raise ContrailError(f"{out}: not written: the {name} as read back differs by {limit}; {_OTHER_FORMAT}")
    return Comparison(
        windows=len(ours["score"]),
        **differences,
        pixels=differing_bhw.numel(),
        marked=int(ours["mask"].sum()),
        differing=int(differing_bhw.sum()),
    )
