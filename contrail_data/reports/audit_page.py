"""The page of an audit: where and when the records of one or two sets are, and which of them leak."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from markupsafe import Markup

from contrail_data.reports.charts import MONTHS, Colour, bars
from contrail_data.reports.globe import LEFT_HALF, RIGHT_HALF, Layer, RecordMap, record_map
from contrail_data.reports.page import render_page
from contrail_data.splits.audit import Audit, leak_table
from contrail_data.splits.groups import SUMMARY_HEADER, summary_row
from contrail_data.splits.leaks import LeakKind, Leaks
from contrail_data.store.samples import label_of, labelled_time, site_of

_LISTED = 50
_AXES = {"month": "month", "hour": "first hour, true solar time", "label": "label"}


def audit_page(names: Sequence[str], sets: Sequence[xr.Dataset], audited: Audit) -> str:
    """Render the page of an audit.

    Args:
        names: Names of the sets: paths, URLs or catalog names.
        sets: Records of one or two sets, as scalars of a store.
        audited: The leaks within the one set, or between the two, and what was compared.

    Returns:
        The HTML text.
    """
    leaks = audited.leaks
    short_names = [name.rstrip("/").rsplit("/", 1)[-1] for name in names]
    sites = [set(site_of(records).tolist()) - {""} for records in sets]
    common_sites = sites[0] & sites[-1]
    return render_page(
        "audit.html",
        names=short_names,
        paths=names,
        sizes=[records.sizes["sample"] for records in sets],
        sites=len(common_sites),
        other_sites=[len(of_set - common_sites) for of_set in sites],
        leaking_pairs=len(np.unique(leaks.a * sets[-1].sizes["sample"] + leaks.b)),
        tally=leak_table(audited),
        notes=[checked.note(name) for name, checked in zip(short_names, audited.checked, strict=True)]
        + audited.notes(sets),
        map=_map(sets),
        charts=_charts(sets),
        facts_header=["set", *SUMMARY_HEADER],
        facts=[[name, *summary_row([records])] for name, records in zip(short_names, sets, strict=True)],
        leaks=len(leaks),
        pairs=_pairs(sets, leaks),
    )


def _pairs(sets: Sequence[xr.Dataset], leaks: Leaks) -> list[tuple[str, str, str, list[float]]]:
    """List the leaking pairs, those of one id, raw data or image first, then by overlap: kind, records and measures."""
    ids_a, ids_b = sets[0]["record_id"].values, sets[-1]["record_id"].values
    shown = leaks[np.lexsort((-np.nan_to_num(leaks.overlap), leaks.of(LeakKind.FOOTPRINT)))[:_LISTED]]
    measures = np.stack([shown.overlap, shown.minutes, shown.similarity, shown.dice], 1).tolist()
    return [*zip(shown.kind.tolist(), ids_a[shown.a], ids_b[shown.b], measures, strict=True)]


def _map(sets: Sequence[xr.Dataset]) -> RecordMap | None:
    """Draw circles for a single set, and a half of a circle for each of two sets."""
    longitude, latitude = (
        np.concatenate([records[name].values for records in sets]) for name in ("longitude", "latitude")
    )
    set_of = np.repeat(np.arange(len(sets)), [records.sizes["sample"] for records in sets])
    if len(sets) == 1:
        return record_map(longitude, latitude, [Layer(set_of == 0, Colour.POSITIVE)], "records: {}")
    share_a, share_b = (1 / max(records.sizes["sample"], 1) for records in sets)
    layers = [
        Layer(set_of == 0, Colour.POSITIVE, LEFT_HALF, share_a),
        Layer(set_of == 1, Colour.SECOND, RIGHT_HALF, share_b),
    ]
    return record_map(longitude, latitude, layers, "records of A: {}, of B: {}")


def _charts(sets: Sequence[xr.Dataset]) -> dict[str, Markup]:
    """Draw the shares of the records by month, solar hour and, if any are labelled, label; nothing without times."""
    months, hours, labels = [], [], []
    for records in sets:
        times, hour, label = labelled_time(records), records["local_solar_hour"].values, label_of(records)
        months.append(times[~np.isnat(times)].astype("datetime64[M]").astype(np.int64) % 12)
        hours.append(hour[np.isfinite(hour)].astype(np.int64) // 3)
        labels.append(1 - label[label >= 0])
    if not any(map(len, months)):
        return {}
    charts = {"month": (MONTHS, months), "hour": ([f"{h} to {h + 3}" for h in range(0, 24, 3)], hours)}
    if any(map(len, labels)):
        charts["label"] = (("positive", "negative"), labels)
    drawn = {}
    for name, (classes, values) in charts.items():
        shares = [np.bincount(of_set, minlength=len(classes)) / max(len(of_set), 1) for of_set in values]
        series = list(zip(shares, (Colour.POSITIVE, Colour.SECOND), strict=False))
        axis_names = (_AXES[name], "share of records")
        drawn[name] = bars(classes, series, f"share of the records by {name}", axis_names, percent=True)
    return drawn
