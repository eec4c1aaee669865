"""Write small raw records."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

WKT = (
    'PROJCS["unknown",GEOGCS["unknown",DATUM["WGS_1984",SPHEROID["WGS 84",6378137,298.257223563]],'
    'PRIMEM["Greenwich",0],UNIT["degree",0.0174532925199433]],PROJECTION["Transverse_Mercator"],'
    'PARAMETER["latitude_of_origin",0],PARAMETER["central_meridian",-63],PARAMETER["scale_factor",0.9996],'
    'PARAMETER["false_easting",500000],PARAMETER["false_northing",0],UNIT["metre",1]]'
)


def write_record(
    folder: Path, rng: np.random.Generator, *, size: int = 32, bands: tuple[int, ...] = (11, 14, 15)
) -> Path:
    """Write a record of plausible brightness temperatures with a streak, and return its folder."""
    folder.mkdir(parents=True)
    for band in bands:
        field = 280 + 5 * rng.standard_normal((size, size, 8)).cumsum(0) / size - (band - 14) * 0.5
        np.save(folder / f"band_{band:02d}.npy", field.astype("<f4"))
    votes = np.zeros((size, size, 1, 4), "<i4")
    votes[size // 2, 3 : size // 2, 0, :3] = 1
    votes[size // 4, 3 : size // 2, 0, :2] = 1  # a 2-2 tie is no contrail
    np.save(folder / "human_individual_masks.npy", votes)
    np.save(folder / "human_pixel_masks.npy", (votes.mean(-1) > 0.5).astype("<i4"))
    return folder


def add_records(raw: Path, count: int) -> None:
    """Add train records, so that a store has several shards."""
    rng = np.random.default_rng(1)
    for i in range(count):
        write_record(raw / "train" / f"more{i:03d}", rng)


def write_train_split(folder: Path) -> Path:
    """Write nine train records, of which the last has no metadata, below `folder`; return their root."""
    rng = np.random.default_rng(0)
    root = folder / "raw"
    entries = []
    for i in range(9):
        record_id = str(18446744073709551616 + i)  # does not fit a 64-bit integer
        write_record(root / "train" / record_id, rng)
        entry = {"record_id": record_id, "projection_wkt": WKT, "row_min": 2686377.25, "row_size": -1984.9}
        entry |= {"col_min": 466287.28, "col_size": 1929.8, "timestamp": 1583980800.0 + 1200 * i}
        entries.append(entry)
    (root / "train_metadata.json").write_text(json.dumps(entries[:-1]))
    return root
