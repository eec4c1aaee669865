"""Composites: channels as differences of bands, with the bounds in kelvin that map to [0, 1].

A composite is data, not code. Centre wavelengths of the ABI bands in µm: band 8 6.2, 9 6.9, 10 7.3, 11 8.4, 12 9.6,
13 10.3, 14 11.2, 15 12.3, 16 13.3.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from contrail_data.errors import ContrailError
from contrail_data.storage.documents import load_document, read_document

Dtype = Literal["uint8", "float16", "float32"]
"""Data types of stores."""


@dataclass(frozen=True)
class Channel:
    """One channel: the brightness temperature of a band, or the difference of two, in kelvin."""

    name: str
    band: int
    minus: int | None
    """Band to subtract; None for none."""
    low: float
    """Kelvin that map to 0."""
    high: float
    """Kelvin that map to 1."""

    @property
    def bands(self) -> list[int]:
        """The one or two bands that the channel needs."""
        return [self.band] if self.minus is None else [self.band, self.minus]


@dataclass(frozen=True)
class Composite:
    """An ordered set of channels."""

    name: str
    channels: tuple[Channel, ...]
    reference: str = ""
    """Source of the definition."""
    dtype: Dtype = field(default="uint8", compare=False)
    """Data type in which it is stored unless another one is asked for. Stores declare their own."""

    @property
    def bands(self) -> tuple[int, ...]:
        """Bands that the channels need, ascending."""
        return tuple(sorted({band for channel in self.channels for band in channel.bands}))

    @property
    def channel_names(self) -> list[str]:
        """Names of the channels in order."""
        return [c.name for c in self.channels]

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain lists and dicts, as stores keep them in their attributes; `from_dict` is the inverse.

        Returns:
            JSON values.
        """
        channels = [asdict(channel) for channel in self.channels]
        return {"name": self.name, "channels": channels, "reference": self.reference}


LARGEST_BOUND, SMALLEST_RANGE = 1000, 0.01  # kelvin


def get_composite(name_or_file: str) -> Composite:
    """Look up a built-in composite, or read one from a YAML file with the keys of `from_dict`.

    Args:
        name_or_file: A key of `COMPOSITES`, or the path of a `.yaml` file; or several of them, joined by +.

    Returns:
        The composite.

    Raises:
        ContrailError: If the name is unknown, the file cannot be read or is malformed, or one of several adds no
            channel to those before it.
    """
    if name_or_file in COMPOSITES:
        return COMPOSITES[name_or_file]
    path = Path(name_or_file)
    if "+" in name_or_file and not path.is_file():
        parts = [get_composite(part) for part in name_or_file.split("+")]
        for count in range(1, len(parts)):
            if stack(parts[: count + 1]).channels == stack(parts[:count]).channels:
                raise ContrailError(f"composite {parts[count].name!r}: adds no channel to those before it; omit it")
        return stack(parts)
    if not path.is_file() and path.suffix not in {".yaml", ".yml"}:
        names = ", ".join(COMPOSITES)
        raise ContrailError(f"composite {name_or_file!r}: unknown; use one of {names}, a .yaml file, or several with +")
    declaration = read_document(path)
    try:
        return from_dict(declaration)
    except ContrailError as error:
        raise ContrailError(f"{path}: {error}") from None


def from_dict(declaration: Any) -> Composite:
    """Build a composite from plain lists and dicts, the inverse of `Composite.to_dict`.

    Args:
        declaration: A dict with the keys `name`, `channels` and `reference`, and optionally `dtype`.

    Returns:
        The composite.

    Raises:
        ContrailError: If a key is missing, unknown or malformed; the message names it.
    """
    if not isinstance(declaration, dict) or not isinstance(declaration.get("channels"), list):
        raise ContrailError("a composite has the keys name, channels (a list) and reference; add the missing ones")
    if unknown := set(declaration) - {"name", "channels", "reference", "dtype"}:
        raise ContrailError(f"composite key {sorted(unknown)[0]!r}: unknown; remove it")
    name, reference = declaration.get("name", "custom"), declaration.get("reference", "")
    if not (isinstance(name, str) and isinstance(reference, str)):
        raise ContrailError("name and reference are texts; correct or quote them")
    channels = tuple(_channel(i, item) for i, item in enumerate(declaration["channels"]))
    if not channels or len({c.name for c in channels}) < len(channels):
        raise ContrailError("channels: none, or two of one name; give at least one, each with its own name")
    if (dtype := declaration.get("dtype", "uint8")) not in get_args(Dtype):
        raise ContrailError(f"dtype {dtype!r}: unknown; use one of {', '.join(get_args(Dtype))}")
    return Composite(name, channels, reference, dtype)


def stack(parts: Sequence[Composite]) -> Composite:
    """Join the channels of several composites to one, in the data type of the finest.

    A channel that is already present is omitted; one whose name is taken is prefixed with the name of its composite.

    Args:
        parts: The composites.

    Returns:
        The composite, named after those that add a channel, joined by +; the first one if no other adds any.

    Raises:
        ContrailError: If two channels would have one name.
    """
    channels: dict[str, Channel] = {}
    adding = []
    for part in parts:
        present = [_definition(channel) for channel in channels.values()]
        added = [channel for channel in part.channels if _definition(channel) not in present]
        for channel in added:
            name = f"{part.name}_{channel.name}" if channel.name in channels else channel.name
            if name in channels:
                raise ContrailError(f"composite {part.name!r}: a second channel {name!r}; give it another name")
            channels[name] = replace(channel, name=name)
        adding += [part] if added else []
    if len(adding) == 1:
        return adding[0]
    name, references = "+".join(part.name for part in adding), [part.reference for part in adding if part.reference]
    dtype = max((part.dtype for part in adding), key=get_args(Dtype).index)
    return Composite(name, tuple(channels.values()), "; ".join(references), dtype)


def channel_indices(part: Composite, whole: Composite) -> list[int]:
    """Find the channels of a composite among those of a stack, where they may have other names.

    Args:
        part: The composite.
        whole: The stack.

    Returns:
        Index of each channel in the stack.
    """
    definitions = [_definition(channel) for channel in whole.channels]
    return [definitions.index(_definition(channel)) for channel in part.channels]


def _definition(channel: Channel) -> Channel:
    return replace(channel, name="")


def _channel(index: int, item: Any) -> Channel:
    if not isinstance(item, dict) or not {"name", "band", "low", "high"} <= set(item) <= set(Channel.__annotations__):
        keys = "name, band (8 to 16), low and high in kelvin, optionally minus"
        raise ContrailError(f"channel {index}: malformed; give {keys}")
    channel = Channel(**{"minus": None, **item})
    where = f"channel {channel.name!r}: "
    if not isinstance(channel.name, str) or not channel.name:
        raise ContrailError(f"{where}its name is not a text; quote it")
    if not all(type(band) is int and 8 <= band <= 16 for band in channel.bands) or channel.band == channel.minus:
        raise ContrailError(
            f"{where}bands are 8 to 16, whole numbers, and minus is another one than band; correct them"
        )
    low, high = channel.low, channel.high
    if not all(type(limit) in (int, float) and abs(limit) <= LARGEST_BOUND for limit in (low, high)):  # NaN fails too
        raise ContrailError(f"{where}low and high are kelvin, at most {LARGEST_BOUND} each way; correct them")
    if not high - low >= SMALLEST_RANGE:
        raise ContrailError(f"{where}low must be below high, by at least {SMALLEST_RANGE} K; correct them")
    return replace(channel, low=float(low), high=float(high))


COMPOSITES = {
    name: from_dict({"name": name, **declaration})
    for name, declaration in load_document(files("contrail_data").joinpath("composites.yaml").read_text()).items()
}
"""Built-in composites by name; they are declared in `composites.yaml`."""


def evaluate(
    composite: Composite,
    bands: Mapping[int, npt.NDArray[np.float32]],
    *,
    clip: bool = True,
    out: npt.NDArray[np.float32] | None = None,
) -> npt.NDArray[np.float32]:
    """Compute the channels of a composite: `(x - low) / (high - low)` in float32 for each. NaN stays NaN.

    Args:
        composite: The composite.
        bands: Brightness temperature in kelvin by band number, all of one shape, which may be any.
        clip: Whether to clip to [0, 1].
        out: Where to put the result; None allocates it.

    Returns:
        (channel, *shape) float32.
    """
    if out is None:
        out = np.empty((len(composite.channels), *bands[composite.bands[0]].shape), np.float32)
    for channel, x in zip(composite.channels, out, strict=True):
        first = bands[channel.band]
        difference = first if channel.minus is None else np.subtract(first, bands[channel.minus], out=x)
        np.subtract(difference, np.float32(channel.low), out=x)
        np.divide(x, np.float32(channel.high - channel.low), out=x)
        if clip:
            np.clip(x, 0.0, 1.0, out=x)
    return out


def quantise(unit: npt.NDArray[np.float32], out: npt.NDArray[Any]) -> None:
    """Convert values in [0, 1] to the dtype of a store: uint8 in steps of 1/255 (error at most 1/510), or a cast.

    Args:
        unit: The values, which may be overwritten.
        out: Where to put the result, of the same shape.
    """
    if out.dtype == np.uint8:
        np.multiply(unit, np.float32(255), out=unit)
        np.rint(unit, out=unit)
    np.copyto(out, unit, casting="unsafe")


def whiten(image_tchw: npt.NDArray[Any], valid_tyx: npt.NDArray[np.bool_]) -> None:
    """Set missing pixels to 1 in every channel. No contrail looks like that; 0 would look like a dark one.

    Args:
        image_tchw: Frames as a store keeps them, changed in place.
        valid_tyx: Where pixels are present.
    """
    top = np.asarray(255 if image_tchw.dtype == np.uint8 else 1, image_tchw.dtype)
    np.copyto(image_tchw, top, where=~valid_tyx[:, np.newaxis])


def dequantise(stored: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Convert values of a store to [0, 1], the inverse of `quantise`.

    Args:
        stored: Values of any dtype of a store.

    Returns:
        float32 in the same shape.
    """
    scale = np.float32(1 / 255) if stored.dtype == np.uint8 else np.float32(1)
    return stored.astype(np.float32) * scale
