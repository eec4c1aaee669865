"""Other libraries that read the samples: each opens our format or its own and returns a function of a sample's number.

What a function returns lies in memory that the caller may keep or reuse: a reader that returns views of a mapped file
copies them into one buffer, as the limit does. zarr-python, xarray, tensorstore and zarrs read the same stores as our
reader. The others know only whole samples, so a part is sliced from what they have read: np.load reads a .npy file for
each sample, litdata maps its chunks, mosaicml-streaming reads shards of 64 MB, and webdataset reads a tar file from its
beginning, whatever sample is requested. litdata's zstd compresses each sample; mosaicml-streaming's compresses each
shard, which it decompresses to disk at first use: those files are removed before every pass, as in a data set that is
larger than its cache.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
import zarr

from methods import SAMPLE, Method, Pixels, Read, mapped, new_buffer

LIBRARY_SIZE = 1 << 26  # bytes of a chunk or shard: the default of mosaicml-streaming and what litdata's README uses
ZSTD = "zstd:3"  # the level of CODECS


# ---- on our own stores


def _zarr(folder: Path, codec: str, pick: Any, threads: int) -> Read:
    array: Any = zarr.open_array(folder / codec / "image", mode="r", zarr_format=3)
    return lambda i: array[i, pick]


def _xarray(folder: Path, codec: str, pick: Any, threads: int) -> Read:
    dataset = xr.open_dataset(folder / codec, engine="zarr", chunks=None, mask_and_scale=False)
    return lambda i: dataset["image"][i, pick].values


def _tensorstore(folder: Path, codec: str, pick: Any, threads: int) -> Read:
    import tensorstore

    spec: dict[str, Any] = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder / codec / "image")}}
    if threads == 1:  # otherwise its own default, the number of cores
        spec["context"] = {name: {"limit": 1} for name in ("data_copy_concurrency", "file_io_concurrency")}
    array = tensorstore.open(spec, read=True).result()
    return lambda i: array[i, pick].read().result()


def _zarrs(folder: Path, codec: str, pick: Any, threads: int) -> Read:
    import zarrs  # noqa: F401 - registers its pipeline

    settings = {"codec_pipeline.path": "zarrs.ZarrsCodecPipeline", "threading.max_workers": 1 if threads == 1 else None}
    with zarr.config.set(settings):
        return _zarr(folder, codec, pick, threads)


class ZarrSamples(torch.utils.data.Dataset[Pixels]):
    """A map-style data set whose index is (codec, pick, sample), so that one set of workers serves every variant.

    Arrays are opened in the worker, as zarr's event loop does not survive a fork and an array is not cheap to send.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.arrays: dict[str, Any] = {}

    def __getitem__(self, index: tuple[str, Any, int]) -> Pixels:
        codec, pick, sample = index
        if codec not in self.arrays:
            self.arrays[codec] = zarr.open_array(self.folder / codec / "image", mode="r", zarr_format=3)
        pixels: Pixels = self.arrays[codec][sample, pick]
        return pixels


Batches = Callable[[str, Any, Sequence[int]], Iterator[torch.Tensor]]


def zarr_batches(folder: Path, workers: int, batch: int) -> Batches:
    """Return a function of (codec, pick, order) that gives the batches of a torch DataLoader on zarr-python.

    Its workers stay alive between passes.
    """
    indexes: list[tuple[str, Any, int]] = []
    loader: Any = torch.utils.data.DataLoader(
        ZarrSamples(folder),
        batch,
        sampler=indexes,
        num_workers=workers,
        persistent_workers=workers > 0,
        multiprocessing_context="spawn" if workers else None,
    )

    def batches(codec: str, pick: Any, order: Sequence[int]) -> Iterator[torch.Tensor]:
        indexes[:] = [(codec, pick, i) for i in order]
        return iter(loader)

    return batches


# ---- on formats of their own


def _write_npy(folder: Path, codec: str) -> None:
    (folder / "npy").mkdir()
    for i, sample in enumerate(mapped(folder)):
        np.save(folder / "npy" / f"{i}.npy", sample)


def _npy(folder: Path, codec: str, pick: Any, threads: int) -> Read:
    return lambda i: np.load(folder / "npy" / f"{i}.npy")[pick]


def _npy_mapped(folder: Path, codec: str, pick: Any, threads: int) -> Read:
    out = new_buffer(pick)

    def read(i: int) -> Pixels:
        np.copyto(out, np.load(folder / "npy" / f"{i}.npy", mmap_mode="r")[pick])
        return out

    return read


def _raw_bytes(folder: Path, i: int) -> bytes:
    return mapped(folder)[i].tobytes()


def _write_litdata(folder: Path, codec: str) -> None:
    os.environ["LITDATA_DISABLE_VERSION_CHECK"] = "1"  # it would query the network
    import litdata

    compression: dict[str, str] = {} if codec == "none" else {"compression": ZSTD, "compression_level": "sample"}
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        litdata.optimize(
            fn=functools.partial(_raw_bytes, folder),
            inputs=list(range(len(mapped(folder)))),
            output_dir=str(folder / f"litdata-{codec}"),
            num_workers=1,
            chunk_bytes=LIBRARY_SIZE,
            keep_data_ordered=True,
            verbose=False,
            **compression,
        )


def _litdata(folder: Path, codec: str, pick: Any, threads: int) -> Read:
    import litdata

    samples = litdata.StreamingDataset(str(folder / f"litdata-{codec}"))
    if codec != "none":
        return lambda i: np.frombuffer(samples[i], np.uint8).reshape(SAMPLE)[pick]
    out = new_buffer(pick)

    def read(i: int) -> Pixels:
        np.copyto(out, np.frombuffer(samples[i], np.uint8).reshape(SAMPLE)[pick])  # a view of the mapped chunk
        return out

    return read


def _write_mosaic(folder: Path, codec: str) -> None:
    from streaming import MDSWriter

    columns = {"image": "ndarray:uint8:" + ",".join(map(str, SAMPLE))}
    compression = None if codec == "none" else ZSTD
    with MDSWriter(
        out=str(folder / f"mosaic-{codec}"), columns=columns, compression=compression, size_limit=LIBRARY_SIZE
    ) as writer:
        for sample in mapped(folder):
            writer.write({"image": np.array(sample)})


def _restore_mosaic(folder: Path, codec: str) -> None:
    if codec != "none":
        # The reader notices and decompresses them again. Reopening it instead would leak shared memory.
        for decompressed in (folder / f"mosaic-{codec}").glob("*.mds"):
            decompressed.unlink()


def _mosaic(folder: Path, codec: str, pick: Any, threads: int) -> Read:
    from streaming import StreamingDataset

    samples = StreamingDataset(local=str(folder / f"mosaic-{codec}"), shuffle=False, batch_size=1)
    return lambda i: samples[i]["image"][pick]


def _write_webdataset(folder: Path, codec: str) -> None:
    import webdataset

    with webdataset.TarWriter(str(folder / "webdataset.tar")) as writer:
        for i, sample in enumerate(mapped(folder)):
            writer.write({"__key__": f"{i:06d}", "bin": sample.tobytes()})


def _webdataset(folder: Path, codec: str, pick: Any, threads: int) -> Read:
    import webdataset

    endless = iter(webdataset.WebDataset(str(folder / "webdataset.tar"), shardshuffle=False).repeat())
    return lambda i: np.frombuffer(next(endless)["bin"], np.uint8).reshape(SAMPLE)[pick]


PEERS = {
    "zarr-python": Method(_zarr, cold=True),
    "xarray": Method(_xarray, ("none",)),
    "tensorstore": Method(_tensorstore, threads=(1, 2), cold=True, modules=("tensorstore",)),
    "zarrs": Method(_zarrs, threads=(1, 2), modules=("zarrs",)),
    "np.load": Method(_npy, ("none",), write=_write_npy),
    "np.load, mapped": Method(_npy_mapped, ("none",)),
    "litdata": Method(_litdata, ("none", "zstd"), modules=("litdata", "zstd"), write=_write_litdata),
    "mosaicml-streaming": Method(
        _mosaic, ("none", "zstd"), modules=("streaming", "zstd"), write=_write_mosaic, restore=_restore_mosaic
    ),
    "webdataset, in sequence": Method(_webdataset, ("none",), modules=("webdataset",), write=_write_webdataset),
}
