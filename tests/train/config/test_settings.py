"""Settings: what is refused says what to give, what has no effect is told, what is shown can be run."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from contrail_data.errors import ContrailError
from contrail_train.config.advice import without_effect
from contrail_train.config.presets import PRESETS, config_of, get_config
from contrail_train.config.schema import RunConfig
from contrail_train.config.settings import parse_config, to_explained_yaml, with_settings


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("lr=1", "did you mean optim.lr?"),
        ("encoder=x", "did you mean model.encoder?"),
        ("frame=1", "did you mean data.frames?"),
        ("zzzqqq=1", "see `contrail-train presets show"),
        ("model.mixer=foo", "model.mixer cannot be 'foo': give conv3d, lstm, mean or none"),
        ("epochs=0", "epochs cannot be '0': give a whole number from 1"),
        ("data.frames=[0,99]", "give a list of 1 or more, of a whole number from -7 to 7"),
        ("optim.lr=-1", "give a number above 0"),
        ("optim.lr=.inf", "give a number above 0"),
        ("data.pseudo.weight=0", "give a number above 0"),
        ("data.holdout=1", "give a number from 0 below 1"),
        ("model.pretrained=[1]", "give true or false, or text"),
        ("augment.label_shift=[1]", "give [a number, a number], or null"),
        ("model=3", "model is a group of settings, not '3': set one of them, such as model.encoder"),
        ("data.frames=[-1,0]", "set augment.time_reversal=0, or other frames"),
        ("epochs", "write key=value"),
    ],
)
def test_what_is_refused_says_what_to_give(setting: str, told: str) -> None:
    with pytest.raises(ContrailError) as caught:
        with_settings(config_of("unet25d"), [setting])
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_preset_is_shown_with_what_each_key_takes_and_read_back_unchanged() -> None:
    for name in PRESETS:
        shown = to_explained_yaml(config_of(name))
        assert parse_config(yaml.safe_load(shown), name) == config_of(name)
    shown = to_explained_yaml(RunConfig())
    assert "  mixer: none  # conv3d, lstm, mean or none" in shown
    assert "# Largest rotation, degrees.\n  rotate: 15.0  # a number from 0 to 180" in shown


@pytest.mark.parametrize(
    ("idle", "told", "effective"),
    [
        ("augment.time_reversal=0.5", "one frame", ["data.frames=[-1,0,1]", "model.mixer=mean"]),
        ("model.mixer=conv3d", "one frame", ["data.frames=[-1,0,1]"]),
        ("data.frames=[-1,0,1]", "only the labelled one", ["model.mixer=lstm"]),
        ("loss.auxiliary=0.1", "deep_supervision", ["model.deep_supervision=true"]),
        ("micro_batch=64", "batch_size", ["batch_size=128"]),
        ("optim.average_best=40", "epochs", ["epochs=50"]),
        ("augment.cut_out_side=4", "augment.cut_out=0", ["augment.cut_out=0.5"]),
        ("model.freeze=[encoder]", "random weights", ["model.pretrained=true"]),
        ("data.fold=1", "holds nothing out", ["data.holdout=0.15"]),
        ("model.two_class=true", "no mask", ["model.head=both"]),
    ],
)
def test_a_setting_without_effect_is_told(idle: str, told: str, effective: list[str]) -> None:
    head = ["model.head=record"] if "two_class" in idle else []
    base = with_settings(RunConfig(), ["data.holdout=0", *head])
    (line,) = without_effect(with_settings(base, [idle]))
    assert idle.partition("=")[0] in line
    assert told in line
    assert without_effect(with_settings(base, [idle, *effective])) == []


def test_no_preset_has_a_setting_without_effect() -> None:
    assert {name: told for name in PRESETS if (told := without_effect(config_of(name), 5))} == {}
    wide = with_settings(RunConfig(), ["model.decoder_channels=[64,32,16,16,8,8]"])
    (line,) = without_effect(wide, 5)
    assert "the first 5" in line


def test_a_file_says_what_differs_from_the_preset_it_names(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("preset: ours\nepochs: 2\nmodel: {drop_path: 0.1}\n")
    expected = with_settings(config_of("ours"), ["epochs=2", "model.drop_path=0.1"])
    assert get_config(str(tmp_path / "mine.yaml")) == expected
    (tmp_path / "twice.yaml").write_text("epochs: 2\nseed: 1\nepochs: 3\n")
    with pytest.raises(ContrailError, match="epochs comes twice"):
        get_config(str(tmp_path / "twice.yaml"))
    (tmp_path / "mine").write_text("epochs: 2\n")
    with pytest.raises(ContrailError, match=r"name it \.yaml"):
        get_config(str(tmp_path / "mine"))
