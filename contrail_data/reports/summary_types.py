"""What a summary of a store states, as types whose values are plain data."""

from dataclasses import dataclass
from typing import NotRequired, TypedDict

from contrail_data.composites import Composite
from contrail_data.store.schema import Kind


class VariableSummary(TypedDict):
    """Data type and shape of a pixel array."""

    dtype: str
    shape: dict[str, int]
    """Size of each dimension, by name."""


class ProvenanceSummary(TypedDict):
    """How a store was made."""

    created: str
    contrail: str
    """Version of contrail."""
    command: list[str]
    source: NotRequired[str]
    """Where the samples came from, if the store was built from a source."""
    set_aside: NotRequired[list[str]]
    """One line for each record of the source that was left out."""


class LabelSummary(TypedDict):
    """Human labels of a store, in pixels of the records before resizing."""

    sources: dict[str, int]
    """Number of records by the source of their label."""
    records: int
    """Records that a human labelled."""
    positive_records: int
    pixels: int
    positive_pixels: int


class TimeSummary(TypedDict):
    """When the labelled frames were taken."""

    first: str
    """ISO 8601, UTC."""
    last: str
    unknown: int
    by_day: float | None
    """Share of the records with the sun above the horizon."""
    solar_quarters: list[int]
    """Number of records in each quarter of the day, in true solar time."""


class PlaceSummary(TypedDict):
    """Where the records are."""

    latitude: list[float]
    """Least and greatest, in degrees north."""
    longitude: list[float]
    """Least and greatest, in degrees east."""
    sites: int
    """Number of different places, to a tenth of a degree."""
    unknown: int


class SizeSummary(TypedDict):
    """Number of records with one size before resizing."""

    height: int
    width: int
    records: int


class MissingSummary(TypedDict):
    """What is missing from a store of scans."""

    samples: int
    """Samples that lack some pixels."""
    frames: int
    """Frames that are missing altogether."""
    pixels: int


@dataclass(frozen=True, kw_only=True)
class StoreSummary:
    """What every kind of store has."""

    path: str
    kind: Kind
    digest: str
    samples: int
    splits: dict[str, int]
    """Number of samples by split."""
    variables: dict[str, VariableSummary]
    provenance: ProvenanceSummary | None
    """`None` if the file is missing or unreadable."""


@dataclass(frozen=True, kw_only=True)
class SampleSummary(StoreSummary):
    """Summary of a store of samples."""

    source: str
    """Kind of the source that the store was built from."""
    composite: Composite
    label_shift: list[float]
    """Pixels down and right from the image to its label."""
    labels: LabelSummary
    annotators: dict[str, int]
    """Number of records by number of annotators."""
    time: TimeSummary | None
    place: PlaceSummary | None
    sizes: list[SizeSummary]
    """The most frequent first."""
    duplicates: int
    """Records that repeat the raw data of another one."""
    missing: MissingSummary


@dataclass(frozen=True, kw_only=True)
class ContrailSummary:
    """Contrails that were separated from one another."""

    number: int
    length: list[float]
    """The 10th, 50th and 90th percentile, pixels; empty if there are none."""
    confidence: list[float]
    """The same percentiles."""


@dataclass(frozen=True, kw_only=True)
class PredictionSummary(StoreSummary):
    """Summary of a store of predictions or pseudo-labels."""

    frames: dict[str, int]
    """Number of frames by the source of their label."""
    frame_indices: list[int]
    """Indices of the frames in the samples of the parent."""
    threshold: float
    gate: float
    gate_passed: float | None
    """Share of the frames that pass the gate."""
    confidence: list[float]
    """The 10th, 50th and 90th percentile over frames without a human label; empty if there are none."""
    agreement: list[float]
    """The same percentiles of the agreement with neighbouring frames."""
    contrails: ContrailSummary | None
    """None if contrails are not listed one by one."""
    trained_records: int
    parent: str
    model: str
