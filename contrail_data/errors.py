"""Errors that a user can cause, each reported in one line (what, why and the remedy), and exit codes."""

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every command."""

    DONE = 0
    """The command did what was asked."""
    FAILED = 1
    """An error stopped the command."""
    USAGE = 2
    """The command line is wrong: an unknown option, or a missing or contradictory value."""
    SET_ASIDE = 3
    """The command finished, but some inputs were set aside, such as broken records or files, or records without a
    prediction. Each is reported in one line."""
    FOUND = 4
    """The command finished and found what it looks for: differences (`diff`), leaks or contradicting labels (`audit`),
    damage (`verify`), bad entries (`catalog check`) or another store than that of a recipe (`build`)."""
    INTERRUPTED = 130
    """Ctrl-C (SIGINT). The same command continues where it stopped."""
    TERMINATED = 143
    """SIGTERM, from a batch system for example. The same command continues where it stopped."""


class ContrailError(Exception):
    """Ends a command with its message on one line, without a traceback."""

    exit_code = ExitCode.FAILED


class UsageError(ContrailError):
    """The command line asks for what makes no sense."""

    exit_code = ExitCode.USAGE


class FoundDifference(ContrailError):
    """What a command made differs from what it was asked to make."""

    exit_code = ExitCode.FOUND


class FoundDamage(ContrailError):
    """A command that looks for damage found some."""

    exit_code = ExitCode.FOUND


class BadRecord(ContrailError):
    """One input among many cannot be used. It is reported and set aside, and the others are processed."""
