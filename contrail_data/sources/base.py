"""What a build needs from a source of samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from contrail_data.geo.geometry import Footprint
    from contrail_data.sample import Attributes, Sample
    from contrail_data.store.journal import Shard
    from contrail_data.store.layout import Layout


class SourceKind(StrEnum):
    """Kinds of sources, as recorded in a store's attribute `source`."""

    RECORDS = "records"
    TFRECORDS = "tfrecords"
    FRAMES = "frames"
    SCANS = "scenes"
    STORES = "stores"
    SEVERAL = "several"
    """Sources of several kinds."""


class InputFormat(StrEnum):
    """Input formats that a user can choose; AUTO looks at the files."""

    AUTO = "auto"
    RECORDS = "records"
    TFRECORDS = "tfrecords"
    FRAMES = "frames"
    ABI = "abi"


class LabelFilter(StrEnum):
    """Samples by what humans labelled."""

    POSITIVE = "positive"
    """A human marked a contrail."""
    NEGATIVE = "negative"
    """A human found no contrail."""
    NONE = "none"
    """No human labelled the sample."""


@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """An ordered set of records and how to read each of them as a sample.

    Sources are pickled and sent to other processes, and their methods are called from many threads at once.
    """

    kind: SourceKind
    root: str
    """The input as the user named it, for messages."""
    location: str
    """The input as an absolute path or URL, for provenance."""
    split: str
    """Split of the samples; empty if every sample has its own."""
    record_ids: list[str]
    frames: int
    """Frames per sample."""
    entries: Mapping[str, Any] = field(default_factory=dict)
    """What is known about a record before it is read, by record id."""
    problems: list[str] = field(default_factory=list)
    """One line for each file or record that was set aside while the input was listed."""
    note: str = ""
    """What the user should know about the input; empty if nothing."""
    has_gaps: bool = False
    """Whether pixels or frames may be missing, so that samples may have `valid`."""
    instances: int = 0
    """Most contrails that were marked one by one in a record; 0 if the source knows no such masks."""
    options: list[Any] = field(default_factory=list)
    """Further JSON values that determine the samples, so that an interrupted build is only continued as itself."""
    parent_paths: list[str] = field(default_factory=list)
    """Paths or URLs of the stores that samples are taken from."""
    parent_digests: list[str] = field(default_factory=list)

    @abstractmethod
    def read_sample(self, record_id: str) -> Sample:
        """Read one record as a sample (see `contrail_data.sample`).

        Args:
            record_id: One of `record_ids`.

        Returns:
            The checked sample.

        Raises:
            BadRecord: If the record cannot be used; the message names the file and the reason.
        """

    @abstractmethod
    def files(self, record_id: str) -> list[str]:
        """List the local files that a record is read from, so that a resumed build notices a changed one.

        Args:
            record_id: One of `record_ids`.

        Returns:
            Paths, which need not exist.
        """

    def _attributes(self, record_id: str, footprint: Footprint, source_digest: str, labelled_frame: int) -> Attributes:
        """Return the attributes that every sample of the source has."""
        return {
            **footprint,
            "record_id": record_id,
            "split": self.split,
            "source_digest": source_digest,
            "labelled_frame": labelled_frame,
        }

    def surrounds(self, address: str) -> bool:
        """Return whether a place lies among the local records, where a store would be taken for one of them.

        Args:
            address: Path or URL.

        Returns:
            Whether it does.
        """
        return not self.parent_paths and f"{address}/".startswith(f"{self.location}/{self.split}/")

    def part(self, record_ids: Sequence[str]) -> Self:
        """Restrict the source to a few records, so that it is small enough to be sent along with a task.

        Args:
            record_ids: Some of `record_ids`.

        Returns:
            A source of these records.
        """
        entries = {record_id: self.entries[record_id] for record_id in record_ids if record_id in self.entries}
        return replace(self, record_ids=list(record_ids), entries=entries, problems=[])

    def adopt_shards(self, layouts: Mapping[str, Layout], finished: Set[int]) -> Iterator[Shard]:
        """Put whole shards of a parent store in place instead of building them from samples.

        Args:
            layouts: Layout of each pixel array of the new store.
            finished: Numbers of the shards that are in place already.

        Yields:
            Each shard that was put in place; none for most sources.
        """
        yield from ()
