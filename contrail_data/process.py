"""The running process: the command that it was started with."""

import sys
from pathlib import Path


def command_line() -> list[str]:
    """Return the command as it was typed, for the provenance of what it writes.

    Returns:
        Name of the program and its arguments.
    """
    return [Path(sys.argv[0]).name, *sys.argv[1:]]
