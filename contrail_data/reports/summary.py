"""Summary of a store: computed once, then shown as text (`contrail-data inspect`), as JSON or on the store's page."""

import json
from collections import Counter
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.composites import Channel, from_dict
from contrail_data.errors import ContrailError
from contrail_data.reports.page import render_page
from contrail_data.reports.summary_types import (
    ContrailSummary,
    LabelSummary,
    MissingSummary,
    PlaceSummary,
    PredictionSummary,
    ProvenanceSummary,
    SampleSummary,
    SizeSummary,
    TimeSummary,
)
from contrail_data.storage.place import place_of
from contrail_data.store.manifest import read_provenance
from contrail_data.store.reader import read_scalars
from contrail_data.store.samples import labelled_time
from contrail_data.store.schema import DIMS, Kind, kind_of


def summarise(store: xr.Dataset) -> SampleSummary | PredictionSummary:
    """Summarise a sealed store.

    Args:
        store: A store of any kind, opened by `open_store`.

    Returns:
        The summary of its kind.

    Raises:
        ContrailError: If a variable or attribute of the store is missing or malformed.
    """
    try:
        summary_of = _summary_of_samples if kind_of(store) == Kind.SAMPLES else _summary_of_predictions
        return summary_of(store, read_scalars(store))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        reason = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        message = f"a variable or attribute is missing or malformed ({reason}); restore it"
        raise ContrailError(f"{store.attrs['path']}: {message}") from None


def as_json(summary: SampleSummary | PredictionSummary) -> dict[str, Any]:
    """Convert a summary to plain data.

    Args:
        summary: A summary from `summarise`.

    Returns:
        A dictionary that `json.dumps` accepts; numbers that are not finite become `None`.
    """
    values = asdict(summary)
    if isinstance(summary, SampleSummary):
        values["composite"] = summary.composite.to_dict()
    return dict(json.loads(json.dumps(values), parse_constant=lambda _: None))


def as_text(summary: SampleSummary | PredictionSummary) -> dict[str, str]:
    """Write a summary as text.

    Args:
        summary: A summary from `summarise`.

    Returns:
        One line of printable characters for each heading.
    """
    text = render_page("summary.txt", summary=summary, describe=describe_channel)
    return {heading: line for heading, _, line in (line.partition(": ") for line in text.splitlines())}


def describe_channel(channel: Channel) -> str:
    """Write the arithmetic of a channel, such as `b15 - b14 over [-4, 2] K`.

    Args:
        channel: A channel of a composite.

    Returns:
        The bands, and the bounds in kelvin.
    """
    minus = "" if channel.minus is None else f" - b{channel.minus}"
    return f"b{channel.band}{minus} over [{channel.low:g}, {channel.high:g}] K"


def _common(store: xr.Dataset, records: xr.Dataset) -> dict[str, Any]:
    """Fields of `StoreSummary`."""
    path = str(store.attrs["path"])
    return {
        "path": path,
        "kind": kind_of(store),
        "digest": store.attrs["digest"],
        "samples": records.sizes["sample"],
        "splits": _counts(records["split"].values),
        "variables": {
            name: {"dtype": str(store[name].dtype), "shape": {str(k): n for k, n in store[name].sizes.items()}}
            for name in DIMS
            if name in store.variables
        },
        "provenance": _provenance(path),
    }


def _summary_of_samples(store: xr.Dataset, records: xr.Dataset) -> SampleSummary:
    positive = records["positive_pixels"].values
    area = records["height"].values.astype(np.int64) * records["width"].values
    human = records["label_source"].values == "human"
    composite = from_dict(store.attrs["composite"])
    if len(composite.channels) != store.sizes["channel"]:
        raise ValueError("the channels of the composite are not those of the image")
    sizes = Counter(zip(records["height"].values.tolist(), records["width"].values.tolist(), strict=True))
    return SampleSummary(
        **_common(store, records),
        source=str(store.attrs.get("source", "unknown")),
        composite=composite,
        label_shift=[float(pixels) for pixels in store.attrs["label_shift"]],
        labels=LabelSummary(
            sources=_counts(records["label_source"].values),
            records=int(human.sum()),
            positive_records=int((positive[human] > 0).sum()),
            pixels=int(area[human].sum()),
            positive_pixels=int(positive[human].sum()),
        ),
        annotators=_counts(records["annotator_count"].values),
        time=_time(records),
        place=_place(records),
        sizes=[SizeSummary(height=h, width=w, records=count) for (h, w), count in sizes.most_common()],
        duplicates=len(human) - len(set(records["source_digest"].values)),
        missing=_missing(records),
    )


def _summary_of_predictions(store: xr.Dataset, records: xr.Dataset) -> PredictionSummary:
    gate, score = float(store.attrs["gate"]), records["frame_score"].values
    by_model = records["frame_source"].values != "human"
    return PredictionSummary(
        **_common(store, records),
        frames=_counts(records["frame_source"].values.ravel()),
        frame_indices=sorted(set(records["frame"].values.ravel().tolist())),
        threshold=float(store.attrs["threshold"]),
        gate=gate,
        gate_passed=float((score >= gate).mean()) if score.size else None,
        confidence=_percentiles(records["frame_confidence"].values[by_model]),
        agreement=_percentiles(records["frame_agreement"].values[by_model]),
        contrails=_contrails(store),
        trained_records=int(records.sizes["trained"]),
        parent=str(store.attrs["parent"]),
        model=str(store.attrs["model"]),
    )


def _missing(records: xr.Dataset) -> MissingSummary:
    pixels = records["missing_pixels"].values if "missing_pixels" in records else np.zeros(records.sizes["sample"])
    frames = np.isnat(records["time"].values[pixels > 0])
    return MissingSummary(samples=int((pixels > 0).sum()), frames=int(frames.sum()), pixels=int(pixels.sum()))


def _contrails(store: xr.Dataset) -> ContrailSummary | None:
    if "contrail_length" not in store.variables:
        return None
    length, confidence = (store[f"contrail_{name}"].values for name in ("length", "confidence"))
    return ContrailSummary(number=len(length), length=_percentiles(length), confidence=_percentiles(confidence))


def _percentiles(values: npt.NDArray[Any]) -> list[float]:
    return np.quantile(values, [0.1, 0.5, 0.9]).tolist() if values.size else []


def _time(records: xr.Dataset) -> TimeSummary | None:
    times = labelled_time(records)
    dated = times[~np.isnat(times)]
    if not len(dated):
        return None
    hours, zenith = records["local_solar_hour"].values, records["solar_zenith"].values
    by_day = zenith[~np.isnan(zenith)] < 90
    return TimeSummary(
        first=f"{np.datetime_as_string(dated.min(), 's')}Z",
        last=f"{np.datetime_as_string(dated.max(), 's')}Z",
        unknown=len(times) - len(dated),
        by_day=float(by_day.mean()) if by_day.size else None,
        solar_quarters=np.histogram(hours[~np.isnan(hours)], [0, 6, 12, 18, 24])[0].tolist(),
    )


def _place(records: xr.Dataset) -> PlaceSummary | None:
    placed = ~np.isnan(records["latitude"].values)
    if not placed.any():
        return None
    latitude, longitude = records["latitude"].values[placed], records["longitude"].values[placed]
    return PlaceSummary(
        latitude=[float(latitude.min()), float(latitude.max())],
        longitude=[float(longitude.min()), float(longitude.max())],
        sites=len({(round(a, 1), round(o, 1)) for a, o in zip(latitude, longitude, strict=True)}),
        unknown=int((~placed).sum()),
    )


def _provenance(path: str) -> ProvenanceSummary | None:
    stored = read_provenance(place_of(path))
    try:
        summary = ProvenanceSummary(
            created=str(stored["created"]),
            contrail=str(stored["versions"]["contrail"]),
            command=[str(word) for word in stored["command"]],
        )
        if "source" in stored:
            summary["source"] = str(stored["source"])
            summary["set_aside"] = [str(line) for line in stored["set_aside"]]
    except (KeyError, TypeError):
        return None
    return summary


def _counts(values: npt.ArrayLike) -> dict[str, int]:
    return {str(value): count for value, count in sorted(Counter(np.asarray(values).tolist()).items())}
