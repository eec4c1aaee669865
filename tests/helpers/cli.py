"""Run the commands in the test process, where their imports are already loaded."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

from helpers.stores import copy_as_predictions


def run_data(*args: object, cwd: Path | None = None) -> Result:
    """Run `contrail-data` in this process."""
    from contrail_data.cli.main import main

    return run_command(main, *args, cwd=cwd)


def run_train(*args: object) -> Result:
    """Run `contrail-train` in this process."""
    from contrail_train.cli.main import main

    return run_command(main, *args)


get_command = functools.cache(typer.main.get_command)
"""Building the commands from the signatures takes longer than most of them run."""


@dataclass
class Result:
    returncode: int
    stdout: str
    stderr: str


def run_command(main: Callable[[], None], *args: object, cwd: Path | None = None) -> Result:
    """Run the `main` of a command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["contrail", *map(str, args)])
        patch.setattr(typer.main, "get_command", get_command)
        if cwd is not None:
            patch.chdir(cwd)
        with pytest.raises(SystemExit) as ended:
            main()
    return Result(int(ended.value.code or 0), out.getvalue(), err.getvalue())


def commands_of(app: typer.Typer) -> Iterator[tuple[str, Any]]:
    """Yield the name of each command of a command line, and the command."""
    pending = [("", typer.main.get_command(app))]
    while pending:
        prefix, command = pending.pop()
        for name, sub in getattr(command, "commands", {}).items():
            pending.append((f"{prefix} {name}".strip(), sub))
        if not hasattr(command, "commands"):
            yield prefix, command


def check_numbers(app: typer.Typer, folder: Path, store: Path) -> int:
    """Check that every number has two limits and that what is beyond them is a usage error; return how many."""
    shutil.copytree(store, folder / "x")  # what each required argument names: a store that looks like a finished run
    for file in ("config.yaml", "calibration.json"):
        (folder / "x" / file).touch()
    count = 0
    for name, command in commands_of(app):
        given = [
            part for p in command.params if p.required for part in (["x"] if p.opts[0][0] != "-" else [p.opts[-1], "x"])
        ]
        for option in command.params:
            annotation, info = str(option.type_descriptor.annotation), option.type_descriptor.parameter_info
            is_tuple = "tuple[float" in annotation
            if not is_tuple and "int" not in annotation and "float" not in annotation:
                continue
            count += 1
            assert is_tuple or (info.min is not None and info.max is not None), f"{name} {option.opts}: no limits"
            for value in ("nan", "inf", "-inf", "1e400", "true", *(() if is_tuple else ("1" + "0" * 30, "-1e30"))):
                with contextlib.chdir(folder), pytest.raises(typer.BadParameter) as error:
                    command.main([*given, option.opts[-1], *[value] * option.nargs], standalone_mode=False)
                assert error.value.param is option, f"{name} {option.opts} {value}"
                assert error.value.exit_code == 2
    return count


def help_pages(app: typer.Typer) -> Iterator[tuple[str, str, list[str]]]:
    """Yield the name of each command of a command line, its help, and its parameters without a help text."""
    for name, command in commands_of(app):
        yield name, command.help or "", [p.name for p in command.params if not getattr(p, "help", None)]


def check_examples(app: typer.Typer, program: str, folder: Path, store: Path) -> None:
    """Check that each command has examples, and takes each of them if `runs/a` and `runs/b` and the stores exist."""
    (folder / "data").mkdir()
    for run, file in itertools.product(("a", "b"), ("config.yaml", "calibration.json")):
        (folder / "runs" / run).mkdir(parents=True, exist_ok=True)
        (folder / "runs" / run / file).touch()
    for name, command in commands_of(app):
        title, *examples = (command.epilog or "").split("\n\n")
        assert title == "Examples:", f"{name}: no example; add one to examples.py"
        for example in examples:
            first, *words = shlex.split(example)
            given = words[len(name.split()) :]
            assert [first, *words[: len(name.split())]] == [program, *name.split()], example
            for word in words:
                if word.startswith("data/") and word.endswith(".zarr") and not (folder / word).exists():
                    if word == "data/predicted.zarr":
                        copy_as_predictions(store, folder / word)
                    else:
                        (folder / word).symlink_to(store)
            with contextlib.chdir(folder):
                command.make_context(name, given)
