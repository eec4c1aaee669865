"""Kill the program's own process, or its group, at a chosen file operation. Imports only the standard library."""

import fnmatch
import itertools
import os
import signal
import sys

EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link")


def kill_at_event(pattern: str, number: int = 1, events: tuple[str, ...] = EVENTS, group: bool = True) -> None:
    """Kill this process group with SIGKILL just before its file operation `number` on a path that matches `pattern`.

    Without `group`, only this process is killed.

    Operations are counted as audit events of the interpreter, so the moment does not depend on the speed of the
    machine. The path of a rename or a link is its target.
    """
    counter = itertools.count(1)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event not in events:
            return
        path = arguments[1 if event in ("os.rename", "os.link") else 0]
        matches = isinstance(path, str | os.PathLike) and fnmatch.fnmatchcase(os.fspath(path), pattern)
        if matches and next(counter) == number:
            os.killpg(0, signal.SIGKILL) if group else os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
