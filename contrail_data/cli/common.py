"""What both command lines share: how a command ends when it cannot go on."""

from __future__ import annotations

import os
import resource
import shutil
import sys
import textwrap
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from contrail_data.errors import ContrailError
from contrail_data.labels.predictor import Symmetries

TIMES = ["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d"]
"""How times are written on a command line, UTC."""
Tta = Annotated[
    Symmetries | None,
    typer.Option("--tta", help="Average over these copies of an image. Default: none of a run, a pipeline's own."),
]
OverwriteFile = Annotated[bool, typer.Option("--overwrite", help="Replace the file that is there.")]
FRAMES = "labelled, all, or offsets from the labelled one, such as -1,0,1."
"""Help of an option `--frames`."""


def frames(text: str) -> Literal["all", "labelled"] | list[int]:
    """What `--frames` asks for. Raises ContrailError for anything else."""
    if text == "all" or text == "labelled":
        return text  # type: ignore[return-value]
    try:
        return sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise ContrailError(f"--frames {text!r}: give {FRAMES}") from None


def run(app: typer.Typer) -> None:
    """Run a typer app; an error a user can cause ends in one line on stderr and exit code 1, never a traceback."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # A large store is over a thousand files, and reading is fastest with all of them open.
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 65536)), hard))
    try:
        app()
    except ContrailError as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("interrupted: run the same command again to go on", code=130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except SystemExit as ended:
        if ended.code == 130:  # typer's answer to Ctrl-C
            fail("interrupted: run the same command again to go on", code=130)
        raise
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        reason = str(error).splitlines()[0][:200] if str(error) else "no reason given"
        where = f"{Path(at.filename).name}:{at.lineno}"
        fail(
            f"{type(error).__name__} in {where} ({reason}): a defect of contrail, or a damaged store: verify, or report"
        )


def fail(message: str, code: int = 1) -> NoReturn:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


def table(title: str, header: list[str], rows: list[list[str]], text: Sequence[int] = (0,)) -> None:
    """Print a table to stdout: columns in `text` are text, the others numbers."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    grid = Table(box=box.SIMPLE_HEAD)
    for i, name in enumerate(header):
        grid.add_column(name, justify="left" if i in text else "right", overflow="fold")
    for row in rows:
        grid.add_row(*row)
    # A log has no width: never cut a number there.
    console = Console() if sys.stdout.isatty() else Console(width=140)
    if title:
        console.print(title, markup=False, highlight=False, soft_wrap=True)
    console.print(grid)


def facts(told: dict[str, str]) -> None:
    """Print text by heading to stdout: one line each in a log, wrapped under its heading on a terminal."""
    indent = max(map(len, told)) + 2
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    for heading, text in told.items():
        lines = textwrap.wrap(text, max(width - indent, 20), break_long_words=False, break_on_hyphens=False) or [""]
        print(f"{heading:<{indent}}" + ("\n" + " " * indent).join(lines))


def line() -> list[str]:
    """The command as it was typed, for provenance."""
    return [Path(sys.argv[0]).name, *sys.argv[1:]]


CORES = os.cpu_count() or 1

Store = Annotated[str, typer.Argument(help="A store: path, URL or name in data_catalog.yaml.", metavar="STORE")]
Out = Annotated[str, typer.Option("-o", "--out", help="The store to write: path or URL (s3://...).")]
Workers = Annotated[int, typer.Option(min=1, help="How many, of threads or processes.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the store (or unfinished build) at -o.")]
