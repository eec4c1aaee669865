"""What is in a store: one clear screen."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from contrail_data.store import DIMS, PROVENANCE, read_scalars


def summary(store: xr.Dataset) -> dict[str, str]:
    """Facts on a sealed store by heading, each one line: what is in it, how positive, when, where, from what."""
    records = read_scalars(store)
    pixels = [n for n in DIMS if n in store.variables]
    facts = {
        "store": f"{store.attrs['path']} ({store.attrs['kind']})",
        "samples": f"{records.sizes['sample']}, split {_counts(records['split'].values)}",
        **{n: f"{store[n].dtype} {dict(store[n].sizes)}" for n in pixels},
    }
    if store.attrs["kind"] == "samples":
        facts |= _of_samples(store, records)
    else:
        facts |= {
            "frames": _counts(records["frame_source"].values.ravel()),
            "gate": f"{float((records['frame_score'] >= store.attrs['gate']).mean()):.1%} of frames pass "
            f"{store.attrs['gate']:.4f}; threshold {store.attrs['threshold']:.4f}",
            "parent": store.attrs["parent"],
            "model": store.attrs["model"],
        }
    facts["digest"] = store.attrs["digest"]
    return facts | _provenance(store)


def _of_samples(store: xr.Dataset, records: xr.Dataset) -> dict[str, str]:
    positive = records["positive_pixels"].values
    area = records["height"].values.astype(np.int64) * records["width"].values
    human = records["label_source"].values == "human"
    composite = store.attrs["composite"]
    channels = "; ".join(
        f"{c['name']} = b{c['band']}{'' if c['minus'] is None else ' - b' + str(c['minus'])} over "
        f"[{c['low']:g}, {c['high']:g}] K"
        for c in composite["channels"]
    )
    labels = "none"
    if human.any():
        share = positive[human].sum() / area[human].sum()
        labels = (
            f"{_counts(records['label_source'].values)}; positive {int((positive[human] > 0).sum())} of "
            f"{int(human.sum())} records ({(positive[human] > 0).mean():.1%}), {share:.3%} of pixels"
        )
    sizes = Counter(zip(records["height"].values.tolist(), records["width"].values.tolist(), strict=True))
    copies = len(human) - len(set(records["source_digest"].values))
    return {
        "composite": f"{composite['name']}: {channels}",
        "labels": labels,
        "annotators": f"records by number of annotators: {_counts(records['annotator_count'].values)}",
        "when": _when(records),
        "where": _where(records),
        "original size": ", ".join(f"{h}x{w} ({n})" for (h, w), n in sizes.most_common(5)),
        "label shift": "{} px down, {} px right of the image".format(*store.attrs["label_shift"]),
        "duplicates": f"{copies} records repeat another's raw data" if copies else "none",
    }


def _when(records: xr.Dataset) -> str:
    frame = np.maximum(records["labelled_frame"].values, 0)
    times = records["time"].values[np.arange(len(frame)), frame]
    known = times[~np.isnat(times)]
    if not len(known):
        return "unknown"
    hours = records["local_solar_hour"].values
    day = float(np.mean(records["solar_zenith"].values[~np.isnat(times)] < 90))
    first, last = (np.datetime_as_string(t, "m") for t in (known.min(), known.max()))
    quarters = np.histogram(hours[~np.isnan(hours)], [0, 6, 12, 18, 24])[0]
    unknown = f"; {len(times) - len(known)} unknown" if len(known) < len(times) else ""
    spread = "/".join(str(n) for n in quarters)
    return f"{first} to {last} UTC, {day:.0%} by day, solar hours 0-6/6-12/12-18/18-24: {spread}{unknown}"


def _where(records: xr.Dataset) -> str:
    latitude, longitude = records["latitude"].values, records["longitude"].values
    known = ~np.isnan(latitude)
    if not known.any():
        return "unknown"
    sites = len({(round(a, 1), round(o, 1)) for a, o in zip(latitude[known], longitude[known], strict=True)})
    unknown = f"; {int((~known).sum())} unknown" if not known.all() else ""
    box = [float(f(v[known])) for v in (latitude, longitude) for f in (np.min, np.max)]
    return "latitude {:.1f} to {:.1f}, longitude {:.1f} to {:.1f}".format(*box) + f", {sites} sites{unknown}"


def _counts(values: Any) -> str:
    return ", ".join(f"{value}: {count}" for value, count in sorted(Counter(np.asarray(values).tolist()).items()))


def _provenance(store: xr.Dataset) -> dict[str, str]:
    path = str(store.attrs["path"])
    if "://" in path:
        return {}
    try:
        told = json.loads((Path(path) / PROVENANCE).read_bytes())
        facts = {"built": f"{told['created']} by contrail {told['versions']['contrail']}: {' '.join(told['command'])}"}
    except (OSError, ValueError, KeyError, TypeError):
        return {"built": f"unknown ({PROVENANCE} is missing or unreadable)"}
    if "source" in told:
        facts["source"] = f"{store.attrs['source']} in {told['source']}, {len(told['set_aside'])} set aside"
    return facts
