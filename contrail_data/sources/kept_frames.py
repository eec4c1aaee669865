"""A source of which only some frames of each sample are kept, so that a store takes less room.

Frames are named by their offsets from the labelled frame. They follow one another without a gap, because models, labels
and tracks take two neighbouring frames of a store for neighbours in time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

from typing_extensions import override

from contrail_data.errors import BadRecord
from contrail_data.sample import Sample
from contrail_data.sources.base import Source


def check_frames(offsets: Sequence[int]) -> tuple[int, ...]:
    """Check a choice of frames.

    Args:
        offsets: Frames to keep, relative to the labelled one.

    Returns:
        The offsets, ascending.

    Raises:
        ValueError: If the labelled frame is not among them, or a frame between two of them is left out.
    """
    ordered = sorted(offsets)
    if 0 not in ordered:
        raise ValueError("frames: the labelled frame is missing; add 0")
    if ordered != list(range(ordered[0], ordered[-1] + 1)):
        raise ValueError("frames: must follow one another, each once; give for example -2,-1,0,1")
    return tuple(ordered)


@dataclass(frozen=True, kw_only=True)
class KeptFramesSource(Source):
    """The samples of another source, with some of their frames.

    A record must have all of the chosen frames, and can only be used if its other frames can. Its source digest is that
    of all frames.
    """

    source: Source
    offsets: tuple[int, ...]
    """Frames to keep, relative to the labelled one, ascending and without a gap."""

    @override
    def files(self, record_id: str) -> list[str]:
        return self.source.files(record_id)

    @override
    def read_sample(self, record_id: str) -> Sample:
        sample = self.source.read_sample(record_id)
        labelled, count = int(sample.attributes["labelled_frame"]), len(sample.time)
        if labelled < 0:
            raise BadRecord(
                f"{record_id}: no frame is labelled, so that none can be chosen relative to it; omit --frames"
            )
        first, last = labelled + self.offsets[0], labelled + self.offsets[-1]
        if first < 0 or last >= count:
            existing = f"has the frames {-labelled} to {count - 1 - labelled}"
            raise BadRecord(
                f"{record_id}: {existing}, not {self.offsets[0]} to {self.offsets[-1]}; choose fewer --frames"
            )
        kept = slice(first, last + 1)
        attributes: Any = {**sample.attributes, "labelled_frame": -self.offsets[0]}
        return replace(
            sample,
            pixels=sample.pixels[..., kept],
            time=sample.time[kept],
            attributes=attributes,
            valid=None if sample.valid is None else sample.valid[..., kept],
        )

    @override
    def part(self, record_ids: Sequence[str]) -> Self:
        return replace(super().part(record_ids), source=self.source.part(record_ids))

    @override
    def surrounds(self, address: str) -> bool:
        return self.source.surrounds(address)


def keep_frames(source: Source, offsets: Sequence[int] | None) -> Source:
    """Keep only some frames of each sample.

    Args:
        source: A source.
        offsets: Frames to keep, relative to the labelled one; None keeps all.

    Returns:
        A source of the same records; the source itself if all frames are kept.

    Raises:
        ValueError: If the frames are not a choice that `check_frames` accepts.
    """
    if offsets is None:
        return source
    offsets = check_frames(offsets)
    inherited: dict[str, Any] = {field.name: getattr(source, field.name) for field in fields(Source)}
    changed: dict[str, Any] = {"frames": len(offsets), "options": [*source.options, {"frames": offsets}]}
    return KeptFramesSource(**inherited | changed, source=source, offsets=offsets)
