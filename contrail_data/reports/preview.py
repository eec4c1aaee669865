"""Looking at samples: single records frame by frame, contact sheets of many; labels and predictions outlined."""

from __future__ import annotations

import io
import math
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from PIL import Image, ImageDraw, ImageFont

from contrail_data.composites import dequantise
from contrail_data.errors import ContrailError
from contrail_data.progress import progress
from contrail_data.reports.pictures import (
    BACKGROUND,
    LABEL_COLOUR,
    PREDICTION_COLOUR,
    VOTE_COLOUR,
    WHITE,
    Colour,
    Look,
    Votes,
    check_pair,
    enlarged,
    find_record,
    outlined,
    vote_counts,
)
from contrail_data.sample import check_record_id
from contrail_data.storage.files import write_atomically
from contrail_data.storage.place import place_of
from contrail_data.store.reader import read_scalars
from contrail_data.store.schema import Kind, kind_of

Captioned = tuple[str, Image.Image]
_PANEL = 512  # pixels wide, at least
_GAP = 4
_AGREED_PRIOR = 100  # pixels

SHEETS = {
    "positives": "most labelled pixels first",
    "disagreed": "most disputed between annotators first",
    "brightest": "clear scenes first, in which contrails show best; labels are not looked at",
    "random": "drawn at random",
}


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
    rows = [[(text, enlarged(picture, large)) for text, picture in panels]]
    if count > 1:
        tiles = [(captions[f], enlarged(marked[f], small)) for f in range(count)]
        in_row = max(4, sum(p.width for _, p in rows[0]) // tiles[0][1].width)
        rows += [tiles[i : i + in_row] for i in range(0, count, in_row)]
    colours = [("label", LABEL_COLOUR)] * (label is not None) + [("predicted", PREDICTION_COLOUR)] * bool(predicted)
    title = f"record {record_id}   {look.caption(index, ' ')}   split {look.records['split'].values[index]}"
    with_prediction = "" if prediction is None else f".{_label(prediction)}"
    path = _folder(out, store) / f"{record_id}{with_prediction}.png"
    _save(path, _sheet(title, colours, rows))
    if count == 1:
        return [path]
    animation = _captioned([(captions[f], enlarged(marked[f], large)) for f in range(count)])
    moving = path.with_name(f"{record_id}{with_prediction}.gif")
    _save(moving, animation[0], save_all=True, append_images=animation[1:], duration=500, loop=0)
    return [path, moving]


def default_sheets(store: xr.Dataset) -> list[str]:
    """Sheets worth a look when none was named: positives, where there are labels, and random."""
    has_positives = kind_of(store) is Kind.SAMPLES and bool((read_scalars(store)["positive_pixels"] > 0).any())
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
            draw.text((3, 2 + i * height), line, fill=WHITE, font=font)
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
    sheet = Image.new("RGB", (width, total), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for i, line in enumerate(lines):
        draw.text((3, 3 + i * height), line, fill=WHITE, font=font)
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
