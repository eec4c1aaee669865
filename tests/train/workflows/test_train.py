"""Training from Python is what the command does."""

from __future__ import annotations

from pathlib import Path

import pytest

from contrail_data.errors import ContrailError
from contrail_train import train
from contrail_train.config.presets import get_config
from contrail_train.runs.calibration import read_calibration


def test_groups_of_settings_mean_what_set_means_on_the_command_line(finished: Path, store: Path) -> None:
    """A run directory refuses other settings than those that it was begun with."""
    model = {"encoder": "test_resnet", "decoder": {"channels": (16, 16, 8, 8, 8)}, "drop_path": 0.1}
    settings = {"model": model, "batch_size": 4, "epochs": 3, "optim": {"lr": 3e-3}, "loggers": {"pictures": 0}}
    data = {"train": store, "holdout": 0.3}
    for config in ("unet2d", get_config("unet2d")):
        run = train(config, finished, data=data, **settings)
        expected = read_calibration(finished)
        assert (run.path, run.threshold, run.holdout) == (finished, expected["threshold"], expected["holdout"])
    with pytest.raises(ContrailError, match=r"epochs=3, not 4"):
        train("unet2d", finished, data=data, **{**settings, "epochs": 4})


def test_a_wrong_setting_is_an_error_of_one_line(tmp_path: Path) -> None:
    for config, settings, message in (
        ("unet3d", {}, "no such preset; did you mean unet2d"),
        ("unet2d", {"data": {"tran": "a"}}, r"unet2d: there is no setting 'data\.tran'; did you mean data\.train"),
        ("unet2d", {"epochs": "many"}, "epochs: cannot be 'many'; give a whole number"),
        ("unet2d", {"data": {"train": tmp_path / "a.zarr"}}, "neither a store nor a name|no such store"),
    ):
        with pytest.raises(ContrailError, match=message) as refused:
            train(config, tmp_path / "run", **settings)
        assert "\n" not in str(refused.value)
