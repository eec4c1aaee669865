"""MISSING DOCSTRING."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from contrail_data.errors import ContrailError

KEY = "contrail"


_RECORDS = re.compile(
    r"archive_format|archive_version|byteorder|\.data/\w+|extra/contrail|models/model\.json|data/sample_inputs/model\.pt"
    r"|data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)"
)
_WORD = re.compile(r"[\w.+-]*")
_OPERATOR = re.compile(r"torch\.ops\.aten\.(?!from_file)\w+(\.\w+)?|_operator\.\w+|torch\.sym_\w+")
_EXPRESSION = re.compile(r"(Symbol\('\w+'(, \w+=True)*\)|[A-Z]\w*\(|[-\d, )])*")


def refuse_code(path: Path) -> str | None:
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
