"""Runs that start from the weights of another run."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from contrail_data.store.reader import open_store
from helpers.cli import run_command, run_train
from helpers.runs import TINY, set_options


@pytest.mark.slow
def test_a_multi_frame_run_starts_from_a_single_frame_run(
    store: Path, unseen: Path, finished: Path, tmp_path: Path
) -> None:
    """Matching weights are copied and mixers start as the identity; the run can evaluate, pseudo-label and predict."""
    from contrail_data.cli.main import main

    out = tmp_path / "run-25d"
    window = ["data.frames=[-1,0,1]", "model.mixer.kind=conv3d", "model.mixer.blocks=1", "augment.time_reversal=0.5"]
    options = set_options(*TINY, "epochs=1", *window, f"start={finished}", f"data.train={store}", "data.target=clip2")
    done = run_train("run", "unet2d", "--out", out, *options)
    assert done.returncode == 0, done.stderr
    assert re.search(r"encoder (\d+) of \1 tensors, decoder (\d+) of \2 tensors", done.stderr)
    assert "mixers 0 of" in done.stderr
    done = run_train("evaluate", out, unseen, "--worst", 0)
    assert done.returncode == 0, done.stderr
    done = run_command(main, "pseudo-label", store, "--model", out, "-o", tmp_path / "window.pseudo.zarr")
    assert done.returncode == 0, done.stderr
    pseudo = open_store(tmp_path / "window.pseudo.zarr")
    assert (pseudo["frame"].values == np.arange(1, 7)).all()
    done = run_train("predict", out, store, "-o", tmp_path / "window.pred.zarr")
    assert done.returncode == 0, done.stderr
    predicted = open_store(tmp_path / "window.pred.zarr")
    at = list(pseudo["frame"].values[0]).index(4)
    human = pseudo["frame_source"].values[:, at] == "human"
    assert human.all()
    assert (predicted["frame"].values == 4).all()


def test_starting_from_another_encoder_prints_a_warning(store: Path, finished: Path, tmp_path: Path) -> None:
    options = set_options(
        *TINY, "epochs=1", "model.encoder=mobilenetv3_small_050", f"start={finished}", f"data.train={store}"
    )
    done = run_train("run", "unet2d", "--dry-run", *options)
    assert done.returncode == 0, done.stderr
    assert re.search(r"warning: start=.*: its encoder is a different one: \d+ of \d+ tensors fit", done.stderr)


def test_a_part_is_not_frozen_if_nothing_of_it_was_started_from(store: Path, finished: Path) -> None:
    from contrail_data.errors import ContrailError
    from contrail_train.config.presets import get_config
    from contrail_train.config.settings import with_settings
    from contrail_train.training.setup import Setup

    mixed = ["data.frames=[-1,0,1]", "model.mixer.kind=lstm", f"start={finished}", f"data.train={store}"]
    config = with_settings(get_config("unet2d"), [*TINY, *mixed])
    with pytest.raises(ContrailError, match=r"model\.freeze: mixer would keep its random weights, as none of start="):
        Setup(with_settings(config, ["model.freeze=mixer"]))
    config = with_settings(config, ["model.mixer.kind=conv3d", "model.encoder=test_convnext", "model.drop_path=0"])
    for settings, names, where in (
        ([], "encoder_batch_norm", "the encoder"),
        (["model.norm=group"], "batch_norm", "the model outside of the mixer"),
    ):
        with pytest.raises(ContrailError, match=rf"model\.freeze: {names} has no effect, as {where} has none"):
            Setup(with_settings(config, [*settings, f"model.freeze={names}"]))
