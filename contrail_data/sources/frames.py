"""Ready-made "ash-color" frames: `{record_id}.npy`, (256, 256, 4) floats: ash in channels 0..2, mask in 3."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from contrail_data.composites import Composite
from contrail_data.errors import BadRecord, ContrailError
from contrail_data.sample import check_record_id, make_sample, unknown_geometry
from contrail_data.sources.base import Source
from contrail_data.sources.npy import digest, read_npy


def scan(root: Path, split: str, composite: Composite) -> Source:
    """List the frames of a folder. Raises ContrailError when it holds none or another composite is asked for."""
    if composite.name != "ash":
        raise ContrailError(f"{root}: ash frames hold the composite 'ash' only: leave --composite {composite.name} out")
    paths = sorted(root.glob("*.npy"))
    if not paths:
        raise ContrailError(f"{root}: holds no .npy frames: check the path")
    ids, problems = [], []
    for path in paths:
        try:
            ids.append(check_record_id(path.stem))
        except BadRecord as error:
            problems.append(str(error))
    return Source(
        kind="frames",
        root=str(root),
        where=str(root.resolve()),
        split=split,
        record_ids=ids,
        frames=1,
        read=partial(read, root.absolute(), split, tuple(composite.channel_names)),
        files=partial(_files, root.absolute()),
        problems=problems,
        note=f"{root.name}: frames carry no time, place or annotators",
    )


def _files(root: Path, record_id: str) -> list[Path]:
    return [root / f"{record_id}.npy"]


def read(
    root: Path,
    split: str,
    channels: tuple[str, ...],
    record_id: str,
    entry: Mapping[str, Any],
    empty: Callable[..., np.ndarray[Any, Any]] = np.empty,
) -> xr.Dataset:
    """One frame as a Sample with one time step, in memory from `empty`; of `entry` nothing is used.

    Raises BadRecord naming file and reason.
    """
    (path,) = _files(root, record_id)
    array = read_npy(path, kinds="<f2 <f4", shape=(None, None, len(channels) + 1))
    mask = array[..., -1]
    if not np.isin(mask, (0, 1)).all():
        raise BadRecord(f"{path.name}: channel {len(channels)} is no 0/1 mask: restore the file")
    image = empty((len(channels), *mask.shape, 1), np.float32)
    image[..., 0] = np.moveaxis(array[..., :-1], -1, 0)
    return make_sample(
        "image",
        image,
        channels,
        record_id=record_id,
        split=split,
        time=np.full(1, np.datetime64("NaT", "ns")),
        mask=mask.astype(np.uint8),
        annotators=None,
        annotator_count=0,
        labelled_frame=0,
        source_digest=f"ash:{digest(array[..., :-1])}",
        geometry=unknown_geometry(),
    )
