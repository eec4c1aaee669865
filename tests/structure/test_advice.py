"""Messages and help advise only commands and options that exist."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

import contrail_data
import contrail_train
from contrail_data.cli.main import app as data_app
from contrail_train.cli.main import app as train_app

OTHER_PROGRAMS = {"--nproc-per-node", "--always", "--dirty", "--abbrev", "--logdir"}
"""Options of torchrun, git and tensorboard."""
OPTION = re.compile(r"(?<![\w-])--?[a-z][a-z-]*")
COMMAND = re.compile(r"contrail-(?:data|train)((?: [a-z-]+)+)([^`\"]*)")


def options_of(command: Any, name: str) -> dict[str, set[str]]:
    """Return the options of each command, by its full name."""
    if hasattr(command, "commands"):
        return {k: v for own, part in command.commands.items() for k, v in options_of(part, f"{name} {own}").items()}
    return {name: {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}}


def texts(package: Path) -> Iterator[tuple[str, str]]:
    """Yield each text in the code of a package, with its place; a value in it is an X."""
    for file in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            place = f"{file.name}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.JoinedStr):
                yield place, "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield place, node.value


def test_every_option_and_command_in_a_text_exists() -> None:
    commands = options_of(typer.main.get_command(data_app), "contrail-data")
    commands |= options_of(typer.main.get_command(train_app), "contrail-train")
    known = set().union(*commands.values(), OTHER_PROGRAMS, {"--help", "--version"})
    wrong = []
    for package in (contrail_data, contrail_train):
        for place, text in texts(Path(package.__file__).parent):
            wrong += [f"{place}: {o}" for o in OPTION.findall(text) if o.startswith("--") and o not in known]
            for match in COMMAND.finditer(text):
                words = match[0].split()
                name = next((" ".join(words[:n]) for n in (3, 2) if " ".join(words[:n]) in commands), None)
                if name is not None:
                    wrong += [f"{place}: {name} {o}" for o in OPTION.findall(match[2]) if o not in commands[name]]
    assert not wrong
