"""Raw satellite bands to zarr stores of composites such as ash RGB, which a team shares.

The rooms, in the order in which data passes: `scans` and `synthetic` hold and invent satellite files, `sources` reads
samples, `build` turns them into a store, `store` is its format, `catalog` names stores, `labels` predicts labels for
them, `splits` compares them, `reports` shows them, and `cli` offers all of it as commands. `model_folders` are shared
models as files. `geo` and `storage` serve the others. The functions below are imported at their first use, so that
command lines start quickly.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from contrail_data.catalog.catalog import open_named as open_store
    from contrail_data.scans.abi import open_abi
    from contrail_data.scans.satpy_reader import from_satpy

__version__ = "0.1.0"
__all__ = ["__version__", "from_satpy", "open_abi", "open_store"]

_PUBLIC = {
    "open_store": ("contrail_data.catalog.catalog", "open_named"),
    "open_abi": ("contrail_data.scans.abi", "open_abi"),
    "from_satpy": ("contrail_data.scans.satpy_reader", "from_satpy"),
}


def __getattr__(name: str) -> Any:
    """Import a public function at its first use.

    Args:
        name: Name of the function.

    Returns:
        The function.

    Raises:
        AttributeError: If there is no such function.
    """
    if name not in _PUBLIC:
        raise AttributeError(f"module 'contrail_data' has no attribute {name!r}")
    module, function = _PUBLIC[name]
    return getattr(import_module(module), function)
