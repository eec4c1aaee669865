"""What is in a store: facts computed once, told on one clear screen or as JSON."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.composites import from_dict
from contrail_data.errors import ContrailError
from contrail_data.storage.place import place_of
from contrail_data.store.manifest import read_provenance
from contrail_data.store.reader import read_scalars
from contrail_data.store.samples import labelled_time
from contrail_data.store.schema import DIMS, PROVENANCE, Kind, kind_of


def facts(store: xr.Dataset) -> dict[str, Any]:
    """Facts on a sealed store as JSON has them: numbers, text, lists, dicts, None for what is not known.

    Of every kind: path, kind, digest, samples, splits {name: samples}, variables {name: {dtype, shape}},
    provenance. Of samples: source (what kind), composite, label_shift in pixels (down, right), labels, annotators
    {how many: records}, time (ISO 8601, UTC; hours are true solar), place (degrees north and east), sizes before
    resizing, duplicates (records that repeat another's raw data). Of predictions and pseudo-labels: frames {source:
    frames}, frame_indices (in the parent's samples), threshold, gate, gate_passed (share of frames), parent, model.
    Raises ContrailError for a store that lacks one of these.
    """
    path = str(store.attrs["path"])
    records = read_scalars(store)
    try:
        found = {
            "path": path,
            "kind": kind_of(store),
            "digest": store.attrs["digest"],
            "samples": records.sizes["sample"],
            "splits": _counts(records["split"].values),
            "variables": {
                n: {"dtype": str(store[n].dtype), "shape": dict(store[n].sizes)} for n in DIMS if n in store.variables
            },
            **(_of_samples(store, records) if kind_of(store) is Kind.SAMPLES else _of_derived(store, records)),
            "provenance": _provenance(path),
        }
    except (KeyError, TypeError, ValueError, IndexError) as error:
        reason = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        raise ContrailError(f"{path}: a variable or attribute is missing or malformed ({reason}): restore it") from None
    cleaned: dict[str, Any] = _as_json(found)
    return cleaned


def _of_samples(store: xr.Dataset, records: xr.Dataset) -> dict[str, Any]:
    positive = records["positive_pixels"].values
    area = records["height"].values.astype(np.int64) * records["width"].values
    human = records["label_source"].values == "human"
    composite = from_dict(store.attrs["composite"])
    if len(composite.channels) != store.sizes["channel"]:
        raise ValueError("the composite's channels are not the image's")
    sizes = Counter(zip(records["height"].values.tolist(), records["width"].values.tolist(), strict=True))
    return {
        "source": str(store.attrs.get("source", "unknown")),
        "composite": composite.to_dict(),
        "label_shift": [float(pixels) for pixels in store.attrs["label_shift"]],
        "labels": {
            "sources": _counts(records["label_source"].values),
            "records": int(human.sum()),
            "positive_records": int((positive[human] > 0).sum()),
            "pixels": int(area[human].sum()),
            "positive_pixels": int(positive[human].sum()),
        },
        "annotators": _counts(records["annotator_count"].values),
        "time": _time(records),
        "place": _place(records),
        "sizes": [{"height": h, "width": w, "records": n} for (h, w), n in sizes.most_common()],
        "duplicates": len(human) - len(set(records["source_digest"].values)),
        "missing": _missing(store, records),
    }


def _missing(store: xr.Dataset, records: xr.Dataset) -> dict[str, int]:
    """Of a store of scans: samples that lack pixels, frames that are missing altogether, pixels that are."""
    pixels = records["missing_pixels"].values if "missing_pixels" in records else np.zeros(len(records["record_id"]))
    frames = np.isnat(records["time"].values[pixels > 0])
    return {"samples": int((pixels > 0).sum()), "frames": int(frames.sum()), "pixels": int(pixels.sum())}


def _of_derived(store: xr.Dataset, records: xr.Dataset) -> dict[str, Any]:
    gate, score = float(store.attrs["gate"]), records["frame_score"].values
    return {
        "frames": _counts(records["frame_source"].values.ravel()),
        "frame_indices": sorted(set(records["frame"].values.ravel().tolist())),
        "threshold": float(store.attrs["threshold"]),
        "gate": gate,
        "gate_passed": float((score >= gate).mean()) if score.size else None,
        "confidence": _tenths(records, "frame_confidence"),
        "agreement": _tenths(records, "frame_agreement"),
        "trained_records": int(records.sizes["trained"]),
        "parent": str(store.attrs["parent"]),
        "model": str(store.attrs["model"]),
    }


def _tenths(records: xr.Dataset, name: str) -> list[float]:
    """Values that 10, 50 and 90 % of the frames that no human labelled are below; none where there are no such."""
    values = records[name].values[records["frame_source"].values != "human"]
    return np.quantile(values, [0.1, 0.5, 0.9]).tolist() if values.size else []


def _time(records: xr.Dataset) -> dict[str, Any] | None:
    times = labelled_time(records)
    known = times[~np.isnat(times)]
    if not len(known):
        return None
    hours, zenith = records["local_solar_hour"].values, records["solar_zenith"].values
    lit = zenith[~np.isnan(zenith)] < 90
    return {
        "first": f"{np.datetime_as_string(known.min(), 's')}Z",
        "last": f"{np.datetime_as_string(known.max(), 's')}Z",
        "unknown": len(times) - len(known),
        "by_day": float(lit.mean()) if lit.size else None,
        "solar_quarters": np.histogram(hours[~np.isnan(hours)], [0, 6, 12, 18, 24])[0].tolist(),
    }


def _place(records: xr.Dataset) -> dict[str, Any] | None:
    latitude, longitude = records["latitude"].values, records["longitude"].values
    known = ~np.isnan(latitude)
    if not known.any():
        return None
    return {
        "latitude": [float(latitude[known].min()), float(latitude[known].max())],
        "longitude": [float(longitude[known].min()), float(longitude[known].max())],
        "sites": len({(round(a, 1), round(o, 1)) for a, o in zip(latitude[known], longitude[known], strict=True)}),
        "unknown": int((~known).sum()),
    }


def _provenance(path: str) -> dict[str, Any] | None:
    told = read_provenance(place_of(path))
    try:
        made = {
            "created": str(told["created"]),
            "contrail": str(told["versions"]["contrail"]),
            "command": [str(word) for word in told["command"]],
        }
        if "source" in told:
            made |= {"source": str(told["source"]), "set_aside": [str(line) for line in told["set_aside"]]}
    except (KeyError, TypeError):
        return None
    return made


def _counts(values: npt.ArrayLike) -> dict[str, int]:
    return {str(value): count for value, count in sorted(Counter(np.asarray(values).tolist()).items())}


def _as_json(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {str(k): _as_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def summary(found: dict[str, Any]) -> dict[str, str]:
    """`facts` as text by heading, each one line of printable characters."""
    told = {
        "store": f"{found['path']} ({found['kind']})",
        "samples": f"{found['samples']}, split {_listed(found['splits'])}",
        **{
            name: f"{v['dtype']} {' x '.join(map(str, v['shape'].values()))} ({', '.join(v['shape'])})"
            for name, v in found["variables"].items()
            if name != "annotators"  # as the mask, and told by record below
        },
    }
    told |= _samples_told(found) if found["kind"] == "samples" else _derived_told(found)
    told["digest"] = found["digest"]
    made = found["provenance"]
    if made is not None:
        told["built"] = f"{made['created']} by contrail {made['contrail']}: {' '.join(made['command'])}"
        if "source" in made:
            told["source"] = f"{found['source']} in {made['source']}, {len(made['set_aside'])} set aside"
    else:
        told["built"] = f"unknown ({PROVENANCE} is missing or unreadable)"
    return {heading: "".join(c if c.isprintable() else "?" for c in text) for heading, text in told.items()}


def channel_told(channel: dict[str, Any]) -> str:
    """`b15 - b14 over [-4, 2] K`."""
    minus = "" if channel["minus"] is None else f" - b{channel['minus']}"
    return f"b{channel['band']}{minus} over [{channel['low']:g}, {channel['high']:g}] K"


def _samples_told(found: dict[str, Any]) -> dict[str, str]:
    labels, votes, sizes = found["labels"], found["annotators"], found["sizes"]
    composite, copies = found["composite"], found["duplicates"]
    positive = "no labels"
    if n := labels["records"]:
        hits, share = labels["positive_records"], labels["positive_pixels"] / max(labels["pixels"], 1)
        positive = (
            f"{_listed(labels['sources'])}; positive {hits} of {n} records ({hits / n:.1%}), {share:.3%} of pixels"
        )
    more = f" and {len(sizes) - 5} other sizes" if len(sizes) > 5 else ""
    return {
        "composite": f"{composite['name']}: "
        + "; ".join(f"{c['name']} = {channel_told(c)}" for c in composite["channels"]),
        "labels": positive,
        "annotators": "none" if set(votes) == {"0"} else f"records by number of annotators: {_listed(votes)}",
        "when": _when(found["time"]),
        "where": _where(found["place"]),
        "original size": ", ".join(f"{s['height']}x{s['width']} ({s['records']})" for s in sizes[:5]) + more,
        "label shift": "{:g} px down, {:g} px right of the image".format(*found["label_shift"]),
        "duplicates": f"{copies} records repeat another's raw data" if copies else "none",
    } | (
        {"missing": "pixels of {samples} samples, {frames} whole frames (see valid)".format(**found["missing"])}
        if found["missing"]["samples"]
        else {}
    )


def _derived_told(found: dict[str, Any]) -> dict[str, str]:
    passed = "no" if found["gate_passed"] is None else f"{found['gate_passed']:.1%} of"
    return {
        "frames": _listed(found["frames"]),
        "gate": f"{passed} frames pass {found['gate']:.4f}; threshold {found['threshold']:.4f}",
        **{
            name: "10, 50, 90 % of frames under {:.3f}, {:.3f}, {:.3f}".format(*found[name])
            for name in ("confidence", "agreement")
            if found[name]
        },
        "trained on": f"{found['trained_records']} records",
        "parent": found["parent"],
        "model": found["model"],
    }


def _when(time: dict[str, Any] | None) -> str:
    if time is None:
        return "unknown"
    first, last = (time[k][:16] for k in ("first", "last"))
    day = "" if time["by_day"] is None else f", {time['by_day']:.0%} by day"
    spread = "/".join(map(str, time["solar_quarters"]))
    unknown = f"; {time['unknown']} unknown" if time["unknown"] else ""
    return f"{first} to {last} UTC{day}, solar hours 0-6/6-12/12-18/18-24: {spread}{unknown}"


def _where(place: dict[str, Any] | None) -> str:
    if place is None:
        return "unknown"
    unknown = f"; {place['unknown']} unknown" if place["unknown"] else ""
    box = "latitude {:.1f} to {:.1f}, longitude {:.1f} to {:.1f}".format(*place["latitude"], *place["longitude"])
    return f"{box}, {place['sites']} sites{unknown}"


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{value}: {count}" for value, count in counts.items())
