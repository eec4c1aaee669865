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
import hashlib
import importlib
import importlib.metadata
import io
import json
import logging
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from contrail_data.composites import from_dict
from contrail_data.errors import ContrailError
from contrail_data.places import check_new, write_atomically
from contrail_data.pseudo import Decision, frames_to_predict
from contrail_data.store import pixel_reader, read_scalars
from contrail_train.detector import Detect, Detector, Prediction, Shift
from contrail_train.predict import Predictor

SUFFIXES = (".pt2", ".onnx")
KEY = "contrail"
FORMAT = 1
OUTPUTS = ("probability", "mask", "score", "agreement")
TOLERANCE = 1e-4  # of probabilities and scores; sums are taken in another order
OF_STORE = 8  # windows of a store to compare on

Ask = Callable[[Tensor], dict[str, Tensor]]
"""Windows (b, t, c, y, x) on any device → the outputs by name, on that device."""


class Metadata(BaseModel):
    """What a file says of itself; fields as of `Predictor` where not told otherwise."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    format: int
    source: str
    """Name of the directory it was made from."""
    versions: dict[str, str]
    """Of the software that wrote it."""
    offsets: tuple[int, ...]
    off: Shift
    composite: dict[str, Any]
    label_shift: Shift
    decision: Decision
    head: Literal["mask", "record", "both"]
    native: bool
    pixel: float
    size: int
    dtype: Literal["uint8", "float16", "float32"]
    symmetries: str
    """That are averaged over inside, as in `Detector`."""
    trained_records: tuple[str, ...]
    calibrated_records: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one window: (t, c, y, x)."""
        return len(self.offsets), len(self.composite["channels"]), self.size, self.size


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
            _needed(package, out)
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
        check = compare(graph, _opened(staged, torch.device("cpu"))[1], probes, out)
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
        versions={name: importlib.metadata.version(name) for name in ("contrail", "torch", "timm")},
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


def _needed(package: str, path: Path) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError:
        raise ContrailError(f"{path}: {package} is not installed: pip install 'contrail[onnx]'") from None


# ---- writing -------------------------------------------------------------------------------------------------------


def _written(graph: _Graph, window_btchw: Tensor, text: str, out: Path) -> bytes:
    """The file's bytes, the same for the same model. window_btchw: an example of 2 samples or more, as 1 would be taken
    for the only batch."""
    try:
        with _quiet():
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
    return bytes(content + _checksum(content))


def _checksum(content: bytes) -> bytes:
    """What is put after an .onnx, which has no checksum of its own: one metadata property more, as protobuf reads
    messages that follow each other as one. A field's tag and length, then key and value with theirs."""
    key, value = b"contrail_sha256", hashlib.sha256(content).hexdigest().encode()
    entry = b"\x0a" + bytes([len(key)]) + key + b"\x12" + bytes([len(value)]) + value
    return b"\x72" + bytes([len(entry)]) + entry  # field 14 of ModelProto, metadata_props


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what torch warns of while it traces from the user, who can do nothing about it."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


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


# ---- reading -------------------------------------------------------------------------------------------------------


def load_exported(path: Path, device: torch.device) -> Predictor:
    """A file that `export` wrote as a predictor; of .onnx on the device only where onnxruntime has CUDA, else on the
    CPU.

    Its `detect` takes windows of the file's own size and dtype alone, and leaves `valid_bhw` unused: the graph knows of
    no missing pixels, so its score counts what is told where there are none. Raises ContrailError for a file that is
    missing, damaged, foreign, of a newer format, or with code in it, and where onnxruntime is not installed.
    """
    known, ask = _opened(path, device)

    def detect(window_btchw: Tensor, valid_bhw: Tensor | None = None) -> Prediction:
        theirs, dtype = tuple(window_btchw.shape[1:]), str(window_btchw.dtype).removeprefix("torch.")
        if (theirs, dtype) != (known.shape, known.dtype):
            raise ContrailError(
                f"{path}: takes {known.dtype} windows of (time, channel, y, x) {known.shape}, not {dtype} of {theirs}: "
                "name a store like that it was trained on, or the run itself"
            )
        answer = ask(window_btchw)
        return Prediction(answer["probability"], answer["score"], answer["agreement"])

    told: Detect = detect
    return Predictor(
        path=path,
        detect=told,
        offsets=known.offsets,
        off=known.off,
        device=device,
        composite=known.composite,
        label_shift=known.label_shift,
        decision=known.decision,
        trained_records=frozenset(known.trained_records),
        calibrated_records=frozenset(known.calibrated_records),
        head=known.head,
        native=known.native,
        pixel=known.pixel,
        size=known.size,
        dtype=known.dtype,
    )


def _opened(path: Path, device: torch.device) -> tuple[Metadata, Ask]:
    if not path.is_file():
        raise ContrailError(f"{path}: there is no such file: name one that contrail-train export wrote")
    if path.suffix == ".onnx":
        _needed("onnxruntime", path)  # told as what it is, not as a damaged file
    try:
        return (_opened_pt2 if path.suffix == ".pt2" else _opened_onnx)(path, device)
    except ContrailError:
        raise
    except Exception as error:  # torch and onnxruntime refuse in as many ways as a file can be damaged
        raise ContrailError(
            f"{path}: cannot be read ({type(error).__name__}): it is damaged, or no {path.suffix} file: export it again"
        ) from error


def _metadata(path: Path, text: str | None) -> Metadata:
    if text is None:
        raise ContrailError(f"{path}: is no detector of ours: name a file that contrail-train export wrote")
    try:
        if (number := int(json.loads(text)["format"])) <= FORMAT:
            known = Metadata.model_validate_json(text)
            from_dict(known.composite)
            return known
    except (ContrailError, ValidationError, ValueError, KeyError, TypeError):
        raise ContrailError(f"{path}: what it says of itself is damaged: export it again") from None
    raise ContrailError(
        f"{path}: is of format {number}, this version reads up to {FORMAT}: update contrail, or export it again"
    )


_RECORDS = re.compile(
    r"archive_format|archive_version|byteorder|\.data/\w+|extra/contrail|models/model\.json|data/sample_inputs/model\.pt"
    r"|data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)"
)
_WORD = re.compile(r"[\w.+-]*")
_OPERATOR = re.compile(r"torch\.ops\.aten\.(?!from_file)\w+(\.\w+)?|_operator\.\w+|torch\.sym_\w+")
_EXPRESSION = re.compile(r"(Symbol\('\w+'(, \w+=True)*\)|[A-Z]\w*\(|[-\d, )])*")


def _refuse_code(path: Path) -> str | None:
    """The metadata of a .pt2 file that holds none but tensors and a graph of torch's own operators.

    torch.export.load would run code out of a file: it unpickles weights, constants and sample inputs that say so
    (weights_only=False), loads compiled libraries, evaluates the expressions of shapes as Python, imports what
    arguments claim to be made of, and takes any registered operator, some of which write files. Raises ContrailError
    for a file with any of these.
    """
    from torch.export.pt2_archive import _package  # the reader that torch.export.load reads with, so that both see one

    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise ContrailError(f"{path}: damaged (the checksum of {damaged} does not fit): export it again")
    reader = _package.PT2ArchiveReader(str(path))
    names = reader.get_file_names()
    found = [name for name in names if not _RECORDS.fullmatch(name)]
    if "data/sample_inputs/model.pt" in names and reader.read_bytes("data/sample_inputs/model.pt"):
        found.append("data/sample_inputs/model.pt")
    if not found:
        for config in ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json"):
            tensors = json.loads(reader.read_string(config))["config"]
            found += [name for name, one in tensors.items() if one["use_pickle"] is not False]
        found += _foreign(json.loads(reader.read_string("models/model.json")))
    if found:
        raise ContrailError(
            f"{path}: holds {found[0][:60]!r}, which could run code and no export writes: not opened, export it again"
        )
    return reader.read_string(f"extra/{KEY}") if f"extra/{KEY}" in names else None


def _foreign(tree: Any, key: str = "") -> Iterator[str]:
    """Texts of a serialised graph that are neither words nor, where these belong, torch's operators or shapes."""
    if isinstance(tree, list):
        for part in tree:
            yield from _foreign(part, key)
    elif isinstance(tree, dict):
        for name, part in tree.items():
            # inputs of a signature have targets as well, which are the names of what they are bound to
            operator = name == "target" and "inputs" in tree
            yield from _foreign(name)
            yield from _foreign(part, "operator" if operator else name)
    elif isinstance(tree, str):
        if key in ("in_spec", "out_spec"):
            plain = _plain(json.loads(tree)[1])
        else:
            plain = bool({"expr_str": _EXPRESSION, "operator": _OPERATOR}.get(key, _WORD).fullmatch(tree))
        if not plain:
            yield tree


def _plain(tree: dict[str, Any]) -> bool:
    """Whether arguments or answers are tuples and dicts of tensors."""
    names = None if tree["context"] is None else json.loads(tree["context"])
    return (
        tree["type"] in (None, "builtins.tuple", "builtins.dict")
        and (names is None or (isinstance(names, list) and all(isinstance(name, str) for name in names)))
        and all(_plain(child) for child in tree["children_spec"])
    )


def _opened_pt2(path: Path, device: torch.device) -> tuple[Metadata, Ask]:
    known = _metadata(path, _refuse_code(path))
    with _quiet():
        program = torch.export.load(path)
        if device.type != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, str(device))
        graph = program.module()

    def ask(window_btchw: Tensor) -> dict[str, Tensor]:
        return dict(graph(window_btchw))

    return known, ask


def _opened_onnx(path: Path, device: torch.device) -> tuple[Metadata, Ask]:
    runtime = _needed("onnxruntime", path)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors; it warns of what it makes better
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda" and "CUDAExecutionProvider" in runtime.get_available_providers():
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0}))
    # bytes, not a path: weights in other files, which a graph may name, are then nowhere
    content = path.read_bytes()
    session = runtime.InferenceSession(content, options, providers=providers)
    text = session.get_modelmeta().custom_metadata_map.get(KEY)
    length = len(_checksum(b""))
    if text is not None and content[-length:] != _checksum(content[:-length]):
        raise ContrailError(f"{path}: damaged (its checksum does not fit): export it again")
    known = _metadata(path, text)

    def ask(window_btchw: Tensor) -> dict[str, Tensor]:
        answer = session.run(list(OUTPUTS), {"window": window_btchw.cpu().numpy()})
        tensors = (torch.from_numpy(part).to(window_btchw.device) for part in answer)
        return dict(zip(OUTPUTS, tensors, strict=True))

    return known, ask
