"""Exported files give the predictions of their model, with and without the code of this project."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from contrail_data.composites import COMPOSITES
from contrail_data.errors import ContrailError
from contrail_data.labels.predictor import Decision, Symmetries
from contrail_train.inference import export as module
from contrail_train.inference.detector import Detector, Network, View, single_network_detector
from contrail_train.inference.export import export
from contrail_train.inference.exported import METADATA_KEY, SUFFIXES, checksum_trailer, load_exported, open_graph
from contrail_train.inference.predictor import Predictor
from contrail_train.models.segmenter import build
from helpers.models import model_config
from helpers.shared import shared

SIDE = 64
SMALL = [16, 16, 16, 16, 16]
CPU = torch.device("cpu")


def network(
    encoder: str,
    frames: tuple[int, ...] = (0,),
    *,
    size: tuple[int, int] | None = None,
    each: bool = False,
    off: tuple[float, float] = (0.0, 0.0),
    **settings: Any,
) -> Network:
    """Return a network with random statistics and last layers; otherwise it would predict the same for every pixel."""
    model = build(model_config(encoder, channels=SMALL, **settings), 3, frames)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 1.5)
            part.weight.data.uniform_(0.5, 1.5)
    if model.decoder is not None:
        model.mask_head.maps.weight.data.normal_(0, 0.1)
    view = View(frames, torch.rand(3), torch.rand(3) + 0.1, each, size)
    return Network(model.to(memory_format=torch.channels_last).eval(), view, off)


def one(encoder: str, head: str = "mask", frames: tuple[int, ...] = (0,), **settings: Any) -> Detector:
    stage = network(encoder, frames, head=head, **settings)
    return single_network_detector(stage.model, stage.view, head, top_k=20, mask_shift=stage.mask_shift).eval()


def two_stages() -> Detector:
    """Return two stages of different frames, sizes, normalisation and mask shifts, averaged over flips."""
    first = network("test_resnet", (0,), size=(96, 96), each=True, off=(0.5, 0.5))
    second = network("test_resnet", (-1, 0), mixer="mean", head="record")
    return Detector(
        {"first": first, "second": second},
        {"first": 1.0},
        {"first": 0.5, "second": 0.5},
        top_k=20,
        classifiers=["second"],
        symmetries=Symmetries.FLIPS,
    ).eval()


DETECTORS: dict[str, Callable[[], Detector]] = {
    "same padding": lambda: one("tf_mobilenetv3_small_minimal_100", "both"),
    "conv3d": lambda: one("test_resnet", frames=(-1, 0), mixer="conv3d", levels=[3, 4], blocks=1),
    "classifier": lambda: one("test_resnet", "record", (-1, 0, 1), mixer="lstm"),
    "two_stages": two_stages,
}


def predictor(detector: Detector, head: str = "mask", dtype: str = "uint8") -> Predictor:
    """Return a predictor whose threshold and gate lie within the range of its predictions for noise."""
    shape = (4, len(detector.offsets), 3, SIDE, SIDE)
    unit = torch.rand(shape)
    with torch.no_grad():
        output = detector((unit * 255).byte() if dtype == "uint8" else unit.to(getattr(torch, dtype)))
    threshold, gate = float(output.probability_bhw.median()), float(output.score_b.sort().values[:2].mean())
    return Predictor(
        path=Path("runs/mine"),
        detect=detector,
        offsets=detector.offsets,
        mask_shift=detector.mask_shift,
        device=CPU,
        composite=COMPOSITES["ash"].to_dict(),
        label_shift=(0.5, 0.5),
        decision=Decision(threshold, gate, 20, "sha256:0123"),
        trained_records=frozenset({"18446744073709551617", "a"}),
        calibrated_records=frozenset({"b"}),
        head=head,
        native=False,
        pixel=2000.0,
        size=SIDE,
        dtype=dtype,
    )


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of `small_predictor` by suffix, in the same folder as its predictions for noise."""

    def write(folder: Path) -> Path:
        model = small_predictor()
        for suffix in SUFFIXES:
            export(model, folder / f"detector{suffix}")
        window = np.random.default_rng(3).integers(0, 256, (3, 1, 3, SIDE, SIDE), np.uint8)
        output = model.detect(torch.from_numpy(window), None)
        is_open = output.score_b >= model.decision.gate
        mask = (output.probability_bhw >= model.decision.threshold) & is_open[:, None, None]
        answers = {"probability": output.probability_bhw.detach().numpy(), "mask": mask.numpy().astype(np.uint8)}
        np.savez(folder / "expected.npz", window=window, **answers)
        return folder

    folder = shared(tmp_path_factory, "exported", write)
    return {suffix: folder / f"detector{suffix}" for suffix in SUFFIXES}


def small_predictor() -> Predictor:
    torch.manual_seed(0)
    return predictor(one("test_resnet", off=(0.5, 0.5)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "suffix", "dtype"),
    [
        ("same padding", ".onnx", "float16"),
        ("conv3d", ".pt2", "float16"),  # the graph is the same in both forms
        ("classifier", ".pt2", "uint8"),
        ("two_stages", ".pt2", "uint8"),
    ],
)
def test_an_exported_file_gives_the_predictions_of_its_model(
    name: str, suffix: str, dtype: str, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    head = {"classifier": "record", "same padding": "both"}.get(name, "mask")
    model = predictor(DETECTORS[name](), head, dtype)
    check = export(model, tmp_path / f"a{suffix}")
    assert 0 < check.marked < check.pixels or head == "record"
    assert check.probability < 1e-4
    assert [path.name for path in tmp_path.iterdir()] == [f"a{suffix}"]
    read = load_exported(tmp_path / f"a{suffix}", CPU)
    assert replace(read, detect=model.detect, path=model.path) == model
    # values and batch sizes other than those that export compares itself
    for batch in (1, 2, 5):
        window = np.random.default_rng(batch).integers(0, 256, (batch, len(model.offsets), 3, SIDE, SIDE), np.uint8)
        if dtype != "uint8":
            window = (window / 255).astype(dtype)
        ours, theirs = model.predict(window), read.predict(window)
        assert ours.probability.std() > 3e-4 or head == "record"
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, atol=5e-5, rtol=0)
    other = np.uint8 if dtype == "float16" else np.float16
    with pytest.raises(ContrailError, match=f"takes {dtype} windows"):
        read.predict(window.astype(other))
    with pytest.raises(ContrailError, match=f"not {dtype} of"):
        read.predict(window[..., :32])


WITHOUT_US = {
    ".onnx": """
import json, numpy, onnxruntime
session = onnxruntime.InferenceSession(path)
metadata = json.loads(session.get_modelmeta().custom_metadata_map["contrail"])
probability, mask, score, agreement = session.run(None, {"window": window})
""",
    ".pt2": """
import json, numpy, torch
extra = {"contrail": ""}
detector = torch.export.load(path, extra_files=extra).module()
metadata = json.loads(extra["contrail"])
probability, mask, score, agreement = detector(torch.from_numpy(window)).values()
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_exported_file_runs_without_this_project(suffix: str, exported: dict[str, Path], tmp_path: Path) -> None:
    script = f"""
import sys
import numpy
path, expected = sys.argv[1], numpy.load(sys.argv[2])
window = expected["window"]
{WITHOUT_US[suffix]}
for name, ours in (("probability", probability), ("mask", mask)):
    numpy.testing.assert_allclose(numpy.asarray(ours), expected[name], atol=1e-5)
assert (numpy.asarray(mask).dtype, score.shape, agreement.shape) == (numpy.uint8, (3,), (3,))
assert metadata["off"] == metadata["label_shift"] == [0.5, 0.5]
assert metadata["decision"]["model"] == "sha256:0123"
assert not [name for name in sys.modules if name.startswith(("contrail", "timm", "segmentation_models"))]
"""
    path = exported[suffix]
    done = subprocess.run(
        [sys.executable, "-I", "-c", script, str(path), str(path.with_name("expected.npz"))],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_exports_of_one_model_are_identical_and_contain_no_local_paths(
    suffix: str, exported: dict[str, Path], tmp_path: Path
) -> None:
    export(small_predictor(), tmp_path / f"a{suffix}")
    content = (tmp_path / f"a{suffix}").read_bytes()
    assert content == exported[suffix].read_bytes()
    assert b"site-packages" not in content
    assert str(Path(module.__file__).parent).encode() not in content


@pytest.mark.slow
def test_a_refused_export_leaves_no_new_files(
    exported: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(5)
    model = predictor(one("test_resnet"))
    taken = tmp_path / "taken.pt2"
    taken.write_text("mine")
    with pytest.raises(ContrailError, match=r"taken\.pt2: exists"):
        export(model, taken)
    with pytest.raises(ContrailError, match=r"taken\.pt2: cannot be written"):
        export(model, taken / "a.pt2")
    with pytest.raises(ContrailError, match=r"ends in \.pt2 or \.onnx"):
        export(model, tmp_path / "a.pt")
    with pytest.raises(ContrailError, match="is an exported file"):
        export(load_exported(exported[".pt2"], CPU), tmp_path / "a.onnx")
    # an exported graph whose predictions differ from the model's
    right = open_graph

    def wrong(path: Path, device: torch.device) -> Any:
        metadata, run_graph = right(path, device)
        return metadata, lambda window: {k: v + (0.001 if k == "score" else 0) for k, v in run_graph(window).items()}

    monkeypatch.setattr("contrail_train.inference.export.open_graph", wrong)
    with pytest.raises(ContrailError, match=r"not written: the score .* differs by 1\.0e-03"):
        export(model, taken, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["taken.pt2"]
    assert taken.read_text() == "mine"


def test_two_exports_to_one_file_at_once_do_not_disturb_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, out = predictor(one("test_resnet")), tmp_path / "a.pt2"
    contents = iter([b"first", b"second"])
    read_back = []

    def open_while_another_exports(path: Path, _: torch.device) -> Any:
        read_back.append(path.read_bytes())
        if len(read_back) == 1:
            export(model, out)
            assert out.read_bytes() == b"second"
        return None, None

    program = SimpleNamespace(graph=SimpleNamespace(nodes=[]))
    monkeypatch.setattr(torch.export, "export", lambda *_, **__: program)
    monkeypatch.setattr(torch.export, "save", lambda _, file, **__: file.write(next(contents)))
    monkeypatch.setattr(module, "open_graph", open_while_another_exports)
    monkeypatch.setattr(module, "compare", lambda *_: None)
    export(model, out)
    assert read_back == [b"first", b"second"]
    assert out.read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt2"]


def test_exported_masks_may_differ_only_next_to_the_threshold() -> None:
    graph = module.ExportGraph(one("test_resnet"), Decision(0.5, 0.0, 1, ""))

    def answer(probability: float, mask: int) -> Callable[..., dict[str, torch.Tensor]]:
        plane = torch.full((1, 2, 2), probability)
        output = {"probability": plane, "mask": torch.full((1, 2, 2), mask, dtype=torch.uint8)}
        return lambda *_: output | {"score": torch.ones(1), "agreement": torch.ones(1)}

    graph.forward = answer(0.50005, 1)  # type: ignore[method-assign]
    assert module.compare(graph, answer(0.49999, 0), [torch.zeros(1)], Path("a")).differing == 4
    graph.forward = answer(0.6, 1)  # type: ignore[method-assign]
    with pytest.raises(ContrailError, match="masks differ"):
        module.compare(graph, answer(0.6, 0), [torch.zeros(1)], Path("a"))


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
