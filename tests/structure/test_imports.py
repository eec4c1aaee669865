"""Imports: which packages `--help` imports, and which modules may import each other."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.places import PROJECT

PACKAGES = ("contrail_data", "contrail_train")
HEAVY = ("torch", "timm", "dask", "xarray", "zarr", "numpy", "pandas", "scipy", "matplotlib")


def modules_in(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (PROJECT / folder).rglob("*.py"))


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def imports_in(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield (module, name) of each import; the name of a plain `import` is empty."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)


def private_names_used(tree: ast.Module) -> Iterator[str]:
    """Yield private names of the packages' modules that are imported, reached as attributes or patched by name."""
    aliases = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGES):
            for alias in node.names:
                if is_private(alias.name):
                    yield f"{node.module}.{alias.name}"
                aliases.add(alias.asname or alias.name)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id in aliases and is_private(node.attr):
                yield f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if node.value.startswith(PACKAGES) and any(map(is_private, node.value.split("."))):
                yield node.value
        elif isinstance(node, ast.Call) and len(node.args) >= 2 and isinstance(node.args[0], ast.Name):
            patched = node.args[1]
            if node.args[0].id in aliases and isinstance(patched, ast.Constant) and is_private(str(patched.value)):
                yield f"{node.args[0].id}.{patched.value}"


def test_no_test_module_imports_another_one() -> None:
    for path in modules_in("tests"):
        for module, name in imports_in(ast.parse(path.read_text())):
            parts = [*module.split("."), name]
            assert not any(part.startswith("test_") or part == "conftest" for part in parts), f"{path}: {module} {name}"
            assert parts[0] != "tests", f"{path}: {module}: import helpers as `from helpers. ...`"


@pytest.mark.slow
def test_training_imports_what_many_runs_do_not_need_only_at_its_first_use() -> None:
    late = ("wandb", "matplotlib", "scipy.optimize", "scipy.spatial", "torch._dynamo")
    program = f"import sys; import contrail_train.training.fit; print([name for name in {late} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
@pytest.mark.parametrize(("out", "message"), [("x.nc", "files of several kinds"), ("x.foo", "not a format of scenes")])
def test_scans_are_refused_before_anything_large_is_imported(tmp_path: Path, out: str, message: str) -> None:
    for satellite in (16, 18):
        start = "20232561536173_e20232561538546_c20232561539034"
        (tmp_path / f"OR_ABI-L1b-RadC-M6C11_G{satellite}_s{start}.nc").touch()
    program = f"""
import sys
from contrail_train.cli.main import main
sys.argv = ["contrail-train", "predict-scans", "builtin:starter", {str(tmp_path)!r}, "-o", {out!r}]
try:
    main()
finally:
    print([name for name in ("torch", "xarray", "zarr") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert message in done.stderr
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("evaluate", "builtin:starter", "missing.zarr"),
        ("compare", "builtin:starter", "builtin:starter", "missing.zarr"),
        ("predict", "builtin:starter", "missing.zarr", "-o", "x.zarr"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_missing_store_is_reported_before_torch_is_imported(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    program = f"""
import sys
from contrail_train.cli.main import main
sys.argv = ["contrail-train", *{arguments!r}]
try:
    main()
finally:
    print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert "error: missing.zarr: " in done.stderr
    assert done.stdout.strip() == "False"


@pytest.mark.slow
def test_nothing_uses_a_private_name_of_another_module() -> None:
    paths = modules_in("tests", "benchmarks", *PACKAGES)
    uses = {str(path.relative_to(PROJECT)): list(private_names_used(ast.parse(path.read_text()))) for path in paths}
    assert {path: names for path, names in uses.items() if names} == {}


@pytest.mark.slow
@pytest.mark.parametrize("package", PACKAGES)
def test_help_of_every_command_imports_no_heavy_package(package: str) -> None:
    program = f"""
import sys
from typer.main import get_command
from typer.testing import CliRunner
from {package}.cli.main import app

commands = get_command(app).commands
nested = [[name, inner] for name, command in commands.items() for inner in getattr(command, "commands", ())]
for arguments in ([], *([name] for name in commands), *nested):
    result = CliRunner().invoke(app, [*arguments, "--help"])
    assert result.exit_code == 0, (arguments, result.output)
print([name for name in {HEAVY} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
