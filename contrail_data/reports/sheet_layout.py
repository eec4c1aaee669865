"""Layout of contact sheets: captioned pictures in rows below a title and a legend."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from contrail_data.reports.pictures import Colour

_WHITE, _BACKGROUND = (255, 255, 255), (24, 24, 24)
_GAP = 4


@dataclass(frozen=True)
class Captioned:
    """A picture and the text above it."""

    caption: str
    picture: Image.Image


def add_captions(row: list[Captioned], size: int = 12) -> list[Image.Image]:
    """Draw the captions of pictures that stand side by side.

    Args:
        row: The pictures.
        size: Size of the font in pixels.

    Returns:
        The pictures with their captions above, all with the room that the longest one needs.
    """
    font = load_font(size)
    captions = [wrap_text(item.caption, font, item.picture.width - 6) for item in row]
    height = _line_height(font)
    room = height * max(map(len, captions)) + 4
    pictures = []
    for lines, item in zip(captions, row, strict=True):
        picture = Image.new("RGB", (item.picture.width, item.picture.height + room))
        picture.paste(item.picture, (0, room))
        _write(picture, (3, 2), lines, font)
        pictures.append(picture)
    return pictures


def draw_sheet(title: str, legend: list[tuple[str, Colour]], rows: list[list[Captioned]]) -> Image.Image:
    """Draw rows of captioned pictures.

    Args:
        title: Title above the rows.
        legend: What each colour of outlines means.
        rows: The pictures.

    Returns:
        The sheet.
    """
    stacked = [add_captions(row) for row in rows]
    font = load_font(14)
    height = _line_height(font)
    key_widths = [height + 12 + int(font.getlength(name)) for name, _ in legend]
    width = max(sum(key_widths), *(sum(picture.width + _GAP for picture in row) - _GAP for row in stacked))
    lines = wrap_text(title, font, width - 6)
    top = height * (len(lines) + bool(legend)) + 8
    total = top + sum(max(picture.height for picture in row) + _GAP for row in stacked) - _GAP
    sheet = Image.new("RGB", (width, total), _BACKGROUND)
    draw = _write(sheet, (3, 3), lines, font)
    x, y = 3, 3 + len(lines) * height
    for (name, colour), key_width in zip(legend, key_widths, strict=True):
        draw.rectangle((x, y + 3, x + height - 8, y + height - 5), outline=colour, width=2)
        draw.text((x + height - 2, y), name, fill=colour, font=font)
        x += key_width
    y = top
    for row in stacked:
        x = 0
        for picture in row:
            sheet.paste(picture, (x, y))
            x += picture.width + _GAP
        y += max(picture.height for picture in row) + _GAP
    return sheet


def in_rows(tiles: list[Captioned]) -> list[list[Captioned]]:
    """Arrange the tiles of a sheet so that it comes near 16:10 and its last row is not much emptier than the others.

    Args:
        tiles: Tiles of one size.

    Returns:
        The tiles by row.
    """
    width, height = tiles[0].picture.width, tiles[0].picture.height + 4 * _line_height(load_font(12))

    def cost(columns: int) -> float:
        rows = math.ceil(len(tiles) / columns)
        return abs(math.log(columns * width / (rows * height) / 1.6)) + 1 - len(tiles) / (rows * columns)

    columns = min(range(1, len(tiles) + 1), key=cost)
    return [tiles[i : i + columns] for i in range(0, len(tiles), columns)]


@lru_cache
def load_font(size: int) -> Any:
    """Load the font of captions.

    Args:
        size: Size in pixels.

    Returns:
        A font of Pillow.
    """
    return ImageFont.load_default(size)


def _line_height(font: Any) -> int:
    return int(font.getbbox("Åg")[3]) + 3


def _write(picture: Image.Image, corner: tuple[int, int], lines: list[str], font: Any) -> ImageDraw.ImageDraw:
    draw = ImageDraw.Draw(picture)
    for i, line in enumerate(lines):
        draw.text((corner[0], corner[1] + i * _line_height(font)), line, fill=_WHITE, font=font)
    return draw


def wrap_text(text: str, font: Any, width: int) -> list[str]:
    """Break text into lines that fit: between words, and inside a word only if the word itself is too long.

    Args:
        text: The text; it may hold line breaks.
        font: A font from `load_font`.
        width: Room in pixels.

    Returns:
        The lines.
    """
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
