"""Every command and every Python block of the README, the tutorials and most how-to guides runs."""

from __future__ import annotations

import functools
import itertools
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from contrail_data.synthetic import abi
from helpers.cli import run_data, run_train
from helpers.places import REAL_DATA
from helpers.shared import shared

ROOT = Path(__file__).parents[2]
PAGES = [
    "README.md",
    *(f"docs/tutorials/{name}.md" for name in ("records", "scans", "pseudo-labels", "sharing")),
    *(
        f"docs/how-to/{name}.md"
        for name in (
            "recipes",
            "repair",
            "distributed-build",
            "composite",
            "contrails",
            "export",
            "share-model",
            "distil",
            "own-labels",
            "follow",
            "kaggle",
            "python",
        )
    ),
]
SIDE = "64"
SMALL_DATA = {"synth": ["--records", "32", "--size", SIDE, "--scenery", "clear"], "build-ash": ["--size", SIDE]}
"""Options that make the commands of `contrail-data` quick; they replace options of the same name."""
SMALL_SCANS = {"size": (300, 300), "centre": (26.485, -88.97)}
"""A third of the pixels of `synth-scans`, around a site of the lattice of OpenContrails."""
FEW_SCANS = {"docs/how-to/contrails.md": 3}
"""Pages for which fewer of the eight scans show the same; tracking takes long in scans of a hardly trained model."""
SMALL_MODEL = ["encoder=test_resnet", "decoder.channels=[8,8,8,8,8]"]
SMALL_RUN = [
    "loggers.pictures=0",
    "epochs=1",
    "batch_size=8",
    "augment.affine=null",
    *(f"model.{setting}" for setting in SMALL_MODEL),
]

PREPARATION = (
    "contrail-data synth data/records",
    "contrail-data synth data/more --seed 5",
    "contrail-data synth data/tf --records 64 --format tfrecords",
    "contrail-data synth-scans data/abi",
    "contrail-data build-ash data/records --split train -o data/train.zarr",
    "contrail-data build-ash data/records --split validation -o data/validation.zarr",
    "contrail-data push data/train.zarr shared/train.zarr",
    "contrail-train run unet2d --out runs/a --set data.train=data/train.zarr",
    "contrail-train export runs/a -o detector.pt2",
)
"""Commands of several pages, which are run once for all."""


class Block(NamedTuple):
    """A fenced block, or the commands in a cell of a table."""

    language: str
    title: str
    text: str


def blocks_of(page: str) -> Iterator[Block]:
    """The commands, Python blocks and files that a page gives its reader."""
    text = (ROOT / page).read_text()
    table = "\n".join(command for row in re.findall(r"^\|.*$", text, re.M) for command in re.findall(r"`([^`]+)`", row))
    yield Block("", "", "\n".join(line for line in table.splitlines() if line.startswith("contrail-")))
    for language, title, content in re.findall(r'^```(\w*)(?: title="([^"]+)")?\n(.*?)^```', text, re.M | re.S):
        yield Block(language, title, content)


def with_options(command: list[str], options: list[str]) -> list[str]:
    """The command with the options in place of its own of the same name."""
    for option, value in zip(options[::2], options[1::2], strict=True):
        if option in command:
            command[command.index(option) + 1] = value
        else:
            command = [*command, option, value]
    return command


def run(line: str, folder: Path) -> None:
    """Run a command of the documentation at a small size; a file that it writes may exist already."""
    program, *command = shlex.split(line, comments=True)
    if command[:1] == ["predict-scans"] and "data/ahi" in command:  # a part of the disk of 5500 x 5500 pixels
        command = [*command, "--area", "34", "138", "36", "141"]
    for option, value in itertools.pairwise(command):
        if option in ("-o", "--out", "--page") and (folder / value).is_file():
            (folder / value).unlink()
    if program == "contrail-data":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(abi, "write_abi", functools.partial(abi.write_abi, **SMALL_SCANS))
            result = run_data(*with_options(command, SMALL_DATA.get(command[0], [])))
    else:
        trains = command[0] in ("run", "pipeline", "rounds")
        result = run_train(*command, *(part for setting in SMALL_RUN for part in ("--set", setting) if trains))
    # An audit of a few synthetic records may find leaks, and a difference is not a failure.
    allowed = (0, 4) if command[0] in ("audit", "diff") else (0,)
    assert result.returncode in allowed, f"{line}\n{result.stderr}"


def keep_first_scans(folder: Path, count: int) -> None:
    """Remove the files of later scans."""
    start_of = {path: path.name.split("_")[3] for path in folder.iterdir()}
    kept = sorted(set(start_of.values()))[:count]
    for path, start in start_of.items():
        if start not in kept:
            path.unlink()


def needs_what_is_not_here(line: str) -> bool:
    """Commands on real Himawari files run where these are."""
    return "data/ahi" in line and not (REAL_DATA / "ahi").is_dir()


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the reader of any page has: frames, and what the commands of the preparation make."""

    def prepare(folder: Path) -> Path:
        (folder / "data/frames").mkdir(parents=True)
        rng = np.random.default_rng(0)
        for index in range(24):
            frame = rng.random((64, 64, 4)).astype(np.float16)
            frame[..., 3] = rng.random((64, 64)) < 0.05 * (index % 2)
            np.save(folder / "data/frames" / f"{index:03d}.npy", frame)
        if (REAL_DATA / "ahi").is_dir():
            (folder / "data/ahi").symlink_to(REAL_DATA / "ahi")
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            for line in PREPARATION:
                run(line, folder)
        return folder

    return shared(tmp_path_factory, "documentation", prepare)


@pytest.fixture
def workspace(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the prepared folder as the working folder."""
    folder = shutil.copytree(prepared, tmp_path / "workspace", symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("CONTRAIL_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_every_command_and_python_block_of_a_page_runs(page: str, workspace: Path) -> None:
    if page in FEW_SCANS:
        keep_first_scans(workspace / "data/abi", FEW_SCANS[page])
    for block in blocks_of(page):
        if block.language == "python":
            exec(compile(block.text, page, "exec"), {})
        elif block.title:
            (workspace / block.title).write_text(block.text)
        elif block.language == "":
            for line in block.text.splitlines():
                line = line.partition("  #")[0].strip()
                if line.startswith("contrail-") and line not in PREPARATION and not needs_what_is_not_here(line):
                    run(line, workspace)


def test_pages_hold_commands_and_python() -> None:
    """Otherwise the test above would pass by running nothing."""
    commands = [
        line for page in PAGES for block in blocks_of(page) for line in block.text.splitlines() if block.language == ""
    ]
    assert sum(line.startswith("contrail-") for line in commands) > 55
    assert sum(block.language == "python" for page in PAGES for block in blocks_of(page)) >= 4


def test_the_readme_fits_on_a_few_screens() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 900
