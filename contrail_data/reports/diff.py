"""What differs between two stores: settings, records, contents, statistics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import xarray as xr

from contrail_data.reports.summary import channel_told
from contrail_data.store.reader import read_scalars
from contrail_data.store.schema import DIMS, checksum_name

_SETTINGS = ("kind", "composite", "label_shift", "parent", "model", "threshold", "gate", "top_k")
_STATISTICS = ("mean", "std", "minimum", "maximum", "at_low", "at_high")


def diff(a: xr.Dataset, b: xr.Dataset) -> dict[str, Any]:
    """Differences between two stores as they were sealed, as plain data; each value is empty where there are none.

    settings: {name: [a's, b's]}; only_a, only_b: record ids in order; records: {record id: names of the variables
    that differ}, pixels by their checksums, so that codecs do not matter; statistics: {name: [a's, b's] by channel}.
    """
    settings: dict[str, Any] = {
        name: [a.attrs.get(name), b.attrs.get(name)] for name in _SETTINGS if a.attrs.get(name) != b.attrs.get(name)
    }
    for name in DIMS:
        described = [f"{s[name].dtype} {tuple(s[name].shape[1:])}" if name in s else None for s in (a, b)]
        if described[0] != described[1]:
            settings[name] = described
    values = [_by_record(read_scalars(store)) for store in (a, b)]
    common = [record_id for record_id in values[0] if record_id in values[1]]
    records = {}
    for record_id in common:
        one, other = values[0][record_id], values[1][record_id]
        if found := [name for name in one if name in other and not _equal(one[name], other[name])]:
            records[record_id] = found
    statistics = {}
    theirs = [s.attrs.get("statistics") or {} for s in (a, b)]
    for name in ("samples", *_STATISTICS):
        if theirs[0].get(name) != theirs[1].get(name):
            statistics[name] = [theirs[0].get(name), theirs[1].get(name)]
    return {
        "settings": settings,
        "only_a": [r for r in values[0] if r not in values[1]],
        "only_b": [r for r in values[1] if r not in values[0]],
        "records": records,
        "statistics": statistics,
    }


def _by_record(scalars: xr.Dataset) -> dict[str, dict[str, Any]]:
    """Per-sample values by record id; of pixels the checksums, under the pixels' name."""
    columns = {}
    names = {checksum_name(name): name for name in DIMS}
    for name, variable in scalars.variables.items():
        if variable.dims[:1] == ("sample",) and name not in ("record_id", "moments"):
            columns[names.get(str(name), str(name))] = variable.values
    return {
        str(record_id): {name: values[i] for name, values in columns.items()}
        for i, record_id in enumerate(scalars["record_id"].values)
    }


def _equal(one: Any, other: Any) -> bool:
    one, other = np.asarray(one), np.asarray(other)
    if one.dtype.kind in "fM":
        return bool(np.array_equal(one, other, equal_nan=True))
    return bool(np.array_equal(one, other))


def lines(found: dict[str, Any], a: str, b: str) -> Iterator[str]:
    """The differences as text, a line each; long lists cut."""
    for name, (one, other) in found["settings"].items():
        yield f"{name}: {_short(one)} in {a}, {_short(other)} in {b}"
    for key, store in (("only_a", a), ("only_b", b)):
        if found[key]:
            yield f"{len(found[key])} records only in {store}: {_some(found[key])}"
    by_kind: dict[tuple[str, ...], list[str]] = {}
    for record_id, names in found["records"].items():
        by_kind.setdefault(tuple(names), []).append(record_id)
    for names, records in by_kind.items():
        yield f"{len(records)} records differ in {', '.join(names)}: {_some(records)}"
    for name, (one, other) in found["statistics"].items():
        yield f"statistics, {name}: {_short(one)} in {a}, {_short(other)} in {b}"
    if not any(found.values()):
        yield f"{a} and {b} hold the same"


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _short(value: Any) -> str:
    if isinstance(value, dict) and "channels" in value:
        bounds = (f"{c['name']} {channel_told(c)}" for c in value["channels"])
        return f"{value['name']} ({', '.join(bounds)})"
    if isinstance(value, list) and value and isinstance(value[0], float):
        return "(" + ", ".join(f"{v:.6g}" for v in value) + ")"
    return str(value)
