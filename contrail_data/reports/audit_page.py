"""One self-contained HTML page on two sets of records, or one: where and when they are, and what leaks."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.reports.page import (
    centre_of_view,
    chart_grid,
    document,
    figure,
    globe,
    headline,
    html_table,
    line_at,
    nice_step,
    on_page,
    plural,
    rect_at,
    section,
    svg,
    text_at,
    view_from,
)
from contrail_data.splits.audit import tally_table
from contrail_data.splits.groups import described
from contrail_data.splits.leaks import KINDS, Leaks
from contrail_data.store.samples import label_of, labelled_time, site_of

_STYLE = """<style>
:root { --a: #c77700; --b: #0072b2 }
@media (prefers-color-scheme: dark) { :root { --a: #f0a63a; --b: #56b4e9 } }
.a { fill: var(--a); background: var(--a) } .b { fill: var(--b); background: var(--b) }
path.a, path.b { stroke: var(--bg); stroke-width: .4 }
</style>"""
"""Amber and blue of Okabe and Ito's palette, which colour-blind people tell apart."""
_SIDES = ("a", "b")
_LISTED = 50


def audit_page(names: Sequence[str], sets: Sequence[xr.Dataset], leaks: Leaks, kinds: Collection[str] = KINDS) -> str:
    """The page on one or two `sets` of records and the leaks within or between them, of the `kinds` looked for."""
    within = len(sets) == 1
    paths, names = names, [name.rstrip("/").rsplit("/", 1)[-1] for name in names]
    title = f"{names[0]}: audit" if within else f"A and B: audit of {names[0]} and {names[1]}"
    tiles = [(f"{r.sizes['sample']:,}", f"records of {n}") for n, r in zip(names, sets, strict=True)]
    sites = [set(site_of(r).tolist()) - {""} for r in sets]
    tiles.append((f"{len(sites[0]):,}", "sites") if within else (f"{len(sites[0] & sites[1]):,}", "sites in both"))
    tiles.append((f"{len(np.unique(np.stack([leaks.a, leaks.b], 1), axis=0)):,}", "pairs of records leak"))
    told = [described([r]) for r in sets]
    rows = [[name, *facts.values()] for name, facts in zip(names, told, strict=True)]
    body = _STYLE + headline(tiles) + section("Leaks", html_table(*tally_table(leaks, within, kinds)))
    body += section("Where", _legend(names) + _map(sets) + ("" if within else _shared(sites)))
    body += section("When", _legend(names) + _when(sets)) + section("Sets", html_table(["set", *told[0]], rows))
    body += section("Pairs", _pairs(sets, leaks)) if len(leaks) else ""
    return document(title, " and ".join(paths), body)


def _legend(names: Sequence[str]) -> str:
    letters = ("",) if len(names) == 1 else ("A: ", "B: ")
    keys = zip(_SIDES, letters, names, strict=False)
    return "<p class=legend>" + "".join(
        f"<span class=key><i class={css}></i>{escape(letter + name)}</span>" for css, letter, name in keys
    ) + "</p>"  # fmt: skip


def _pairs(sets: Sequence[xr.Dataset], leaks: Leaks) -> str:
    """The pairs, those of one id, raw data or image first, then by overlap."""
    a, b = sets[0], sets[-1]
    rows = []
    for row in np.lexsort((-np.nan_to_num(leaks.overlap), leaks.kind == "footprint"))[:_LISTED]:
        numbers = (leaks.overlap[row], leaks.minutes[row], leaks.distance[row], leaks.dice[row])
        cells = ["-" if np.isnan(n) else f"{n:.3g}" for n in numbers]
        ids = (a["record_id"].values[leaks.a[row]], b["record_id"].values[leaks.b[row]])
        rows.append([str(leaks.kind[row]), *map(str, ids), *cells])
    more = f"<p class=note>and {len(leaks) - _LISTED:,} more</p>" if len(leaks) > _LISTED else ""
    header = ["kind", "record", "other record", "overlap", "minutes apart", "hash distance", "Dice of masks"]
    return html_table(header, rows) + more


def _shared(sites: Sequence[set[str]]) -> str:
    both = sites[0] & sites[1]
    return (
        f"<p>{plural(len(both), 'site')} in both sets, {len(sites[0] - both):,} only in A, "
        f"{len(sites[1] - both):,} only in B.</p>"
    )


def _map(sets: Sequence[xr.Dataset]) -> str:
    """Half a disc for each of two sets at a site, a whole one for a single set."""
    places = [np.stack([r["longitude"].values, r["latitude"].values], 1) for r in sets]
    places = [p[np.isfinite(p).all(1)] for p in places]
    every = np.concatenate(places)
    if not len(every):
        return "<p class=note>No record has a place: its metadata had none.</p>"
    centre = centre_of_view(every[:, 0], every[:, 1])
    # Nearer than half a degree two marks would hide each other.
    cells, number = np.unique(np.rint(every * 2), axis=0, return_inverse=True)
    side = np.repeat(np.arange(len(sets)), [len(p) for p in places])
    counts = np.zeros((len(cells), len(sets)), np.int64)
    np.add.at(counts, (number, side), 1)
    share = counts / np.maximum(counts.sum(0), 1)
    unit = min(9.0, max(2.5, 90 / math.sqrt(len(cells)))) / math.sqrt(share.max())
    x, y, visible = view_from(cells[:, 0] / 2, cells[:, 1] / 2, centre)
    marks = []
    for cell in np.argsort(-share.max(1), kind="stable"):
        if not visible[cell]:
            continue
        u, v = on_page(float(x[cell]), float(y[cell]))
        told = " and ".join(f"{n:,}" for n in counts[cell])
        halves = [
            _half(u, v, max(1.2, unit * math.sqrt(share[cell, s])), s, len(sets) == 1)
            for s in range(len(sets))
            if counts[cell, s]
        ]
        place = f"{cells[cell, 1] / 2:.1f}, {cells[cell, 0] / 2:.1f}"
        marks.append(f"<g><title>{place}: {told} records</title>{''.join(halves)}</g>")
    of = "a circle: records at the site" if len(sets) == 1 else "half a disc: share of the set's records at the site"
    told = f"Seen from over {abs(centre):g}° {'W' if centre < 0 else 'E'}; lines every 20°. Area of {of}."
    missing = sum(r.sizes["sample"] for r in sets) - len(every)
    told += f" {plural(missing, 'record')} without a place." if missing else ""
    hidden = int(counts[~visible].sum())
    told += f" {plural(hidden, 'record')} out of view." if hidden else ""
    return f"<figure class=map>{globe(centre, ''.join(marks))}<figcaption>{escape(told)}</figcaption></figure>"


def _half(u: float, v: float, radius: float, side: int, whole: bool) -> str:
    if whole:
        return f"<circle class=a cx={u:.1f} cy={v:.1f} r={radius:.1f} />"
    arc = f"M{u:.1f} {v - radius:.1f}A{radius:.1f} {radius:.1f} 0 0 {side} {u:.1f} {v + radius:.1f}Z"
    return f'<path class={_SIDES[side]} d="{arc}" />'


def _when(sets: Sequence[xr.Dataset]) -> str:
    months: list[npt.NDArray[Any]] = []
    calendar: list[npt.NDArray[Any]] = []
    hours: list[npt.NDArray[Any]] = []
    for records in sets:
        times = labelled_time(records)
        month = times[~np.isnat(times)].astype("datetime64[M]").astype(np.int64)
        months.append(month)
        calendar.append(month % 12)
        hour = records["local_solar_hour"].values
        hours.append(hour[np.isfinite(hour)] // 3)
    every = np.concatenate(months)
    if not len(every):
        return "<p class=note>No record has a time: its metadata had none.</p>"
    labels = [label_of(r) for r in sets]
    names = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
    charts = [
        figure("Month", _paired(names, calendar), "Share of the set's records; all years together."),
        figure(
            "True solar hour",
            _paired([f"{h} to {h + 3}" for h in range(0, 24, 3)], hours),
            "Share of the set's records; of the labelled frame at the tile's centre.",
        ),
    ]
    if any((label >= 0).any() for label in labels):
        known = [1 - label[label >= 0] for label in labels]
        chart = _paired(["positive", "negative"], known)
        charts.append(figure("Label", chart, "Share of the set's records that humans labelled."))
    return chart_grid(charts)


def _paired(names: Sequence[str], values: Sequence[npt.NDArray[Any]]) -> str:
    """Bars of shares side by side: for each name, of each set the part of its values that is the name's index."""
    width, height, left, top, bottom = 330, 170, 38, 14, 26
    counts = [np.bincount(v.astype(np.int64), minlength=len(names)) for v in values]
    shares = np.stack([c / max(c.sum(), 1) for c in counts])
    highest = max(float(shares.max()), 1e-9)
    step, down = nice_step(highest), height - top - bottom
    out = []
    for tick in range(int(highest / step + 1e-9) + 1):
        y = top + down * (1 - tick * step / highest)
        out.append(line_at(left, y, width - 4, y, "grid") + text_at(left - 5, y + 4, f"{tick * step:.0%}", "end"))
    room = (width - 4 - left) / len(names)
    bar = (room - 4) / len(values)
    for i, name in enumerate(names):
        for side, share in enumerate(shares[:, i].tolist()):
            x, high = left + i * room + 2 + side * bar, down * share / highest
            told = f"{name}: {share:.1%}, {plural(int(counts[side][i]), 'record')}"
            out.append(rect_at(x, top + down - high, bar, high, _SIDES[side], told))
        out.append(text_at(left + (i + 0.5) * room, height - 8, name.split(" ")[0]))
    return svg(width, height, "".join(out), "shares of records")
