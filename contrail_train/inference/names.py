"""Names of exported files, checked without torch."""

from pathlib import Path

from contrail_data.errors import ContrailError
from contrail_data.storage.files import check_new

SUFFIXES = (".pt2", ".onnx")


def check_exported(out: Path, overwrite: bool) -> None:
    """Check, before the work, that a model can be exported to a file, and create its folder.

    Args:
        out: The file.
        overwrite: Whether it may exist.

    Raises:
        ContrailError: If it is of another format, exists or cannot be written.
    """
    if out.suffix not in SUFFIXES:
        raise ContrailError(f"{out}: not a format of exported models; choose a name that ends in .pt2 or .onnx")
    check_new(out, overwrite, *SUFFIXES)
