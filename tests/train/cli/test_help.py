"""Help pages of all commands."""

from __future__ import annotations

from pathlib import Path

from contrail_train.cli.main import app
from helpers.cli import check_examples, check_numbers, help_pages


def test_every_option_has_a_help_text_and_no_page_shows_a_docstring_section() -> None:
    for name, text, undocumented in help_pages(app):
        assert not undocumented, f"{name}: {undocumented}"
        assert text, name
        assert "Args:" not in text, name
        assert "Raises:" not in text, name


def test_every_number_has_limits_and_none_is_infinite(tmp_path: Path) -> None:
    assert check_numbers(app, tmp_path) > 10


def test_every_page_ends_with_examples_that_the_command_takes(tmp_path: Path) -> None:
    check_examples(app, "contrail-train", tmp_path)
