"""The running process: how quickly it starts, its command, and how it ends on a signal or with its parent."""

import atexit
import ctypes
import gc
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from contrail_data.errors import ExitCode

_PR_SET_PDEATHSIG = 1
WAIT_POLICY = "OMP_WAIT_POLICY"
"""Environment variable that says whether the threads of OpenMP sleep while they wait for each other."""
_HIDDEN = "wandb"
"""A package that timm imports where it is installed, for a function that nothing here calls."""


def command_line() -> list[str]:
    """Return the command as it was typed, for the provenance of what it writes.

    Returns:
        Name of the program and its arguments.
    """
    return [Path(sys.argv[0]).name, *sys.argv[1:]]


def speed_up_imports() -> None:
    """Let a program import torch and timm sooner: collect garbage less often, and hide wandb until `unhide`."""
    gc.set_threshold(50_000)
    sys.modules.setdefault(_HIDDEN, None)  # type: ignore[arg-type]


def share_cores() -> None:
    """Let threads of one operation sleep while they wait for each other; this must come before torch is imported.

    They would use a core to wait, so that an operation takes several times as long where another thread or program has
    one of the cores. Prediction is as fast with threads that sleep where nothing else runs; a step of training, with
    more and shorter operations, takes a quarter more time.
    """
    os.environ.setdefault(WAIT_POLICY, "passive")


@contextmanager
def garbage_kept() -> Iterator[None]:
    """Collect no garbage during large imports, nor look later through what they leave, as modules stay.

    The collections of an import of torch and timm, and the first one after it, took 0.8 s of CPU time
    (benchmarks/first_step.py).

    Yields:
        Nothing.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        atexit.register(gc.unfreeze)  # or nanobind reports its modules as leaks


def unhide(package: str) -> None:
    """Let a package be imported that `speed_up_imports` hides.

    Args:
        package: Its name.
    """
    if package in sys.modules and sys.modules[package] is None:
        del sys.modules[package]


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Let SIGTERM, by which SLURM and others stop a program, end the block with SystemExit, so that all is closed.

    Yields:
        Nothing.
    """

    def end(*_: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not disturb what the first one ends
        raise SystemExit(ExitCode.TERMINATED)

    previous = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def end_with_parent(sent: signal.Signals = signal.SIGTERM) -> None:
    """Let the kernel send this process a signal when its parent ends, however that ends. To be called in the child.

    Args:
        sent: The signal.
    """
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, sent)
    if os.getppid() != parent:  # it ended meanwhile
        os.kill(os.getpid(), sent)


def leave_ending_to_parent() -> None:
    """Let a worker process ignore Ctrl-C and SIGTERM, which the parent receives too, and end with the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end_with_parent(signal.SIGKILL)
