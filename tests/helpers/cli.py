"""Run the commands in the test process, where their imports are already loaded."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer


def run_data(*args: object, cwd: Path | None = None) -> Result:
    """Run `contrail-data` in this process."""
    from contrail_data.cli.main import main

    return run_command(main, *args, cwd=cwd)


def run_train(*args: object) -> Result:
    """Run `contrail-train` in this process."""
    from contrail_train.cli.main import main

    return run_command(main, *args)


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
        if cwd is not None:
            patch.chdir(cwd)
        with pytest.raises(SystemExit) as ended:
            main()
    return Result(int(ended.value.code or 0), out.getvalue(), err.getvalue())


def help_pages(app: typer.Typer) -> Iterator[tuple[str, str, list[str]]]:
    """Yield the name of each command of a command line, its help, and its parameters without a help text."""
    pending = [("", typer.main.get_command(app))]
    while pending:
        prefix, command = pending.pop()
        for name, sub in getattr(command, "commands", {}).items():
            pending.append((f"{prefix} {name}".strip(), sub))
        if not hasattr(command, "commands"):
            yield prefix, command.help or "", [p.name for p in command.params if not getattr(p, "help", None)]
