"""Lets xarray tell dask arrays from others without importing dask's, which takes 0.6 s of CPU time in each command.

xarray imports `dask.array` as soon as it is given an array, to ask whether that is one of dask's. As long as nothing
else has imported it, none is.
"""

import sys
from contextlib import suppress


class _IsDask(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, getattr(sys.modules.get("dask.array.core"), "Array", ()))


class _DaskArray(metaclass=_IsDask):
    """Stands for `dask.array.Array` where xarray asks."""


def recognise_lazily() -> None:
    """Let xarray ask in this way, unless it has imported dask's arrays already, or asks differently by now."""
    with suppress(ImportError, AttributeError):
        import dask
        from xarray.namedarray import pycompat

        if "dask" not in pycompat._cached_duck_array_modules:
            answer = object.__new__(pycompat.DuckArrayModule)
            answer.module, answer.version = dask, pycompat.Version(dask.__version__)
            answer.type, answer.available = (_DaskArray,), True
            pycompat._cached_duck_array_modules["dask"] = answer
