"""The wheels that are collected are all that an installation without internet needs."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from importlib.metadata import distribution
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from helpers.places import PROJECT


@pytest.fixture
def wheels() -> ModuleType:
    spec = importlib.util.spec_from_file_location("wheels", PROJECT / "tools/wheels.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_dependency_is_collected_or_was_left_out(wheels: ModuleType) -> None:
    left_out = {"torch", "torchvision"}
    collected = wheels.needed_packages("contrail-kit", ["sweep"], left_out)
    stated = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    of_project = [*stated["dependencies"], *stated["optional-dependencies"]["sweep"]]
    for line in [*of_project, *(line for name in collected for line in distribution(name).requires or ())]:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            assert canonicalize_name(requirement.name) in collected | left_out, line
    assert "alembic" in collected  # of optuna, the extra
    assert not [name for name in collected if re.match("nvidia|cuda|triton|torch", name)]


def test_nothing_is_left_out_unless_requested(wheels: ModuleType) -> None:
    assert {"torch", "torchvision", "numpy"} <= wheels.needed_packages("contrail-kit")
