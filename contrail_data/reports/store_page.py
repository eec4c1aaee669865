"""A store on one self-contained HTML page: labels, places, times, channels, agreement, examples, origin.

Whatever a store says of itself goes through `escape`: a store may come from anywhere. Charts are inline SVG without
scripts; colours are CSS variables, so that light, dark and print are one page.
"""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.composites import dequantise
from contrail_data.progress import progress
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
from contrail_data.reports.pictures import LABEL_COLOUR, VOTE_COLOUR, Look, Votes, each_plane, png, vote_counts
from contrail_data.reports.preview import choose
from contrail_data.reports.summary import channel_told, facts, summary
from contrail_data.storage.files import write_atomically
from contrail_data.storage.place import place_of
from contrail_data.store.reader import read_scalars
from contrail_data.store.samples import labelled_time
from contrail_data.store.schema import Kind, kind_of

SAMPLED = 300
"""At most so many samples have their images, or predictions, read."""
_EXAMPLES = 6
_SEED = 0


def write_report(store: xr.Dataset, out: Path) -> None:
    """Write the page to `out`. Raises ContrailError for a damaged store or a file that cannot be written."""
    write_atomically(out, [page(store).encode()])


def page(store: xr.Dataset) -> str:
    """The page on a store of any kind. Reads the labels of all samples and the images of at most SAMPLED."""
    found = facts(store)
    records = read_scalars(store)
    name = place_of(found["path"]).name
    body = _samples(store, found, records) if kind_of(store) is Kind.SAMPLES else _derived(store, found, records)
    told = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in summary(found).items())
    made = found["provenance"] or {}
    aside = made.get("set_aside", [])
    lines = "".join(f"<li>{escape(line)}</li>" for line in aside[:20])
    more = f"<p class=note>and {len(aside) - 20} more</p>" if len(aside) > 20 else ""
    origin = f"<dl class=facts>{told}</dl>" + (f"<h3>Set aside</h3><ul>{lines}</ul>{more}" if aside else "")
    return document(f"{name}: {found['kind']}", found["path"], body + section("Facts and provenance", origin))


def _samples(store: xr.Dataset, found: dict[str, Any], records: xr.Dataset) -> str:
    human = records["label_source"].values == "human"
    positive = human & (records["positive_pixels"].values > 0)
    votes = vote_counts(store, records)
    labels, time, place = found["labels"], found["time"], found["place"]
    shape = found["variables"]["image"]["shape"]
    share = labels["positive_pixels"] / max(labels["pixels"], 1)
    tiles = [
        _counted(found["samples"], shape["time"]),
        (f"{shape['y']} x {shape['x']}", f"pixels, {plural(shape['channel'], 'channel')}"),
    ]
    if labels["records"]:
        tiles.append((f"{labels['positive_records']:,}", f"positive of {labels['records']:,} labelled records"))
        tiles.append((f"{share:.3%}", "of labelled pixels are contrail"))
    if place:
        tiles.append((f"{place['sites']:,}", "sites"))
    if time:
        tiles.append((f"{time['first'][:10]}", f"to {time['last'][:10]}"))
    return (
        headline(tiles)
        + section("Where", _where(records, human, positive))
        + section("When", _when(records, human, positive))
        + section("Channels", _channels(store, found, records))
        + section("Labels", _labels(store, human, positive))
        + section("Agreement of annotators", _agreement(votes))
        + section("Examples", _examples(store, records, votes, positive))
        + section("Sizes and duplicates", _sizes(found) + _duplicates(records, human))
    )


# ---- where


def _where(records: xr.Dataset, human: npt.NDArray[np.bool_], positive: npt.NDArray[np.bool_]) -> str:
    latitude, longitude = records["latitude"].values, records["longitude"].values
    known = np.isfinite(latitude) & np.isfinite(longitude)
    if not known.any():
        return _unknown("No record has a place: its metadata had none.")
    centre = centre_of_view(longitude[known], latitude[known])
    # Nearer than half a degree two circles would hide each other.
    cells: dict[tuple[int, int], list[int]] = {}
    for i in np.flatnonzero(known):
        cells.setdefault((round(latitude[i] * 2), round(longitude[i] * 2)), []).append(int(i))
    unit = min(9.0, max(2.5, 60 / math.sqrt(len(cells)))) / math.sqrt(max(map(len, cells.values())))
    circles = []
    hidden = 0
    for members in sorted(cells.values(), key=len, reverse=True):
        some = np.array(members)
        x, y, visible = view_from(longitude[some[:1]], latitude[some[:1]], centre)
        if not visible[0]:
            hidden += len(members)
            continue
        u, v = on_page(float(x[0]), float(y[0]))
        n, hits = len(members), int(positive[some].sum())
        place = f"{latitude[some[0]]:.1f}, {longitude[some[0]]:.1f}"
        told = f"<title>{place}: {plural(n, 'record')}, {hits} positive</title>"
        circles.append(
            f"<g>{told}<circle class=neg cx={u:.1f} cy={v:.1f} r={max(1.2, unit * math.sqrt(n)):.1f} />"
            + (f"<circle class=pos cx={u:.1f} cy={v:.1f} r={max(1.2, unit * math.sqrt(hits)):.1f} />" if hits else "")
            + "</g>"
        )
    told = f"Seen from over {abs(centre):g}° {'W' if centre < 0 else 'E'}; lines every 20°. "
    told += "Area of a circle: records at the site" + ("; the inner one: positive ones." if human.any() else ".")
    if missing := int((~known).sum()):
        told += f" {plural(missing, 'record')} without a place."
    if hidden:
        told += f" {plural(hidden, 'record')} out of view."
    chart = globe(centre, "".join(circles))
    return _legend(human) + f"<figure class=map>{chart}<figcaption>{escape(told)}</figcaption></figure>"


# ---- when


def _when(records: xr.Dataset, human: npt.NDArray[np.bool_], positive: npt.NDArray[np.bool_]) -> str:
    times = labelled_time(records)
    known = ~np.isnat(times)
    if not known.any():
        return _unknown("No record has a time: its metadata had none.")
    solar = records["local_solar_hour"].values.astype(np.float64)
    minutes = (times - times.astype("datetime64[D]")) / np.timedelta64(1, "m")
    utc = np.where(known, minutes / 60, np.nan)
    month = np.where(known, times.astype("datetime64[M]").astype(np.int64) % 12, np.nan)
    hours = [f"{h}" if h % 3 == 0 else "" for h in range(24)]
    months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
    charts = []
    for values, names, title, told in (
        (solar, hours, "True solar hour", "Hour of the labelled frame at the tile's centre; 12: the sun is highest."),
        (utc, hours, "Hour, UTC", "Hour of the labelled frame."),
        (month, months, "Month", "Of the labelled frame, all years together."),
    ):
        bins = np.arange(len(names) + 1)
        up, down = (np.histogram(values[m & np.isfinite(values)], bins)[0] for m in (positive, ~positive))
        chart = _mirrored(names, up, down) if human.any() else _bars(names, down, ["neg"] * len(names))
        charts.append(figure(title, chart, told))
    missing = int((~known).sum())
    note = f"<p class=note>{plural(missing, 'record')} without a time.</p>" if missing else ""
    return _legend(human) + chart_grid(charts) + note


# ---- channels


def _channels(store: xr.Dataset, found: dict[str, Any], records: xr.Dataset) -> str:
    look, channels = Look(store, records), found["composite"]["channels"]
    of = records.sizes["sample"]
    chosen = np.sort(np.random.default_rng(_SEED).permutation(of)[:SAMPLED])
    levels, marked_levels = np.zeros((2, len(channels), 256))
    ends = np.zeros((4, len(channels)))  # pixels at the low and high end, of all and of contrails
    moments = np.zeros((2, len(channels)))
    with progress("images", len(chosen)) as advance:
        for i in chosen:
            unit_chw = dequantise(look.read("image", int(i), [look.frame(int(i))])[0])
            label = look.label(int(i))
            for c, plane in enumerate(unit_chw):
                level = np.rint(plane * 255).astype(np.uint8)
                levels[c] += np.bincount(level.ravel(), minlength=256)
                ends[:2, c] += (plane <= 0).sum(), (plane >= 1).sum()
                moments[:, c] += plane.sum(dtype=np.float64), np.square(plane, dtype=np.float64).sum()
                if label is not None:
                    marked_levels[c] += np.bincount(level[label], minlength=256)
                    ends[2:, c] += (plane[label] <= 0).sum(), (plane[label] >= 1).sum()
            advance(1)
    total, marked = levels[0].sum(), marked_levels[0].sum()
    shares = ends / np.array([total, total, max(marked, 1), max(marked, 1)])[:, np.newaxis]
    mean = moments[0] / total
    deviation = np.sqrt(np.maximum(moments[1] / total - mean**2, 0))
    charts, rows = [], []
    for c, channel in enumerate(channels):
        low, high = channel["low"], channel["high"]
        charts.append(
            figure(
                channel["name"],
                _distribution(levels[c], marked_levels[c], low, high),
                f"{channel_told(channel)}; {shares[0, c]:.1%} at the low end, {shares[1, c]:.1%} at the high end",
            )
        )
        span = high - low
        rows.append(
            [
                channel["name"],
                f"{low + mean[c] * span:.2f} ± {deviation[c] * span:.2f} K",
                f"{mean[c]:.4f} ± {deviation[c]:.4f}",
                *(f"{share:.2%}" for share in shares[: 4 if marked else 2, c]),
            ]
        )
    header = ["channel", "mean ± std", "in [0, 1]", "clipped low", "clipped high"]
    header += ["contrail clipped low", "contrail clipped high"] * bool(marked)
    frames = "the labelled frame" if (records["labelled_frame"].values >= 0).any() else "the middle frame"
    note = (
        f"<p class=note>Pixels of {frames} of {plural(len(chosen), 'sample')}"
        f"{f', drawn at random from {of:,}' if of > len(chosen) else ''}. "
        "Clipped pixels are in the table, not in the charts.</p>"
    )
    keys = [("area", "all pixels")] + [("line", "labelled contrail pixels")] * bool(marked)
    legend = "<p class=legend>" + "".join(f"<span class=key><i class={k}></i>{t}</span>" for k, t in keys) + "</p>"
    return note + legend + chart_grid(charts) + html_table(header, rows)


# ---- labels


def _labels(store: xr.Dataset, human: npt.NDArray[np.bool_], positive: npt.NDArray[np.bool_]) -> str:
    from scipy.ndimage import label as components

    if not human.any():
        return _unknown("No record is labelled.")
    if not positive.any():
        return _unknown(f"Not one of {plural(int(human.sum()), 'labelled record')} has a contrail.")
    pieces: list[int] = []
    per_record = []
    for _, mask in each_plane(store, "mask", np.flatnonzero(positive), "labels"):
        numbered, _ = components(mask, np.ones((3, 3)))
        sizes = np.bincount(numbered.ravel())[1:]
        pieces += sizes.tolist()
        per_record.append(int(sizes.sum()))
    charts = [
        figure(
            "Size of contrails",
            _powers(pieces),
            f"Pixels of {len(pieces):,} connected pieces (corners connect), median {np.median(pieces or [0]):.0f}. "
            "Bins double: 64 stands for 64 to 127.",
        ),
        figure(
            "Labelled pixels of a record",
            _powers(per_record),
            f"Of {plural(len(per_record), 'positive record')}, median {np.median(per_record):.0f} pixels, "
            f"{len(pieces) / len(per_record):.1f} pieces on average.",
        ),
    ]
    return chart_grid(charts)


def _agreement(votes: dict[int, Votes]) -> str:
    marked = {i: v for i, v in votes.items() if v.marked}
    if not marked:
        return _unknown("No record has votes of several annotators with a marked pixel among them.")
    by_count: dict[int, npt.NDArray[np.int64]] = {}
    together = np.zeros((8, 8), np.int64)
    alone = np.zeros((8, 8), np.int64)  # pixels of r and of s, on records that both looked at
    for v in votes.values():
        by_count[v.annotators] = by_count.get(v.annotators, 0) + v.marked_by
        n = v.annotators
        together[:n, :n] += v.together[:n, :n]
        own = np.diag(v.together)[:n]
        alone[:n, :n] += own[:, np.newaxis] + own
    charts = []
    for n, counts in sorted(by_count.items()):
        if not counts[1:].sum():
            continue
        share = counts[1 : n + 1] / counts[1:].sum()
        records = sum(v.annotators == n for v in marked.values())
        classes = ["pos" if 2 * k > n else "neg" for k in range(1, n + 1)]
        charts.append(
            figure(
                f"{n} annotators",
                _bars([str(k) for k in range(1, n + 1)], share, classes),
                f"How many of {n} marked a pixel that any marked: {counts[1:].sum():,} pixels of "
                f"{plural(records, 'record')}. Amber: a majority, so labelled contrail.",
            )
        )
    dice = np.divide(2.0 * together, alone, out=np.full((8, 8), np.nan), where=alone > 0)
    n = max(v.annotators for v in marked.values())
    pairs = ~np.eye(8, dtype=bool)
    overall = 2 * together[pairs].sum() / max(alone[pairs].sum(), 1)
    disputed = sum(v.disputed for v in marked.values()) / sum(v.marked for v in marked.values())
    matrix = html_table(
        ["", *map(str, range(n))],
        [
            [str(r), *("" if r == s else "-" if np.isnan(dice[r, s]) else f"{dice[r, s]:.2f}" for s in range(n))]
            for r in range(n)
        ],
    )
    note = (
        f"<p>Any two annotators agree to a global Dice of <b>{overall:.3f}</b>; <b>{disputed:.1%}</b> of pixels that "
        "any annotator marked were not marked by all.</p>"
    )
    told = (
        "Dice of each pair over all records that both looked at. Columns are places in the record's mask file: "
        "number 0 need not be the same person everywhere."
    )
    pairwise = f"<figure class=chart><h3>Pairs</h3>{matrix}<figcaption>{told}</figcaption></figure>"
    return note + chart_grid([*charts, pairwise])


def _examples(store: xr.Dataset, records: xr.Dataset, votes: dict[int, Votes], positive: npt.NDArray[np.bool_]) -> str:
    look = Look(store, records)
    groups = [("positives", "Most labelled pixels")] * bool(positive.any())
    groups += [("disagreed", "Most disputed")] * any(v.disputed for v in votes.values())
    groups += [("random", "At random")]
    out = []
    for sheet, title in groups:
        figures = []
        for i, told in choose(store, sheet, _EXAMPLES, _SEED, votes)[0]:
            lines = [str(records["record_id"].values[i]), look.caption(i, "\n"), told]
            text = "<br>".join(escape(line) for line in "\n".join(filter(None, lines)).split("\n"))
            image = base64.b64encode(png(look.tile(i, votes=sheet == "disagreed"))).decode()
            alt = escape(f"record {lines[0]}", quote=True)
            figures.append(
                f'<figure><img src="data:image/png;base64,{image}" alt="{alt}" loading=lazy>'
                f"<figcaption>{text}</figcaption></figure>"
            )
        out.append(f"<h3>{title}</h3><div class=tiles>{''.join(figures)}</div>")
    keys = [(LABEL_COLOUR, "label")] * bool(positive.any())
    keys += [(VOTE_COLOUR, "marked by too few annotators (in “most disputed”)")] * (len(groups) == 3)
    legend = "".join(
        f'<span class=key><i style="border:2px solid rgb{colour}"></i>{text}</span>' for colour, text in keys
    )
    return f"<p class='legend dark'>{legend}</p>" * bool(legend) + "".join(out)


def _sizes(found: dict[str, Any]) -> str:
    rows = [[f"{s['height']} x {s['width']}", f"{s['records']:,}"] for s in found["sizes"][:20]]
    more = f"<p class=note>and {len(found['sizes']) - 20} more sizes</p>" if len(found["sizes"]) > 20 else ""
    return "<h3>Size of records before resizing</h3>" + html_table(["rows x columns", "records"], rows) + more


def _duplicates(records: xr.Dataset, human: npt.NDArray[np.bool_]) -> str:
    digests = records["source_digest"].values
    repeated = [d for d, n in Counter(digests.tolist()).most_common() if n > 1]
    if not repeated:
        return "<h3>Duplicates</h3><p>No two records have the same raw data.</p>"
    rows = []
    for digest in repeated[:20]:
        same = np.flatnonzero(digests == digest)
        pixels = [f"{records['positive_pixels'].values[i]}" if human[i] else "-" for i in same]
        rows.append([", ".join(map(str, records["record_id"].values[same])), ", ".join(pixels)])
    more = f"<p class=note>and {len(repeated) - 20} more groups</p>" if len(repeated) > 20 else ""
    return "<h3>Duplicates</h3>" + html_table(["records with the same raw data", "labelled pixels"], rows) + more


# ---- predictions and pseudo-labels


def _derived(store: xr.Dataset, found: dict[str, Any], records: xr.Dataset) -> str:
    frame, score = records["frame"].values, records["frame_score"].values.astype(np.float64)
    pseudo = records["frame_source"].values != "human"
    gate, threshold = found["gate"], found["threshold"]
    of = found["samples"]
    chosen = np.sort(np.random.default_rng(_SEED).permutation(of)[:SAMPLED])
    hits, edges = np.zeros(256), np.linspace(0, 1, 257)
    masked: dict[int, list[int]] = {}
    look, columns = Look(store, records), list(range(frame.shape[1]))
    with progress("predictions", len(chosen)) as advance:
        for i in chosen:
            masks = look.read("frame_mask", int(i), columns)
            probability = dequantise(look.read("probability", int(i), columns))
            for c in columns:
                if pseudo[i, c]:
                    masked.setdefault(int(frame[i, c]), []).append(int(masks[c].sum(dtype=np.int64)))
                    hits += np.histogram(probability[c], edges)[0]
            advance(1)
    made = [n for pixels in masked.values() for n in pixels]
    plane = store["frame_mask"].shape[2] * store["frame_mask"].shape[3]
    passed = "-" if found["gate_passed"] is None else f"{found['gate_passed']:.1%}"
    tiles = [
        _counted(of, frame.shape[1]),
        (passed, f"of frames pass the gate of {gate:.4f}"),
        (f"{threshold:.4f}", "threshold of a pixel"),
        (f"{found['frames'].get('human', 0):,}", "frames keep a human's label"),
    ]
    if made:
        tiles.append((f"{sum(made) / (len(made) * plane):.3%}", "of predicted pixels are contrail"))
    if not pseudo.any():
        return headline(tiles) + _unknown("No frame was labelled by the model.")
    bins = np.linspace(0, 1, 41)
    counts = np.histogram(np.clip(score[pseudo], 0, 1), bins)[0]
    low = [f"{v:g}" if i % 8 == 0 else "" for i, v in enumerate(bins[:-1])]
    scores = _bars(low, counts, ["pos" if v >= gate else "neg" for v in bins[:-1]], mark=(gate, "gate"))
    indices = sorted(masked)
    share = np.array([np.mean([n > 0 for n in masked[f]]) for f in indices])
    coarse = hits.reshape(32, 8).sum(1)
    logs = np.where(coarse > 0, np.log10(np.maximum(coarse, 1)), 0)
    ticks = [f"{v / 32:g}" if v % 8 == 0 else "" for v in range(32)]
    read = f"{plural(len(chosen), 'sample')}{f' drawn at random from {of:,}' if of > len(chosen) else ''}"
    area = {f: sum(masked[f]) / (len(masked[f]) * plane) for f in indices}
    charts = [
        figure(
            "Scores of frames",
            scores,
            f"Mean of the highest pixel probabilities of {plural(int(pseudo.sum()), 'predicted frame')}. "
            "Amber: passes the gate.",
        ),
        figure(
            "Positive frames by frame index",
            _bars([str(f) for f in indices], share, ["pos"] * len(indices)),
            f"Share of predicted frames with a contrail pixel, of {read}; frames that humans labelled are left out.",
        ),
        figure(
            "Probabilities of pixels",
            _bars(ticks, logs, ["pos" if v / 32 >= threshold else "neg" for v in range(32)],
                  mark=(threshold, "threshold"), power=True),
            f"Pixels on a logarithmic scale, of predicted frames of {read}.",
        ),
    ]  # fmt: skip
    rows = [[str(f), f"{len(masked[f]):,}", f"{share[k]:.1%}", f"{area[f]:.3%}"] for k, f in enumerate(indices)]
    table = html_table(["frame", "predicted", "with a contrail", "contrail pixels"], rows)
    note = (
        "<p class=note>This store holds no images. To see its masks on them: contrail-data preview PARENT "
        f"--prediction {escape(found['path'])}</p>"
    )
    return headline(tiles) + section("What the model says", chart_grid(charts) + table + note)


# ---- pieces of charts and of the page

_W, _H, _LEFT, _RIGHT, _TOP, _BOTTOM = 400, 190, 42, 8, 10, 24


def _bars(
    names: Sequence[str],
    values: npt.NDArray[Any],
    classes: Sequence[str],
    *,
    mark: tuple[float, str] | None = None,
    power: bool = False,
) -> str:
    """Bars of counts, of shares (floats up to 1, told as per cent) or, with `power`, of powers of ten.

    `mark` is a line at a fraction of the width.
    """
    shares = values.dtype.kind == "f" and not power
    top = max(float(values.max()), 1e-9)
    step = max(1.0, nice_step(top)) if not shares else nice_step(top)
    inner, down = _W - _LEFT - _RIGHT, _H - _TOP - _BOTTOM
    width = min(inner / len(names), 80)
    out = []

    def told(value: float) -> str:
        if power:
            return f"{10**value:,.0f}"
        return f"{value:.0%}" if shares and step >= 0.01 else f"{value:.1%}" if shares else f"{value:,.0f}"

    for k in range(int(top / step + 1e-9) + 1):
        y = _TOP + down * (1 - k * step / top)
        label = f"1e{k * step:.0f}" if power else told(k * step)
        out.append(line_at(_LEFT, y, _W - _RIGHT, y, "grid") + text_at(_LEFT - 5, y + 4, label, "end"))
    gap = 1 if width > 4 else 0
    for i, (name, value, css) in enumerate(zip(names, values.tolist(), classes, strict=True)):
        x, height = _LEFT + i * width, down * value / top
        out.append(rect_at(x + gap, _TOP + down - height, width - 2 * gap, height, css, told(value)))
        if name:
            out.append(text_at(x + (width / 2 if width > 14 else 0), _H - 8, name))
    if mark is not None:
        x = _LEFT + inner * min(max(mark[0], 0), 1)
        end = "end" if mark[0] > 0.7 else "start"
        out.append(line_at(x, _TOP - 8, x, _TOP + down, "mark"))
        out.append(text_at(x + (-4 if end == "end" else 4), _TOP, f"{mark[1]} {mark[0]:.3g}", end))
    return svg(_W, _H, "".join(out), mark[1] if mark else "bars")


def _mirrored(names: Sequence[str], up: npt.NDArray[np.int64], down: npt.NDArray[np.int64]) -> str:
    """Counts of positive records upwards and of negative ones downwards, on one scale."""
    high, low = max(int(up.max()), 0), max(int(down.max()), 0)
    total = max(high + low, 1)
    step = max(1.0, nice_step(total))
    inner, room = _W - _LEFT - _RIGHT, _H - _TOP - _BOTTOM
    zero, width = _TOP + room * high / total, inner / len(names)
    out = []
    for k in range(-int(low / step), int(high / step) + 1):
        y = zero - room * k * step / total
        out.append(
            line_at(_LEFT, y, _W - _RIGHT, y, "grid") + text_at(_LEFT - 5, y + 4, f"{abs(k) * step:,.0f}", "end")
        )
    for i, (name, a, b) in enumerate(zip(names, up.tolist(), down.tolist(), strict=True)):
        x = _LEFT + i * width
        out.append(rect_at(x + 1, zero - room * a / total, width - 2, room * a / total, "pos", f"{a:,} positive"))
        out.append(rect_at(x + 1, zero, width - 2, room * b / total, "neg", f"{b:,} negative"))
        if name:
            out.append(text_at(x + (width / 2 if len(names) <= 12 else 0), _H - 8, name))
    out.append(line_at(_LEFT, zero, _W - _RIGHT, zero, "axis"))
    return svg(_W, _H, "".join(out), "positive records up, negative down")


def _powers(values: list[int]) -> str:
    """Histogram over doubling bins: 1, 2 to 3, 4 to 7, ..."""
    exponents = np.log2(np.maximum(values, 1)).astype(np.int64) if values else np.zeros(1, np.int64)
    first = int(exponents.min())
    counts = np.bincount(exponents - first)
    bounds = [2 ** (first + i) for i in range(len(counts))]
    names = [f"{n}" if n < 1024 else f"{n // 1024}k" for n in bounds]
    return _bars(names, counts, ["pos"] * len(counts))


def _distribution(levels: npt.NDArray[np.float64], marked: npt.NDArray[np.float64], low: float, high: float) -> str:
    """All pixels as an area, marked ones as a line, each scaled to its own peak; the axis in kelvin.

    Pixels by level, (256,) each; those at both ends, where clipping puts them, would dwarf the rest and are left out.
    """
    inner, down = _W - 2 * _RIGHT, _H - _TOP - _BOTTOM
    kernel = np.array([1.0, 2, 3, 2, 1])
    held = np.convolve(np.ones(127), kernel, "same")  # less of it at the ends

    def points(values: npt.NDArray[np.float64]) -> str:
        # Smoothed, or the few contrail pixels of a small store would be all teeth.
        pairs = np.convolve(values[1:255].reshape(127, 2).sum(1), kernel, "same") / held
        y = _TOP + down * (1 - pairs / max(pairs.max(), 1))
        x = _RIGHT + inner * (np.arange(127) * 2 + 1.5) / 255
        return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))

    out = []
    step = nice_step(high - low, 6)
    for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1):
        at = _RIGHT + inner * (k * step - low) / (high - low)
        anchor = "start" if at < 20 else "end" if at > _W - 20 else "middle"
        out.append(line_at(at, _TOP, at, _TOP + down, "grid") + text_at(at, _H - 8, f"{k * step:g}", anchor))
    base = _TOP + down
    out.append(f'<polygon class=area points="{_RIGHT},{base} {points(levels)} {_W - _RIGHT},{base}" />')
    if marked.any():
        out.append(f'<polyline class=line points="{points(marked)}" />')
    out.append(line_at(_RIGHT, base, _W - _RIGHT, base, "axis"))
    return svg(_W, _H, "".join(out), "distribution in kelvin")


def _legend(human: npt.NDArray[np.bool_]) -> str:
    if not human.any():
        return "<p class=legend><span class=key><i class=neg></i>records, without labels</span></p>"
    rest = "negative" if human.all() else "negative or without label"
    return (
        "<p class=legend><span class=key><i class=pos></i>positive: has a contrail label</span>"
        f"<span class=key><i class=neg></i>{rest}</span></p>"
    )


def _unknown(told: str) -> str:
    return f"<p class=note>{escape(told)}</p>"


def _counted(samples: int, frames: int) -> tuple[str, str]:
    return f"{samples:,}", f"sample{'s' * (samples != 1)} of {plural(frames, 'frame')}"
