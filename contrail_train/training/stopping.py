"""SIGTERM and Ctrl-C during training, which have to wait until a step is finished and its checkpoint written."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from contrail_data.errors import ExitCode


@contextmanager
def stop_deferred() -> Iterator[threading.Event]:
    """Let SIGTERM and Ctrl-C only set an event, for a loop that has to end between two of its steps.

    A second Ctrl-C interrupts at once. Threads other than the main one receive no signals.

    Yields:
        The event; a loop may also set it by itself.

    Raises:
        KeyboardInterrupt: When the block ends, if Ctrl-C was received in it.
        SystemExit: When the block ends, if SIGTERM was received in it, or the event was set otherwise.
    """
    stop, received = threading.Event(), set[int]()

    def note(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and number in received:
            raise KeyboardInterrupt
        received.add(number)
        stop.set()

    is_main = threading.current_thread() is threading.main_thread()
    previous = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)} if is_main else {}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if signal.SIGINT in received:
        raise KeyboardInterrupt
    if stop.is_set():
        raise SystemExit(ExitCode.TERMINATED)
