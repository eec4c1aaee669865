"""What the two command lines share: printing, refusing options, and how a command ends.

Only what `--help` needs is imported here; commands import the rest when they run.
"""

import errno
import functools
import inspect
import math
import os
import resource
import shutil
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup
from typing_extensions import override

from contrail_data import __version__
from contrail_data.errors import ContrailError, ExitCode, UsageError
from contrail_data.messages import FORMAT_VARIABLE, Kind, LogFormat, print_message
from contrail_data.process import exit_on_sigterm, speed_up_imports

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


_ParserError: type[Any] = typer.BadParameter.__bases__[0]
"""What the parser of command lines raises; typer has no public name for it."""


def _select_format(log_format: LogFormat) -> LogFormat:
    os.environ[FORMAT_VARIABLE] = log_format
    return log_format


LogFormatOption = Annotated[
    LogFormat,
    typer.Option(
        envvar=FORMAT_VARIABLE,
        is_eager=True,  # before values of other options are refused
        callback=_select_format,
        help="Progress, notes and errors on stderr as lines for people (text) or for programs (json).",
    ),
]


class FiniteCommand(TyperCommand):
    """A command with readable types in its help, which refuses NaN and infinity as values of options."""

    @override
    def get_params(self, ctx: Any) -> list[Any]:
        return _with_named_types(super().get_params(ctx))

    @override
    def invoke(self, ctx: Any) -> Any:
        parameters: Sequence[Any] = self.params
        for parameter in parameters:
            value = ctx.params.get(parameter.name or "")
            for single in value if isinstance(value, list | tuple) else [value]:
                if isinstance(single, float) and not math.isfinite(single):
                    raise typer.BadParameter(f"{single} is not a finite number", ctx=ctx, param=parameter)
        return super().invoke(ctx)


class ReadableGroup(TyperGroup):
    """A group of commands with readable types in its help."""

    @override
    def get_params(self, ctx: Any) -> list[Any]:
        return _with_named_types(super().get_params(ctx))


def _with_named_types(parameters: list[Any]) -> list[Any]:
    for parameter in parameters:
        _name_type(parameter)
    return parameters


def _name_type(parameter: Any) -> None:
    """Give a parameter a name for its type, unless it has one or lists its choices."""
    if parameter.param_type_name == "argument":
        parameter.display_type_rich = lambda ctx: None  # its own name stands there
    elif parameter.metavar is None:
        kind = str(getattr(getattr(parameter, "type_descriptor", None), "annotation", ""))
        if parameter.is_flag:
            parameter.metavar = ""
        elif "int" in kind or "float" in kind:
            parameter.metavar = "NUMBER" + " NUMBER" * (parameter.nargs - 1)
        elif "Path" in kind:
            parameter.metavar = "PATH"
        elif "str" in kind:
            parameter.metavar = "TEXT"


def new_group(text: str) -> typer.Typer:
    """Create a group of commands.

    Args:
        text: What they do.

    Returns:
        The group.
    """
    return typer.Typer(cls=ReadableGroup, no_args_is_help=True, help=text)


def new_app(program: str, text: str) -> typer.Typer:
    """Create a command line with completion of the shell and `--version`.

    Args:
        program: Its name.
        text: What it does.

    Returns:
        The command line.
    """
    app = typer.Typer(cls=ReadableGroup, no_args_is_help=True, pretty_exceptions_enable=False, help=text)

    def _print_version(wanted: bool) -> None:
        if wanted:
            print(f"{program} {__version__}")
            raise typer.Exit

    @app.callback()
    def _options(
        version: Annotated[
            bool,
            typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
        ] = False,
    ) -> None:
        pass

    return app


def add_command(
    app: typer.Typer,
    command: Callable[..., None],
    *,
    name: str | None = None,
    panel: str | None = None,
    examples: Sequence[str] = (),
) -> None:
    """Add a command to a command line, with its docstring as help and an option for the format of messages.

    Args:
        app: The command line.
        command: The function. Lines of a paragraph of its docstring are joined, so that the terminal wraps them.
        name: Name of the command, if it is not that of the function.
        panel: Panel of `--help` that lists the command.
        examples: Command lines to show below the options.
    """
    paragraphs = (inspect.getdoc(command) or "").split("\n\n")
    text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)

    @functools.wraps(command)
    def _run(*args: Any, log_format: LogFormat, **values: Any) -> None:
        command(*args, **values)

    signature = inspect.signature(command, eval_str=True)
    option = inspect.Parameter(
        "log_format", inspect.Parameter.KEYWORD_ONLY, default=LogFormat.TEXT, annotation=LogFormatOption
    )
    extended: Any = _run
    extended.__signature__ = signature.replace(parameters=[*signature.parameters.values(), option])
    epilog = "\n\n".join(("Examples:", *examples)) if examples else None
    app.command(name, cls=FiniteCommand, help=text, epilog=epilog, rich_help_panel=panel)(extended)


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
    speed_up_imports()
    again = "run the same command again: unfinished stores, copies, runs and series of scans continue"
    try:
        with exit_on_sigterm():
            sys.exit(app(standalone_mode=False))
    except _ParserError as error:
        if not (reason := error.format_message()):  # no argument at all, which is answered with the help
            sys.exit(ExitCode.USAGE)
        reason = reason[0].lower() + reason[1:].rstrip(".")
        see = " See" if reason.endswith("?") else "; see"
        exit_with_error(f"{reason}{see} {error.ctx.command_path} --help", ExitCode.USAGE)
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
    print_message(Kind.ERROR, " ".join(message.split()), exit_code=int(code))
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
    width = None if sys.stdout.isatty() else 140
    console = Console(width=width, markup=False, emoji=False)  # cells such as [a.zarr] and data:x: are no markup
    if title:
        console.print(title, highlight=False, soft_wrap=True)
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
        print_message(Kind.NOTE, message)


def print_set_aside(*lines: str) -> None:
    """Report inputs that could not be used to stderr.

    Args:
        *lines: One line on each.
    """
    for line in lines:
        print_message(Kind.SET_ASIDE, line)


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
    from contrail_data.catalog.stores import find_place
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
