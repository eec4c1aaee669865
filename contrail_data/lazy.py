"""Names and classes that are imported at their first use, so that command lines start quickly."""

import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any


def lazy_names(package: str, origins: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make the module functions `__getattr__` and `__dir__` of a package (PEP 562).

    Args:
        package: Name of the package.
        origins: By the name that the package offers, `module:name` of the object, or the name of a module.

    Returns:
        `__getattr__`, which imports an object at its first use, and `__dir__`, which lists them all.
    """

    def _get(name: str) -> Any:
        if name not in origins:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, own = origins[name].partition(":")
        imported = import_module(module)
        return getattr(imported, own) if own else imported

    return _get, lambda: sorted(origins)


class _IsDask(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, getattr(sys.modules.get("dask.array.core"), "Array", ()))


class _DaskArray(metaclass=_IsDask):
    """Stands for `dask.array.Array` where xarray asks."""


def recognise_dask_lazily() -> None:
    """Let xarray tell dask arrays from others without importing dask's, which takes 0.6 s of CPU time in each command.

    xarray imports `dask.array` as soon as it is given an array, to ask whether that is one of dask's. As long as
    nothing else has imported it, none is. Nothing changes if xarray has imported it already, or asks differently by
    now.
    """
    with suppress(ImportError, AttributeError):
        import dask
        from xarray.namedarray import pycompat

        if "dask" not in pycompat._cached_duck_array_modules:
            answer = object.__new__(pycompat.DuckArrayModule)
            answer.module, answer.version = dask, pycompat.Version(dask.__version__)
            answer.type, answer.available = (_DaskArray,), True
            pycompat._cached_duck_array_modules["dask"] = answer
