"""Error messages of contrail-data."""

import errno
import os
import re
from pathlib import Path

import pytest
import typer

from contrail_data.cli.common import print_table, run_app
from contrail_data.storage.place import place_of
from helpers.cli import run_command, run_data
from helpers.stores import build_small


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "a.csv"), "a.csv: Permission denied; see to that"),
        (OSError(errno.ENOSPC, "No space left on device"), "a file: No space left on device; see to that"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a.csv"), "a bug in contrail"),
        (KeyError("x"), "a bug in contrail"),
    ],
)
def test_what_the_operating_system_refuses_is_not_called_a_bug(error: Exception, line: str) -> None:
    app = typer.Typer()

    @app.command()
    def fail() -> None:
        raise error

    done = run_command(lambda: run_app(app))
    assert done.returncode == 1
    assert line in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("args", "reason", "remedy"),
    [
        (("build-ash",), "missing argument 'SOURCE';", " build-ash --help"),
        (("inspect", "--nope"), "no such option: --nope;", " inspect --help"),
        (("inspct",), "no such command 'inspct'. Did you mean 'inspect'? See ", " --help"),
        (("synth", "records", "--seed", "x"), "invalid value for '--seed': ", " synth --help"),
    ],
)
def test_usage_errors_are_one_line(args: tuple[str, ...], reason: str, remedy: str) -> None:
    done = run_data(*args)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {reason}")
    assert line.endswith(remedy)


def test_without_arguments_the_help_is_shown() -> None:
    done = run_data()
    assert done.returncode == 2
    assert "build-ash" in done.stdout + done.stderr
    assert "error" not in done.stderr


def test_cells_of_tables_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("", ["[setting]", "n"], [["data.train=[a.zarr] :warning:", "1"]])
    printed = capsys.readouterr().out
    assert "[setting]" in printed
    assert "data.train=[a.zarr] :warning:" in printed


def test_errors_of_the_command_line_are_one_line(raw: Path, tmp_path: Path) -> None:
    os.truncate(sorted((raw / "train").iterdir())[0] / "band_11.npy", 100)
    done = run_data("build-ash", raw, "--size", 32, "-o", tmp_path / "s.zarr")
    assert done.returncode == 3
    assert "band_11.npy: " in done.stderr
    assert "8 samples, 1 set aside" in done.stdout
    empty = tmp_path / "train.tfrecord"
    empty.touch()
    notes = tmp_path / "notes.txt"
    notes.write_text("nothing")
    for args, message in [
        (("build-ash", raw, "--split", "tarin", "-o", tmp_path / "x.zarr"), "train"),
        (("build-ash", raw / "nowhere", "-o", tmp_path / "x.zarr"), "no such folder"),
        (("build-ash", notes, "-o", tmp_path / "x.zarr"), "a file of an unknown kind; give a folder"),
        (("build-ash", empty, "-o", tmp_path / "x.zarr"), "there is no usable record: train.tfrecord: 0 bytes"),
        (("build-ash", raw, "--composite", "asch", "-o", tmp_path / "x.zarr"), "ash_cira"),
        (("inspect", tmp_path / "none.zarr"), "neither a store nor a name"),
        (("stats", raw), "zarr.json"),
        (("preview", tmp_path / "s.zarr", "--record", "../../x", "-o", tmp_path / "out"), "no record"),
        (("build-ash", raw, "--size", 32, "--strict", "-o", tmp_path / "y.zarr"), "band_11.npy"),
    ]:
        failed = run_data(*args)
        assert failed.returncode == 1, args
        assert failed.stderr.splitlines()[-1].startswith("error: "), failed.stderr
        assert message in failed.stderr.splitlines()[-1]
        assert "Traceback" not in failed.stderr
    assert run_data("build-ash", raw).returncode == 2
    assert "contrail-data build-ash" in run_data("inspect", raw).stderr


def test_times_that_would_be_read_as_others_are_refused(raw: Path, tmp_path: Path) -> None:
    """64-bit nanoseconds wrap round: numpy takes the year 3000 for 1830."""
    build_small(raw, tmp_path / "s.zarr")
    for text in ("1500-01-01", "3000-01-01", "NaT", "now", "", "15.08.2023"):
        for command in (
            ("subset", tmp_path / "s.zarr", "--since", text),
            ("subset", tmp_path / "s.zarr", "--until", text),
            ("build-ash", raw, "--time", text),
        ):
            done = run_data(*command, "-o", tmp_path / "x.zarr")
            assert done.returncode == 2
            assert command[-2] in done.stderr
            assert "no effect" not in done.stderr
            assert any(part in done.stderr for part in ("give it in UTC", "is not in 1970 to 2199"))


@pytest.mark.parametrize(
    "text",
    ["2024-03-01 12:40", "2024-03-01T12:40:00Z", "2024-03-01T13:40+01:00", "2024/03/01 12:40:00.000", "20240301T1240"],
)
def test_options_take_times_as_other_programs_write_them(text: str, tmp_path: Path) -> None:
    done = run_data("synth-scans", tmp_path, "--scans", 1, "--bands", "14", "--start", text)
    assert done.returncode == 0, done.stderr
    assert [path.name[:42] for path in tmp_path.iterdir()] == ["OR_ABI-L1b-RadM1-M6C14_G16_s20240611240000"]


@pytest.mark.parametrize(
    "url",
    [
        "https://ann:s3cr3t@host/a.zarr",
        "https://s3cr3t@host:8000/a.zarr",
        "s3://AKIA:s3c/r3t@bucket/a.zarr",
        "s3://s3cr3t@bucket/a.zarr",
        "az://box/a.zarr?sv=2022&sig=s3cr3t",
        "abfs://box:s3cr3t@account/a.zarr",
        "ftp://ann:s3cr3t@host/a.zarr",
    ],
)
def test_urls_with_secrets_are_refused_without_repeating_them(
    url: str, raw: Path, sealed40: Path, tmp_path: Path
) -> None:
    (tmp_path / "data_catalog.yaml").write_text(f"sources: {{a: {{args: {{urlpath: '{url}'}}}}}}")
    for command in (
        ("inspect", url),
        ("inspect", "a"),
        ("build-ash", raw, "--size", 32, "-o", url),
        ("build-ash", url, "-o", tmp_path / "s.zarr"),
        ("catalog", "add", "b", url),
        ("push", sealed40, url),
        ("pull", url),
    ):
        done = run_data(*command, cwd=tmp_path)
        assert done.returncode == 1, command
        assert "holds a user, a password or a token" in done.stderr
        assert not re.search("s3c/?r3t", done.stderr)


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:9000/bucket/a@b:1", "s3://bucket/a?b", "abfs://box@account.dfs.core.windows.net/a", "C:a@b"],
)
def test_addresses_without_secrets_pass(url: str) -> None:
    assert place_of(url).url == url
