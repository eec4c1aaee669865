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


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("calibration.from=[runs/none]", "calibration.from=runs/none: runs/none is not a finished run"),
        ("data.flow.weights=none.pth", "none.pth: weights of RAFT cannot be read"),
    ],
)
def test_wrong_paths_are_reported_before_any_data_is_read(setting: str, message: str) -> None:
    moving = ["data.frames=[0,1]", "model.mixer.kind=mean", "data.warp=true", "data.flow.method=raft"]
    settings = ["data.train=absent.zarr", "data.holdout=0", *(moving if "flow" in setting else ()), setting]
    with pytest.raises(ContrailError, match=message):
        Setup(with_settings(get_config("unet2d"), settings))
