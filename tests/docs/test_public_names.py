"""The names that the packages offer: they are imported lazily, and the examples of their documentation hold."""

from __future__ import annotations

import doctest
import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import contrail_data
import contrail_train

PACKAGES = (contrail_data, contrail_train)
WITHOUT_EXAMPLE = {"ContrailError", "composites", "from_satpy"}
"""An exception, a module, and what needs an extra."""


def offered(package: ModuleType) -> dict[str, Any]:
    return {name: getattr(package, name) for name in package.__all__ if not name.startswith("__")}


def test_importing_the_packages_imports_nothing_heavy() -> None:
    heavy = ("torch", "timm", "dask", "zarr", "xarray", "numpy", "pandas", "scipy", "pydantic")
    program = f"import sys, contrail_data, contrail_train; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_lists_what_it_offers_and_refuses_other_names(package: ModuleType) -> None:
    assert set(offered(package)) <= set(dir(package))
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'nothing'"):
        _ = package.nothing


@pytest.mark.parametrize("package", PACKAGES)
def test_every_function_has_an_example(package: ModuleType) -> None:
    without = {name for name, value in offered(package).items() if ">>> " not in (inspect.getdoc(value) or "")}
    assert without <= WITHOUT_EXAMPLE


@pytest.mark.filterwarnings("ignore:train_metadata.json is partial")
@pytest.mark.parametrize(
    ("package", "name"),
    [(package, name) for package in PACKAGES for name in sorted({*offered(package)} - WITHOUT_EXAMPLE)],
)
def test_an_example_gives_what_it_states(
    package: ModuleType, name: str, examples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(examples)
    (example,) = doctest.DocTestFinder(recurse=False).find(getattr(package, name), name, module=False, globs={})
    assert example.examples
    lines: list[str] = []
    assert doctest.DocTestRunner(verbose=False).run(example, out=lines.append).failed == 0, "".join(lines)
