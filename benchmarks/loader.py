"""Reading samples, against copying the same bytes out of an np.memmap.

    python benchmarks/loader.py [--samples 128] [--rounds 7] [--raw FOLDER --split SPLIT]

uint8 samples of (8, 3, 256, 256), random order, one thread, page cache warm: whole, and the labelled frame alone. The
limit copies them from one mapped file of the same bytes, its pages already mapped, into a buffer that is used again.
Ours is `pixel_reader`, which the trainer, previews and pseudo-labels share, into such a buffer; peers read the very
stores that ours reads (xarray without dask), except np.load, which has a .npy file a sample; `codec alone` decodes
chunks that lie in memory. Files are opened and stores parsed off the clock. Then the trainer's own batches (labelled
frame and mask), and the time to open a sealed store.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import partial
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
import zarr
from timing import interleaved, medians, spread, verdict, workplace

from contrail_data.build import Settings, build
from contrail_data.command import table
from contrail_data.composites import COMPOSITES
from contrail_data.errors import ContrailError
from contrail_data.shards import CODECS, compressor
from contrail_data.sources import open_source
from contrail_data.store import Array, open_store, pixel_reader, read_scalars, seal
from contrail_train.loader import Items, epoch_order, load, open_labelled, step_rows, steps_per_epoch

ASH = COMPOSITES["ash"]
FRAME = 4  # the labelled one
BATCH, PREFETCH = 16, 3
LIMIT = "np.memmap, the limit"
Read = Callable[[int], Any]


def readers(folder: Path, image: npt.NDArray[np.uint8], frame: int | None) -> dict[str, Read]:
    """Ways to read one sample, or one frame of it, by its number."""
    shape = image.shape[1:]
    frames = list(range(shape[0])) if frame is None else [frame]
    pick: Any = slice(None) if frame is None else frame
    out = np.empty((len(frames), *shape[1:]), np.uint8)
    mapped = np.memmap(folder / "image.raw", np.uint8, "r").reshape(-1, *shape)
    found: dict[str, Read] = {LIMIT: lambda i: np.copyto(out, mapped[i, pick])}
    for codec in CODECS:
        read = pixel_reader(open_store(folder / codec))
        found[f"ours, {codec}"] = partial(lambda read, i: read(i, frames, out), read)
    for codec in CODECS:
        if CODECS[codec] is not None:
            found[f"codec alone, {codec}"] = _codec_alone(codec, image[:, frames], out)
    for codec in CODECS:
        array = zarr.open_array(folder / codec / "image", mode="r", zarr_format=3)
        found[f"zarr-python, {codec}"] = partial(lambda array, i: array[i, pick], array)
    lazy = xr.open_dataset(folder / "none", engine="zarr", chunks=None, mask_and_scale=False)["image"]
    found["xarray, none"] = lambda i: lazy[i, pick].values
    if find_spec("tensorstore"):
        found["tensorstore, none"] = _tensorstore(folder / "none" / "image", pick)
    if find_spec("zarrs"):
        found["zarrs, none"] = _zarrs(folder / "none" / "image", pick)
    found["np.load, .npy files"] = lambda i: np.load(folder / "npy" / f"{i}.npy")[pick]
    return found


def _codec_alone(name: str, image: npt.NDArray[np.uint8], out: npt.NDArray[np.uint8]) -> Read:
    """Decoding chunks that are in memory already: no reader of compressed frames can be quicker."""
    codec = compressor(CODECS[name])
    chunks = [[codec.encode(frame) for frame in sample] for sample in image]

    def decode(i: int) -> None:
        for chunk, frame in zip(chunks[i], out, strict=True):
            codec.decode(chunk, out=frame)

    return decode


def _tensorstore(path: Path, pick: Any) -> Read:
    import tensorstore

    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}
    array = tensorstore.open(spec, read=True).result()
    return lambda i: array[i, pick].read().result()


def _zarrs(path: Path, pick: Any) -> Read:
    import zarrs  # noqa: F401 - registers its pipeline

    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        array = zarr.open_array(path, mode="r", zarr_format=3)
    return lambda i: array[i, pick]


def one_pass(read: Read, order: list[int]) -> None:
    for i in order:
        read(i)


def trainer_pass(items: Items, threads: int) -> None:
    order = epoch_order(len(items), 0, 0)
    rows = [step_rows(order, s, BATCH) for s in range(steps_per_epoch(len(items), BATCH))]
    for _ in load(items, rows * 8, torch.device("cpu"), threads, PREFETCH):
        pass


def prepare(folder: Path, raw: Path, split: str) -> npt.NDArray[np.uint8]:
    """The stores, the raw file and the .npy files, all of the same samples."""
    for codec in CODECS:
        with redirect_stderr(StringIO()):
            build(open_source(raw, split, ASH), Settings(ASH, codec=codec), folder / codec, workers=2)
    image: npt.NDArray[np.uint8] = open_store(folder / "none")["image"].values
    image.tofile(folder / "image.raw")
    (folder / "npy").mkdir()
    for i, sample in enumerate(image):
        np.save(folder / "npy" / f"{i}.npy", sample)
    return image


def check(ways: dict[str, Read], image: npt.NDArray[np.uint8], frame: int | None, folder: Path) -> None:
    """Each way must read the right bytes before its speed counts."""
    last = len(image) - 1
    expected = image[last] if frame is None else image[last, frame]
    for name, read in ways.items():
        found = read(last)
        if found is not None and not np.array_equal(found, expected):
            raise ContrailError(f"{name}: reads other bytes than were stored: its speed means nothing")
    out = np.empty_like(image[0] if frame is None else image[0, :1])
    for codec in CODECS:
        pixel_reader(open_store(folder / codec))(last, list(range(8)) if frame is None else [frame], out)
        if not np.array_equal(out.reshape(expected.shape), expected):
            raise ContrailError(f"ours, {codec}: reads other bytes than were stored: its speed means nothing")


def sealed(store: Path, samples: int, out: Path) -> Path:
    """A sealed store of this many samples: per-sample values repeated from `store`, no pixels."""
    scalars = read_scalars(open_store(store))
    scalars = scalars.isel(sample=np.arange(samples) % scalars.sizes["sample"])
    scalars = scalars.assign({n: v.astype(object) for n, v in scalars.variables.items() if v.dtype.kind == "T"})
    for variable in scalars.variables.values():
        variable.encoding = {}
    scalars.attrs = {}
    plane = (256, 256)
    label = Array(plane, "uint8", "zstd", False)
    arrays = {"image": Array((8, 3, *plane), "uint8", "none", True), "mask": label, "annotators": label}
    attributes = {"kind": "samples", "composite": ASH.to_dict(), "statistics": None, "label_shift": [0.5, 0.5]}
    seal(out, arrays, scalars, attributes, {}, [], {})
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--raw", type=Path, help="folder of records, in place of synthetic ones")
    parser.add_argument("--split", default="train", help="split of --raw")
    options = parser.parse_args()
    rows: list[list[str]] = []
    rounds = options.rounds
    with workplace(options.samples, options.raw, options.split) as (folder, raw):
        image = prepare(folder, raw, options.split)
        order = np.random.default_rng(0).permutation(len(image)).tolist()
        variants: dict[str, Callable[[], object]] = {}
        for what, frame in (("whole sample", None), ("labelled frame", FRAME)):
            ways = readers(folder, image, frame)
            check(ways, image, frame, folder)
            variants |= {f"{what}: {name}": partial(one_pass, read, order) for name, read in ways.items()}
        items = open_labelled(open_store(folder / "none"))
        batches = {f"trainer, batches of {BATCH}: {n} thread{'s' * (n > 1)}": n for n in (1, 2)}
        variants |= {name: partial(trainer_pass, items, n) for name, n in batches.items()}
        few, many = len(image), 20_000
        opening = {n: f"open_store of {n:,} samples" for n in (few, many)}
        for n, name in opening.items():
            variants[name] = partial(open_store, sealed(folder / "none", n, folder / f"sealed-{n}"))
        seconds = interleaved(variants, rounds, least=0.1)
        stored = {c: sum(p.stat().st_size for p in (folder / c / "image").glob("c.*")) / image.nbytes for c in CODECS}
    took = medians(seconds)

    def row(name: str, samples: int, nbytes: int, limit: str, judged: str = "") -> None:
        rate = samples / took[name]
        ratio = rate / (len(order) / took[limit])
        figures = [f"{rate:,.0f}", f"{rate * nbytes / 1e6:,.0f}", f"{ratio:.2f}", judged, spread(seconds[name])]
        rows.append([name, *figures])

    for what, nbytes in (("whole sample", image[0].nbytes), ("labelled frame", image[0, 0].nbytes)):
        for name in [name for name in variants if name.startswith(what)]:
            ratio, judged = took[f"{what}: {LIMIT}"] / took[name], ""
            if name == "whole sample: ours, none":
                judged = verdict(ratio, 0.9, at_least=True)
            elif name == "whole sample: ours, lz4":
                judged = verdict(ratio, 0.5, at_least=True)
            elif name == "labelled frame: ours, none":
                part = took[name] / took["whole sample: ours, none"]
                judged = f"{part:.3f} of whole, {verdict(part, 1 / 6, at_least=False)}"
            row(name, len(order), nbytes, f"{what}: {LIMIT}", judged)
        for peer in ("tensorstore", "zarrs"):
            if not find_spec(peer):
                rows.append([f"{what}: {peer}", "not installed", "", "", "", ""])
    for name in batches:
        row(name, 8 * len(items), image[0, 0].nbytes + image[0, 0, 0].nbytes, f"labelled frame: {LIMIT}")
    for n, name in opening.items():
        judged = verdict(took[name], 0.5, at_least=False) + " (s)"
        if n == many:
            judged += f", {took[name] / took[opening[few]]:.2f} x the small one"
        rows.append([name, f"{took[name] * 1e3:.1f} ms", "", "", judged, spread(seconds[name])])
    sizes = ", ".join(f"{codec} {share:.2f}" for codec, share in stored.items())
    title = f"loader: {len(order)} samples, medians of {rounds} shuffled rounds; stored bytes of image: {sizes}"
    table(title, ["what", "samples/s", "MB/s", "rate / limit", "target", "rounds / median"], rows)


if __name__ == "__main__":
    try:
        main()
    except ContrailError as error:
        raise SystemExit(f"error: {error}") from None
