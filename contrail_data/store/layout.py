"""Where the chunks of an array lie in the files of a store, and how they are compressed.

What is supported is the one layout that this package writes: little-endian arrays in shards of 16 samples
(https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/), whose inner chunks hold one frame, or one
sample of an array without a time axis, without a compressor or with blosc or zstd.

A unit is an inner chunk without its sample axis: a frame where the array has a time axis.
"""

import json
import math
from typing import Any

import numcodecs
import numcodecs.blosc
import numpy as np

from contrail_data.storage.place import Place
from contrail_data.store.schema import DIMS, INSTANCE_DTYPE, LOGIT_DTYPE, SHARD, ArraySpec, Codec, PixelDtype

# The callers have threads of their own, and threaded blosc orders its blocks by chance.
numcodecs.blosc.use_threads = False

CODECS: dict[Codec, dict[str, Any] | None] = {
    Codec.NONE: None,
    Codec.LZ4: {
        "name": "blosc",
        "configuration": {"cname": "lz4", "clevel": 5, "shuffle": "bitshuffle", "blocksize": 0},
    },
    Codec.ZSTD: {"name": "zstd", "configuration": {"level": 3, "checksum": False}},
}
"""Declaration of each compressor in zarr v3 metadata, which states the size of a pixel for blosc, too."""

_MAX_UNIT_BYTES = 2**30  # decoded; an array that claims more holds no frames


def compressor(codec: str, itemsize: int) -> Any:
    """Create the numcodecs codec of inner chunks.

    Args:
        codec: A value of `Codec`.
        itemsize: Bytes of a pixel.

    Returns:
        The codec. None if they are not compressed.
    """
    if (declaration := CODECS[Codec(codec)]) is None:
        return None
    settings = {"id": declaration["name"], **declaration["configuration"]}
    if codec == Codec.LZ4:
        settings |= {"shuffle": numcodecs.Blosc.BITSHUFFLE, "typesize": itemsize}
    return numcodecs.get_codec(settings)


def compressor_metadata(codec: str, itemsize: int) -> list[dict[str, Any]]:
    """Declare the compressor of inner chunks in zarr v3 metadata.

    Args:
        codec: A value of `Codec`.
        itemsize: Bytes of a pixel.

    Returns:
        The codec, as JSON; none if they are not compressed.
    """
    if (declaration := CODECS[Codec(codec)]) is None:
        return []
    size = {"typesize": itemsize} if codec == Codec.LZ4 else {}
    return [{"name": declaration["name"], "configuration": {**size, **declaration["configuration"]}}]


class Layout:
    """Where the chunks of an array lie.

    Args:
        place: The store.
        name: The array.
        samples: Length of its sample axis.
        spec: How a sample is stored.
    """

    def __init__(self, place: Place, name: str, samples: int, spec: ArraySpec) -> None:
        self.place, self.name, self.samples, self.spec = place, name, samples, spec
        self.shape = (samples, *spec.shape)
        self.dtype = np.dtype(spec.dtype).newbyteorder("<")
        self.unit_shape = (1, *spec.shape[1:]) if "time" in DIMS[name] else spec.shape
        """Shape of an inner chunk without the sample axis."""
        self.units = spec.shape[0] // self.unit_shape[0]
        """Inner chunks per sample."""
        self.unit_bytes = math.prod(self.unit_shape) * self.dtype.itemsize
        """Size of a decoded inner chunk."""
        self.compressor = compressor(spec.codec, self.dtype.itemsize)

    def key(self, file: int) -> str:
        """Return the key of a chunk file.

        Args:
            file: Number of the file along the sample axis.

        Returns:
            Its key in the store.
        """
        return f"{self.name}/c.{file}{'.0' * len(self.spec.shape)}"


def parse_layout(place: Place, name: str, content: bytes) -> Layout:
    """Parse the layout of an array.

    Args:
        place: The store.
        name: The array.
        content: Its `zarr.json`.

    Returns:
        The layout.

    Raises:
        ValueError: If it is not JSON, or states a layout that this package does not write.
    """
    metadata = json.loads(content)
    try:
        (samples, *shape), (sharding,) = metadata["shape"], metadata["codecs"]
        settings = sharding["configuration"]
        bytes_codec, *compressors = settings["codecs"]
        names = [codec["name"] for codec in compressors]
        (codec,) = (key for key, declared in CODECS.items() if names == ([declared["name"]] if declared else []))
        dtype = {"logit": LOGIT_DTYPE, "frame_instance": INSTANCE_DTYPE}.get(name) or PixelDtype(metadata["data_type"])
        spec = ArraySpec(tuple(shape), dtype, codec)
        layout = Layout(place, name, samples, spec)
        stated = (
            *(metadata["data_type"], metadata["chunk_grid"], metadata["chunk_key_encoding"]),
            *(sharding["name"], settings["chunk_shape"]),
            *(bytes_codec["name"], bytes_codec.get("configuration", {}).get("endian", "little")),
            *(settings.get("index_location", "end"), [codec["name"] for codec in settings["index_codecs"]]),
        )
        expected = (
            dtype,
            {"name": "regular", "configuration": {"chunk_shape": [SHARD, *shape]}},
            {"name": "default", "configuration": {"separator": "."}},
            *("sharding_indexed", [1, *layout.unit_shape], "bytes", "little", "end", ["bytes", "crc32c"]),
        )
        sizes_are_plausible = (
            all(type(n) is int and n > 0 for n in layout.shape)
            and layout.unit_bytes <= _MAX_UNIT_BYTES
            and SHARD * layout.units <= _MAX_UNIT_BYTES // 16
        )
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"malformed metadata: {error!r}") from None
    if stated != expected or not sizes_are_plausible:
        raise ValueError("another layout")
    return layout
