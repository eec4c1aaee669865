"""A check of `.pt2` files before torch opens them.

`torch.export.load` would run code from a file: it unpickles weights, constants and sample inputs that ask for it
(`weights_only=False`), loads compiled libraries, evaluates the expressions of shapes as Python, imports what arguments
claim to be made of, and accepts any registered operator, some of which write files.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch.export.pt2_archive import PT2ArchiveReader

from contrail_data.errors import ContrailError

METADATA_KEY = "contrail"
"""Name of the extra file, or metadata property, that describes an exported model."""

_ENTRIES = re.compile(
    r"archive_format|archive_version|byteorder|\.data/\w+|extra/contrail|models/model\.json|data/sample_inputs/model\.pt"
    r"|data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)"
)
_WORD = re.compile(r"[\w.+-]*")
_OPERATOR = re.compile(r"torch\.ops\.aten\.(?!from_file)\w+(\.\w+)?|_operator\.\w+|torch\.sym_\w+")
_EXPRESSION = re.compile(r"(Symbol\('\w+'(, \w+=True)*\)|[A-Z]\w*\(|[-\d, )])*")


def read_checked_metadata(path: Path) -> str | None:
    """Check that a `.pt2` file holds only tensors and a graph of torch's own operators, and read its metadata.

    Args:
        path: The file.

    Returns:
        The JSON text that `export` stored in it; None if there is none.

    Raises:
        ContrailError: If the file is damaged or holds anything that could run code.
    """
    with zipfile.ZipFile(path) as archive:
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
