"""Messages on stderr for people and for programs."""

from __future__ import annotations

import json
import logging
from datetime import datetime
from pathlib import Path

import pytest

from contrail_data.messages import FORMAT_VARIABLE, Kind, MessageHandler, print_message
from helpers.cli import run_data


@pytest.fixture(autouse=True)
def _format_of_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FORMAT_VARIABLE, "text")  # so that what a command sets is undone


def objects(text: str) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in text.splitlines()]
    assert all(datetime.fromisoformat(str(line["time"])).utcoffset() is not None for line in lines)
    return lines


def test_progress_notes_and_bad_records_are_objects_on_request(raw: Path, tmp_path: Path) -> None:
    bad = raw / "train" / "18446744073709551617" / "band_11.npy"
    bad.write_bytes(b"nothing")
    done = run_data("build-ash", raw, "-o", tmp_path / "s.zarr", "--log-format", "json")
    lines = objects(done.stderr)
    assert {line["kind"] for line in lines} >= {"progress", "set aside"}
    (progress,) = (line for line in lines if line["kind"] == "progress" and line["done"] == line["total"])
    assert progress["unit"] == "samples"
    assert any("18446744073709551617" in str(line["message"]) for line in lines if line["kind"] == "set aside")
    assert f"{tmp_path / 's.zarr'}: 8 samples" in done.stdout  # results stay text


def test_an_error_is_an_object_with_its_exit_code(tmp_path: Path) -> None:
    done = run_data("inspect", tmp_path / "nothing.zarr", "--log-format", "json")
    (line,) = objects(done.stderr)
    assert (line["kind"], line["exit_code"], done.returncode) == ("error", 1, 1)
    assert "nothing.zarr" in str(line["message"])


def test_messages_for_people_begin_with_their_kind(capsys: pytest.CaptureFixture[str]) -> None:
    for kind in Kind:
        print_message(kind, "x", number=1)
    assert capsys.readouterr().err.splitlines() == ["x", "x", "note: x", "warning: x", "set aside: x", "error: x"]


def test_what_packages_log_has_the_same_form(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = logging.LogRecord("a", logging.INFO, "f", 1, "encoder %s", ("x",), None)
    MessageHandler().emit(record)
    monkeypatch.setenv(FORMAT_VARIABLE, "json")
    MessageHandler().emit(record)
    record.levelno = logging.WARNING
    MessageHandler().emit(record)
    text, as_json, warning = capsys.readouterr().err.splitlines()
    assert text == json.loads(as_json)["message"] == "encoder x"
    assert [json.loads(line)["kind"] for line in (as_json, warning)] == ["info", "warning"]
