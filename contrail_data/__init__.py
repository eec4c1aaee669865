"""Raw satellite bands to zarr stores of composites such as ash RGB, which a team shares.

The rooms, in the order in which data passes: `scans` and `synthetic` hold and invent satellite files, `sources` reads
samples, `build` turns them into a store, `store` is its format, `catalog` names stores, `labels` predicts labels for
them, `splits` compares them, `reports` shows them, and `cli` offers all of it as commands. `model_folders` are shared
models as files. `geo`, `storage` and `settings` serve the others. The names below are what notebooks and scripts need;
they are imported at their first use.
"""

from typing import TYPE_CHECKING

from contrail_data.lazy import lazy_names

if TYPE_CHECKING:
    from contrail_data import composites
    from contrail_data.build.from_python import build_store
    from contrail_data.catalog.decoded import open_decoded as open_store
    from contrail_data.errors import ContrailError
    from contrail_data.scans.abi import open_abi
    from contrail_data.scans.satpy_reader import from_satpy
    from contrail_data.scans.scene import composite_of

__version__ = "0.1.0"
__all__ = [
    "ContrailError",
    "__version__",
    "build_store",
    "composite_of",
    "composites",
    "from_satpy",
    "open_abi",
    "open_store",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "ContrailError": "contrail_data.errors:ContrailError",
        "build_store": "contrail_data.build.from_python:build_store",
        "composite_of": "contrail_data.scans.scene:composite_of",
        "composites": "contrail_data.composites",
        "from_satpy": "contrail_data.scans.satpy_reader:from_satpy",
        "open_abi": "contrail_data.scans.abi:open_abi",
        "open_store": "contrail_data.catalog.decoded:open_decoded",
    },
)
