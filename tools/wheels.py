"""Collect what `pip install` needs into a folder, for machines without internet: make wheels.

    python tools/wheels.py wheels --without torch torchvision

The folder holds a wheel of this checkout and one of each package that it depends on, in the versions of this
environment, for its Python version and platform. What the other machine has already is left out, with what only that
depends on.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = "contrail-kit"


def needed_packages(project: str, extras: Iterable[str] = (), without: Iterable[str] = ()) -> set[str]:
    """List the packages that an installed one depends on, directly or not.

    Args:
        project: Name of the package.
        extras: Its extras.
        without: Packages to leave out, with what nothing else depends on.

    Returns:
        Their normalised names.
    """
    left_out = {canonicalize_name(name) for name in without}
    visited: set[tuple[str, str]] = set()
    pending = [(canonicalize_name(project), extra) for extra in ("", *extras)]
    while pending:
        name, extra = pending.pop()
        if (name, extra) in visited:
            continue
        visited.add((name, extra))
        for line in requires(name) or ():
            requirement = Requirement(line)
            dependency = canonicalize_name(requirement.name)
            applies = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
            if applies and dependency not in left_out:
                pending += [(dependency, wanted) for wanted in ("", *requirement.extras)]
    return {name for name, _ in visited} - {canonicalize_name(project)}


def main() -> None:
    """Fill the folder."""
    parser = argparse.ArgumentParser(description="Collect wheels for a machine without internet.")
    parser.add_argument("folder", type=Path, help="the folder, which is created")
    parser.add_argument("--extras", nargs="*", default=[], help="extras of this package, such as wandb onnx")
    parser.add_argument("--without", nargs="*", default=[], help="packages that the other machine has, such as torch")
    options = parser.parse_args()
    pip = [sys.executable, "-m", "pip"]
    pins = [f"{name}=={version(name)}" for name in sorted(needed_packages(PROJECT, options.extras, options.without))]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", options.folder, Path(__file__).parents[1]], check=True)
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", options.folder, *pins], check=True)
    print(f"{options.folder}: install with pip install --no-index --find-links {options.folder} {PROJECT}")


if __name__ == "__main__":
    main()
