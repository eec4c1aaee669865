"""Weights of RAFT that settings name, looked for without torch."""

import re
from pathlib import Path

from contrail_data.errors import ContrailError

FILE_REMEDY = "give a file of torchvision's weights"


def is_url(weights: str) -> bool:
    """Return whether weights are downloaded.

    Args:
        weights: A file or URL.

    Returns:
        Whether it is a URL.
    """
    return re.match(r"\w{2,}://", weights) is not None


def check_weights(weights: str | None) -> None:
    """Refuse a file of weights that does not exist.

    Args:
        weights: A file or URL; None for the weights that torchvision offers.

    Raises:
        ContrailError: If it is a file and does not exist.
    """
    if weights is not None and not is_url(weights) and not Path(weights).is_file():
        raise ContrailError(f"{weights}: weights of RAFT cannot be read (no such file); {FILE_REMEDY}")
