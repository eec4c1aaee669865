"""What a run refuses before its first step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from contrail_data.errors import ContrailError
from contrail_train.config.presets import get_config
from contrail_train.config.settings import with_settings
from contrail_train.training.setup import Setup
from helpers.records import write_record
from helpers.runs import TINY
from helpers.stores import build_composite


def test_the_statistics_of_photographs_are_for_three_channels(tmp_path: Path) -> None:
    write_record(tmp_path / "raw/train/a", np.random.default_rng(0), size=64, bands=tuple(range(8, 17)))
    build_composite(tmp_path / "raw", tmp_path / "bands.zarr", "bands", size=64)
    settings = [*TINY, f"data.train={tmp_path / 'bands.zarr'}", "data.holdout=0", "data.normalise=imagenet"]
    with pytest.raises(ContrailError, match=r"data\.normalise=imagenet: is for three channels"):
        Setup(with_settings(get_config("unet2d"), settings))
