"""Encodes the metadata of arrays, and small arrays whole, as zarr and xarray do.

zarr-python hands every step of every array to an event loop in another thread. For the 30 variables of a store that
took ten times as long as encoding their bytes, see the table `parts` of `benchmarks/build.py`.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from numcodecs import VLenUTF8, Zstd
from xarray.backends.zarr import FillValueCoder, encode_zarr_variable
from xarray.conventions import encode_dataset_coordinates

_TEXT = {"name": "vlen-utf8", "configuration": {}}
_ZSTD = {"name": "zstd", "configuration": {"level": 0, "checksum": False}}
"""The compressor that zarr chooses by itself."""


def array_metadata(
    shape: Sequence[int],
    data_type: str,
    *,
    chunk: Sequence[int],
    separator: str,
    fill_value: float | str,
    codecs: Sequence[Mapping[str, Any]],
    attributes: Mapping[str, Any],
    dims: Sequence[str],
) -> bytes:
    """Encode the `zarr.json` of an array (https://zarr-specs.readthedocs.io/en/latest/v3/core/index.html).

    Args:
        shape: Its shape.
        data_type: Its data type, as zarr names it.
        chunk: Shape of a chunk file.
        separator: What lies between the numbers in the name of a chunk file.
        fill_value: Value of all pixels in a chunk that has no file.
        codecs: How a chunk file is encoded.
        attributes: Attributes of the array.
        dims: Names of the dimensions.

    Returns:
        The bytes.
    """
    metadata = {
        "shape": list(shape),
        "data_type": data_type,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": separator}},
        "fill_value": fill_value,
        "codecs": list(codecs),
        "attributes": dict(attributes),
        "dimension_names": list(dims),
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }
    return json.dumps(metadata, indent=2).encode()


def bytes_codec(dtype: npt.DTypeLike) -> dict[str, Any]:
    """Declare how numbers become bytes.

    Args:
        dtype: Their type.

    Returns:
        The codec, as JSON; single bytes have no order.
    """
    order = {} if np.dtype(dtype).itemsize == 1 else {"configuration": {"endian": "little"}}
    return {"name": "bytes", **order}


def variable_files(variables: xr.Dataset) -> dict[str, bytes]:
    """Encode variables as arrays of one chunk each.

    Args:
        variables: The variables; times may be NaT.

    Returns:
        Content by key. A variable whose values all equal the fill value has no chunk.
    """
    files: dict[str, bytes] = {}
    encoded, _ = encode_dataset_coordinates(variables)
    for name, variable in encoded.items():
        files |= _files(str(name), encode_zarr_variable(variable, name=name, zarr_format=3))
    return files


def _files(name: str, variable: xr.Variable) -> dict[str, bytes]:
    values, attributes = variable.values, dict(variable.attrs)
    if "_FillValue" in attributes:
        attributes["_FillValue"] = FillValueCoder.encode(attributes["_FillValue"], values.dtype)
    fill_value: float | str
    if values.dtype.kind in "OT":
        data_type, fill_value, codec, is_fill = "string", "", _TEXT, values == ""
        content = VLenUTF8().encode(values.astype(object))
    else:
        data_type, codec, is_float = values.dtype.name, bytes_codec(values.dtype), values.dtype.kind == "f"
        fill_value, is_fill = ("NaN", np.isnan(values)) if is_float else (0, values == 0)
        content = values.astype(values.dtype.newbyteorder("<")).tobytes()
    metadata = array_metadata(
        values.shape,
        data_type,
        chunk=[max(1, n) for n in values.shape],
        separator="/",
        fill_value=fill_value,
        codecs=[codec, _ZSTD],
        attributes=attributes,
        dims=[str(dim) for dim in variable.dims],
    )
    chunk = {} if np.all(is_fill) else {f"{name}/c{'/0' * values.ndim}": Zstd(level=0).encode(content)}
    return {f"{name}/zarr.json": metadata, **chunk}
