"""Every benchmark runs at a tiny size and prints each of its tables with finite figures."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from contrail_data.errors import ContrailError
from helpers.places import PROJECT

BENCHMARKS = PROJECT / "benchmarks"
TINY_MODEL = ["--set", "model.encoder=test_resnet", "--set", "model.decoder.channels=[16,16,8,8,8]"]
NO_PICTURES = ["--set", "loggers.pictures=0"]
EFFECTS = ["--records", "24", "--epochs", "1", "--side", "32", "--folds", "2", *TINY_MODEL, *NO_PICTURES]
TINY = {
    "build": ["--samples", "2", "--rounds", "1", "--shortest", "0", "--memory", "1"],
    "loader": ["--samples", "2", "--rounds", "1", "--shortest", "0", "--many", "20", "--workers", "0"],
    "step": [
        "--samples",
        "4",
        "--side",
        "32",
        "--batch",
        "2",
        "--rounds",
        "1",
        "--presets",
        "unet2d",
        "--no-compile",
        *TINY_MODEL,
    ],
    "first_step": [
        *("--samples", "40", "--records", "2", "--side", "32", "--batch", "2", "--rounds", "1", *TINY_MODEL),
    ],
    "gpu": [
        *("--cpu", "--samples", "2", "--side", "32", "--batch", "8", "--rounds", "1", "--shortest", "0"),
        *("--no-compile", *TINY_MODEL),
    ],
    "growth": [
        *("--rounds", "1", "--records", "2", "--samples", "16", "--scan", "64", "--many", "100", "--audited", "40"),
        *("--factors", "1", "4", "--workers", "1"),
    ],
    "instances": ["--scenes", "1"],
    "tfrecords": ["--samples", "2", "--side", "64", "--rounds", "1", "--memory", "1"],
    "pseudo": [
        *("--records", "1", "--side", "64", "--rounds", "1", "--variant", "2D", "--variant", "2.5D, flips"),
        *TINY_MODEL,
    ],
    "scene": ["--rounds", "1", "--shrink", "24", "--sectors", "1", "--sector", "96"],
    "effects": [
        *EFFECTS,
        *("--only", "effects", "--only", "factors", "--only", "grids", "--row", "label shift off"),
    ],
    "series": ["--records", "24", "--epochs", "1", "--side", "32", "--seeds", "1", *NO_PICTURES],
    "tracks": ["--scenes", "1", "--side", "96", "--sceneries", "moving"],
    "remote": [
        *("--samples", "32", "--side", "32", "--latency", "0.002", "--step", "0.002", "--rounds", "1"),
        *("--workers", "1"),
    ],
    "pipelines": ["--records", "24", "--epochs", "1", "--side", "32", "--rounds", "1", *TINY_MODEL, *NO_PICTURES],
}
"""Options with which each benchmark takes only seconds."""


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> dict[str, Any]:
    """Load a benchmark as a program would be, with its neighbours importable."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return runpy.run_path(str(BENCHMARKS / f"{request.param}.py"))


def tables_in(output: str) -> list[str]:
    """Return the bodies of the tables, below their heading lines."""
    return re.findall(r"^ ─+ $\n((?:.*\S.*\n)+)", output, re.M)


def test_every_benchmark_is_tested() -> None:
    programs = {path.stem for path in BENCHMARKS.glob("*.py") if "\ndef main(" in path.read_text()}
    assert programs == set(TINY)


@pytest.mark.parametrize("benchmark", TINY, indirect=True)
def test_the_error_for_an_unknown_table_lists_the_known_tables(
    benchmark: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as refused:
        benchmark["main"]([str(tmp_path), "--only", "nothing"])
    assert refused.value.code == 2
    message = capsys.readouterr().err
    assert "invalid choice: 'nothing'" in message
    assert all(f"'{table}'" in message for table in benchmark["TABLES"])


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", TINY, indirect=True)
def test_every_table_has_finite_figures(
    benchmark: dict[str, Any],
    request: pytest.FixtureRequest,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = Path(benchmark["__file__"]).stem
    folder = [str(tmp_path)] if name in ("effects", "pipelines", "series") else []
    run = ["--run", str(request.getfixturevalue("finished"))] if name == "scene" else []
    benchmark["main"]([*folder, *TINY[name], *run])
    tables = tables_in(capsys.readouterr().out)
    # the loader prints one table of cold reads per access pattern; effects prints one after each row
    assert len(tables) == {"loader": 7, "effects": 5}.get(name, len(benchmark["TABLES"]))
    for table in tables:
        assert re.search(r"\d", table)
        assert not re.search(r"\b(nan|inf)\b", table), table


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", ["effects"], indirect=True)
@pytest.mark.parametrize(
    "options",
    [
        ["--mixed", "--row", "own features added"],
        ["--row", "two composites stacked", "--row", "mean teacher, squared difference"],
    ],
)
def test_rows_with_a_base_or_with_data_of_their_own_are_measured(
    benchmark: dict[str, Any], options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark["main"]([str(tmp_path), *EFFECTS, *options])
    table = tables_in(capsys.readouterr().out)[-1]
    assert all(row in table for row in options if not row.startswith("--"))


@pytest.mark.parametrize("benchmark", ["effects"], indirect=True)
def test_changes_that_do_not_fit_together_are_found_before_any_run(benchmark: dict[str, Any], tmp_path: Path) -> None:
    rows = ("two frames before", "time reversed in half of the cases")
    options = ["--records", "4", "--side", "32", "--folds", "2", "--mixed", "--only", "factors"]
    with pytest.raises(ContrailError, match=r"augment.time_reversal=0.5: data.frames=\[-2, -1, 0\] is not symmetric"):
        benchmark["main"]([str(tmp_path), *options, *(word for row in rows for word in ("--row", row))])
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("benchmark", ["gpu"], indirect=True)
def test_without_a_gpu_the_command_lists_what_it_would_measure(
    benchmark: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    benchmark["main"](["--only", "frames"])
    heading, row = capsys.readouterr().out.splitlines()
    assert heading.startswith("No GPU: nothing is measured.")
    assert row.startswith("  frames: notes' form, plain; fast form")


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", ["build"], indirect=True)
def test_the_option_only_prints_one_table(benchmark: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    benchmark["main"]([*TINY["build"], "--only", "composite"])
    output = capsys.readouterr().out
    assert len(tables_in(output)) == 1
    assert output.startswith("composite")
