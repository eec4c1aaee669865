"""YAML documents that people write, such as settings, composites and catalogs, read without surprises."""

import re
from pathlib import Path
from typing import Any

import yaml

from contrail_data.errors import ContrailError
from contrail_data.storage.files import first_line

_DIGITS = 100
_TAG = "tag:yaml.org,2002:"
_NUMBERS = {
    "int": r"[-+]?(0|[1-9][0-9_]*)|0x[0-9a-fA-F]+",
    "float": r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf)|\.(nan|NaN)",
}
"""As YAML 1.2 writes them: 1e-4 is a number, while 010 (8 in YAML 1.1) and 1:30 (90) are text."""


class Loader(yaml.CSafeLoader):
    """Refuses keys that come twice, of which YAML would use the last, and what is expensive to build."""

    def construct_scalar(self, node: Any) -> Any:
        """Refuse a number with more digits than any has.

        Args:
            node: The scalar.

        Returns:
            Its text.

        Raises:
            ValueError: If it has more.
        """
        if node.tag != f"{_TAG}str" and len(node.value) > _DIGITS:
            raise ValueError(f"line {node.start_mark.line + 1}: a number of {len(node.value)} digits")
        return super().construct_scalar(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        """Refuse a key that is not text or comes twice.

        Args:
            node: The mapping.
            deep: Whether to build its values at once.

        Returns:
            The dict.

        Raises:
            ValueError: If there is such a key.
        """
        keys = set()
        for key, _ in node.value:
            shown = f"line {key.start_mark.line + 1}: key {str(key.value)[:40]!r}"
            if key.tag != f"{_TAG}str":
                raise ValueError(f"{shown} is not text, quote it")
            if key.value in keys:
                raise ValueError(f"{shown} occurs twice")
            keys.add(key.value)
        return super().construct_mapping(node, deep)


class _Yaml12Loader(Loader):
    """Reads numbers as YAML 1.2 does."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (as PyYAML declares it)
        first: [(tag, pattern) for tag, pattern in resolvers if tag.removeprefix(_TAG) not in _NUMBERS]
        for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
    }


for name, pattern in _NUMBERS.items():
    _Yaml12Loader.add_implicit_resolver(f"{_TAG}{name}", re.compile(f"^(?:{pattern})$"), list("-+.0123456789"))


def load_document(text: str) -> Any:
    """Load a YAML document.

    Args:
        text: The document.

    Returns:
        Plain data.

    Raises:
        ValueError: If it is not YAML, or a key comes twice.
    """
    try:
        return yaml.load(text, _Yaml12Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(first_line(error)) from None


def read_document(path: Path) -> Any:
    """Read a YAML file.

    Args:
        path: The file.

    Returns:
        Plain data.

    Raises:
        ContrailError: If the file cannot be read or is not YAML.
    """
    try:
        return load_document(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise ContrailError(f"{path}: not a readable YAML file ({reason}); correct it") from None
