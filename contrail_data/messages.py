"""Messages on stderr: lines for people, or one JSON object a line for programs (`--log-format json`)."""

import json
import logging
import os
import sys
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

FORMAT_VARIABLE = "CONTRAIL_LOG_FORMAT"
"""Environment variable that selects the format, also for the processes that a command starts."""


class LogFormat(StrEnum):
    """Formats of messages."""

    TEXT = "text"
    JSON = "json"


class Kind(StrEnum):
    """What a message is, and what a line of text begins with."""

    INFO = "info"
    PROGRESS = "progress"
    NOTE = "note"
    WARNING = "warning"
    SET_ASIDE = "set aside"
    ERROR = "error"


def log_format() -> LogFormat:
    """Return the format of messages.

    Returns:
        That of the environment variable, else text.
    """
    return LogFormat.JSON if os.environ.get(FORMAT_VARIABLE) == LogFormat.JSON else LogFormat.TEXT


def print_message(kind: Kind, text: str, **values: Any) -> None:
    """Print a message to stderr.

    Args:
        kind: What it is.
        text: The message, of one line.
        **values: Numbers and names that only JSON shows, in addition to the text.
    """
    if log_format() is LogFormat.JSON:
        time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = json.dumps({"time": time, "kind": kind, "message": text, **values}, allow_nan=False)
    else:
        line = text if kind in (Kind.INFO, Kind.PROGRESS) else f"{kind}: {text}"
    print(line, file=sys.stderr, flush=True)


class MessageHandler(logging.Handler):
    """Prints what the packages log."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record.

        Args:
            record: The record.
        """
        print_message(Kind.INFO if record.levelno < logging.WARNING else Kind.WARNING, record.getMessage())
