"""What the two command lines share: printing, refusing options, and how a command ends.

Only what `--help` needs is imported here; commands import the rest when they run.
"""

import errno
import inspect
import math
import os
import resource
import shutil
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import typer
from typer.core import TyperCommand

from contrail_data.errors import ContrailError, ExitCode, UsageError
from contrail_data.process import exit_on_sigterm

YEARS = range(1970, 2200)

OUTSIDE_CAUSES = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EMFILE,
    errno.EIO,
    errno.ESTALE,
}
"""Errors that no bug and no damaged store causes: permissions, a full disk, a disk or network that fails."""


class FiniteCommand(TyperCommand):
    """A command that refuses NaN, infinity and times that nanoseconds since 1970 cannot state as values of options."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command.

        Args:
            ctx: The options and their values.

        Returns:
            What the command returns.

        Raises:
            BadParameter: If a value is not finite, or a time of another age.
        """
        parameters: Sequence[Any] = self.params
        for parameter in parameters:
            value = ctx.params.get(parameter.name or "")
            for single in value if isinstance(value, list | tuple) else [value]:
                if isinstance(single, float) and not math.isfinite(single):
                    raise typer.BadParameter(f"{single} is not a finite number", ctx=ctx, param=parameter)
                if isinstance(single, datetime) and single.year not in YEARS:
                    raise typer.BadParameter(f"{single} is not in {YEARS[0]} to {YEARS[-1]}", ctx=ctx, param=parameter)
        return super().invoke(ctx)


def add_command(
    app: typer.Typer, command: Callable[..., None], *, name: str | None = None, panel: str | None = None
) -> None:
    """Add a command to a command line, with its docstring as help.

    Args:
        app: The command line.
        command: The function. Lines of a paragraph of its docstring are joined, so that the terminal wraps them.
        name: Name of the command, if it is not that of the function.
        panel: Panel of `--help` that lists the command.
    """
    paragraphs = (inspect.getdoc(command) or "").split("\n\n")
    text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    app.command(name, cls=FiniteCommand, help=text, rich_help_panel=panel)(command)


def run_app(app: typer.Typer) -> None:
    """Run a command line. An error that a user can cause ends in one line on stderr, never in a traceback.

    Args:
        app: The command line.

    Raises:
        SystemExit: Always, with an `ExitCode`.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # A large store has over a thousand files, and reading is fastest if all of them stay open.
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 65536)), hard))
    again = "run the same command again to continue"
    try:
        with exit_on_sigterm():
            app()
    except ContrailError as error:
        exit_with_error(str(error), error.exit_code)
    except KeyboardInterrupt:
        exit_with_error(f"interrupted; {again}", ExitCode.INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ExitCode.FAILED)
    except SystemExit as ended:  # also typer's answer to Ctrl-C
        if ended.code == ExitCode.INTERRUPTED:
            exit_with_error(f"interrupted; {again}", ExitCode.INTERRUPTED)
        if ended.code == ExitCode.TERMINATED:
            exit_with_error(f"terminated by a signal; {again}", ExitCode.TERMINATED)
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in OUTSIDE_CAUSES:
            exit_with_error(f"{error.filename or 'a file'}: {error.strerror}; see to that, and {again}")
        origin = traceback.extract_tb(error.__traceback__)[-1]
        reason = str(error).splitlines()[0][:200] if str(error) else "no reason given"
        exit_with_error(
            f"{type(error).__name__} in {Path(origin.filename).name}:{origin.lineno} ({reason}): a bug in contrail, or "
            "a damaged store; check the store with `contrail-data verify`, or report the bug"
        )


def exit_with_error(message: str, code: ExitCode = ExitCode.FAILED) -> NoReturn:
    """Print a message to stderr, on one line, and exit.

    Args:
        message: What is wrong, why, and the remedy.
        code: Exit code.

    Raises:
        SystemExit: Always.
    """
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


def print_table(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]], text_columns: Sequence[int] = (0,)
) -> None:
    """Print a table to stdout.

    Args:
        title: Line above the table; empty for none.
        header: Column headings.
        rows: Cells.
        text_columns: Indices of the columns with text, which are aligned left. The others hold numbers.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for column, name in enumerate(header):
        table.add_column(name, justify="left" if column in text_columns else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    # A log has no width: never cut a number there.
    console = Console() if sys.stdout.isatty() else Console(width=140)
    if title:
        console.print(title, markup=False, highlight=False, soft_wrap=True)
    console.print(table)


def print_fields(text_by_heading: Mapping[str, str]) -> None:
    """Print headings and their text to stdout: one line each in a log, wrapped on a terminal.

    Args:
        text_by_heading: Text by heading.
    """
    indent = max(map(len, text_by_heading)) + 2
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    for heading, text in text_by_heading.items():
        lines = textwrap.wrap(text, max(width - indent, 20), break_long_words=False, break_on_hyphens=False) or [""]
        print(f"{heading:<{indent}}" + ("\n" + " " * indent).join(lines))


def print_note(*messages: str) -> None:
    """Print notes to stderr.

    Args:
        *messages: The notes; empty ones are skipped.
    """
    for message in filter(None, messages):
        print(f"note: {message}", file=sys.stderr)


def print_written_store(out: str | Path, samples: int, resumed: int, digest: str, set_aside: int | None = None) -> None:
    """Print the summary line of a command that wrote a store.

    Args:
        out: The store.
        samples: Number of samples in the store.
        resumed: How many of them an earlier, interrupted command had already finished.
        digest: Digest of the store.
        set_aside: Number of bad records, if the command sets records aside.
    """
    finished = f" ({resumed} already finished)" if resumed else ""
    aside = "" if set_aside is None else f", {set_aside} set aside"
    print(f"{out}: {samples} samples{finished}{aside}, {digest}")


def is_store(name: str) -> bool:
    """Return whether there is a store, sealed or damaged, by what lies at its place.

    Args:
        name: Path, URL or catalog name.

    Returns:
        Whether a zarr group lies there.
    """
    from contrail_data.catalog.catalog import find_place
    from contrail_data.storage.place import check_address
    from contrail_data.store.schema import GROUP

    check_address(name)
    try:
        return find_place(name).size(GROUP) is not None
    except ContrailError:  # neither a place nor a name
        return False


def refuse_options(context: typer.Context, names: Iterable[str], reason: str) -> None:
    """End the command if options were given that have no effect.

    Args:
        context: The command as it was called.
        names: Parameters of the command.
        reason: Why they have none, to follow "has no effect".

    Raises:
        UsageError: If one of them was given, even with its default value.
    """
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in names and source is not None and source.name == "COMMANDLINE":
            option = max(parameter.opts, key=len)
            raise UsageError(f"{option}: has no effect {reason}; omit it")
