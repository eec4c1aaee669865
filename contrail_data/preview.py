"""Looking at samples: a PNG sheet and an animated GIF of one record, labels and predictions outlined."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from PIL import Image, ImageDraw

from contrail_data.composites import dequantise
from contrail_data.errors import ContrailError
from contrail_data.places import write_atomically
from contrail_data.store import kind, pixel_reader, read_scalars

LABEL_COLOUR = (255, 230, 0)
PREDICTION_COLOUR = (0, 255, 255)
_PANEL = 512  # pixels, at least
_TEXT_HEIGHT = 16


def find_record(store: xr.Dataset, record_id: str) -> int:
    """Index of a record. Raises ContrailError naming a few that are there."""
    ids = store["record_id"].values
    found = np.flatnonzero(ids == record_id)
    if not len(found):
        some = ", ".join(str(i) for i in ids[:3])
        raise ContrailError(f"{store.attrs['path']}: no record {record_id!r}: it holds {len(ids)}, such as {some}")
    return int(found[0])


def preview(store: xr.Dataset, record_id: str, out: Path, prediction: xr.Dataset | None = None) -> list[Path]:
    """Write `{out}/{record_id}.png` and `.gif`; returns their paths.

    The sheet shows the labelled frame enlarged: plain, with the label outlined in yellow and, where
    `prediction` (predictions or pseudo-labels) is given, its mask outlined in cyan and its probability; below,
    every frame. Raises ContrailError when the record is in neither store or the files cannot be written.
    """
    if kind(store) != "samples":
        raise ContrailError(f"{store.attrs['path']}: holds {kind(store)}, no images: preview the store it came from")
    if prediction is not None:
        if kind(prediction) == "samples":
            raise ContrailError(f"{prediction.attrs['path']}: holds samples, no predictions: name what predict wrote")
        if prediction["frame_mask"].shape[2:] != store["image"].shape[3:]:
            raise ContrailError(f"{prediction.attrs['path']}: its pixels are not those of {store.attrs['path']}")
    index = find_record(store, record_id)
    record = read_scalars(store).isel(sample=index)
    labelled = int(record["labelled_frame"])
    shown = labelled if labelled >= 0 else store.sizes["time"] // 2
    frames = [_rgb(image) for image in _read(store, "image", index, list(range(store.sizes["time"])))]
    has_label = str(record["label_source"].values) == "human"
    label = _read(store, "mask", index, [0])[0].astype(bool) if has_label else None

    panels = [("ash", frames[shown])]
    if label is not None:
        panels.append((f"label, {int(label.sum())} px", _outlined(frames[shown], label, LABEL_COLOUR)))
    predicted: dict[int, npt.NDArray[np.bool_]] = {}
    if prediction is not None:
        at = find_record(prediction, record_id)
        which = prediction["frame"].values[at].tolist()
        columns = list(range(len(which)))
        masks = _read(prediction, "frame_mask", at, columns).astype(bool)
        probability = dict(zip(which, _read(prediction, "probability", at, columns), strict=True))
        human = prediction["frame_source"].values[at] == "human"
        predicted = {f: m for f, m, h in zip(which, masks, human, strict=True) if not h}
        if shown in predicted:
            mask = predicted[shown]
            panels.append((f"predicted, {int(mask.sum())} px", _outlined(frames[shown], mask, PREDICTION_COLOUR)))
            panels.append(("probability", np.repeat(probability[shown][..., np.newaxis], 3, -1)))

    def marked(frame: int) -> npt.NDArray[np.uint8]:
        picture = frames[frame]
        if frame == labelled and label is not None:
            picture = _outlined(picture, label, LABEL_COLOUR)
        if frame in predicted:
            picture = _outlined(picture, predicted[frame], PREDICTION_COLOUR)
        return picture

    captions = [_caption(record, f) for f in range(len(frames))]
    width = frames[0].shape[1]
    zoom, half = max(1, _PANEL // width), max(1, _PANEL // 2 // width)
    large = [_titled(text, picture, zoom) for text, picture in panels]
    small = [_titled(captions[f], marked(f), half) for f in range(len(frames))]
    in_row = max(4, sum(p.width for p in large) // small[0].width)
    sheet = _stack([large, *(small[i : i + in_row] for i in range(0, len(small), in_row))])
    animation = [_titled(captions[f], marked(f), zoom) for f in range(len(frames))]
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ContrailError(f"{out}: cannot be a folder for pictures ({error.strerror}): choose another -o") from None
    paths = [out / f"{record_id}.png", out / f"{record_id}.gif"]
    _save(paths[0], _titled(_headline(record), np.asarray(sheet), 1))
    _save(paths[1], animation[0], save_all=True, append_images=animation[1:], duration=500, loop=0)
    return paths


def _read(store: xr.Dataset, name: str, sample: int, frames: list[int]) -> npt.NDArray[Any]:
    array = store[name]
    shape = (len(frames), *array.shape[2:]) if "time" in array.dims else (1, *array.shape[1:])
    out = np.empty(shape, array.dtype)
    pixel_reader(store, name)(sample, frames, out)
    return out


def _rgb(image_chw: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Three channels as red, green, blue; the first alone as grey where there are not three."""
    unit = dequantise(image_chw if len(image_chw) == 3 else image_chw[[0, 0, 0]])
    return np.rint(np.moveaxis(unit, 0, -1) * 255).astype(np.uint8)


def _outlined(
    rgb: npt.NDArray[np.uint8], mask: npt.NDArray[np.bool_], colour: tuple[int, int, int]
) -> npt.NDArray[np.uint8]:
    """The outline runs around the mask, not on it: what was labelled stays visible."""
    from scipy.ndimage import binary_dilation

    out = rgb.copy()
    out[binary_dilation(mask, np.ones((3, 3))) & ~mask] = colour
    return out


def _titled(text: str, rgb: npt.NDArray[np.uint8], zoom: int) -> Image.Image:
    picture = Image.fromarray(rgb)
    picture = picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)
    out = Image.new("RGB", (picture.width, picture.height + _TEXT_HEIGHT))
    out.paste(picture, (0, _TEXT_HEIGHT))
    ImageDraw.Draw(out).text((3, 2), text, fill=(255, 255, 255))
    return out


def _stack(rows: list[list[Image.Image]]) -> Image.Image:
    width = max(sum(p.width + 2 for p in row) for row in rows)
    sheet = Image.new("RGB", (width, sum(max(p.height for p in row) + 2 for row in rows)), (40, 40, 40))
    y = 0
    for row in rows:
        x = 0
        for picture in row:
            sheet.paste(picture, (x, y))
            x += picture.width + 2
        y += max(p.height for p in row) + 2
    return sheet


def _caption(record: xr.Dataset, frame: int) -> str:
    time = record["time"].values[frame]
    when = "time unknown" if np.isnat(time) else f"{np.datetime_as_string(time, 'm')} UTC"
    return f"frame {frame}, {when}" + (", labelled" if frame == int(record["labelled_frame"]) else "")


def _headline(record: xr.Dataset) -> str:
    latitude, longitude = float(record["latitude"]), float(record["longitude"])
    where = "place unknown" if np.isnan(latitude) else f"{latitude:.2f} N {longitude:.2f} E"
    sun = "" if np.isnan(record["solar_zenith"]) else f", sun zenith {float(record['solar_zenith']):.0f} deg"
    return f"record {record['record_id'].values}  {where}{sun}  split {record['split'].values}"


def _save(path: Path, picture: Image.Image, **options: Any) -> None:
    import io

    buffer = io.BytesIO()
    picture.save(buffer, path.suffix[1:], **options)
    write_atomically(path, [buffer.getvalue()])
