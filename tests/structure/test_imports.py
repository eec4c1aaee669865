"""Imports: which packages `--help` imports, and which modules may import each other."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.places import PROJECT
from helpers.stores import copy_as_predictions

PACKAGES = ("contrail_data", "contrail_train")
LARGE = ("torch", "timm", "dask", "xarray", "zarr")
HEAVY = (*LARGE, "numpy", "pandas", "scipy", "matplotlib")


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


REFUSED = {
    "contrail_data": {
        "no such store": [
            *("inspect missing.zarr", "stats s.zarr missing.zarr", "report missing.zarr", "recipe missing.zarr"),
            *("preview missing.zarr", "preview s.zarr --prediction missing.zarr", "diff s.zarr missing.zarr"),
            *("verify missing.zarr", "verify s.zarr --repair-from missing.zarr", "audit s.zarr missing.zarr"),
            *("splits missing.zarr", "propagate missing.zarr -o x.zarr", "compare-labels s.zarr missing.zarr"),
            *("pseudo-label missing.zarr --model builtin:starter -o x.zarr", "merge s.zarr missing.zarr -o x.zarr"),
            *("append missing.zarr raw -o x.zarr", "subset missing.zarr -o x.zarr", "push missing.zarr x"),
            *("pull missing.zarr", "catalog add x missing.zarr"),
        ],
        "not a store (it has no zarr.json)": ["inspect empty", "inspect note.txt", "verify empty", "pull empty"],
        "attributes are not those that were sealed": ["inspect damaged.zarr", "merge damaged.zarr -o x.zarr"],
        "no such run, file or catalog entry": ["pseudo-label s.zarr --model missing -o x.zarr"],
        "only cpu and cuda are supported": ["pseudo-label s.zarr --model builtin:starter -o x.zarr --device gpu"],
        "exists; choose another -o": [
            *("report s.zarr -o note.txt", "recipe s.zarr -o note.txt", "splits s.zarr -o note.txt"),
            *("audit s.zarr -o note.txt", "composites show ash --scan kinds --picture note.txt"),
        ],
        "no such folder or files": ["build-ash missing -o x.zarr", "append s.zarr missing -o x.zarr"],
        "no such folder; give": ["build-ash empty -o x.zarr", "append s.zarr empty -o x.zarr"],
        "contains no ABI files": [
            *("build-ash empty --source abi -o x.zarr", "composites show ash --scan empty --picture x.png"),
        ],
        "satpy has no such reader": ["build-ash kinds --reader ahi -o x.zarr"],
        "holds predictions, not samples": [
            *("pseudo-label predicted.zarr --model builtin:starter -o x.zarr", "propagate predicted.zarr -o x.zarr"),
            *("append predicted.zarr raw -o x.zarr", "subset predicted.zarr -o x.zarr", "audit predicted.zarr"),
            *("merge s.zarr predicted.zarr -o x.zarr", "recipe predicted.zarr", "splits predicted.zarr"),
        ],
        "exists and is not a store; choose": [
            "pseudo-label s.zarr --model builtin:starter -o note.txt",
            *("propagate s.zarr -o full", "push s.zarr full"),
            *("subset s.zarr -o full", "merge s.zarr -o note.txt", "append s.zarr raw -o full"),
            *("build-ash kinds -o full", "build recipe.yaml -o full"),
        ],
        "archives are searched by time": ["build-ash goes-east -o x.zarr"],
        "cannot be read": ["build missing.yaml -o x.zarr"],
        "not a number of pixels": ["pseudo-label s.zarr --model builtin:starter -o x.zarr --min-pixels x"],
        "lies inside the store": ["subset s.zarr -o s.zarr/x.zarr"],
        "not a place": ["build-ash kinds -o x.zarr --at 33"],
    },
    "contrail_train": {
        "no such store": [
            *("evaluate builtin:starter missing.zarr", "compare builtin:starter builtin:starter missing.zarr"),
            *("predict builtin:starter missing.zarr -o x.zarr", "submit missing.zarr -o x.csv"),
            *(
                "export builtin:starter -o x.pt2 --check missing.zarr",
                "run unet2d --out x --set data.train=missing.zarr",
            ),
            *(
                "run unet2d --dry-run --set data.train=missing.zarr",
                "rounds unet2d --out x --set data.train=missing.zarr",
            ),
            "run unet2d --out x --set data.train=s.zarr --set data.validation=missing.zarr",
            "run unet2d --out x --set data.train=s.zarr --set data.teacher=missing.zarr",
            "pipeline unet2d_v2 --out x --set data.train=missing.zarr",
            "pipeline unet2d_v2 --out x --set data.train=s.zarr --set calibrate_on=missing.zarr",
            "sweep space.yaml --out x",
        ],
        "attributes are not those that were sealed": [
            *("evaluate builtin:starter damaged.zarr", "run unet2d --out x --set data.train=damaged.zarr"),
        ],
        "data.train: is empty": ["run unet2d --out x", "rounds unet2d --out x", "pipeline unet2d_v2 --out x"],
        "is named twice": ["run unet2d --out x --set data.train=[s.zarr,s.zarr]"],
        "has composite 'ash', not 'ash_wide'": [
            "run unet2d --out x --set data.train=s.zarr --set data.composite=ash_wide"
        ],
        "folds.csv: ": ["run unet2d --out x --set data.train=s.zarr --set data.folds=folds.csv"],
        "only cpu and cuda are supported": [
            *("run unet2d --out x --set data.train=s.zarr --set device=gpu", "soup done done -o x --device gpu"),
            *("evaluate builtin:starter s.zarr --device gpu", "sweep space.yaml --out x --device gpu"),
        ],
        "no such run, file or catalog entry": [
            *(
                "evaluate missing s.zarr",
                "predict-scans missing kinds -o x.nc",
                "publish missing x",
                "soup done missing -o x",
            ),
        ],
        "not a finished run": [
            "run unet2d --out x --set data.train=s.zarr --set start=missing",
            "run unet2d --out x --set data.train=s.zarr --set data.holdout=0 --set calibration.from=missing",
        ],
        "full: exists and is not a": [
            *("run unet2d --out full --set data.train=s.zarr", "rounds unet2d --out full --set data.train=s.zarr"),
            *("pipeline unet2d_v2 --out full --set data.train=s.zarr", "soup done done -o full"),
            "publish builtin:starter full",
        ],
        "a mean takes at least two runs": ["soup done -o x"],
        "not a timm model; did you mean resnet": [
            *(
                f"{command} --out x --set data.train=s.zarr --set model.encoder=resnet999"
                for command in ("run unet2d", "rounds unet2d")
            ),
        ],
        "weights of RAFT cannot be read": [
            "run unet2d --out x --set data.train=s.zarr --set data.frames=[0,1] --set model.mixer.kind=mean "
            "--set data.warp=true --set data.flow.method=raft --set data.flow.weights=missing.pth"
        ],
        "holds predictions, not samples": [
            *("evaluate builtin:starter predicted.zarr", "predict builtin:starter predicted.zarr -o x.zarr"),
            "run unet2d --out x --set data.train=s.zarr --set data.validation=predicted.zarr",
        ],
        "holds samples, not predictions": ["submit s.zarr -o x.csv"],
        "exists and is not a store; choose": ["predict builtin:starter s.zarr -o full"],
        "exists; choose another -o": [
            *("predict builtin:starter s.zarr -o note.csv", "submit predicted.zarr -o note.csv"),
            "predict-scans builtin:starter goes-east --time 2024-03-01 -o note.geojson",
            "predict-scans builtin:starter goes-east --time 2024-03-01 -o note.nc",
        ],
        "does not exist": ["compare-masks missing.nc missing.nc"],
        "archives are searched by time": ["predict-scans builtin:starter goes-east -o x.nc"],
        "not a format of exported models": ["export builtin:starter -o x.txt"],
        "not a format of scenes": ["predict-scans builtin:starter kinds -o x.foo"],
        "files of several kinds": ["predict-scans builtin:starter kinds -o x.nc"],
        "contains no ABI files": [
            *("predict-scans builtin:starter missing -o x.nc", "predict-scans builtin:starter empty -o x.nc"),
        ],
        "contains no files; check the path": ["predict-scans builtin:starter empty --reader auto -o x.nc"],
        "satpy has no such reader": ["predict-scans builtin:starter kinds --reader ahi -o x.nc"],
    },
}
"""Command lines by what they are refused with, before anything large is imported."""


@pytest.mark.slow
@pytest.mark.parametrize("package", PACKAGES)
def test_what_was_typed_wrong_is_refused_before_anything_large_is_imported(
    package: str, sealed40: Path, tmp_path: Path
) -> None:
    shutil.copytree(sealed40, tmp_path / "s.zarr")
    shutil.copytree(sealed40, tmp_path / "damaged.zarr")
    group = tmp_path / "damaged.zarr/zarr.json"
    content = json.loads(group.read_text())
    group.write_text(json.dumps(content | {"attributes": content["attributes"] | {"samples": 3}}))
    copy_as_predictions(sealed40, tmp_path / "predicted.zarr")
    for folder in ("kinds", "empty", "full", "done"):
        (tmp_path / folder).mkdir()
    for file in (
        "note.txt",
        "note.csv",
        "note.geojson",
        "note.nc",
        "full/note.txt",
        "done/config.yaml",
        "done/calibration.json",
    ):
        (tmp_path / file).touch()
    (tmp_path / "space.yaml").write_text("settings: {data.train: [missing.zarr]}\nsearch: {seed: [0, 1]}\n")
    for satellite in (16, 18):
        start = "20232561536173_e20232561538546_c20232561539034"
        (tmp_path / f"kinds/OR_ABI-L1b-RadC-M6C11_G{satellite}_s{start}.nc").touch()
    program = f"""
import contextlib, io, json, sys
from {package}.cli.main import main

for message, commands in json.loads(sys.argv[1]).items():
    for command in commands:
        sys.argv = ["{package.replace("_", "-")}", *command.split()]
        with contextlib.redirect_stderr(io.StringIO()) as answer, contextlib.suppress(SystemExit):
            main()
        large = [name for name in {LARGE} if name in sys.modules]
        if large or message not in answer.getvalue() or answer.getvalue().count("\\n") != 1:
            sys.exit(f"{{command}}: {{answer.getvalue()}} {{large}}")
"""
    before = sorted(tmp_path.rglob("*"))
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(REFUSED[package])], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert sorted(tmp_path.rglob("*")) == before


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
