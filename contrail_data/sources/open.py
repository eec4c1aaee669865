"""MISSING DOCSTRING."""

from __future__ import annotations

from pathlib import Path

from contrail_data.composites import Composite
from contrail_data.errors import ContrailError
from contrail_data.sample import check_record_id
from contrail_data.sources.base import Source


def open_source(root: Path, split: str, composite: Composite, kind: str = "auto") -> Source:
    """Scan `root` as OpenContrails records (it holds folders `train`, `validation`, `test`) or as ash frames
    (it holds `*.npy`).

    Raises ContrailError when it is neither or the split is absent.
    """
    from contrail_data.sources import frames, records

    check_record_id(split)
    if not root.is_dir():
        raise ContrailError(f"{root}: no such folder: give the folder that holds the records")
    if kind == "auto":
        kind = "frames" if any(root.glob("*.npy")) and not (root / split).is_dir() else "records"
    scan = frames.scan if kind == "frames" else records.scan
    return scan(root, split, composite)


def is_abi(where: str) -> bool:
    """Whether this names scans of a satellite: an archive, a glob, or a folder with ABI files."""
    if "://" in where or where.startswith("goes") or any(c in where for c in "*?[") or where.endswith(".nc"):
        return not Path(where).is_dir() or _holds_abi(Path(where))
    return Path(where).is_dir() and _holds_abi(Path(where))


def _holds_abi(folder: Path) -> bool:
    return next(folder.rglob("OR_ABI-*.nc"), None) is not None
