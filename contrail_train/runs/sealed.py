"""JSON files that state the digest of what they hold, so that damage is noticed when they are read."""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from contrail_data.errors import ContrailError
from contrail_data.storage.files import open_regular, write_atomically

DIGEST = "digest"
Document = TypeVar("Document", bound=Mapping[str, Any])
_adapter_of = cache(TypeAdapter)
"""Making one takes longer than reading a file with it."""


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON file atomically, with the digest of its content.

    Args:
        path: The file.
        document: What it holds.
    """
    write_atomically(path, [json.dumps({**document, DIGEST: _digest(document)}, indent=1).encode()])


def read_json(path: Path, schema: type[Document], remedy: str) -> Document:
    """Read a file that `write_json` wrote, or an earlier version without a digest.

    Args:
        path: The file.
        schema: A `TypedDict`; other keys are left out.
        remedy: What to do if the file is damaged, for messages.

    Returns:
        The content.

    Raises:
        ContrailError: If the file is missing, cannot be read, was changed since it was written, or lacks something.
    """
    try:
        with open_regular(path) as file:
            document = json.loads(file.read())
        if document.pop(DIGEST, None) in (None, _digest(document)):
            return _adapter_of(schema).validate_python(document, strict=True)
        reason = "its content is not what was written"
    except FileNotFoundError:
        raise ContrailError(f"{path}: missing; {remedy}") from None
    except OSError as error:
        raise ContrailError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        reason = str(error)[:100]
    raise ContrailError(f"{path}: damaged ({reason}); {remedy}")


def _digest(document: Mapping[str, Any]) -> str:
    return "sha256:" + hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
