"""Help pages of contrail-data."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import contrail_data
from contrail_data.cli.main import app
from helpers.cli import check_examples, check_numbers, help_pages, run_data


def test_every_option_has_a_help_text_and_no_page_shows_a_docstring_section() -> None:
    for name, text, undocumented in help_pages(app):
        assert not undocumented, f"{name}: {undocumented}"
        assert text, name
        assert "Args:" not in text, name
        assert "Raises:" not in text, name


def test_every_number_has_limits_and_none_is_infinite(sealed40: Path, tmp_path: Path) -> None:
    assert check_numbers(app, tmp_path, sealed40) > 20


def test_every_page_ends_with_examples_that_the_command_takes(sealed40: Path, tmp_path: Path) -> None:
    check_examples(app, "contrail-data", tmp_path, sealed40)


def test_the_version_is_printed() -> None:
    assert run_data("--version").stdout == f"contrail-data {contrail_data.__version__}\n"


def test_types_are_named_for_people() -> None:
    for arguments in ([], ["cache"], ["catalog"], ["composites"], ["subset"], ["preview"], ["build-ash"]):
        page = run_data(*arguments, "--help").stdout
        assert not re.findall(r"<(bool|str|int|float|path|list)", page), page
    assert "PATH" in page
    assert "NUMBER [32<=x<=4096]" in page


def test_the_shell_completes_commands() -> None:
    asked = {"_CONTRAIL_DATA_COMPLETE": "complete_bash", "COMP_WORDS": "contrail-data pre", "COMP_CWORD": "1"}
    code = "import sys; sys.argv = ['contrail-data']; from contrail_data.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | asked,
        cwd=Path.cwd(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["preview"], done.stderr
