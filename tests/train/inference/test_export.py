"""Exported files give the predictions of their model, with and without the code of this project."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from contrail_data.errors import ContrailError
from contrail_data.labels.predictor import Decision, Symmetries
from contrail_train.inference import export as module
from contrail_train.inference.detector import Detector
from contrail_train.inference.export import export
from contrail_train.inference.exported import load_exported, open_graph
from contrail_train.inference.names import SUFFIXES
from helpers.exports import CPU, SIDE, one, one_stub, predictor, small_predictor, stub


def two_stages() -> Detector:
    """Return two stages of different frames, sizes, normalisation and mask shifts, averaged over flips."""
    first = stub((0,), size=(96, 96), each=True, off=(0.5, 0.5))
    second = stub((-1, 0))
    return Detector(
        {"first": first, "second": second},
        {"first": 1.0},
        {"first": 0.5, "second": 0.5},
        top_k=20,
        classifiers=["second"],
        symmetries=Symmetries.FLIPS,
    ).eval()


DETECTORS: dict[str, Callable[[], Detector]] = {
    "same padding": lambda: one_stub("both"),
    "conv3d": lambda: one("test_resnet", frames=(-1, 0), mixer="conv3d", levels=[4], blocks=1),
    "classifier": lambda: one("test_resnet", "record", (-1, 0, 1), mixer="lstm"),
    "two targets": lambda: one("test_resnet", frames=(-2, -1, 0), mixer="transformer", levels=[4], blocks=1, targets=2),
    "two_stages": two_stages,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "suffix", "dtype"),
    [
        ("same padding", ".onnx", "float16"),
        ("conv3d", ".pt2", "float16"),  # the graph is the same in both forms
        ("classifier", ".pt2", "uint8"),
        ("two targets", ".onnx", "uint8"),
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
import gc, sys
gc.disable()  # imports are quicker
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
    model = predictor(one_stub())
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
