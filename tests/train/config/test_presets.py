"""Every preset is what it says, and runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from contrail_data.composites import COMPOSITES
from contrail_data.store.settings import StoreSettings
from contrail_train.config.presets import PRESETS, config_of
from contrail_train.config.schema import RunConfig
from contrail_train.config.settings import parse_config, to_explained_yaml
from helpers.cli import run_train
from helpers.records import write_record
from helpers.stores import build_small

SIDE = 64
LIGHT = "resnet10t"


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> dict[str, Path]:
    """Six small records as each composite that a preset may want."""
    root, rng = tmp_path_factory.mktemp("presets"), np.random.default_rng(0)
    for i in range(6):
        write_record(root / "raw/train" / f"{i:02d}", rng, size=SIDE, bands=tuple(range(8, 17)))
    found = {}
    for name in ("ash", "ash_wide", "bands_diffs"):
        found[name] = root / f"{name}.zarr"
        build_small(root / "raw", found[name], settings=StoreSettings(COMPOSITES[name], size=SIDE))
    return found


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_takes_two_steps(name: str, stores: dict[str, Path], tmp_path: Path) -> None:
    """Small images and decoders; the encoder itself once in its family, a light one in its other members."""
    from contrail_train.training.fit import fit

    config = config_of(name)
    config.data.train = [str(stores[config.data.composite or "ash"])]
    config.data.holdout = 0.0
    config.batch_size, config.epochs = 2, 1
    config.model.pretrained = False
    config.model.image_size = SIDE if config.model.image_size is not None else None
    config.model.decoder_channels = [64, 32, 16, 16, 16]
    preset = PRESETS[name]
    if preset.parent is not None and not name.endswith("_all") and not name.startswith("ours"):
        config.model.encoder = LIGHT
    if config.model.encoder.startswith("swin"):  # windows of up to 24, whatever the image
        config.data.frames, config.augment.time_reversal = [0], 0.0
    fit(config, tmp_path / "run", stop_after=2)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 2
    assert np.isfinite(losses).all()


def test_a_preset_differs_from_its_parent_by_what_it_says() -> None:
    for preset in PRESETS.values():
        ours = flat(config_of(preset.name))
        theirs = flat(config_of(preset.parent) if preset.parent else RunConfig())
        differs = {key: value for key, value in ours.items() if value != theirs[key] and key != "preset"}
        assert differs == preset.settings, preset.name


def flat(config: RunConfig) -> dict[str, object]:
    def walk(tree: dict, prefix: str) -> dict[str, object]:
        found: dict[str, object] = {}
        for key, value in tree.items():
            found |= walk(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        return found

    return walk(config.model_dump(mode="json"), "")


@pytest.mark.parametrize("name", ["unet2d", "resnetrs50_classifier", "swinv2_base_positive_soft"])
def test_what_is_shown_is_accepted_unchanged(name: str, tmp_path: Path) -> None:
    shown = run_train("presets", "show", name)
    assert shown.returncode == 0
    assert parse_config(yaml.safe_load(shown.stdout), "shown") == config_of(name)
    (tmp_path / "p.yaml").write_text(shown.stdout)
    again = run_train("presets", "show", tmp_path / "p.yaml")
    assert again.stdout == to_explained_yaml(config_of(name))


def test_the_list_tells_parent_difference_and_cost(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("CONTRAIL_CACHE", str(tmp_path))
    done = run_train("presets", "ls", "resnetrs50_all")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.split()[:1] == ["resnetrs50_all_soft"]]
    assert "resnetrs50_all" in line.split()
    assert "0.6803" in line
    assert "data.target=clip2" in line
    assert run_train("presets", "ls", "resnetrs50_all").stdout == done.stdout  # remembered
    (first, *_) = json.loads(run_train("presets", "ls", "resnetrs50_all_soft", "--json").stdout)
    assert (first["name"], first["settings"]) == ("resnetrs50_all_soft", {"data.target": "clip2"})
    assert first["flop"] > 1e9
    assert run_train("presets", "ls", "nothing like it").returncode == 1


def test_costs_are_those_of_a_forward_pass() -> None:
    """torchvision's published figures for ResNet-50 are 25.6 M parameters, 4.09 GMAC; its features alone, without
    the classifier's 2.05 M, at 256 px are (256 / 224)² of it."""
    from contrail_train.models.cost import count

    config = RunConfig()
    config.model.encoder, config.model.head = "resnet50", "record"
    cost = count(config)
    assert cost.parameters == pytest.approx(25.557e6 - 2.049e6 + 2048 * 512 + 1024 * 512 + 512, rel=0.01)
    assert cost.flop == pytest.approx(2 * 4.09e9 * (256 / 224) ** 2, rel=0.03)
