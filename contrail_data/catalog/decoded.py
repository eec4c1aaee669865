"""Stores as notebooks and scripts see them: pixels decoded to float32, samples found by record id.

The rest of this package works on pixels as they are stored, by `catalog.open_named`.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from xarray.core import indexing

from contrail_data.catalog.catalog import open_named
from contrail_data.composites import dequantise
from contrail_data.store import logits
from contrail_data.store.samples import as_text
from contrail_data.store.schema import DIMS, checksum_name

_INTERNAL = ("moments", *map(checksum_name, DIMS))
"""Variables by which stores are built and verified."""


def open_decoded(store: str | Path) -> xr.Dataset:
    """Open a store as a dataset with named axes, whose pixels are read when they are needed.

    Args:
        store: Path, URL, catalog name (its newest version) or `name@version`.

    Returns:
        `image` float32 in [0, 1] with axes (sample, time, channel, y, x), `mask` uint8 (sample, y, x) and what else the
        store holds by sample; stores of predictions have `probability` float32 and `frame_mask` uint8
        (sample, time, y, x) instead. `record_id` and `channel` are indexes, so `.sel` takes them. Scan time, latitude
        and longitude are coordinates. Attributes with structure, such as the composite, are JSON text, so that
        `to_netcdf` writes them.

    Raises:
        ContrailError: If the name is unknown, or the store cannot be opened.

    Examples:
        >>> import contrail_data
        >>> store = contrail_data.open_store("data/train.zarr")
        >>> record = store.sel(record_id=store.record_id[0].item(), channel="R")
        >>> record.image.dims, str(record.image.dtype), record.mask.dims
        (('time', 'y', 'x'), 'float32', ('y', 'x'))
        >>> with_contrails = store.isel(sample=store.positive_pixels.values > 0)
        >>> with_contrails.sizes["sample"] < store.sizes["sample"]
        True
    """
    opened = open_named(store)
    dataset = opened.drop_vars(_INTERNAL, errors="ignore")
    if "logit" in dataset:
        dataset = dataset.rename(logit="probability")
    for name, variable in [*dataset.variables.items()]:
        if name in dataset.xindexes:
            continue
        if name == "image":
            dataset[name] = _converted(variable, np.float32, dequantise)
        elif name == "probability":
            dataset[name] = _converted(variable, np.float32, logits.decode)
        elif variable.dtype.kind == "T":  # xarray and netCDF handle str objects better than NumPy's StringDType
            dataset[name] = _converted(variable, object, np.asarray)
    dataset = dataset.assign_coords(channel=as_text(dataset["channel"].values)) if "channel" in dataset else dataset
    dataset = dataset.assign_coords(record_id=("sample", dataset["record_id"].values))  # now, as an index needs them
    attributes = {name: value for name, value in opened.attrs.items() if value is not None}
    dataset.attrs = {name: json.dumps(v) if isinstance(v, dict) else v for name, v in attributes.items()}
    return dataset.set_xindex("record_id")


def _converted(
    stored: xr.Variable, dtype: npt.DTypeLike, convert: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
) -> xr.Variable:
    """A variable whose values are converted as they are read."""
    attributes = {name: value for name, value in stored.attrs.items() if name != "scale_factor"}
    lazy = indexing.LazilyIndexedArray(_Converted(stored, np.dtype(dtype), convert))
    return xr.Variable(stored.dims, lazy, attributes)


class _Converted(xr.backends.BackendArray):
    """An array that converts what another one reads.

    Args:
        stored: The other one.
        dtype: Type of the converted values.
        convert: Converts values.
    """

    def __init__(
        self, stored: xr.Variable, dtype: np.dtype[Any], convert: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
    ) -> None:
        self.shape, self.dtype = stored.shape, dtype
        self._stored, self._convert = stored, convert

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._read)

    def _read(self, key: tuple[int | slice, ...]) -> npt.NDArray[Any]:
        return self._convert(self._stored[key].values).astype(self.dtype, copy=False)
