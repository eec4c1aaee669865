"""Paths of the project and of the real data."""

from __future__ import annotations

import os
from pathlib import Path

PROJECT = Path(__file__).parents[2]
REAL_DATA = Path(os.environ.get("CONTRAIL_REAL_DATA", PROJECT.parent / "shared/data"))
