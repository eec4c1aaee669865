"""MISSING DOCSTRING."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from PIL import Image

from contrail_data.composites import COMPOSITES, dequantise, evaluate
from contrail_data.errors import ContrailError
from contrail_data.progress import progress
from contrail_data.sample import reference_frame
from contrail_data.store.reader import pixel_reader
from contrail_data.store.samples import labelled_time
from contrail_data.store.schema import Kind, require_kind

Colour = tuple[int, int, int]
Mask = npt.NDArray[np.bool_]

LABEL_COLOUR = (255, 230, 0)
VOTE_COLOUR = (255, 80, 200)
PREDICTION_COLOUR = (0, 255, 255)
WHITE, BACKGROUND = (255, 255, 255), (24, 24, 24)
_TILE = 224  # at least; a tile of a contact sheet stays under twice that
_NO_PLACE = "place unknown"


def find_record(store: xr.Dataset, record_id: str) -> int:
    """Index of a record. Raises ContrailError naming a few that are there."""
    ids = store["record_id"].values
    found = np.flatnonzero(ids == record_id)
    if not len(found):
        some = ", ".join(repr(str(i)) for i in ids[:3])
        raise ContrailError(f"{store.attrs['path']}: no record {record_id!r}: it holds {len(ids)}, such as {some}")
    return int(found[0])


@dataclass(frozen=True)
class Votes:
    """Of one record with at least two annotators. Pixels are the store's."""

    marked_by: npt.NDArray[np.int64]
    """(9,): pixels that so many annotators marked; [0]: unmarked."""
    annotators: int
    together: npt.NDArray[np.int64]
    """(8, 8): pixels that annotators r and s both marked; the diagonal: r alone."""

    @property
    def marked(self) -> int:
        """Pixels that any annotator marked."""
        return int(self.marked_by[1:].sum())

    @property
    def disputed(self) -> int:
        """Pixels that some annotators marked and others did not."""
        return int(self.marked_by[1 : self.annotators].sum())


def vote_counts(store: xr.Dataset, records: xr.Dataset) -> dict[int, Votes]:
    """Votes by sample, of all records with at least two annotators; none where the store has no annotators."""
    annotators = records["annotator_count"].values
    samples = np.flatnonzero((annotators >= 2) & ("annotators" in store.variables))
    found = {}
    pairs = (np.arange(256)[:, np.newaxis] >> np.arange(8)) & 1  # bit field to votes
    for i, votes in each_plane(store, "annotators", samples, "votes"):
        times = np.bincount(votes.ravel(), minlength=256)
        marked_by = np.bincount(pairs.sum(1), weights=times, minlength=9).astype(np.int64)
        found[i] = Votes(marked_by, int(annotators[i]), pairs.T @ (pairs * times[:, np.newaxis]))
    return found


def each_plane(
    store: xr.Dataset, name: str, samples: npt.NDArray[np.int64], what: str
) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """(sample, plane) of `mask` or `annotators`, (y, x) as stored, with progress. The plane is overwritten."""
    if not len(samples):
        return
    out, read = np.empty((1, *store[name].shape[1:]), store[name].dtype), pixel_reader(store, name)
    with progress(what, len(samples)) as advance:
        for i in samples:
            read(int(i), [0], out)
            yield int(i), out[0]
            advance(1)


def check_pair(store: xr.Dataset, prediction: xr.Dataset | None) -> None:
    """Raises ContrailError unless `store` holds images and `prediction`, if any, predictions on its pixels."""
    path = store.attrs["path"]
    require_kind(store, Kind.SAMPLES, remedy="preview the store it was made from")
    if prediction is None:
        return
    require_kind(
        prediction, Kind.PSEUDO_LABELS, Kind.PREDICTIONS, remedy="give a store that contrail-train predict wrote"
    )
    if prediction["frame_mask"].shape[2:] != store["image"].shape[3:]:
        raise ContrailError(f"{prediction.attrs['path']}: its pixels are not those of {path}")


@dataclass(frozen=True)
class Look:
    """A store of samples with its scalars in memory, and predictions on it, where there are any."""

    store: xr.Dataset
    records: xr.Dataset
    prediction: xr.Dataset | None = None

    def frame(self, index: int) -> int:
        """The labelled frame; the middle one where none is labelled."""
        return int(reference_frame(self.records["labelled_frame"].values[index], self.store.sizes["time"]))

    def read(self, name: str, index: int, frames: list[int]) -> npt.NDArray[Any]:
        return _read(self.store, name, index, frames)

    def rgb(self, index: int, frame: int) -> npt.NDArray[np.uint8]:
        """A frame to look at, (y, x, 3)."""
        return _rgb(self.read("image", index, [frame])[0], self.store.attrs["composite"]["channels"])

    def label(self, index: int) -> Mask | None:
        """The majority label, (y, x); None where no human labelled."""
        if str(self.records["label_source"].values[index]) != "human":
            return None
        return self.read("mask", index, [0])[0].astype(bool)

    def predicted(self, at: int) -> dict[int, tuple[Mask, npt.NDArray[np.uint8]]]:
        """Mask and probability (y, x) by frame, of sample `at` of the predictions; not those a human labelled."""
        assert self.prediction is not None
        frames = self.prediction["frame"].values[at].tolist()
        human = self.prediction["frame_source"].values[at] == "human"
        columns = [c for c in range(len(frames)) if not human[c] and 0 <= frames[c] < self.store.sizes["time"]]
        masks = _read(self.prediction, "frame_mask", at, columns).astype(bool)
        probability = _read(self.prediction, "probability", at, columns)
        return {frames[c]: (m, p) for c, m, p in zip(columns, masks, probability, strict=True)}

    def prediction_of(self, index: int) -> Mask | None:
        """The predicted mask of the labelled frame, (y, x); None where there is none of this record or frame."""
        if self.prediction is None:
            return None
        at = np.flatnonzero(self.prediction["record_id"].values == self.records["record_id"].values[index])
        found = self.predicted(int(at[0])).get(self.frame(index)) if len(at) else None
        return None if found is None else found[0]

    def tile(self, index: int, *, votes: bool = False) -> Image.Image:
        """The labelled frame, scaled to at least 224 and under 448 pixels, with label, votes and prediction outlined.

        Only `votes` shows what some annotators marked but no majority.
        """
        rgb = self.rgb(index, self.frame(index))
        masks: list[tuple[Mask, Colour]] = []
        if votes:
            masks.append((self.read("annotators", index, [0])[0] > 0, VOTE_COLOUR))
        if (label := self.label(index)) is not None:
            masks.append((label, LABEL_COLOUR))
        if (predicted := self.prediction_of(index)) is not None:
            masks.append((predicted, PREDICTION_COLOUR))
        if (shrink := rgb.shape[1] // _TILE) > 1:  # before outlining, or the outlines would fade
            rgb = np.asarray(Image.fromarray(rgb).reduce(shrink))
            masks = [(_reduced(mask, shrink), colour) for mask, colour in masks]
        return enlarged(outlined(rgb, *masks), math.ceil(_TILE / rgb.shape[1]))

    def caption(self, index: int, separator: str) -> str:
        """Time and place: `2019-04-04 12:00 UTC`, `21.98°N 60.93°W`."""
        time = labelled_time(self.records.isel(sample=[index]))[0]
        place = _place_told(self.records, index)
        if np.isnat(time) and place == _NO_PLACE:
            return "time and place unknown"
        return _time_told(time) + separator + place

    def frame_caption(self, index: int, frame: int) -> str:
        labelled = ", labelled" if frame == int(self.records["labelled_frame"].values[index]) else ""
        return f"frame {frame}, {_time_told(self.records['time'].values[index, frame])}{labelled}"


def outlined(rgb: npt.NDArray[np.uint8], *masks: tuple[Mask, Colour]) -> npt.NDArray[np.uint8]:
    """(y, x, 3) with each (y, x) mask outlined, the last on top.

    An outline runs around its mask, not on it: what was labelled stays visible.
    """
    from scipy.ndimage import binary_dilation

    out = rgb.copy()
    for mask, colour in masks:
        out[binary_dilation(mask, np.ones((3, 3))) & ~mask] = colour
    return out


def png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "png", optimize=True)
    return buffer.getvalue()


def _read(store: xr.Dataset, name: str, sample: int, frames: list[int]) -> npt.NDArray[Any]:
    array = store[name]
    shape = (len(frames), *array.shape[2:]) if "time" in array.dims else (1, *array.shape[1:])
    out = np.empty(shape, array.dtype)
    pixel_reader(store, name)(sample, frames, out)
    return out


def _rgb(image_chw: npt.NDArray[Any], channels: list[dict[str, Any]]) -> npt.NDArray[np.uint8]:
    """Three channels as red, green, blue; of others ash from its three bands, or the first channel as grey."""
    unit = dequantise(image_chw)
    if len(unit) != 3:
        plain = [(c, plane) for c, plane in zip(channels, unit, strict=False) if c["minus"] is None]
        kelvin = {c["band"]: c["low"] + plane * np.float32(c["high"] - c["low"]) for c, plane in plain}
        ash = COMPOSITES["ash"]
        unit = evaluate(ash, kelvin) if set(ash.bands) <= set(kelvin) else unit[[0, 0, 0]]
    return np.rint(np.moveaxis(unit, 0, -1) * 255).astype(np.uint8)


def _reduced(mask: Mask, factor: int) -> Mask:
    """As `Image.reduce` sizes it; a block is set where any of its pixels is."""
    height, width = (math.ceil(n / factor) * factor for n in mask.shape)
    padded = np.pad(mask, ((0, height - mask.shape[0]), (0, width - mask.shape[1])))
    return np.asarray(padded.reshape(height // factor, factor, width // factor, factor).any((1, 3)))


def enlarged(rgb: npt.NDArray[np.uint8], zoom: int) -> Image.Image:
    picture = Image.fromarray(rgb)
    return picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)


def _time_told(time: np.datetime64) -> str:
    return "time unknown" if np.isnat(time) else f"{np.datetime_as_string(time, 'm').replace('T', ' ')} UTC"


def _place_told(records: xr.Dataset, index: int) -> str:
    latitude, longitude = (float(records[k].values[index]) for k in ("latitude", "longitude"))
    if math.isnan(latitude) or math.isnan(longitude):
        return _NO_PLACE
    return f"{abs(latitude):.2f}°{'NS'[latitude < 0]} {abs(longitude):.2f}°{'EW'[longitude < 0]}"
