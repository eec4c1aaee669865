"""The small ABI sector that several tests read."""

from __future__ import annotations

import numpy as np

START = np.datetime64("2024-03-01T12:00")
SIZE = (120, 140)
