"""Arrays are encoded exactly as zarr and xarray do it."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

from contrail_data.storage.place import Place
from contrail_data.store.encoding import variable_files
from contrail_data.store.layout import CODECS
from contrail_data.store.schema import DIMS, SHARD, ArraySpec, Codec, PixelDtype
from contrail_data.store.writer import create_arrays


def without_group(buffers: dict[str, Any]) -> dict[str, bytes]:
    return {key: buffer.to_bytes() for key, buffer in buffers.items() if key != "zarr.json"}


@pytest.mark.parametrize("absent", [False, True])
def test_variables_are_encoded_as_xarray_does(absent: bool) -> None:
    """With `absent`, all values are fill values."""
    numbers = np.zeros((3, 2)) if absent else np.array([[0, 1], [2, 3], [4, 5]])
    texts = np.array(["", "", ""] if absent else ["a", "", "é"], object)
    moments = np.array(["NaT"] * 6 if absent else ["2020-01-01", "NaT"] * 3, "datetime64[ns]").reshape(3, 2)
    variables = xr.Dataset(
        {name: (("sample", "time"), numbers.astype(name), {"units": "1"}) for name in ("int8", "uint8", "int32")}
        | {name: (("sample", "time"), numbers.astype(name)) for name in ("uint64", "float32", "float64")}
        | {"missing": ("sample", np.full(3, np.nan)), "text": ("sample", texts)}
        | {"new_text": ("sample", texts.astype(np.dtypes.StringDType()))}
        | {"time": (("sample", "time"), moments), "record_id": ("sample", texts), "nothing": ("none", texts[:0])},
        {"channel": ("channel", np.array(["R", "G"], object))},
    ).set_coords(["time", "record_id"])
    times = {"units": "seconds since 1970-01-01", "dtype": "float64", "_FillValue": np.nan}
    chunks: dict[str, Any] = {
        str(name): {"chunks": tuple(max(1, n) for n in v.shape)} for name, v in variables.variables.items()
    }
    buffers: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="zarr")
        variables.to_zarr(
            zarr.storage.MemoryStore(buffers),
            zarr_format=3,
            consolidated=False,
            encoding={**chunks, "time": {**chunks["time"], **times}},
        )
    variables["time"].encoding = times
    files = variable_files(variables)
    assert files == without_group(buffers)
    assert ("int8/c/0/0" in files) != absent


@pytest.mark.parametrize("dtype", list(PixelDtype))
@pytest.mark.parametrize("codec", list(Codec))
@pytest.mark.parametrize("name", ["image", "mask", "logit"])
def test_metadata_of_pixel_arrays_is_encoded_as_zarr_does(
    name: str, codec: Codec, dtype: PixelDtype, tmp_path: Any
) -> None:
    spec = ArraySpec((2, 3, 8, 8)[4 - len(DIMS[name]) + 1 :], "int16" if name == "logit" else dtype, codec)
    create_arrays(Place(str(tmp_path)), {name: spec}, 40)
    written = (tmp_path / name / "zarr.json").read_bytes()
    attributes = zarr.open_array(tmp_path / name, mode="r").attrs.asdict()
    buffers: dict[str, Any] = {}
    zarr.create_array(
        zarr.storage.MemoryStore(buffers),
        name=name,
        shape=(40, *spec.shape),
        shards=(SHARD, *spec.shape),
        chunks=(1, 1, *spec.shape[1:]) if "time" in DIMS[name] else (1, *spec.shape),
        dtype=str(spec.dtype),
        compressors=None if (declared := CODECS[codec]) is None else [declared],
        fill_value=0,
        dimension_names=DIMS[name],
        attributes=attributes,
        chunk_key_encoding={"name": "default", "separator": "."},
        zarr_format=3,
    )
    assert written == without_group(buffers)[f"{name}/zarr.json"]
