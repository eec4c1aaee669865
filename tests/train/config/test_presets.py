"""Presets: their settings, a short training with each setting, and their shipped costs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from contrail_data.composites import get_composite
from contrail_data.settings.parse import validated
from contrail_data.store.settings import StoreSettings
from contrail_train.config.model import RecordHeadConfig
from contrail_train.config.presets import FAMILIES, PRESETS, cost_key, get_config, shipped_costs
from contrail_train.config.schema import RunConfig
from contrail_train.config.settings import differences, to_explained_yaml, with_settings, with_values
from contrail_train.models.segmenter import build
from helpers.cli import run_train
from helpers.records import write_record
from helpers.stores import build_small

SIDE = 32
LIGHT, LIGHT_OF_STRIDE_4 = "test_resnet", "test_convnext"


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> dict[str, Path]:
    """Stores of six small records, one store for each composite that a preset may need."""
    root, rng = tmp_path_factory.mktemp("presets"), np.random.default_rng(0)
    for i in range(6):
        write_record(root / "raw/train" / f"{i:02d}", rng, size=SIDE, bands=tuple(range(8, 17)))
    paths = {}
    for name in ("ash", "ash_wide", "ash+ash_wide", "bands_diffs"):
        paths[name] = root / f"{name}.zarr"
        build_small(root / "raw", paths[name], settings=StoreSettings(get_composite(name), size=SIDE))
    return paths


def small_config(name: str, store: str) -> RunConfig:
    """A preset with small images, decoder and encoder; test_encoder.py takes steps with the real encoders."""
    config = get_config(name)
    settings = [f"data.train={store}", "data.holdout=0", "epochs=1", "micro_batch=null", "batch_size=2"]
    settings += ["model.pretrained=false", "model.freeze_epochs=0"]
    if config.data.crop is not None:
        settings += ["data.crop=null", "augment.redraw=0"]
    if config.model.rim:
        settings.append("model.rim=8")
    if config.model.image_size is not None:
        settings.append(f"model.image_size={SIDE}")
    if (decoder := config.model.decoder) is not None:
        widths = [64, 32, 16, 16, 16][: len(decoder.channels)]
        settings.append(f"model.decoder.channels={widths}")
    if name != "unet2d":
        first_level = decoder is not None and decoder.first_level
        settings.append(f"model.encoder={LIGHT_OF_STRIDE_4 if first_level else LIGHT}")
    return with_settings(config, settings)


def presets_with_all_settings() -> list[str]:
    """Return presets that together contain every value that any small preset gives to any setting."""
    values = {name: small_config(name, "s").model_dump(exclude={"preset"}) for name in PRESETS}
    pairs = {name: {str(pair) for pair in flattened(config)} for name, config in values.items()}
    missing, chosen = set().union(*pairs.values()), []
    while missing:
        chosen.append(max(pairs, key=lambda name: len(pairs[name] & missing)))
        missing -= pairs[chosen[-1]]
    return chosen


def flattened(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of each setting."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


@pytest.mark.slow
@pytest.mark.parametrize("name", presets_with_all_settings())
def test_every_setting_of_a_preset_trains_for_two_steps(name: str, stores: dict[str, Path], tmp_path: Path) -> None:
    from contrail_train.training.fit import fit

    fit(small_config(name, str(stores[get_config(name).data.composite or "ash"])), tmp_path / "run", stop_after=2)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 2
    assert np.isfinite(losses).all()


@pytest.mark.slow
def test_a_preset_differs_from_its_parent_by_its_declared_settings() -> None:
    for preset in PRESETS.values():
        parent = get_config(preset.parent) if preset.parent else RunConfig()
        config = get_config(preset.name)
        for key, value in preset.settings.items():
            given = config
            for part in key.split("."):
                given = getattr(given, part)
            assert (given if value is None else type(given)(value)) == given, (preset.name, key)
            assert any(text.startswith(key) for text in differences(parent, config)), (preset.name, key)


def test_every_preset_belongs_to_one_family() -> None:
    assert sum(len(family.presets) for family in FAMILIES.values()) == len(PRESETS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changes", "millions"),
    [
        ("resnetrs50_all", {}, {"encoder": 33.64, "mixers": 26.27, "decoder": 18.86, "total": 78.8}),
        (
            "resnetrs50_all",
            {"model.decoder.kind": "fastfcn", "model.decoder.centre": None, "model.decoder.channels": [256]},
            {"decoder": 17.97},
        ),
        ("resnest101_fastfcn", {}, {"total": 90.6}),
        ("convnext_base_all", {}, {"total": 109.2}),
        ("swinv2_base_all", {}, {"total": 108.6}),
        ("resnetrs50_2d", {}, {"total": 52.5}),
    ],
)
def test_presets_of_the_notes_have_the_networks_of_the_notes(
    name: str, changes: dict[str, Any], millions: dict[str, float]
) -> None:
    """Parameters as measured with the notes' own code, to the precision stated there."""
    config = with_values(get_config(name), [*changes.items(), ("model.pretrained", False)], name)
    with torch.device("meta"):
        model = build(config.model, 3, config.data.frames)
    parts = {"encoder": [model.encoder], "mixers": [model.mixers], "decoder": [model.decoder, model.mask_head]}
    counts = {part: sum(p.numel() for m in ms for p in m.parameters()) for part, ms in parts.items()}
    counts["total"] = sum(p.numel() for p in model.parameters())
    assert counts["total"] == sum(counts[part] for part in parts)
    for part, expected in millions.items():
        assert round(counts[part] / 1e6, len(str(expected).partition(".")[2])) == expected, part


@pytest.mark.parametrize("name", ["unet2d", "resnetrs50_classifier", "swinv2_base_positive_soft"])
def test_a_shown_preset_can_be_read_back_unchanged(name: str, tmp_path: Path) -> None:
    shown = run_train("presets", "show", name)
    assert shown.returncode == 0
    assert validated(RunConfig, yaml.safe_load(shown.stdout), "shown") == get_config(name)
    (tmp_path / "p.yaml").write_text(shown.stdout)
    again = run_train("presets", "show", tmp_path / "p.yaml")
    assert again.stdout == to_explained_yaml(get_config(name))


def test_a_shown_preset_states_the_verdict_of_the_notes_beside_our_measurement() -> None:
    head = run_train("presets", "show", "resnetrs50_all_soft").stdout.partition("\nformat")[0]
    text = " ".join(line.removeprefix("# ") for line in head.splitlines())
    assert "The notes: Better than hard labels by 0.003 to 0.011" in text
    assert "Validation Dice in the notes: 0.6803." in text
    assert "Measured by us: Twice the mean: -0.044 (-0.058 to -0.030)" in text
    assert "The notes: Not bad in both tasks" in run_train("presets", "show", "convnext_base_all").stdout


def test_the_list_of_pipelines_states_the_figures_of_the_notes() -> None:
    words = run_train("presets", "pipelines").stdout.split()
    assert {"0.67,", "0.6858,", "0.6952"} <= set(words)


def test_every_verdict_of_the_notes_on_a_variant_is_handed_down() -> None:
    untold = {"scse", "aspp", "lovasz", "identity", "coarse", "fast"}  # ours, or without a verdict there
    silent = {preset.name for preset in FAMILIES["variants"].presets if preset.verdict is None}
    assert silent == {f"resnetrs50_all_soft_{name}" for name in untold}


def test_presets_ls_lists_families_and_the_presets_of_one_family() -> None:
    done = run_train("presets", "ls")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.split()[:1] == ["convnext_base"]]
    assert line.split()[-7:] == ["frames", "at", "512", "px", "109.2", "1410.1", "5"]
    done = run_train("presets", "ls", "convnext_base")
    rows = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  convnext_base")]
    assert rows == [
        f"convnext_base_{stage}" for stage in ("all", "all_soft", "positive", "positive_soft", "classifier")
    ]


@pytest.mark.slow
def test_presets_ls_shows_parent_settings_and_cost() -> None:
    done = run_train("presets", "ls", "resnetrs50_all")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.split()[:1] == ["resnetrs50_all_soft"]]
    assert "resnetrs50_all" in line.split()
    assert "0.6803" in line
    assert "data.target=clip2" in line
    (first, *_) = json.loads(run_train("presets", "ls", "resnetrs50_all_soft", "--json").stdout)
    assert (first["name"], first["settings"]) == ("resnetrs50_all_soft", {"data.target": "clip2"})
    assert first["flop"] > 1e9
    assert run_train("presets", "ls", "nothing like it").returncode == 1


def test_presets_ls_does_not_import_torch() -> None:
    code = "import sys; from contrail_train.cli.main import main; sys.argv[1:] = ['presets', 'ls']\n"
    code += "try: main()\nexcept SystemExit: pass\nsys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.slow
def test_shipped_costs_match_the_models() -> None:
    """Every preset has a cost; one model in twenty is counted again.

    If this fails, run `python tests/helpers/costs.py`.
    """
    from helpers.costs import count

    configs = {cost_key(config): config for config in map(get_config, PRESETS)}
    costs = shipped_costs()
    assert configs.keys() == costs.keys()
    for key, config in list(configs.items())[::20]:
        assert count(config) == costs[key], key


def test_costs_match_the_published_figures_of_resnet50() -> None:
    """For ResNet-50 at 224 px, torchvision publishes 25.6 M parameters, of which 2.05 M belong to the classifier, and
    4.09 GMAC; the cost at 256 px is (256 / 224)² times that."""
    from helpers.costs import count

    config = RunConfig()
    config.model.encoder, config.model.record_head = "resnet50", RecordHeadConfig()
    config.model.decoder = None
    cost = count(config)
    assert cost.parameters == pytest.approx(25.557e6 - 2.049e6 + 2048 * 512 + 1024 * 512 + 512, rel=0.01)
    assert cost.flop == pytest.approx(2 * 4.09e9 * (256 / 224) ** 2, rel=0.03)
