"""MISSING DOCSTRING."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from contrail_data.composites import from_dict
from contrail_data.errors import ContrailError
from contrail_data.labels.predictor import Decision
from contrail_train.inference.detector import Detect, Prediction, Shift
from contrail_train.inference.predictor import Predictor
from contrail_train.inference.untrusted_pt2 import KEY, refuse_code

SUFFIXES = (".pt2", ".onnx")
FORMAT = 1
OUTPUTS = ("probability", "mask", "score", "agreement")

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


def import_extra(package: str, path: Path) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError:
        raise ContrailError(
            f"{path}: {package} is not installed: run \"pip install '.[onnx]'\" in the checkout of contrail"
        ) from None


def file_checksum(content: bytes) -> bytes:
    """What is put after an .onnx, which has no checksum of its own: one metadata property more, as protobuf reads
    messages that follow each other as one. A field's tag and length, then key and value with theirs.
    """
    key, value = b"contrail_sha256", hashlib.sha256(content).hexdigest().encode()
    entry = b"\x0a" + bytes([len(key)]) + key + b"\x12" + bytes([len(value)]) + value
    return b"\x72" + bytes([len(entry)]) + entry  # field 14 of ModelProto, metadata_props


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what torch warns of while it traces from the user, who can do nothing about it."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


# ---- reading -------------------------------------------------------------------------------------------------------


def load_exported(path: Path, device: torch.device) -> Predictor:
    """A file that `export` wrote as a predictor; of .onnx on the device only where onnxruntime has CUDA, else on the
    CPU.

    Its `detect` takes windows of the file's own size and dtype alone, and leaves `valid_bhw` unused: the graph knows of
    no missing pixels, so its score counts what is told where there are none. Raises ContrailError for a file that is
    missing, damaged, foreign, of a newer format, or with code in it, and where onnxruntime is not installed.
    """
    known, ask = open_exported(path, device)

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


def open_exported(path: Path, device: torch.device) -> tuple[Metadata, Ask]:
    if not path.is_file():
        raise ContrailError(f"{path}: there is no such file: name one that contrail-train export wrote")
    if path.suffix == ".onnx":
        import_extra("onnxruntime", path)  # told as what it is, not as a damaged file
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


def _opened_pt2(path: Path, device: torch.device) -> tuple[Metadata, Ask]:
    known = _metadata(path, refuse_code(path))
    with quiet():
        program = torch.export.load(path)
        if device.type != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, str(device))
        graph = program.module()

    def ask(window_btchw: Tensor) -> dict[str, Tensor]:
        return dict(graph(window_btchw))

    return known, ask


def _opened_onnx(path: Path, device: torch.device) -> tuple[Metadata, Ask]:
    runtime = import_extra("onnxruntime", path)
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
    length = len(file_checksum(b""))
    if text is not None and content[-length:] != file_checksum(content[:-length]):
        raise ContrailError(f"{path}: damaged (its checksum does not fit): export it again")
    known = _metadata(path, text)

    def ask(window_btchw: Tensor) -> dict[str, Tensor]:
        answer = session.run(list(OUTPUTS), {"window": window_btchw.cpu().numpy()})
        tensors = (torch.from_numpy(part).to(window_btchw.device) for part in answer)
        return dict(zip(OUTPUTS, tensors, strict=True))

    return known, ask
