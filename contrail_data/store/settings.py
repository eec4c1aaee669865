"""MISSING DOCSTRING."""

from __future__ import annotations

from dataclasses import dataclass

from contrail_data.composites import Composite
from contrail_data.store.schema import Array


@dataclass(frozen=True)
class Settings:
    """What, beside the source, decides the bytes of a store."""

    composite: Composite
    dtype: str = "uint8"
    codec: str = "none"
    size: int = 256
    label_shift: tuple[float, float] = (0.5, 0.5)
    """(dy, dx): labels lie this many pixels down and right of the image; OpenContrails' own is (0.5, 0.5)."""

    def arrays(self, frames: int, gaps: bool = False) -> dict[str, Array]:
        plane = (self.size, self.size)
        image = Array((frames, len(self.composite.channels), *plane), self.dtype, self.codec)
        label = Array(plane, "uint8", "zstd")
        valid = {"valid": Array((frames, *plane), "uint8", "zstd")} if gaps else {}
        return {"image": image, "mask": label, "annotators": label, **valid}
