"""Raw GOES bands to ash-RGB zarr stores that a team shares."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from contrail_data.scans.abi import open_abi
    from contrail_data.scans.satpy_reader import from_satpy


__version__ = "0.1.0"
__all__ = ["__version__", "from_satpy", "open_abi"]


def __getattr__(name: str) -> Any:
    if name == "open_abi":  # xarray and h5py when they are wanted: a command line answers before
        from contrail_data.scans.abi import open_abi

        return open_abi
    if name == "from_satpy":
        from contrail_data.scans.satpy_reader import from_satpy

        return from_satpy
    raise AttributeError(f"module 'contrail_data' has no attribute {name!r}")
