"""Help pages of all commands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from contrail_train.cli.main import app
from helpers.cli import check_examples, check_numbers, help_pages


def test_every_option_has_a_help_text_and_no_page_shows_a_docstring_section() -> None:
    for name, text, undocumented in help_pages(app):
        assert not undocumented, f"{name}: {undocumented}"
        assert text, name
        assert "Args:" not in text, name
        assert "Raises:" not in text, name


def test_every_number_has_limits_and_none_is_infinite(sealed40: Path, tmp_path: Path) -> None:
    assert check_numbers(app, tmp_path, sealed40) > 10


def test_every_page_ends_with_examples_that_the_command_takes(sealed40: Path, tmp_path: Path) -> None:
    check_examples(app, "contrail-train", tmp_path, sealed40)


def test_the_shell_completes_presets() -> None:
    asked = {"_CONTRAIL_TRAIN_COMPLETE": "complete_bash", "COMP_WORDS": "contrail-train run ours", "COMP_CWORD": "2"}
    code = "import sys; sys.argv = ['contrail-train']; from contrail_train.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | asked, capture_output=True, text=True, check=False
    )
    assert {"ours", "ours_week"} <= set(done.stdout.split()), done.stderr


@pytest.mark.parametrize(
    ("files", "reason"), [(["config.yaml"], "not finished (it has no calibration.json)"), ([], "not a run directory")]
)
def test_a_model_that_is_not_finished_is_refused_before_torch_is_imported(
    tmp_path: Path, files: list[str], reason: str
) -> None:
    for file in files:
        (tmp_path / file).touch()
    code = """
import sys
sys.modules["torch"] = None
sys.argv = ["contrail-train", "evaluate", sys.argv[1], "nothing.zarr"]
from contrail_train.cli.main import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"error: {tmp_path}: {reason}" in done.stderr


def test_files_of_several_kinds_are_refused_before_torch_is_imported(tmp_path: Path) -> None:
    for satellite in (16, 18):
        (tmp_path / f"OR_ABI-L1b-RadC-M6C14_G{satellite}_s20240611200000_e20240611202377_c20240611202460.nc").touch()
    code = """
import sys
sys.modules["torch"] = None
sys.argv = ["contrail-train", "predict-scans", "builtin:starter", sys.argv[1], "-o", "map.png"]
from contrail_train.cli.main import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"error: {tmp_path}: files of several kinds" in done.stderr
