"""Declarations of pipelines."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.mark.slow
def test_every_pipeline_has_the_heads_that_its_masks_and_gate_need() -> None:
    from contrail_train.config.pipelines import PIPELINES, get_pipeline, stage_config

    for name in PIPELINES:
        config = get_pipeline(name)
        heads = {stage: stage_config(config, stage).model.head for stage in config.stages}
        assert all(heads[stage] != "record" for stage in config.mask), name
        assert ("classifier" in config.gate) == any(head == "record" for head in heads.values()), name
    assert get_pipeline("resnetrs50_v2").stages["all"].preset == "resnetrs50_all_soft"


def test_mistakes_in_a_pipeline_file_are_refused(tmp_path: Path) -> None:
    from contrail_data.errors import ContrailError
    from contrail_train.config.pipelines import get_pipeline, with_pipeline_settings

    file = tmp_path / "p.yaml"
    for text, message in [
        ("stages: {a: {preset: unet2d}}\nmask: [b]", "'b' is not a stage"),
        ("stages: {a: {preset: unet2d, run: x}}\nmask: [a]", "either preset or run"),
        ("stages: {a: {preset: unet2d}, b: {preset: unet2d}}\nmask: [a]", "neither in gate nor in mask"),
        ("stages: {a/b: {preset: unet2d}}\nmask: [a/b]", "becomes a folder"),
        ("stages: {a: {preset: unet2d}}\nmasks: [a]", r"there is no setting 'masks'; did you mean mask"),
    ]:
        file.write_text(text)
        with pytest.raises(ContrailError, match=message):
            get_pipeline(str(file))
    with pytest.raises(ContrailError, match="did you mean unet2d_v2"):
        get_pipeline("unet2d_v22")
    with pytest.raises(ContrailError, match=r"stage classifier: .*epocs"):
        with_pipeline_settings(get_pipeline("unet2d_v1"), ["classifier.epocs=3"])
    config = with_pipeline_settings(get_pipeline("unet2d_v1"), ["positive.run=runs/a", "epochs=3", "weights=fitted"])
    assert (config.stages["positive"].run, config.settings, config.weights) == ("runs/a", {"epochs": 3}, "fitted")


def test_a_stage_that_a_new_gate_does_not_name_is_left_out() -> None:
    from contrail_data.errors import ContrailError
    from contrail_train.config.pipelines import get_pipeline, with_pipeline_settings

    config = with_pipeline_settings(get_pipeline("unet2d_v2"), ["gate=all", "epochs=3"])
    assert (list(config.stages), config.gate) == (["all", "positive"], ["all"])
    assert list(with_pipeline_settings(get_pipeline("unet2d_v2"), ["gate=[]", "mask=all"]).stages) == ["all"]
    with pytest.raises(ContrailError, match=r"classifier\.epochs: has no effect, as stage classifier is neither"):
        with_pipeline_settings(get_pipeline("unet2d_v2"), ["gate=all", "classifier.epochs=3"])
    with pytest.raises(ContrailError, match="mask"):  # not with stages left out
        with_pipeline_settings(get_pipeline("unet2d_v2"), ["mask=3"])


def test_settings_for_all_stages_apply_only_to_stages_that_have_them() -> None:
    from contrail_train.config.pipelines import get_pipeline, stage_config, with_pipeline_settings

    settings = ["model.decoder.channels=[8,8,8,8,8]", "loss.dice=1", "augment.blur.probability=0.1", "epochs=2"]
    of_masks = ["data.second_target=mean", "loss.second_target=0.5", "optim.decoder_lr=1e-4"]
    config = with_pipeline_settings(get_pipeline("unet2d_v2"), [*settings, *of_masks])
    classifier, segmenter = stage_config(config, "classifier"), stage_config(config, "all")
    assert classifier.model.head == "record"
    assert classifier.loss.dice == 0
    assert (classifier.data.second_target, segmenter.data.second_target) == (None, "mean")
    assert segmenter.model.decoder is not None
    assert segmenter.model.decoder.channels == [8, 8, 8, 8, 8]
    assert segmenter.loss.dice == 1
    for stage in (classifier, segmenter):
        assert stage.augment.blur is not None
        assert stage.epochs == 2


def test_a_setting_that_concerns_no_stage_is_refused() -> None:
    from contrail_data.errors import ContrailError
    from contrail_train.config.pipelines import get_pipeline, with_pipeline_settings

    with pytest.raises(ContrailError, match=r"calibration\.label_grid: has no effect, .* set label_grid"):
        with_pipeline_settings(get_pipeline("unet2d_v2"), ["calibration.label_grid=learned"])
    with pytest.raises(ContrailError, match=r"model\.record_head\.dropout: has no effect in any stage"):
        with_pipeline_settings(get_pipeline("unet2d_single"), ["model.record_head.dropout=0.1"])
