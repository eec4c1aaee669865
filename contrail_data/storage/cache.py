"""The user's cache folder: what can be fetched or computed again."""

import os
from pathlib import Path


def cache_folder(kind: str) -> Path:
    """Return where files of a kind are kept.

    Args:
        kind: Name of the kind.

    Returns:
        A folder in $CONTRAIL_CACHE, or else in the user's cache folder; it need not exist.
    """
    import platformdirs

    return Path(os.environ.get("CONTRAIL_CACHE") or platformdirs.user_cache_path("contrail")) / kind
