"""Pipelines whose stages see different composites of the same records."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from contrail_data.composites import get_composite
from contrail_data.errors import ContrailError
from contrail_data.settings.parse import parse_assignment
from contrail_data.store.reader import open_store
from contrail_data.store.settings import StoreSettings
from contrail_train.config.pipelines import PipelineConfig
from contrail_train.inference.load import load_model
from contrail_train.workflows.pipeline import train_pipeline
from helpers.runs import SHORT
from helpers.stores import build_small

STACK = "ash+ash_wide"


@pytest.fixture(scope="module")
def stores(store: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The records of `store` in each composite."""
    paths = {"ash": store}
    for name in ("ash_wide", STACK):
        paths[name] = tmp_path_factory.mktemp("composites") / f"{name}.zarr"
        build_small(store.parent / "raw", paths[name], settings=StoreSettings(get_composite(name), size=64))
    return paths


def two_stages(stores: dict[str, Path], **settings: object) -> PipelineConfig:
    """Return a pipeline of the mean of two stages, one for each composite."""
    shared = dict(map(parse_assignment, SHORT))
    stages = {
        name: {"preset": "unet2d", "settings": shared | {"data.train": [str(stores[name])]}}
        for name in ("ash", "ash_wide")
    }
    return PipelineConfig.model_validate({"stages": stages, "mask": [*stages], **settings})


@pytest.mark.slow
def test_stages_of_several_composites_need_a_store_of_all_channels_before_the_first_is_trained(
    stores: dict[str, Path], tmp_path: Path
) -> None:
    for settings, message in (
        ({}, f"calibrate_on: the stages have the composites ash, ash_wide.*--composite {STACK.replace('+', '.')}"),
        ({"calibrate_on": [str(stores["ash"])]}, "does not have the channels of the stages"),
    ):
        with pytest.raises(ContrailError, match=message):
            train_pipeline(two_stages(stores, **settings), tmp_path / "p", ["cpu"])
        assert not (tmp_path / "p/stages").exists()


@pytest.mark.slow
def test_each_stage_sees_its_own_channels_of_a_stack(stores: dict[str, Path], tmp_path: Path) -> None:
    calibration = train_pipeline(two_stages(stores, calibrate_on=[str(stores[STACK])]), tmp_path / "p", ["cpu"])
    assert calibration["composite"]["name"] == STACK
    assert 0 < len(calibration["holdout_records"]) < 16  # those that no stage was trained on
    windows = {name: open_store(path)["image"].values[:2, 4:5] for name, path in stores.items()}
    own = [load_model(tmp_path / "p/stages" / name).predict(windows[name]).probability for name in ("ash", "ash_wide")]
    joined = load_model(tmp_path / "p").for_store(open_store(stores[STACK])).predict(windows[STACK]).probability
    np.testing.assert_allclose(joined, (own[0] + own[1]) / 2, atol=1e-6)
    assert np.abs(own[0] - own[1]).max() > 1e-4
