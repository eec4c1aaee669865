"""Files that people write or hand over, such as settings, composites, catalogs and tables, read without surprises.

Whatever a file holds, it is read in bounded time and memory, and what it may not hold is refused with a ValueError.
"""

import csv
import io
import re
from pathlib import Path
from typing import Any

import yaml

from contrail_data.errors import ContrailError
from contrail_data.storage.files import first_line
from contrail_data.storage.place import place_of

_TEXT_BYTES, _TABLE_BYTES = 4 << 20, 256 << 20
_VALUES, _LEVELS, _DIGITS = 200_000, 32, 100
_TAG = "tag:yaml.org,2002:"
_NUMBERS = {
    "int": r"[-+]?(0|[1-9][0-9_]*)|0x[0-9a-fA-F]+",
    "float": r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf)|\.(nan|NaN)",
}
"""As YAML 1.2 writes them: 1e-4 is a number, while 010 (8 in YAML 1.1) and 1:30 (90) are text."""


class _Loader(yaml.CSafeLoader):
    """Reads numbers as YAML 1.2 does, and refuses keys that come twice or are not text, and very long numbers."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (as PyYAML declares it)
        first: [(tag, pattern) for tag, pattern in resolvers if tag.removeprefix(_TAG) not in _NUMBERS]
        for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_scalar(self, node: Any) -> Any:
        if node.tag != f"{_TAG}str" and len(node.value) > _DIGITS:
            raise ValueError(f"line {node.start_mark.line + 1}: a number of {len(node.value)} digits")
        return super().construct_scalar(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        keys = set()
        for key, _ in node.value:
            shown = f"line {key.start_mark.line + 1}: key {str(key.value)[:40]!r}"
            if key.tag != f"{_TAG}str":
                raise ValueError(f"{shown} is not text, quote it")
            if key.value in keys:
                raise ValueError(f"{shown} occurs twice")
            keys.add(key.value)
        return super().construct_mapping(node, deep)


for name, pattern in _NUMBERS.items():
    _Loader.add_implicit_resolver(f"{_TAG}{name}", re.compile(f"^(?:{pattern})$"), list("-+.0123456789"))


def load_document(text: str) -> Any:
    """Load a YAML document whose number of values and levels is harmless, aliases written out.

    Args:
        text: The document.

    Returns:
        Plain data.

    Raises:
        ValueError: If it is larger, or not YAML, or a key comes twice or is not text.
    """
    level = 0
    try:
        for values, event in enumerate(yaml.parse(text, Loader=yaml.CSafeLoader)):
            level += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            _limit(values, level)
        document = yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(f"{line}{error.problem or error.context}") from None
    except Exception as error:  # a malformed number or time raises errors of many types
        raise ValueError(first_line(error)) from None
    values, unvisited = 0, [(document, 0)]
    while unvisited:  # aliases share a value, which is counted as often as it occurs
        value, level = unvisited.pop()
        values += 1
        _limit(values, level)
        children = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
        unvisited += ((child, level + 1) for child in children)
    return document


def _limit(values: int, levels: int) -> None:
    if values > _VALUES:
        raise ValueError(f"more than {_VALUES} values")
    if levels > _LEVELS:
        raise ValueError(f"more than {_LEVELS} levels deep")


def read_document(path: Path) -> Any:
    """Read a YAML file.

    Args:
        path: The file.

    Returns:
        Plain data.

    Raises:
        ContrailError: If the file cannot be read or is not YAML.
    """
    text = read_text(path)
    try:
        return load_document(text)
    except ValueError as error:
        raise ContrailError(f"{path}: not a readable YAML file ({first_line(error)}); correct it") from None


def read_table(path: Path, *columns: str) -> list[list[str]]:
    """Read columns of a CSV file whose first line names them.

    Args:
        path: The file.
        *columns: Names of the columns.

    Returns:
        The cells of each row, in the order of `columns`; empty where a row is too short.

    Raises:
        ContrailError: If the file cannot be read, is not a table, or lacks a column.
    """
    text = io.StringIO(read_text(path, _TABLE_BYTES), newline="")
    try:
        header, *rows = [row for row in csv.reader(text) if row] or [[]]
    except csv.Error as error:
        raise ContrailError(f"{path}: not a readable table ({first_line(error)}); correct it") from None
    if lacking := [column for column in columns if column not in header]:
        raise ContrailError(f"{path}: has no column {' and '.join(lacking)}; give another file")
    numbers = [header.index(column) for column in columns]
    return [[row[number] if number < len(row) else "" for number in numbers] for row in rows]


def read_text(path: Path, max_bytes: int = _TEXT_BYTES) -> str:
    """Read a text file in UTF-8, with or without a byte order mark.

    Args:
        path: The file.
        max_bytes: Size from which it is refused.

    Returns:
        Its text.

    Raises:
        ContrailError: If it is larger, not UTF-8, or cannot be read.
    """
    try:
        if path.exists() and not path.is_file():
            raise ContrailError(f"{path}: not a file; check the path")
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise ContrailError(f"{path}: cannot be read ({error.strerror}); check the path and permissions") from None
    return _decoded(content, path, max_bytes)


def read_remote_text(url: str) -> str:
    """Read a text file in UTF-8, with or without a byte order mark, from a URL.

    Args:
        url: URL of the file.

    Returns:
        Its text.

    Raises:
        ContrailError: If it is larger than 4 MiB, not UTF-8, or cannot be read.
    """
    folder, _, name = url.rpartition("/")
    place = place_of(folder)
    size = place.size(name)
    if size is None:
        raise ContrailError(f"{url}: no such file; check the address")
    if size > _TEXT_BYTES:
        raise ContrailError(f"{url}: larger than {_TEXT_BYTES >> 20} MB; give another file")
    return _decoded(place.read(name), url, _TEXT_BYTES)


def _decoded(content: bytes, where: object, max_bytes: int) -> str:
    if len(content) > max_bytes:
        raise ContrailError(f"{where}: larger than {max_bytes >> 20} MB; give another file")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ContrailError(f"{where}: not UTF-8 at byte {error.start}; correct it") from None
