"""Addresses of models: what a command or a setting names is resolved to a run, pipeline, model folder or file here."""

from pathlib import Path

from contrail_data.model_folders.manifest import MANIFEST, verify_folder


def local_model(address: str | Path) -> Path:
    """Find the local folder or file of a model.

    Args:
        address: Path of a run, a pipeline, a model folder or an exported file.

    Returns:
        Its path. A model folder has been verified.
    """
    path = Path(address)
    if (path / MANIFEST).is_file():
        verify_folder(path)
    return path
