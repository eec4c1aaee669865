"""Exported files as they are read back: damage, other versions, and code that must never run."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from contrail_data.errors import ContrailError
from contrail_train.inference.export import export
from contrail_train.inference.exported import METADATA_KEY, checksum_trailer, load_exported
from contrail_train.inference.names import SUFFIXES
from helpers.exports import CPU, SIDE, one, predictor


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_damaged_or_foreign_file_is_refused(suffix: str, exported: dict[str, Path], tmp_path: Path) -> None:
    content = exported[suffix].read_bytes()
    path = tmp_path / f"a{suffix}"
    for damaged in (b"", b"nothing", content[: len(content) // 2], content[2000:]):
        path.write_bytes(damaged)
        with pytest.raises(ContrailError, match=r"a\.\w+: (cannot be read|not a detector)"):
            load_exported(path, CPU)
    at = len(content) // 2
    if suffix == ".pt2":
        with zipfile.ZipFile(exported[suffix]) as archive:
            largest = max(archive.infolist(), key=lambda one: one.file_size)
            at = content.index(archive.read(largest)) + largest.file_size // 2
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])  # changes one bit of a weight
    with pytest.raises(ContrailError, match=f"{path.name}: (damaged|cannot be read)"):
        load_exported(path, CPU)
    path.unlink()
    with pytest.raises(ContrailError, match="does not exist"):
        load_exported(path, CPU)


@pytest.mark.parametrize("kind", ["deflated", "overlapping"])
def test_an_archive_that_unpacks_to_more_than_its_size_is_not_unpacked(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bomb.pt2"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if kind == "deflated" else zipfile.ZIP_STORED) as archive:
        archive.writestr("a/data/weights/weight_0", bytes(2**22))
        if kind == "overlapping":
            archive.filelist += 3 * archive.filelist
    monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda _: pytest.fail("unpacked"))
    with pytest.raises(ContrailError, match=r"bomb\.pt2: not opened: it unpacks to more than its own size"):
        load_exported(path, CPU)


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.pt2").write_bytes(b"PK")

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ContrailError, match=r"a\.pt2: cannot be read \(Permission denied\)"):
        load_exported(tmp_path / "a.pt2", CPU)


def rewritten(source: Path, target: Path, changes: dict[str, bytes]) -> Path:
    """A .pt2 file with entries changed or added, by their names inside its folder."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        top = old.namelist()[0].partition("/")[0]
        entries = {name: old.read(name) for name in old.namelist()}
        entries |= {f"{top}/{name}": content for name, content in changes.items()}
        for name, content in entries.items():
            new.writestr(name, content)
    return target


def read_entry(source: Path, name: str) -> bytes:
    with zipfile.ZipFile(source) as archive:
        return archive.read(f"{archive.namelist()[0].partition('/')[0]}/{name}")


def with_metadata(exported: dict[str, Path], suffix: str, target: Path, change: dict[str, Any] | None) -> Path:
    metadata = json.loads(read_entry(exported[".pt2"], f"extra/{METADATA_KEY}"))
    text = "{" if change is None else json.dumps(metadata | change)
    if suffix == ".pt2":
        return rewritten(exported[".pt2"], target, {f"extra/{METADATA_KEY}": text.encode()})
    onnx = pytest.importorskip("onnx")
    proto = onnx.load(exported[".onnx"])
    proto.metadata_props[0].value = text
    del proto.metadata_props[1:]  # the checksum
    content = proto.SerializeToString(deterministic=True)
    target.write_bytes(content + checksum_trailer(content))
    return target


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_invalid_metadata_is_refused_and_additional_keys_are_ignored(
    suffix: str, exported: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / f"a{suffix}"
    assert load_exported(with_metadata(exported, suffix, path, {"later": 1}), CPU).size == SIDE
    for change, line in (
        ({"format": 2}, r"has format 2, this version reads up to 1; update"),
        ({"format": "?"}, "damaged"),
        ({"decision": {"threshold": 0.5}}, "damaged"),
        ({"composite": {"name": "ash"}}, "damaged"),
        ({"label_shift": [0.5]}, "damaged"),
        (None, "damaged"),
    ):
        with pytest.raises(ContrailError, match=line):
            load_exported(with_metadata(exported, suffix, path, change), CPU)


class Harm:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (open, (str(self.path), "w"))


@pytest.mark.slow
def test_code_in_a_file_is_never_run(exported: dict[str, Path], tmp_path: Path) -> None:
    """torch.export.load would or might run these changes; for two of them the test first shows that it does."""
    source, canary = exported[".pt2"], tmp_path / "made"
    pickled = io.BytesIO()
    torch.save((Harm(canary),), pickled)
    config = "data/weights/model_weights_config.json"
    weights = json.loads(read_entry(source, config))
    first = next(iter(weights["config"].values()))
    first["use_pickle"] = True
    graph = read_entry(source, "models/model.json").decode()
    shape, operator = "Symbol('s", "torch.ops.aten.sigmoid.default"
    assert shape in graph
    assert operator in graph
    touch = f"__import__('pathlib').Path('{canary}').touch()"
    signature = json.loads(graph)["graph_module"]["module_call_graph"][0]["signature"]
    answers = json.loads(signature["out_spec"])
    answers[1]["context"] = '{"__enum__": true, "fqn": "antigravity:A", "name": "a"}'
    changes: dict[str, dict[str, bytes]] = {
        "sample inputs": {"data/sample_inputs/model.pt": pickled.getvalue()},
        "weights": {config: json.dumps(weights).encode(), f"data/weights/{first['path_name']}": pickled.getvalue()},
        "legacy weights": {"data/weights/model.pt": pickled.getvalue()},
        "constants": {"data/constants/opaque_obj_0": pickle.dumps(Harm(canary))},
        "a library": {"data/aotinductor/model/a.so": b"\x7fELF"},
        "another model": {"models/other.json": graph.encode()},
        "a shape": {"models/model.json": graph.replace(shape, f"{touch} or {shape}").encode()},
        "an argument": {"models/model.json": graph.replace('["window"]', json.dumps([f"window={touch}"])).encode()},
        "answers": {
            "models/model.json": graph.replace(
                json.dumps(signature["out_spec"]), json.dumps(json.dumps(answers))
            ).encode()
        },
        "an operator": {"models/model.json": graph.replace(operator, "torch.ops.image.write_file.default").encode()},
        "a file's operator": {
            "models/model.json": graph.replace(operator, "torch.ops.aten.from_file.default").encode()
        },
    }
    for case in ("sample inputs", "a shape"):
        with contextlib.suppress(Exception):
            torch.export.load(rewritten(source, tmp_path / "evil.pt2", changes[case]))
        assert canary.exists(), case  # torch.export.load runs the code
        canary.unlink()
    for case, change in changes.items():
        path = rewritten(source, tmp_path / "evil.pt2", change)
        with pytest.raises(ContrailError, match="could run code"):
            load_exported(path, CPU)
        assert not canary.exists(), case


@pytest.mark.slow
def test_onnx_without_its_packages_names_the_extra(
    exported: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("onnx", "onnxruntime"):
        monkeypatch.setitem(sys.modules, package, None)
    line = r"is not installed; run \"pip install '\.\[onnx\]'"
    with pytest.raises(ContrailError, match=f"onnxruntime {line}"):
        load_exported(exported[".onnx"], CPU)
    with pytest.raises(ContrailError, match=f"onnx {line}"):
        export(predictor(one("test_resnet")), tmp_path / "a.onnx")
    assert load_exported(exported[".pt2"], CPU).head == "mask"
