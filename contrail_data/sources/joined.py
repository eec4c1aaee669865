"""Several sources as one, for stores that are built from more than one folder, split or kind of input."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from typing_extensions import override

from contrail_data.errors import ContrailError
from contrail_data.sample import Sample
from contrail_data.sources.base import Source, SourceKind


@dataclass(frozen=True, kw_only=True)
class JoinedSource(Source):
    """The records of several sources, one source after the other."""

    sources: Sequence[Source]
    entries: Mapping[str, int]
    """Which of the sources has a record, by record id."""

    def _source_of(self, record_id: str) -> Source:
        return self.sources[self.entries[record_id]]

    @override
    def files(self, record_id: str) -> list[str]:
        return self._source_of(record_id).files(record_id)

    @override
    def read_sample(self, record_id: str) -> Sample:
        return self._source_of(record_id).read_sample(record_id)

    @override
    def part(self, record_ids: Sequence[str]) -> Self:
        parts = [
            source.part([record_id for record_id in record_ids if self.entries[record_id] == number])
            for number, source in enumerate(self.sources)
        ]
        return replace(super().part(record_ids), sources=parts)

    @override
    def surrounds(self, address: str) -> bool:
        return any(source.surrounds(address) for source in self.sources)


def joined(sources: Sequence[Source]) -> Source:
    """Join sources to one.

    Args:
        sources: Sources of raw data.

    Returns:
        A source of all their records, in the order of the sources; the source itself if there is only one.

    Raises:
        ContrailError: If two of them have a record of the same id, or their samples differ in the number of frames.
    """
    first = sources[0]
    if len(sources) == 1:
        return first
    for source in sources[1:]:
        if source.frames != first.frames:
            frames = f"records have {source.frames} frames, those of {first.root} {first.frames}"
            raise ContrailError(f"{source.root}: {frames}; build each into a store of its own")
    record_ids = [record_id for source in sources for record_id in source.record_ids]
    if repeated := [record_id for record_id, count in Counter(record_ids).items() if count > 1]:
        roots = [source.root for source in sources if repeated[0] in source.record_ids]
        raise ContrailError(f"record {repeated[0]}: occurs in {' and '.join(roots)}; remove one of these sources")
    kinds, splits = {source.kind for source in sources}, {source.split for source in sources}
    return JoinedSource(
        kind=kinds.pop() if len(kinds) == 1 else SourceKind.SEVERAL,
        root=", ".join(source.root for source in sources),
        location=", ".join(source.location for source in sources),
        split=splits.pop() if len(splits) == 1 else "",
        record_ids=record_ids,
        frames=first.frames,
        sources=sources,
        entries={record_id: number for number, source in enumerate(sources) for record_id in source.record_ids},
        problems=[problem for source in sources for problem in source.problems],
        note="; ".join(source.note for source in sources if source.note),
        has_gaps=any(source.has_gaps for source in sources),
        instances=max(source.instances for source in sources),
        options=[[source.split, *source.options] for source in sources],
    )
