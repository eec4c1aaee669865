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

from contrail_data import __version__
from contrail_data.coastline import coastline
from contrail_data.composites import dequantise
from contrail_data.geometry import GOES_EAST_LONGITUDE
from contrail_data.inspect import channel_told, facts, labelled_time, summary
from contrail_data.places import place_of, write_atomically
from contrail_data.preview import LABEL_COLOUR, VOTE_COLOUR, Look, Votes, choose, each_plane, png, vote_counts
from contrail_data.progress import progress
from contrail_data.store import kind, read_scalars

SAMPLED = 300
"""At most so many samples have their images, or predictions, read."""
_EXAMPLES = 6
_SEED = 0
_GLOBE = 640
_DISK = _GLOBE / 2 - 12


def write_report(store: xr.Dataset, out: Path) -> None:
    """Write the page to `out`. Raises ContrailError for a damaged store or a file that cannot be written."""
    write_atomically(out, [page(store).encode()])


def page(store: xr.Dataset) -> str:
    """The page on a store of any kind. Reads the labels of all samples and the images of at most SAMPLED."""
    found = facts(store)
    records = read_scalars(store)
    name = place_of(found["path"]).name
    body = _samples(store, found, records) if kind(store) == "samples" else _derived(store, found, records)
    told = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in summary(found).items())
    made = found["provenance"] or {}
    aside = made.get("set_aside", [])
    lines = "".join(f"<li>{escape(line)}</li>" for line in aside[:20])
    more = f"<p class=note>and {len(aside) - 20} more</p>" if len(aside) > 20 else ""
    origin = f"<dl class=facts>{told}</dl>" + (f"<h3>Set aside</h3><ul>{lines}</ul>{more}" if aside else "")
    return document(f"{name}: {found['kind']}", found["path"], body + section("Facts and provenance", origin))


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


def view_from(
    longitude: npt.NDArray[np.float64], latitude: npt.NDArray[np.float64], centre: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Degrees as a geostationary satellite over `centre` degrees east sees them: x, y in [-1, 1] of the disk (y down),
    and which are on its side of the horizon. On the sphere, which is off by a pixel or so on a page-wide map."""
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
    return _GLOBE / 2 + x * _DISK, _GLOBE / 2 + y * _DISK


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
    sea = f"<circle class=sea cx={_GLOBE / 2} cy={_GLOBE / 2} r={_DISK} />"
    lines = f'<path class=graticule d="{"".join(map(path, grid))}" />'
    coast = f'<path class=coast d="{"".join(map(path, coastline()))}" />'
    return svg(_GLOBE, _GLOBE, sea + lines + coast + marks, "Map of records")


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


def _bars(
    names: Sequence[str],
    values: npt.NDArray[Any],
    classes: Sequence[str],
    *,
    mark: tuple[float, str] | None = None,
    power: bool = False,
) -> str:
    """Bars of counts, of shares (floats up to 1, told as per cent) or, with `power`, of powers of ten.

    `mark` is a line at a fraction of the width."""
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
