"""Names that a package offers but imports at their first use, so that command lines start quickly."""

from collections.abc import Callable, Mapping
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
