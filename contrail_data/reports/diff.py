"""Differences between two stores: settings, records, contents and statistics."""

from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import xarray as xr

from contrail_data.composites import from_dict
from contrail_data.reports.page import render_page
from contrail_data.reports.summary import describe_channel
from contrail_data.store.reader import read_scalars
from contrail_data.store.schema import DIMS, checksum_name

_SETTINGS = ("kind", "composite", "label_shift", "parent", "model", "threshold", "gate", "top_k", "cleaning")
_STATISTICS = ("samples", "mean", "std", "minimum", "maximum", "at_low", "at_high")
Change = tuple[Any, Any]
"""The values of the first and of the second store."""


@dataclass(frozen=True)
class StoreDiff:
    """Differences between stores a and b; every field is empty if they hold the same."""

    settings: dict[str, Change]
    only_a: list[str]
    """Ids of the records that only a holds, in order."""
    only_b: list[str]
    records: dict[str, list[str]]
    """Names of the variables that differ, by record id. Pixels are compared by their checksums, whatever the codec."""
    statistics: dict[str, Change]
    """Values by channel."""

    def __bool__(self) -> bool:
        return any(astuple(self))


def diff(a: xr.Dataset, b: xr.Dataset) -> StoreDiff:
    """Compare two stores as they were sealed.

    Args:
        a: A store of any kind.
        b: Another store.

    Returns:
        Their differences.
    """
    records_a, records_b = (_by_record(read_scalars(store)) for store in (a, b))
    records = {}
    for record_id in records_a:
        first, second = records_a[record_id], records_b.get(record_id, {})
        if names := [name for name in first if name in second and not _equal(first[name], second[name])]:
            records[record_id] = names
    return StoreDiff(
        settings=_changes(a.attrs, b.attrs, _SETTINGS) | _changes(_layouts(a), _layouts(b), DIMS),
        only_a=[record_id for record_id in records_a if record_id not in records_b],
        only_b=[record_id for record_id in records_b if record_id not in records_a],
        records=records,
        statistics=_changes(a.attrs.get("statistics") or {}, b.attrs.get("statistics") or {}, _STATISTICS),
    )


def diff_text(differences: StoreDiff, a: str, b: str) -> str:
    """Write differences as text.

    Args:
        differences: What `diff` returned.
        a: Name of the first store.
        b: Name of the second store.

    Returns:
        Lines, in which long lists are cut.
    """
    by_names: dict[str, list[str]] = {}
    for record_id, names in differences.records.items():
        by_names.setdefault(", ".join(names), []).append(record_id)
    return render_page(
        "diff.txt", differences=differences, a=a, b=b, by_names=by_names, from_dict=from_dict, describe=describe_channel
    )


def _changes(a: Mapping[str, Any], b: Mapping[str, Any], names: Iterable[str]) -> dict[str, Change]:
    return {name: (a.get(name), b.get(name)) for name in names if a.get(name) != b.get(name)}


def _layouts(store: xr.Dataset) -> dict[str, str]:
    """Data type and shape of a sample, by pixel array."""
    return {name: f"{store[name].dtype} {tuple(store[name].shape[1:])}" for name in DIMS if name in store}


def _by_record(scalars: xr.Dataset) -> dict[str, dict[str, Any]]:
    """Values of each sample by record id; the checksums stand for pixels, under the name of the pixel array."""
    array_of = {checksum_name(name): name for name in DIMS}
    columns = {
        array_of.get(str(name), str(name)): variable.values
        for name, variable in scalars.variables.items()
        if variable.dims[:1] == ("sample",) and name not in ("record_id", "moments")
    }
    return {
        str(record_id): {name: values[i] for name, values in columns.items()}
        for i, record_id in enumerate(scalars["record_id"].values)
    }


def _equal(first: Any, second: Any) -> bool:
    first, second = np.asarray(first), np.asarray(second)
    return bool(np.array_equal(first, second, equal_nan=first.dtype.kind in "fM"))
