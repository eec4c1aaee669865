"""Errors that a user can cause, each reported in one line: what, why and the remedy."""


class ContrailError(Exception):
    """Ends a command with its message on one line and exit code 1, without a traceback."""


class UsageError(ContrailError):
    """The command line asks for what makes no sense; the exit code is 2."""


class BadRecord(ContrailError):
    """One input among many cannot be used. It is reported and set aside, and the others are processed."""
