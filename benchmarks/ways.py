"""What a way of reading samples is, and the ones that peers are judged beside: the limit, ours, the codec alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from contrail_data.store.reader import open_store, pixel_reader
from contrail_data.store.shards import CODECS, compressor

SAMPLE = (8, 3, 256, 256)
Pixels = npt.NDArray[np.uint8]
Read = Callable[[int], Pixels]
Open = Callable[[Path, str, Any, int], Read]
"""(folder, codec, what to index a sample with, threads that will call readers of this kind) -> a reader."""


@dataclass(frozen=True)
class Way:
    """One way of reading, and what it can do."""

    open: Open
    codecs: Sequence[str] = tuple(CODECS)
    threads: Sequence[int] = (1,)
    cold: bool = False
    """Whether it is measured with an empty page cache too."""
    modules: Sequence[str] = ()
    """Have to be installed."""
    write: Callable[[Path, str], None] | None = None
    """Makes its own format from `image.raw`: (folder, codec)."""
    restore: Callable[[Path, str], None] | None = None
    """Undoes what a pass left on disk: (folder, codec)."""


def unusable(way: Way) -> str | None:
    """Why a way cannot be measured here."""
    for module in way.modules:
        if not find_spec(module):
            return "not installed" if module == way.modules[0] else f"{module} not installed"
        try:
            import_module(module)
        except ImportError as error:
            return f"does not import: {error}".splitlines()[0][:60]
    return None


def mapped(folder: Path) -> npt.NDArray[np.uint8]:
    """All samples, not in memory."""
    return np.memmap(folder / "image.raw", np.uint8, "r").reshape(-1, *SAMPLE)


def buffer(pick: Any) -> Pixels:
    return np.zeros(SAMPLE, np.uint8)[pick].copy()


def frame_numbers(pick: Any) -> list[int]:
    return np.atleast_1d(np.arange(SAMPLE[0])[pick]).tolist()


def memmap(folder: Path, codec: str, pick: Any, threads: int) -> Read:
    samples, out = mapped(folder), buffer(pick)

    def read(i: int) -> Pixels:
        np.copyto(out, samples[i, pick])
        return out

    return read


def ours(folder: Path, codec: str, pick: Any, threads: int) -> Read:
    read_pixels, out = pixel_reader(open_store(folder / codec)), buffer(pick)
    frames, by_frame = frame_numbers(pick), out.reshape(-1, *SAMPLE[1:])

    def read(i: int) -> Pixels:
        read_pixels(i, frames, by_frame)
        return out

    return read


def codec_alone(folder: Path, codec: str, pick: Any, threads: int) -> Read:
    """Decoding chunks that are in memory already: no reader of compressed frames can be quicker."""
    decoder, samples, out = compressor(CODECS[codec]), _chunks(folder, codec), buffer(pick)
    frames, by_frame = frame_numbers(pick), out.reshape(-1, *SAMPLE[1:])

    def read(i: int) -> Pixels:
        for frame, into in zip(frames, by_frame, strict=True):
            decoder.decode(samples[i][frame], out=into)
        return out

    return read


@cache
def _chunks(folder: Path, codec: str) -> list[list[bytes]]:
    encoder = compressor(CODECS[codec])
    return [[encoder.encode(np.array(frame)) for frame in sample] for sample in mapped(folder)]
