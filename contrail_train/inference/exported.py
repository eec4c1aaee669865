"""Exported detectors, `.pt2` or `.onnx`, as predictors; see `export` for what such a file holds.

A `.pt2` file is checked before torch opens it. `torch.export.load` would run code from a file: it unpickles weights,
constants and sample inputs that ask for it (`weights_only=False`), loads compiled libraries, evaluates the expressions
of shapes as Python, imports what arguments claim to be made of, and accepts any registered operator, some of which
write files.
"""

import hashlib
import importlib
import json
import logging
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError, field_serializer
from torch import Tensor

from contrail_data.composites import from_dict
from contrail_data.errors import ContrailError
from contrail_data.labels.predictor import Decision
from contrail_data.storage.files import reported_errors
from contrail_train.contrails.confidence import Confidence
from contrail_train.inference.detector import Prediction, Shift
from contrail_train.inference.predictor import Predictor
from contrail_train.runs.calibration import LabelGrid

_ZIP = b"PK\x03\x04"
"""How a `.pt2` file begins."""
FORMAT = 1
OUTPUTS = ("probability", "mask", "score", "agreement")
METADATA_KEY = "contrail"
"""Name of the extra file, or metadata property, that describes an exported model."""

_ENTRIES = re.compile(
    r"archive_format|archive_version|byteorder|\.data/\w+|extra/contrail|models/model\.json|data/sample_inputs/model\.pt"
    r"|data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)"
)
_WORD = re.compile(r"[\w.+-]*")
_OPERATOR = re.compile(r"torch\.ops\.aten\.(?!from_file)\w+(\.\w+)?|_operator\.\w+|torch\.sym_\w+")
_EXPRESSION = re.compile(r"(Symbol\('\w+'(, \w+=True)*\)|[A-Z]\w*\(|[-\d, )])*")

RunGraph = Callable[[Tensor], dict[str, Tensor]]
"""Takes windows (b, t, c, y, x) on any device and returns the outputs by name, on that device."""


class Metadata(BaseModel):
    """What a file states about itself. Fields without a description are those of `Predictor`."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    format: int
    source: str
    """Name of the directory it was exported from."""
    versions: dict[str, str]
    """Versions of the software that wrote it."""
    offsets: tuple[int, ...]
    off: Shift
    """`mask_shift` of the predictor."""
    composite: dict[str, Any]
    label_shift: Shift
    decision: Decision
    head: Literal["mask", "record", "both"]
    native: bool
    pixel: float
    size: int
    dtype: Literal["uint8", "float16", "float32"]
    symmetries: str
    """The transformed copies that the graph averages over."""
    trained_records: frozenset[str]
    calibrated_records: frozenset[str]
    min_pixels: int | None = None
    repeats_edges: bool = False
    scores_masks: bool = False
    label_grid: LabelGrid | None = None
    confidence: Confidence | None = None

    @field_serializer("trained_records", "calibrated_records")
    def _sorted(self, records: frozenset[str]) -> list[str]:
        return sorted(records)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one window: (t, c, y, x)."""
        return len(self.offsets), len(self.composite["channels"]), self.size, self.size


def import_optional(package: str, path: Path) -> Any:
    """Import a package of the extra `onnx`.

    Args:
        package: Name of the package.
        path: The file that needs it.

    Returns:
        The module.

    Raises:
        ContrailError: If it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError:
        raise ContrailError(
            f"{path}: {package} is not installed; run \"pip install '.[onnx]'\" in the checkout of contrail"
        ) from None


def checksum_trailer(content: bytes) -> bytes:
    """Encode a checksum to append to an `.onnx` file, which has none of its own.

    It is one more metadata property (field 14 of ModelProto), because protobuf reads concatenated messages as one. Each
    field is written as its tag, its length and its bytes.

    Args:
        content: The file without the trailer.

    Returns:
        The bytes to append.
    """
    key, value = b"contrail_sha256", hashlib.sha256(content).hexdigest().encode()
    entry = b"\x0a" + bytes([len(key)]) + key + b"\x12" + bytes([len(value)]) + value
    return b"\x72" + bytes([len(entry)]) + entry


@contextmanager
def silence_torch() -> Iterator[None]:
    """Hide warnings that torch logs while it traces, about which a user can do nothing.

    Yields:
        Nothing.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def load_exported(path: Path, device: torch.device) -> Predictor:
    """Load an exported file as a predictor.

    It accepts windows of the file's own size and dtype only. Its scores include predictions for missing pixels, because
    the graph has no input for where they are.

    Args:
        path: A `.pt2` or `.onnx` file.
        device: Device to run on. An `.onnx` file runs on the CPU unless onnxruntime supports CUDA.

    Returns:
        The predictor.

    Raises:
        ContrailError: If the file is missing, damaged, of another origin, of a newer format or contains code, or if
            onnxruntime is not installed.
    """
    metadata, run_graph = open_graph(path, device)

    def _detect(window_btchw: Tensor, valid_bhw: Tensor | None = None) -> Prediction:
        shape, dtype = tuple(window_btchw.shape[1:]), str(window_btchw.dtype).removeprefix("torch.")
        if (shape, dtype) != (metadata.shape, metadata.dtype):
            needed = f"{metadata.dtype} windows of (time, channel, y, x) {metadata.shape}"
            raise ContrailError(f"{path}: takes {needed}, not {dtype} of {shape}; use a store like the training data")
        outputs = run_graph(window_btchw)
        return Prediction(outputs["probability"], outputs["score"], outputs["agreement"])

    shared = {name: value for name, value in metadata if name in Predictor.__dataclass_fields__}
    return Predictor(path=path, detect=_detect, device=device, mask_shift=metadata.off, **shared)


def open_graph(path: Path, device: torch.device) -> tuple[Metadata, RunGraph]:
    """Open an exported file.

    Args:
        path: A `.pt2` or `.onnx` file.
        device: Device to run on.

    Returns:
        Its metadata, and a function that runs its graph.

    Raises:
        ContrailError: As `load_exported`.
    """
    try:
        with reported_errors(str(path), "read"), path.open("rb") as file:
            is_pt2 = file.read(len(_ZIP)) == _ZIP
    except FileNotFoundError:
        raise ContrailError(f"{path}: does not exist; name a file that contrail-train export wrote") from None
    if not is_pt2:
        import_optional("onnxruntime", path)  # a missing package is not a damaged file
    try:
        return (_open_pt2 if is_pt2 else _open_onnx)(path, device)
    except ContrailError:
        raise
    except Exception as error:  # torch and onnxruntime fail in as many ways as a file can be damaged
        reason = f"{type(error).__name__}: damaged, or not a {path.suffix} file"
        raise ContrailError(f"{path}: cannot be read ({reason}); export it again") from error


def _parse_metadata(path: Path, text: str | None) -> Metadata:
    if text is None:
        raise ContrailError(f"{path}: not a detector of contrail; name a file that contrail-train export wrote")
    try:
        if (number := int(json.loads(text)["format"])) <= FORMAT:
            metadata = Metadata.model_validate_json(text)
            from_dict(metadata.composite)
            return metadata
    except (ContrailError, ValidationError, ValueError, KeyError, TypeError):
        raise ContrailError(f"{path}: its metadata is damaged; export it again") from None
    raise ContrailError(f"{path}: has format {number}, this version reads up to {FORMAT}; update contrail")


def _open_pt2(path: Path, device: torch.device) -> tuple[Metadata, RunGraph]:
    metadata = _parse_metadata(path, _read_checked_metadata(path))
    with silence_torch():
        program = torch.export.load(path)
        if device.type != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, str(device))
        graph = program.module()
    return metadata, lambda window_btchw: dict(graph(window_btchw))


def _open_onnx(path: Path, device: torch.device) -> tuple[Metadata, RunGraph]:
    runtime = import_optional("onnxruntime", path)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors; its warnings are about its own optimisations
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda" and "CUDAExecutionProvider" in runtime.get_available_providers():
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0}))
    content = path.read_bytes()  # not the path: a graph may name other files for its weights, which are then not found
    session = runtime.InferenceSession(content, options, providers=providers)
    text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    length = len(checksum_trailer(b""))
    if text is not None and content[-length:] != checksum_trailer(content[:-length]):
        raise ContrailError(f"{path}: damaged (wrong checksum); export it again")
    metadata = _parse_metadata(path, text)

    def _run_graph(window_btchw: Tensor) -> dict[str, Tensor]:
        outputs = session.run(list(OUTPUTS), {"window": window_btchw.cpu().numpy()})
        tensors = (torch.from_numpy(part).to(window_btchw.device) for part in outputs)
        return dict(zip(OUTPUTS, tensors, strict=True))

    return metadata, _run_graph


# ---- checking a .pt2 -------------------------------------------------------------------------------------------------


def _read_checked_metadata(path: Path) -> str | None:
    """Check that a `.pt2` file holds only tensors and a graph of torch's own operators, and read its metadata.

    Returns:
        The JSON text that `export` stored in it; None if there is none.

    Raises:
        ContrailError: If the file is damaged or holds anything that could run code.
    """
    from torch.export.pt2_archive import PT2ArchiveReader  # imports the compiler of torch (benchmarks/first_step.py)

    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
        if compressed or sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise ContrailError(f"{path}: not opened: it unpacks to more than its own size; export the model again")
        if damaged := archive.testzip():
            raise ContrailError(f"{path}: damaged (wrong checksum of {damaged}); export it again")
    reader = PT2ArchiveReader(str(path))  # torch.export.load uses it too: both see the same entries
    names = reader.get_file_names()
    unsafe = [name for name in names if not _ENTRIES.fullmatch(name)]
    if "data/sample_inputs/model.pt" in names and reader.read_bytes("data/sample_inputs/model.pt"):
        unsafe.append("data/sample_inputs/model.pt")
    if not unsafe:
        for config in ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json"):
            tensors = json.loads(reader.read_string(config))["config"]
            unsafe += [name for name, entry in tensors.items() if entry["use_pickle"] is not False]
        unsafe += _unsafe_texts(json.loads(reader.read_string("models/model.json")))
    if unsafe:
        raise ContrailError(f"{path}: not opened: {unsafe[0][:60]!r} in it could run code; export the model again")
    return reader.read_string(f"extra/{METADATA_KEY}") if f"extra/{METADATA_KEY}" in names else None


def _unsafe_texts(tree: Any, key: str = "") -> Iterator[str]:
    """Texts of a serialised graph that are neither words nor, in the places for them, torch's operators or shapes."""
    if isinstance(tree, list):
        for part in tree:
            yield from _unsafe_texts(part, key)
    elif isinstance(tree, dict):
        for name, part in tree.items():
            # the inputs of a signature have a target as well: the name of the tensor that they are bound to
            is_operator = name == "target" and "inputs" in tree
            yield from _unsafe_texts(name)
            yield from _unsafe_texts(part, "operator" if is_operator else name)
    elif isinstance(tree, str):
        if key in ("in_spec", "out_spec"):
            safe = _is_plain(json.loads(tree)[1])
        else:
            safe = bool({"expr_str": _EXPRESSION, "operator": _OPERATOR}.get(key, _WORD).fullmatch(tree))
        if not safe:
            yield tree


def _is_plain(tree: dict[str, Any]) -> bool:
    """Whether inputs or outputs are tuples and dicts of tensors."""
    names = None if tree["context"] is None else json.loads(tree["context"])
    return (
        tree["type"] in (None, "builtins.tuple", "builtins.dict")
        and (names is None or (isinstance(names, list) and all(isinstance(name, str) for name in names)))
        and all(_is_plain(child) for child in tree["children_spec"])
    )
