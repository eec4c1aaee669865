"""Looking at samples: single records frame by frame, contact sheets of many; labels and predictions outlined."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from PIL import Image, ImageDraw, ImageFont

from contrail_data.composites import COMPOSITES, dequantise, evaluate
from contrail_data.errors import ContrailError
from contrail_data.inspect import labelled_time
from contrail_data.places import place_of, write_atomically
from contrail_data.progress import progress
from contrail_data.sample import check_record_id
from contrail_data.store import kind, pixel_reader, read_scalars

Colour = tuple[int, int, int]
Mask = npt.NDArray[np.bool_]
Captioned = tuple[str, Image.Image]

LABEL_COLOUR = (255, 230, 0)
VOTE_COLOUR = (255, 80, 200)
PREDICTION_COLOUR = (0, 255, 255)
_WHITE, _BACKGROUND = (255, 255, 255), (24, 24, 24)
_PANEL = 512  # pixels wide, at least
_TILE = 224  # at least; a tile of a contact sheet stays under twice that
_GAP = 4
_NO_PLACE = "place unknown"
_AGREED_PRIOR = 100  # pixels

SHEETS = {
    "positives": "most labelled pixels first",
    "disagreed": "most disputed between annotators first",
    "brightest": "clear scenes first, in which contrails show best; labels are not looked at",
    "random": "drawn at random",
}


def find_record(store: xr.Dataset, record_id: str) -> int:
    """Index of a record. Raises ContrailError naming a few that are there."""
    ids = store["record_id"].values
    found = np.flatnonzero(ids == record_id)
    if not len(found):
        some = ", ".join(repr(str(i)) for i in ids[:3])
        raise ContrailError(f"{store.attrs['path']}: no record {record_id!r}: it holds {len(ids)}, such as {some}")
    return int(found[0])


def preview(store: xr.Dataset, record_id: str, out: Path, prediction: xr.Dataset | None = None) -> list[Path]:
    """Write `{out}/{store}/{record_id}.png` and, of several frames, `.gif`; returns their paths.

    The sheet shows the labelled frame enlarged: plain, with the label outlined in yellow and, where
    `prediction` (predictions or pseudo-labels) is given, its mask outlined in cyan and its probability; below,
    every frame. Raises ContrailError when the record is in neither store, its id is no plain name, or the files
    cannot be written.
    """
    check_pair(store, prediction)
    index = find_record(store, record_id)
    check_record_id(record_id)
    look = Look(store, read_scalars(store), prediction)
    count, shown = store.sizes["time"], look.frame(index)
    frames = [look.rgb(index, frame) for frame in range(count)]
    label = look.label(index)
    predicted = {} if prediction is None else look.predicted(find_record(prediction, record_id))

    panels = [(f"{store.attrs['composite']['name']}, frame {shown}", frames[shown])]
    if label is not None:
        panels.append((f"label, {int(label.sum())} px", outlined(frames[shown], (label, LABEL_COLOUR))))
    if shown in predicted:
        mask, probability = predicted[shown]
        panels.append((f"predicted, {int(mask.sum())} px", outlined(frames[shown], (mask, PREDICTION_COLOUR))))
        panels.append(("probability", np.repeat(probability[..., np.newaxis], 3, -1)))
    marked = list(frames)
    if label is not None:
        marked[shown] = outlined(marked[shown], (label, LABEL_COLOUR))
    for frame, (mask, _) in predicted.items():
        marked[frame] = outlined(marked[frame], (mask, PREDICTION_COLOUR))

    width = frames[0].shape[1]
    large, small = max(1, _PANEL // width), max(1, _PANEL // 2 // width)
    captions = [look.frame_caption(index, f) for f in range(count)]
    rows = [[(text, _enlarged(picture, large)) for text, picture in panels]]
    if count > 1:
        tiles = [(captions[f], _enlarged(marked[f], small)) for f in range(count)]
        in_row = max(4, sum(p.width for _, p in rows[0]) // tiles[0][1].width)
        rows += [tiles[i : i + in_row] for i in range(0, count, in_row)]
    colours = [("label", LABEL_COLOUR)] * (label is not None) + [("predicted", PREDICTION_COLOUR)] * bool(predicted)
    title = f"record {record_id}   {look.caption(index, ' ')}   split {look.records['split'].values[index]}"
    with_prediction = "" if prediction is None else f".{_label(prediction)}"
    path = _folder(out, store) / f"{record_id}{with_prediction}.png"
    _save(path, _sheet(title, colours, rows))
    if count == 1:
        return [path]
    animation = _captioned([(captions[f], _enlarged(marked[f], large)) for f in range(count)])
    moving = path.with_name(f"{record_id}{with_prediction}.gif")
    _save(moving, animation[0], save_all=True, append_images=animation[1:], duration=500, loop=0)
    return [path, moving]


def default_sheets(store: xr.Dataset) -> list[str]:
    """Sheets worth a look when none was named: positives, where there are labels, and random."""
    has_positives = kind(store) == "samples" and bool((read_scalars(store)["positive_pixels"] > 0).any())
    return ["positives", "random"] if has_positives else ["random"]


def contact_sheet(
    store: xr.Dataset, sheet: str, out: Path, *, count: int = 24, seed: int = 0, prediction: xr.Dataset | None = None
) -> Path:
    """Write `{out}/{store}/{sheet}.png`, the labelled frame of up to `count` records; returns its path.

    Records and their order are those of `choose`. The label is outlined in yellow; in "disagreed" what too few
    annotators marked for the majority in pink; predicted masks in cyan. Raises ContrailError where `choose` does
    and when the file cannot be written.
    """
    check_pair(store, prediction)
    look = Look(store, read_scalars(store), prediction)
    chosen, of = choose(store, sheet, count, seed)
    votes = sheet == "disagreed"
    tiles = []
    for index, told in chosen:
        unpredicted = prediction is not None and look.prediction_of(index) is None
        lines = [str(look.records["record_id"].values[index]), look.caption(index, "\n"), told]
        lines += ["no prediction"] * unpredicted
        tiles.append(("\n".join(filter(None, lines)), look.tile(index, votes=votes)))
    colours = [("label", LABEL_COLOUR)] + [("marked by too few annotators", VOTE_COLOUR)] * votes
    colours += [("predicted", PREDICTION_COLOUR)] * (prediction is not None)
    columns = _columns(len(tiles), tiles[0][1].width, tiles[0][1].height + 4 * _line_height(_font(12)))
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    seeded = f", seed {seed}" if sheet == "random" else ""
    with_prediction = "" if prediction is None else f".{_label(prediction)}"
    path = _folder(out, store) / f"{sheet}{with_prediction}.png"
    title = f"{place_of(store.attrs['path']).name}: {sheet}, {SHEETS[sheet]}{seeded}; {len(tiles)} of {of} records"
    _save(path, _sheet(title, colours, rows))
    return path


def choose(
    store: xr.Dataset, sheet: str, count: int, seed: int = 0, votes: dict[int, Votes] | None = None
) -> tuple[list[tuple[int, str]], int]:
    """Records for a sheet: ([(sample, what ranks it)], how many there were to choose from), at most `count`.

    - positives: most labelled pixels first.
    - disagreed: by the share of disputed pixels (marked by some annotators, not by all) among those marked by any,
      taken as if 100 more pixels were agreed on, so that a disputed speck stays behind a disputed contrail. Reads
      the votes of all records, unless `votes` gives them.
    - brightest: by the mean of the brightest 5 % of pixels of the labelled frame in the difference to 8.4 µm
      (b14 - b11 or b13 - b11), else in the first channel: scenes in which contrails show, not contrails. Reads the
      images of all records, no labels. On 155 real frames, half of them positive, 19 of the first 24 were (area
      under the curve 0.75); the 12.3 µm difference and line filters did no better.
    - random: without replacement, by `seed`.

    Raises ContrailError where the store has no such record or holds no images.
    """
    check_pair(store, None)
    path, records = store.attrs["path"], read_scalars(store)
    if sheet == "random":
        order = np.random.default_rng(seed).permutation(records.sizes["sample"])
        return [(int(i), "") for i in order[:count]], len(order)
    if sheet == "positives":
        pixels = records["positive_pixels"].values
        order = np.argsort(-pixels, kind="stable")[: int((pixels > 0).sum())]
        told = {int(i): f"{pixels[i]} px" for i in order[:count]}
    elif sheet == "disagreed":
        votes = vote_counts(store, records) if votes is None else votes
        score = {i: v.disputed / (v.marked + _AGREED_PRIOR) for i, v in votes.items() if v.disputed}
        order = np.array(sorted(score, key=lambda i: -score[i]), np.int64)
        told = {int(i): f"{votes[i].disputed} of {votes[i].marked} px disputed" for i in order[:count]}
    else:
        brightness = _brightness(store, records)
        order = np.argsort(-brightness, kind="stable")
        told = {int(i): f"brightest 5 %: {brightness[i]:.3f}" for i in order[:count]}
    if not len(order):
        missing = {"positives": "positive record", "disagreed": "record on which annotators disagree"}[sheet]
        raise ContrailError(f"{path}: holds no {missing}: choose another --sheet, such as random")
    return list(told.items()), len(order)


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


def _brightness(store: xr.Dataset, records: xr.Dataset) -> npt.NDArray[np.float64]:
    look, channels = Look(store, records), store.attrs["composite"]["channels"]
    at = next((i for i, c in enumerate(channels) if c["band"] in (13, 14) and c["minus"] == 11), 0)
    found = np.empty(records.sizes["sample"])
    with progress("images", len(found)) as advance:
        for i in range(len(found)):
            values = dequantise(look.read("image", i, [look.frame(i)])[0, at]).ravel()
            k = max(1, values.size // 20)
            found[i] = np.partition(values, values.size - k)[-k:].mean()
            advance(1)
    return found


def check_pair(store: xr.Dataset, prediction: xr.Dataset | None) -> None:
    """Raises ContrailError unless `store` holds images and `prediction`, if any, predictions on its pixels."""
    path = store.attrs["path"]
    if kind(store) != "samples":
        raise ContrailError(f"{path}: holds {kind(store)}, no images: preview the store it came from")
    if prediction is None:
        return
    if kind(prediction) == "samples":
        raise ContrailError(f"{prediction.attrs['path']}: holds samples, no predictions: name what predict wrote")
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
        labelled, count = int(self.records["labelled_frame"].values[index]), self.store.sizes["time"]
        return labelled if 0 <= labelled < count else count // 2

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
        return _enlarged(outlined(rgb, *masks), math.ceil(_TILE / rgb.shape[1]))

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


def _enlarged(rgb: npt.NDArray[np.uint8], zoom: int) -> Image.Image:
    picture = Image.fromarray(rgb)
    return picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)


def _time_told(time: np.datetime64) -> str:
    return "time unknown" if np.isnat(time) else f"{np.datetime_as_string(time, 'm').replace('T', ' ')} UTC"


def _place_told(records: xr.Dataset, index: int) -> str:
    latitude, longitude = (float(records[k].values[index]) for k in ("latitude", "longitude"))
    if math.isnan(latitude) or math.isnan(longitude):
        return _NO_PLACE
    return f"{abs(latitude):.2f}°{'NS'[latitude < 0]} {abs(longitude):.2f}°{'EW'[longitude < 0]}"


@lru_cache
def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _line_height(font: Any) -> int:
    return int(font.getbbox("Åg")[3]) + 3


def _wrapped(text: str, font: Any, width: int) -> list[str]:
    """Lines that fit: broken between words, inside a word only where it alone is too long."""
    lines = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split(" "):
            if line and font.getlength(f"{line} {word}") > width:
                lines.append(line)
                line = ""
            line = f"{line} {word}" if line else word
            while font.getlength(line) > width and len(line) > 1:
                fits = next(n for n in range(len(line) - 1, 0, -1) if n == 1 or font.getlength(line[:n]) <= width)
                lines.append(line[:fits])
                line = line[fits:]
        lines.append(line)
    return lines


def _captioned(row: list[Captioned], size: int = 12) -> list[Image.Image]:
    """Pictures with their text above, all with as much room for it as the longest needs."""
    font = _font(size)
    texts = [_wrapped(text, font, picture.width - 6) for text, picture in row]
    height = _line_height(font)
    room = height * max(map(len, texts)) + 4
    out = []
    for lines, (_, picture) in zip(texts, row, strict=True):
        whole = Image.new("RGB", (picture.width, picture.height + room))
        whole.paste(picture, (0, room))
        draw = ImageDraw.Draw(whole)
        for i, line in enumerate(lines):
            draw.text((3, 2 + i * height), line, fill=_WHITE, font=font)
        out.append(whole)
    return out


def _sheet(title: str, colours: list[tuple[str, Colour]], rows: list[list[Captioned]]) -> Image.Image:
    """Rows of captioned pictures under a title and what the outlines' colours mean."""
    stacked = [_captioned(row) for row in rows]
    font = _font(14)
    height = _line_height(font)
    keys = [height + 12 + int(font.getlength(name)) for name, _ in colours]
    width = max(sum(keys), *(sum(p.width + _GAP for p in row) - _GAP for row in stacked))
    lines = _wrapped(title, font, width - 6)
    top = height * (len(lines) + bool(colours)) + 8
    total = top + sum(max(p.height for p in row) + _GAP for row in stacked) - _GAP
    sheet = Image.new("RGB", (width, total), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for i, line in enumerate(lines):
        draw.text((3, 3 + i * height), line, fill=_WHITE, font=font)
    x, y = 3, 3 + len(lines) * height
    for (name, colour), room in zip(colours, keys, strict=True):
        draw.rectangle((x, y + 3, x + height - 8, y + height - 5), outline=colour, width=2)
        draw.text((x + height - 2, y), name, fill=colour, font=font)
        x += room
    y = top
    for row in stacked:
        x = 0
        for picture in row:
            sheet.paste(picture, (x, y))
            x += picture.width + _GAP
        y += max(p.height for p in row) + _GAP
    return sheet


def _columns(count: int, width: int, height: int) -> int:
    """Columns that bring a sheet of `count` tiles near 16:10 without leaving much of the last row empty."""

    def off(columns: int) -> float:
        rows = math.ceil(count / columns)
        return abs(math.log(columns * width / (rows * height) / 1.6)) + 1 - count / (rows * columns)

    return min(range(1, count + 1), key=off)


def _label(store: xr.Dataset) -> str:
    """Name and digest: two stores called train.zarr do not meet, nor does one with its rebuilt self."""
    stem = re.sub(r"[^\w.\-]", "_", place_of(store.attrs["path"]).name.removesuffix(".zarr"))
    digest = re.sub(r"\W", "", str(store.attrs["digest"]).removeprefix("sha256:"))
    return f"{stem}-{digest[:8]}"


def _folder(out: Path, store: xr.Dataset) -> Path:
    folder = out / _label(store)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ContrailError(f"{out}: cannot be a folder for pictures ({error.strerror}): choose another -o") from None
    return folder


def _save(path: Path, picture: Image.Image, **options: Any) -> None:
    buffer = io.BytesIO()
    picture.save(buffer, path.suffix[1:], **options)
    write_atomically(path, [buffer.getvalue()])
