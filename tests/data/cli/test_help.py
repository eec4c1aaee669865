"""Help pages of contrail-data."""

from __future__ import annotations

from contrail_data.cli.main import app
from helpers.cli import check_numbers, help_pages


def test_every_option_has_a_help_text_and_no_page_shows_a_docstring_section() -> None:
    for name, text, undocumented in help_pages(app):
        assert not undocumented, f"{name}: {undocumented}"
        assert text, name
        assert "Args:" not in text, name
        assert "Raises:" not in text, name


def test_every_number_has_limits_and_none_is_infinite() -> None:
    assert check_numbers(app) > 20
