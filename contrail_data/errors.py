"""Errors a user can cause, each told in one line: what, why and the remedy."""


class ContrailError(Exception):
    """Ends a command with its message on one line and exit code 1; never a traceback."""


class BadRecord(ContrailError):
    """One input among many cannot be used; it is reported, set aside, and the rest goes on."""
