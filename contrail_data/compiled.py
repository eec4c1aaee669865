"""Loops over pixels, compiled by numba at their first use.

They pass over the bytes once where numpy takes ten passes, and run without Python's lock, so that the threads of a
build do not wait for each other. The machine code is kept in `__pycache__`, or in the user's cache if that folder
cannot be written; `benchmarks/build.py` shows what it saves.
"""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import numba

_P = ParamSpec("_P")
_R = TypeVar("_R")


def compiled(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Compile a function at its first call; the same values as in numpy, as no operation is reordered or merged.

    Args:
        function: Loops over arrays, by index: a loop over values is not turned into instructions for many at once.

    Returns:
        A function that does the same.
    """
    try:
        machine_code = numba.njit(function, nogil=True, cache=True, error_model="numpy")
    except RuntimeError:  # no folder for machine code can be written
        machine_code = numba.njit(function, nogil=True, error_model="numpy")
    return machine_code
