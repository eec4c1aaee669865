"""Ready-made ash frames: `{record_id}.npy`, (y, x, 4) float16 or float32, the composite in 0-2 and the mask in 3."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from contrail_data.composites import Composite
from contrail_data.errors import BadRecord, ContrailError
from contrail_data.geo.geometry import unknown_footprint
from contrail_data.sample import Labels, check_record_id, make_sample
from contrail_data.sources.base import Source, SourceKind
from contrail_data.sources.npy import digest, read_npy


def open_frames(root: Path, split: str, composite: Composite) -> FrameSource:
    """Open a folder of ash frames.

    Args:
        root: The folder.
        split: Split to file the samples under.
        composite: The requested composite, which must be `ash`.

    Returns:
        A source of all frames in the folder, by name.

    Raises:
        ContrailError: If the folder holds no frames or another composite is requested.
    """
    if composite.name != "ash":
        raise ContrailError(f"{root}: ash frames hold only the composite 'ash'; omit --composite {composite.name}")
    paths = sorted(root.glob("*.npy"))
    if not paths:
        raise ContrailError(f"{root}: contains no .npy frames; check the path")
    ids, problems = [], []
    for path in paths:
        try:
            ids.append(check_record_id(path.stem))
        except BadRecord as error:
            problems.append(str(error))
    return FrameSource(
        root=str(root),
        location=str(root.resolve()),
        split=split,
        record_ids=ids,
        frames=1,
        folder=root.absolute(),
        channels=tuple(composite.channel_names),
        problems=problems,
        note=f"{root.name}: frames have no time, place or annotators",
    )


@dataclass(frozen=True, kw_only=True)
class FrameSource(Source):
    """Ash frames of one folder; each becomes a sample with one time step."""

    kind: SourceKind = SourceKind.FRAMES
    folder: Path
    channels: tuple[str, ...]

    def files(self, record_id: str) -> list[Path]:
        """Return the frame's file.

        Args:
            record_id: One of `record_ids`.

        Returns:
            Paths, which need not exist.
        """
        return [self.folder / f"{record_id}.npy"]

    def read_sample(self, record_id: str) -> xr.Dataset:
        """Read one frame as a sample with one time step.

        Args:
            record_id: One of `record_ids`.

        Returns:
            The checked sample.

        Raises:
            BadRecord: If it cannot be used.
        """
        (path,) = self.files(record_id)
        array_yxc = read_npy(path, kinds="<f2 <f4", shape=(None, None, len(self.channels) + 1))
        mask = array_yxc[..., -1]
        if not np.isin(mask, (0, 1)).all():
            raise BadRecord(f"{path.name}: channel {len(self.channels)} is not a 0/1 mask; restore the file")
        image_cyx = np.ascontiguousarray(np.moveaxis(array_yxc[..., :-1], -1, 0), np.float32)
        return make_sample(
            "image",
            image_cyx[..., np.newaxis],
            self.channels,
            record_id=record_id,
            split=self.split,
            time=np.full(1, np.datetime64("NaT", "ns")),
            labels=Labels(mask.astype(np.uint8)),
            labelled_frame=0,
            source_digest=f"ash:{digest(array_yxc[..., :-1])}",
            footprint=unknown_footprint(),
        )
