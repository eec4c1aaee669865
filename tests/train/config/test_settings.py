"""Settings: refusals name a remedy, settings without effect are refused, printed settings can be read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from contrail_data.errors import ContrailError
from contrail_data.settings.fields import group_of, setting_fields, takes
from contrail_data.settings.parse import as_plain, validated
from contrail_train.config.pipelines import get_pipeline, with_pipeline_settings
from contrail_train.config.presets import PRESETS, get_config
from contrail_train.config.schema import RunConfig
from contrail_train.config.settings import read_config, to_explained_yaml, to_yaml, with_settings


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("lr=1", "did you mean optim.lr?"),
        ("encoder=x", "did you mean model.encoder?"),
        ("frame=1", "did you mean data.frames?"),
        ("cut_out_side=1", "there is no setting 'cut_out_side'; "),
        ("augment.grid_distortion.cell=3", "did you mean augment.grid_distortion.cells?"),
        ("zzzqqq=1", "`contrail-train presets show unet2d` prints all keys"),
        ("model.mixer.kind=foo", "model.mixer.kind: cannot be 'foo'; give conv3d, "),
        ("epochs=0", "epochs: cannot be '0'; give a whole number from 1"),
        ("data.frames=[0,99]", "give a list of 1 or more, each entry a whole number from -7 to 7"),
        ("optim.lr=-1", "give a number above 0"),
        ("optim.lr=.inf", "give a number above 0"),
        ("data.pseudo.weight=0", "give a number above 0"),
        ("data.holdout=1", "give a number from 0 to below 1"),
        ("model.pretrained=[1]", "give true or false, or text"),
        ("augment.label_shift=[1]", "give [a number, a number], or null"),
        ("augment.label_shift=[0,9]", "at most 8 pixels"),
        ("model=3", "model: is a group of settings, not '3'; set model.encoder or another of them"),
        ("augment.mixup=0", "set augment.mixup.probability or another of them, or null to switch it off"),
        ("augment.mixup.probability=0", "give a number above 0 to 1"),
        ("data.frames=[-1,0]", "set augment.time_reversal=0, or other frames"),
        ("model.decoder=null", "the model predicts nothing"),
        ("epochs", "write key=value"),
    ],
)
def test_a_refused_setting_names_the_accepted_values(setting: str, message: str) -> None:
    with pytest.raises(ContrailError) as caught:
        with_settings(get_config("unet25d"), [setting])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


FIELDS = setting_fields(RunConfig)
NUMBERS = [key for key, field in FIELDS.items() if group_of(field) is None and "number" in takes(field)]


@pytest.mark.slow
def test_no_number_is_boundless_and_no_other_value_passes_for_a_number() -> None:
    assert len(NUMBERS) > 60
    for key in NUMBERS:
        others = (
            ".nan",
            ".inf",
            "-.inf",
            "1e400",
            "1e308",
            "-1e308",
            f"1{'0' * 30}",
            "true",
            "no",
            "'1'",
            "010",
            "1:30",
        )
        for value in (*others, *(["1.0", "1e0"] if "whole" in takes(FIELDS[key]) else [])):
            text = {"a": value, "[": f"[{value},0.5]"}[takes(FIELDS[key])[0]]
            text = f"[{value}]" if takes(FIELDS[key]).startswith("a list") else text
            with pytest.raises(ContrailError, match=f"{key}(: cannot be|.*at most 8 pixels)"):
                with_settings(RunConfig(), [f"{key}={text}"])
    with pytest.raises(ContrailError, match="top_k: cannot be"):
        with_pipeline_settings(get_pipeline("unet2d_v2"), ["top_k=true"])
    for key in ("data.keep", "compile"):
        with pytest.raises(ContrailError, match=f"{key}: cannot be"):
            with_settings(RunConfig(), [f"{key}=1"])


def test_numbers_are_written_as_in_yaml_1_2() -> None:
    assert with_settings(RunConfig(), ["optim.lr=1e-4"]).optim.lr == 1e-4
    assert with_settings(RunConfig(), ["optim.lr=1"]).optim.lr == 1.0
    assert with_settings(RunConfig(), ["epochs=1_000"]).epochs == 1000
    with pytest.raises(ContrailError, match="is not a YAML value"):
        with_settings(RunConfig(), [f"seed={'9' * 5000}"])


@pytest.mark.slow
def test_explained_settings_list_accepted_values_and_are_read_back_unchanged() -> None:
    for name in PRESETS:
        config = get_config(name)
        assert validated(RunConfig, yaml.load(to_explained_yaml(config), yaml.CSafeLoader), name) == config
    shown = to_explained_yaml(RunConfig())
    assert "  mixer: null  # or a group of settings:" in shown
    assert "  #   kind: conv3d  # conv3d, " in shown
    assert "# Largest rotation, in degrees.\n    rotate: 15.0  # a number from 0 to 180" in shown


FRAMES = ["data.frames=[-1,0,1]", "model.mixer.kind=conv3d"]
CERTAIN = "model.decoder.point_rend.uncertain=0.5"
START = "start=runs/a"
TAUGHT = ["data.unlabelled=a.zarr", "loss.consistency={}"]
RECORDS = ["model.decoder=null", "model.record_head={}"]


@pytest.mark.parametrize(
    ("idle", "reason", "base", "remedy"),
    [
        ("augment.time_reversal=0.5", "several data.frames", [], FRAMES),
        ("model.mixer.kind=conv3d", "several data.frames", [], ["data.frames=[-1,0,1]"]),
        ("data.frames=[-1,0,1]", "needs model.mixer", [], ["model.mixer.kind=lstm"]),
        ("model.mixer.blocks=2", "kind=conv3d, lstm or", [*FRAMES, "model.mixer.kind=mean"], ["model.mixer.kind=lstm"]),
        ("model.mixer.levels=[4]", "than panels", [*FRAMES, "model.mixer.kind=panels"], ["model.mixer.kind=mean"]),
        ("model.mixer.downscale=2", "than panels", [*FRAMES, "model.mixer.kind=panels"], ["model.mixer.kind=mean"]),
        (
            "model.mixer.neighbours=mixed",
            "model.mixer.levels, and model.mixer.downscale=1",
            [*FRAMES, "model.mixer.levels=[0]", "model.mixer.downscale=2"],
            ["model.mixer.downscale=1"],
        ),
        ("model.mixer.shortcut=conv", "kind=conv3d", [*FRAMES, "model.mixer.kind=lstm"], ["model.mixer.kind=conv3d"]),
        ("model.mixer.own_frame=add", "than panels", [*FRAMES, "model.mixer.kind=panels"], ["model.mixer.kind=mean"]),
        ("model.decoder.upsample=bilinear", "kind=unet", ["model.decoder.kind=fpn"], ["model.decoder.kind=unet"]),
        ("model.decoder.centre=fpa", "kind=unet", ["model.decoder.kind=fpn"], ["model.decoder.kind=unet"]),
        ("model.decoder.align_corners=true", "upsample=bil", [], ["model.decoder.upsample=bilinear"]),
        (
            "model.decoder.first_level=true",
            "unet or fastfcn",
            ["model.decoder.kind=fpn"],
            ["model.decoder.kind=fastfcn"],
        ),
        ("model.decoder.attention=cbam", "unet or fastfcn", ["model.decoder.kind=fpn"], ["model.decoder.kind=fastfcn"]),
        ("loss.auxiliary_target=max_pool", "deep_supervision=true", [], ["model.decoder.deep_supervision=true"]),
        ("loss.points=2", "model.decoder.point_rend", [], ["model.decoder.point_rend={}"]),
        ("model.decoder.point_rend.oversample=2", "uncertain", ["model.decoder.point_rend.uncertain=0"], [CERTAIN]),
        ("loss.auxiliary=0.1", "deep_supervision=true", [], ["model.decoder.deep_supervision=true"]),
        ("loss.second_target=2", "data.second_target", [], ["data.second_target=mean"]),
        ("data.second_target=mean", "needs model.decoder", RECORDS, ["model.decoder={}"]),
        ("data.second_target=majority", "is data.target too", [], ["data.target=mean"]),
        ("model.record_head.auxiliary=true", "model.decoder", RECORDS, ["model.decoder={}"]),
        ("data.unlabelled=a.zarr", "loss.consistency", [], ["loss.consistency={}"]),
        ("loss.consistency={}", "data.unlabelled", [], ["data.unlabelled=a.zarr"]),
        ("optim.ema=0", "raise optim.ema", TAUGHT, ["loss.consistency=null", "data.unlabelled=[]"]),
        ("model.annotator_maps=4", "model.decoder", RECORDS, ["model.decoder={}"]),
        ("data.target=mean", "annotator_maps=null", ["model.annotator_maps=4"], ["model.annotator_maps=null"]),
        ("data.teacher=runs/a", "annotator_maps=null", ["model.annotator_maps=4"], ["model.annotator_maps=null"]),
        ("model.score_head.dropout=0.1", "model.decoder", RECORDS, ["model.decoder={}", "model.record_head=null"]),
        ("model.score_head.dropout=0.1", "gives the score of", ["model.record_head={}"], ["model.record_head=null"]),
        ("loss.score=2", "model.score_head", [], ["model.score_head={}"]),
        ("loss.record=2", "model.record_head", [], ["model.record_head={}"]),
        ("loss.dice_numerator=7e5", "loss.dice", [], ["loss.dice=1"]),
        ("loss.dice=1", "model.decoder", RECORDS, ["model.decoder={}"]),
        ("loss.focal.gamma=1", "model.decoder", RECORDS, ["model.decoder={}"]),
        ("loss.pos_weight=3", "loss.bce or model.record_head", ["loss.bce=0", "loss.dice=1"], ["loss.bce=1"]),
        ("optim.mixer_lr=1e-4", "model.mixer", [], FRAMES),
        ("optim.mixer_lr=1e-4", "with weights", [*FRAMES, "model.mixer.kind=panels"], ["model.mixer.kind=valid3d"]),
        ("optim.decoder_lr=1e-4", "model.decoder", RECORDS, ["model.decoder={}"]),
        ("optim.encoder_lr=1e-4", "model.freeze", ["model.freeze=encoder", "start=runs/a"], ["model.freeze=[]"]),
        ("micro_batch=64", "a larger batch_size", [], ["batch_size=128"]),
        ("augment.redraw=3", "augment.affine, turn, multi_scale or", ["augment.affine=null"], ["augment.cutmix=0.5"]),
        ("model.freeze=encoder", "random weights", [], ["model.pretrained=true"]),
        ("model.freeze=decoder", "random weights", ["model.pretrained=true"], ["start=runs/a"]),
        ("model.freeze=mixer", "mixer with weights", ["start=runs/a"], FRAMES),
        (
            "model.freeze=mixer_batch_norm",
            "model.norm=batch",
            [*FRAMES, "model.norm=group"],
            ["model.norm=batch", START],
        ),
        ("model.freeze=decoder_batch_norm", "batch norms", ["model.norm=group"], ["model.norm=batch"]),
        (
            "model.freeze=[batch_norm,encoder_batch_norm]",
            "beside batch_norm",
            [],
            ["model.freeze=[encoder_batch_norm]"],
        ),
        ("optim.decoder_lr=1e-4", "model.freeze", ["model.freeze=decoder", START], ["model.freeze=[]"]),
        ("model.freeze_epochs=2", "random weights", [], ["start=runs/a"]),
        ("model.freeze_epochs=30", "not be trained in any", ["start=runs/a"], ["epochs=40"]),
        ("model.freeze_epochs=1", "model.freeze", ["model.freeze=encoder", "start=runs/a"], ["model.freeze=[]"]),
        ("data.teacher=runs/a", "model.decoder", RECORDS, ["model.decoder={}"]),
        ("data.teacher_weight=1.0", "data.teacher", [], ["data.teacher=runs/a"]),
        ("data.fold=1", "data.holdout above 0", ["data.holdout=0"], ["data.holdout=0.15"]),
        ("data.holdout=0.3", "no data.folds or data.validation", ["data.folds=f.csv"], ["data.folds=null"]),
        ("data.leave_out=[1]", "data.folds", [], ["data.folds=f.csv"]),
        ("data.balance.power=0.5", "data.balance.by", [], ["data.balance.by=hour"]),
        ("optim.start_divisor=10", "schedule=onecycle", [], ["optim.schedule=onecycle"]),
        ("optim.final_divisor=10", "schedule=onecycle", [], ["optim.schedule=onecycle"]),
        ("data.pseudo.step=0.5", "target=quantised", [], ["data.pseudo.target=quantised"]),
        ("data.pseudo.of=record", "data.pseudo.min_confidence", [], ["data.pseudo.min_agreement=0.5"]),
    ],
)
def test_a_setting_without_effect_is_refused(idle: str, reason: str, base: list[str], remedy: list[str]) -> None:
    config = with_settings(RunConfig(), base)
    with pytest.raises(ContrailError, match=reason) as caught:
        with_settings(config, [idle])
    assert idle.partition("=")[0] in str(caught.value)
    with_settings(config, [idle, *remedy])


def test_compilation_is_refused_where_recomputed_gradients_would_not_be_exact() -> None:
    coarse = [*FRAMES, "model.mixer.downscale=2", "model.checkpoint_activations=true"]
    with pytest.raises(ContrailError, match="gradients would not be exact; set compile=false"):
        with_settings(RunConfig(), [*coarse, "compile=true"])


def test_a_group_is_switched_on_by_one_of_its_keys_and_off_by_null() -> None:
    on = with_settings(RunConfig(), ["augment.cut_out.side=8"])
    assert on.augment.cut_out is not None
    assert (on.augment.cut_out.probability, on.augment.cut_out.side) == (0.5, 8)
    assert with_settings(on, ["augment.cut_out=null"]) == RunConfig()
    assert with_settings(RunConfig(), ["augment.affine=null"]).augment.affine is None
    assert with_settings(get_config("ours"), ["augment.affine=null"]).augment.affine is None


def test_a_settings_file_overrides_the_preset_that_it_names(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("preset: ours\nepochs: 2\nmodel: {drop_path: 0.1}\naugment: {affine: null}\n")
    expected = with_settings(get_config("ours"), ["epochs=2", "model.drop_path=0.1", "augment.affine=null"])
    assert get_config(str(tmp_path / "mine.yaml")) == expected
    (tmp_path / "twice.yaml").write_text("epochs: 2\nseed: 1\nepochs: 3\n")
    with pytest.raises(ContrailError, match="line 3: key 'epochs' occurs twice"):
        get_config(str(tmp_path / "twice.yaml"))
    (tmp_path / "mine.yaml").rename(tmp_path / "mine")
    assert get_config(str(tmp_path / "mine")) == expected


def test_settings_of_a_run_written_with_another_layout_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(get_config("ours")))
    assert read_config(path) == get_config("ours")
    path.write_text("preset: unet2d\nmodel: {mixer: none}\n")
    with pytest.raises(ContrailError, match=r"config\.yaml: settings of format 1.*reads format 2; .*train again"):
        read_config(path)


def test_numbers_and_arrays_of_numpy_are_plain_settings() -> None:
    given = {"epochs": np.int64(3), "frames": np.array([-1, 0]), "shift": (np.float64(0.5), 0), "range": range(2)}
    assert as_plain(given) == {"epochs": 3, "frames": [-1, 0], "shift": [0.5, 0], "range": [0, 1]}
    assert type(as_plain(given)["epochs"]) is int
