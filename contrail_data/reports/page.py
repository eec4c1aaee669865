"""One self-contained HTML page: its frame and style, charts as inline SVG without scripts, the map of a view.

Colours are CSS variables, so that light, dark and print are one page. `told`, `label` and `text` are escaped here.
"""

from __future__ import annotations

import math
from html import escape

import numpy as np
import numpy.typing as npt

from contrail_data import __version__
from contrail_data.geo.coastline import coastline
from contrail_data.geo.geometry import GOES_EAST_LONGITUDE

GLOBE = 640
DISK = GLOBE / 2 - 12


def document(title: str, note: str, body: str) -> str:
    """The page around its sections; `body` is HTML, the others are text."""
    title = escape(title)
    return (
        "<!DOCTYPE html>\n<html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head><body><main><header><h1>{title}</h1>"
        f"<p class=note>{escape(note)}</p></header>{body}"
        f"<footer>contrail {escape(__version__)}</footer></main></body></html>\n"
    )


def view_from(
    longitude: npt.NDArray[np.float64], latitude: npt.NDArray[np.float64], centre: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Degrees as a geostationary satellite over `centre` degrees east sees them: x, y in [-1, 1] of the disk (y down),
    and which are on its side of the horizon. On the sphere, which is off by a pixel or so on a page-wide map.
    """
    distance = 42164.0 / 6378.0  # of the satellite, in radii of the Earth
    phi, delta = np.radians(latitude), np.radians(longitude - centre)
    cosine = np.cos(phi) * np.cos(delta)
    scale = math.sqrt(distance**2 - 1) / (distance - cosine)
    return np.cos(phi) * np.sin(delta) * scale, -np.sin(phi) * scale, cosine > 1 / distance


def centre_of_view(longitude: npt.NDArray[np.float64], latitude: npt.NDArray[np.float64]) -> float:
    """Degrees east from over which a map shows these places best: GOES-East's where it sees most of them."""
    if view_from(longitude, latitude, GOES_EAST_LONGITUDE)[2].mean() > 0.5:
        return GOES_EAST_LONGITUDE
    turned = np.radians(longitude)
    return float(round(math.degrees(math.atan2(np.sin(turned).mean(), np.cos(turned).mean())) / 10) * 10)


def on_page(x: float, y: float) -> tuple[float, float]:
    """Where `globe` draws x, y of the disk."""
    return GLOBE / 2 + x * DISK, GLOBE / 2 + y * DISK


def globe(centre: float, marks: str) -> str:
    """The Earth as `view_from` sees it, with coastlines, lines every 20 degrees, and `marks` (SVG) on top."""

    def path(line: npt.NDArray[np.float64]) -> str:
        x, y, visible = view_from(line[:, 0], line[:, 1], centre)
        out, drawing = [], False
        for px, py, ok in zip(x, y, visible, strict=True):
            if ok:
                u, v = on_page(px, py)
                out.append(f"{'L' if drawing else 'M'}{u:.1f} {v:.1f}")
            drawing = bool(ok)
        return "".join(out)

    fine = np.linspace(-180, 180, 181)
    grid = [np.stack([fine, np.full(181, a)], 1) for a in range(-60, 61, 20)]
    grid += [np.stack([np.full(181, o), fine / 2], 1) for o in range(-180, 180, 20)]
    sea = f"<circle class=sea cx={GLOBE / 2} cy={GLOBE / 2} r={DISK} />"
    lines = f'<path class=graticule d="{"".join(map(path, grid))}" />'
    coast = f'<path class=coast d="{"".join(map(path, coastline(tolerance=0.25)))}" />'
    return svg(GLOBE, GLOBE, sea + lines + coast + marks, "Map of records")


def svg(width: float, height: float, content: str, label: str) -> str:
    """An image, `label` told to who cannot see it."""
    return f'<svg viewBox="0 0 {width} {height}" role=img aria-label="{escape(label)}">{content}</svg>'


def text_at(x: float, y: float, text: str, anchor: str = "middle") -> str:
    """Text on an image."""
    return f"<text x={x:.1f} y={y:.1f} text-anchor={anchor}>{escape(text)}</text>"


def rect_at(x: float, y: float, width: float, height: float, name: str, told: str) -> str:
    """A rectangle of a CSS class; `told` on hovering."""
    return (
        f"<rect class={name} x={x:.1f} y={y:.1f} width={max(width, 0.5):.1f} height={max(height, 0):.1f}>"
        f"<title>{escape(told)}</title></rect>"
    )


def line_at(x1: float, y1: float, x2: float, y2: float, name: str) -> str:
    """A line of a CSS class."""
    return f"<line class={name} x1={x1:.1f} y1={y1:.1f} x2={x2:.1f} y2={y2:.1f} />"


def nice_step(top: float, most: int = 5) -> float:
    """The step, 1, 2 or 5 times a power of ten, that divides [0, top] into at most `most` parts, or as few more."""
    raw = top / most
    power = 10.0 ** math.floor(math.log10(raw))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))


def figure(title: str, chart: str, told: str) -> str:
    """A chart under its title, with what it tells below."""
    return f"<figure class=chart><h3>{escape(title)}</h3>{chart}<figcaption>{escape(told)}</figcaption></figure>"


def chart_grid(figures: list[str]) -> str:
    """Figures side by side, as many as fit."""
    return f"<div class=charts>{''.join(figures)}</div>"


def html_table(header: list[str], rows: list[list[str]]) -> str:
    """A table of text."""
    head = "".join(f"<th>{escape(h)}</th>" for h in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class=scroll><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def section(title: str, content: str) -> str:
    """A part of the page; `content` is HTML."""
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def headline(tiles: list[tuple[str, str]]) -> str:
    """Numbers and what they are, in large."""
    return "<div class=headline>" + "".join(
        f"<div><b>{escape(number)}</b><span>{escape(told)}</span></div>" for number, told in tiles
    ) + "</div>"  # fmt: skip


def plural(count: int, what: str) -> str:
    """A count with its noun."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


STYLE = """
:root { --bg: #fff; --fg: #1d2228; --muted: #66707b; --line: #dfe3e8; --card: #f6f7f9;
  --pos: #c77700; --neg: #8fa3b8; --sea: #eef3f7; --coast: #7b8794; color-scheme: light dark }
@media (prefers-color-scheme: dark) { :root { --bg: #14171a; --fg: #e4e7ea; --muted: #98a2ad; --line: #2f353c;
  --card: #1c2024; --pos: #f0a63a; --neg: #5d7389; --sea: #1a2026; --coast: #8a96a3 } }
* { box-sizing: border-box }
body { margin: 0; background: var(--bg); color: var(--fg); font: 15px/1.5 system-ui, sans-serif }
main { max-width: 1120px; margin: 0 auto; padding: 24px 20px 40px }
h1 { font-size: 26px; line-height: 1.25; margin: 0; overflow-wrap: anywhere }
h2 { font-size: 19px; margin: 44px 0 10px; padding-top: 14px; border-top: 1px solid var(--line) }
h3 { font-size: 15px; margin: 18px 0 6px } figure h3 { margin: 0 0 6px }
p { margin: 6px 0 } figure { margin: 0 } footer { margin-top: 40px; color: var(--muted); font-size: 13px }
.note, figcaption { color: var(--muted); font-size: 13px; overflow-wrap: anywhere }
.headline { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin-top: 20px }
.headline div { background: var(--card); border-radius: 6px; padding: 12px 14px }
.headline b { display: block; font-size: 22px; line-height: 1.25; font-weight: 600 }
.headline span { color: var(--muted); font-size: 13px }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); gap: 26px 24px }
.map { max-width: 680px; margin: 0 auto } svg { display: block; width: 100%; height: auto }
svg text { font: 11px system-ui, sans-serif; fill: var(--muted) }
.pos { fill: var(--pos); background: var(--pos) } .neg { fill: var(--neg); background: var(--neg) }
.grid { stroke: var(--line) } .axis { stroke: var(--muted) } .mark { stroke: var(--fg); stroke-dasharray: 4 3 }
.area { fill: var(--neg); background: var(--neg) }
.line { fill: none; stroke: var(--pos); stroke-width: 2; background: var(--pos) }
.sea { fill: var(--sea); stroke: var(--line) } .graticule { fill: none; stroke: var(--line); stroke-width: .7 }
.coast { fill: none; stroke: var(--coast); stroke-width: .8 }
circle.neg { fill-opacity: .75 } circle.pos { stroke: var(--bg); stroke-width: .4 }
.legend { font-size: 13px; color: var(--muted) } .key { display: inline-block; margin-right: 18px }
.key i { display: inline-block; width: 12px; height: 12px; margin-right: 6px; border-radius: 2px; vertical-align: -1px }
.key i.line { height: 3px; vertical-align: 4px }
.legend.dark i { background: #3a6ea5 }
.scroll { overflow-x: auto; margin: 14px 0 } table { border-collapse: collapse; font-size: 13px }
th, td { text-align: right; padding: 4px 10px; border-bottom: 1px solid var(--line) }
td { font-variant-numeric: tabular-nums; white-space: nowrap } td:first-child { white-space: normal }
th { color: var(--muted); font-weight: 500; white-space: nowrap } th:first-child, td:first-child { text-align: left }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(160px, 1fr)); gap: 14px }
.tiles img { display: block; width: 100%; height: auto; border-radius: 3px }
.tiles figcaption { font-size: 12px; line-height: 1.4; margin-top: 4px }
.facts { display: grid; grid-template-columns: minmax(90px, max-content) 1fr; gap: 4px 18px; margin: 0 }
.facts { font-size: 13px }
.facts dt { color: var(--muted) } .facts dd { margin: 0; overflow-wrap: anywhere } li { font-size: 13px }
@media print { :root { --bg: #fff; --fg: #000; --muted: #444; --line: #ccc; --card: #f6f7f9;
  --pos: #c77700; --neg: #8fa3b8; --sea: #fff; --coast: #777; color-scheme: light }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact }
  figure, tr, .headline { break-inside: avoid } h2, h3, .legend, .note { break-after: avoid }
  main { padding: 0 } h2 { margin-top: 24px } .map { max-width: 480px } .scroll { overflow: visible }
  .headline { grid-template-columns: repeat(6, 1fr) } .headline div { padding: 8px } .headline b { font-size: 15px }
  .charts { grid-template-columns: repeat(3, 1fr); gap: 16px } .tiles { grid-template-columns: repeat(6, 1fr) }
  th, td { padding: 3px 6px; font-size: 11px } th { white-space: normal } .tiles figcaption { font-size: 9px } }
"""
