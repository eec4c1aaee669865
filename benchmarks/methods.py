"""Methods of reading samples: the limit, ours, and the codec alone, with which `loader.py` compares its peers."""

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

from contrail_data.store.layout import CODECS, compressor
from contrail_data.store.reader import open_store, pixel_reader

SAMPLE = (8, 3, 256, 256)
Pixels = npt.NDArray[np.uint8]
Read = Callable[[int], Pixels]
Open = Callable[[Path, str, Any, int], Read]
"""Open a reader, given folder, codec, the index into a sample, and the number of threads that will read like this."""


@dataclass(frozen=True)
class Method:
    """One method of reading, and what it can do."""

    open: Open
    codecs: Sequence[str] = tuple(CODECS)
    threads: Sequence[int] = (1,)
    cold: bool = False
    """Whether it is also measured with an empty page cache."""
    modules: Sequence[str] = ()
    """Modules that have to be installed."""
    write: Callable[[Path, str], None] | None = None
    """Write its own format from `image.raw`, given folder and codec."""
    restore: Callable[[Path, str], None] | None = None
    """Remove what a pass left on disk, given folder and codec."""


def why_unusable(method: Method) -> str | None:
    """Say why a method cannot be measured here; None if it can."""
    for module in method.modules:
        if not find_spec(module):
            return "not installed" if module == method.modules[0] else f"{module} not installed"
        try:
            import_module(module)
        except ImportError as error:
            return f"does not import: {error}".splitlines()[0][:60]
    return None


def mapped(folder: Path) -> npt.NDArray[np.uint8]:
    """Map all samples, (sample, time, channel, y, x)."""
    return np.memmap(folder / "image.raw", np.uint8, "r").reshape(-1, *SAMPLE)


def new_buffer(pick: Any) -> Pixels:
    """Allocate memory for what `pick` takes of a sample."""
    return np.zeros(SAMPLE, np.uint8)[pick].copy()


def frame_numbers(pick: Any) -> list[int]:
    """List the frames that `pick` takes of a sample."""
    return np.atleast_1d(np.arange(SAMPLE[0])[pick]).tolist()


def memmap(folder: Path, codec: str, pick: Any, threads: int) -> Read:
    """Copy from one mapped file of all samples: the limit."""
    samples, out = mapped(folder), new_buffer(pick)

    def read(i: int) -> Pixels:
        np.copyto(out, samples[i, pick])
        return out

    return read


def ours(folder: Path, codec: str, pick: Any, threads: int) -> Read:
    """Read our stores with `pixel_reader`."""
    read_pixels, out = pixel_reader(open_store(folder / codec)), new_buffer(pick)
    frames, by_frame = frame_numbers(pick), out.reshape(-1, *SAMPLE[1:])

    def read(i: int) -> Pixels:
        read_pixels(i, frames, by_frame)
        return out

    return read


def codec_alone(folder: Path, codec: str, pick: Any, threads: int) -> Read:
    """Decode chunks that are in memory already: no reader of compressed frames can be quicker."""
    decoder, samples, out = compressor(codec, 1), _chunks(folder, codec), new_buffer(pick)
    frames, by_frame = frame_numbers(pick), out.reshape(-1, *SAMPLE[1:])

    def read(i: int) -> Pixels:
        for frame, into in zip(frames, by_frame, strict=True):
            decoder.decode(samples[i][frame], out=into)
        return out

    return read


@cache
def _chunks(folder: Path, codec: str) -> list[list[bytes]]:
    encoder = compressor(codec, 1)
    return [[encoder.encode(np.array(frame)) for frame in sample] for sample in mapped(folder)]
