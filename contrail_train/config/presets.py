"""Named runs: a preset is its parent with a few settings changed, and what is known of it.

The family of the notes (a sixth place in the 2023 competition) starts at `resnetrs50_2d`, ours at `unet2d`. Settings
are keys of `RunConfig`; `contrail-train presets show NAME` prints the whole of one.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contrail_data.errors import ContrailError
from contrail_train.config.schema import RunConfig
from contrail_train.config.settings import parse_config, read_tree


@dataclass(frozen=True)
class Preset:
    name: str
    parent: str | None
    about: str
    """What it is and, where the notes judged it, how."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What differs from the parent: value by dotted key."""
    published: float | None = None
    """Validation global Dice of single models in the notes, which do not tell of which stage; told at the segmenter of
    all records."""

    @property
    def command(self) -> str:
        return f"contrail-train run {self.name} --out runs/{self.name} --set data.train=STORE"


_UNJUDGED = "The notes tried it; what they found is not handed down."

_OURS = [
    Preset(
        "unet2d",
        None,
        "UNet on one frame, small enough for a CPU: the labelled one, or any pseudo-labelled one. All records, "
        "cross-entropy, full flips and quarter turns in the frame that the label shift makes symmetric.",
    ),
    Preset(
        "unet2d_dice",
        "unet2d",
        "With the loss that the notes used on positives, here on all records.",
        {"loss.dice": 0.25},
    ),
    Preset(
        "unet2d_all",
        "unet2d",
        "Stage of the pipelines `unet2d_...`: the segmenter of all records.",
    ),
    Preset(
        "unet2d_positive",
        "unet2d_dice",
        "Stage of the pipelines `unet2d_...`: the segmenter of positive records.",
        {"data.records": "positive"},
    ),
    Preset(
        "unet2d_classifier",
        "unet2d",
        "Stage of the pipelines `unet2d_...`: whether a record has any contrail.",
        {"model.head": "record", "augment.cut_out": 0.5},
    ),
    Preset(
        "unet25d",
        "unet2d_dice",
        "The frame before and the one after as well, mixed by 3-D blocks at each level; soft labels.",
        {"data.frames": [-1, 0, 1], "model.mixer": "conv3d", "data.target": "clip2", "augment.time_reversal": 0.5},
    ),
    Preset(
        "ours",
        "unet25d",
        "The best we know how to build for one GPU: label shift, soft labels, full flips and turns, two frames either "
        "side, a pretrained encoder at its own slower rate, the mean of the three best epochs. We have not trained it "
        "on the whole competition data.",
        {
            "data.frames": [-2, -1, 0, 1, 2],
            "model.encoder": "tf_efficientnetv2_s",
            "model.pretrained": True,
            "model.image_size": 512,
            "model.drop_path": 0.2,
            "optim.encoder_lr": 5e-4,
            "optim.average_best": 3,
            "augment.rotate": 45.0,
            "batch_size": 32,
            "micro_batch": 8,
            "epochs": 40,
        },
    ),
    Preset(
        "ours_large",
        "ours",
        "With the encoder that was among the notes' best, and three frames either side.",
        {"data.frames": [-3, -2, -1, 0, 1, 2, 3], "model.encoder": "convnext_base", "model.drop_path": 0.4},
    ),
]

_NOTES = [
    Preset(
        "resnetrs50_2d",
        None,
        "The notes' 2D segmenter: labelled frame, all records, cross-entropy, no flips. They did not correct the label "
        "shift. Worse than its 2.5D kin by .010.",
        {
            "batch_size": 64,
            "model.encoder": "resnetrs50",
            "model.pretrained": True,
            "model.drop_path": 0.4,
            "model.decoder_channels": [1024, 512, 256, 128, 64],
            "augment.flip": 0.0,
            "augment.rot90": 0.0,
            "augment.rotate": 45.0,  # their library's default; they name shift and scale alone
            "augment.label_shift": [0.0, 0.0],
        },
        0.6631,
    ),
    Preset(
        "resnetrs50_all",
        "resnetrs50_2d",
        "Stage 1, segmenter of all records: seven frames, three residual 3-D blocks at each level.",
        {"data.frames": [-3, -2, -1, 0, 1, 2, 3], "model.mixer": "conv3d", "augment.time_reversal": 0.5},
        0.6734,
    ),
    Preset(
        "resnetrs50_all_soft",
        "resnetrs50_all",
        "On twice the annotators' mean, at most 1. Judged better, by .003 to .011 over the encoders.",
        {"data.target": "clip2"},
        0.6803,
    ),
    Preset(
        "resnetrs50_positive",
        "resnetrs50_all",
        "Stage 2, segmenter of positive records: global Dice in the loss, flips and turns now and then, twice as long.",
        {
            "data.records": "positive",
            "loss.dice": 0.25,
            "epochs": 60,
            "augment.flip": 0.25,
            "augment.rot90": 0.25,
            "augment.rotate": 0.0,
            "augment.turn": 0.25,
        },
    ),
    Preset("resnetrs50_positive_soft", "resnetrs50_positive", "On soft labels.", {"data.target": "clip2"}),
    Preset(
        "resnetrs50_classifier",
        "resnetrs50_all",
        "Stage 1, whether a record has any contrail: the deepest level, six 3-D blocks (the notes settled on that).",
        {
            "model.head": "record",
            "model.mix_blocks": 6,
            "model.drop_path": 0.2,
            "augment.flip": 0.5,
            "augment.rot90": 0.5,
            "augment.grid_distortion": 0.5,
            "augment.cut_out": 0.5,
        },
    ),
    Preset(
        "resnetrs101_2d",
        "resnetrs50_2d",
        "A deeper encoder at 384 px.",
        {"model.encoder": "resnetrs101", "model.image_size": 384},
        0.6704,
    ),
]


def _kin(short: str, about: str, settings: dict[str, Any], hard: float | None, soft: float | None) -> list[Preset]:
    """The three stages with another encoder, hard and soft."""
    stages = [("all", hard), ("all_soft", soft), ("positive", None), ("positive_soft", None), ("classifier", None)]
    return [
        Preset(f"{short}_{stage}", f"resnetrs50_{stage}", about, settings, published) for stage, published in stages
    ]


_SWIN = {"optim.encoder_lr": 2e-4}
_KIN = [
    *_kin("resnetrs101", "At 384 px.", {"model.encoder": "resnetrs101", "model.image_size": 384}, 0.6803, 0.6862),
    *_kin("resnetrs101_512", "At 512 px.", {"model.encoder": "resnetrs101", "model.image_size": 512}, 0.6776, 0.6882),
    *_kin("resnetrs200", "The deepest of its kind.", {"model.encoder": "resnetrs200"}, None, None),
    *_kin("convnext_base", "At 512 px.", {"model.encoder": "convnext_base", "model.image_size": 512}, 0.6832, 0.6880),
    *_kin("convnext_large", "At 512 px.", {"model.encoder": "convnext_large", "model.image_size": 512}, None, None),
    *_kin(
        "swin_base",
        "Shifted windows, at 384 px, the encoder at a fifth of the rate.",
        {"model.encoder": "swin_base_patch4_window12_384", "model.image_size": 384, **_SWIN},
        None,
        None,
    ),
    *_kin(
        "swinv2_base",
        "Shifted windows, the encoder at a fifth of the rate.",
        {"model.encoder": "swinv2_base_window16_256", **_SWIN},
        0.6703,
        None,
    ),
    *_kin("resnest101", "Split attention.", {"model.encoder": "resnest101e"}, None, None),
    *_kin(
        "hrnet",
        "Wanted by the notes, not tried: high resolution throughout, with a stem that strides once less.",
        {"model.encoder": "hrnet_w18", "model.stem_stride": 1, "model.drop_path": 0.0},
        None,
        None,
    ),
    *_kin(
        "cspdarknet53",
        "Wanted by the notes, not tried: six levels, the first at full resolution.",
        {"model.encoder": "cspdarknet53"},
        None,
        None,
    ),
    *_kin(
        "swinv2_base_384",
        "Wanted by the notes, not tried: windows of 24.",
        {"model.encoder": "swinv2_base_window12to24_192to384", "model.image_size": 384, **_SWIN},
        None,
        None,
    ),
    *_kin(
        "coat",
        "Wanted by the notes, not tried: co-scale attention.",
        {"model.encoder": "coat_lite_medium", **_SWIN},
        None,
        None,
    ),
]


def _variants(parent: str, *variants: tuple[str, str, dict[str, Any]]) -> list[Preset]:
    return [Preset(f"{parent}_{name}", parent, about, settings) for name, about, settings in variants]


_VARIANTS = [
    Preset(
        "resnetrs101_512_fastfcn",
        "resnetrs101_512_all_soft",
        "The decoder the notes call improved: joint pyramid upsampling. Judged as good as their UNet.",
        {"model.decoder": "fastfcn", "model.decoder_channels": [256]},
        0.6882,
    ),
    *_variants(
        "resnetrs50_all_soft",
        (
            "bilinear",
            "Bilinear upsampling. Judged slightly worse and slower than nearest.",
            {"model.upsample": "bilinear"},
        ),
        ("groupnorm", f"Group norm in decoder and mixer. {_UNJUDGED}", {"model.norm": "group"}),
        ("deep", f"Deep supervision of the decoder. {_UNJUDGED}", {"model.deep_supervision": True}),
        ("scse", f"Attention over channels and pixels in the decoder. {_UNJUDGED}", {"model.attention": "scse"}),
        ("cbam", f"Attention over channels, then pixels, in the decoder. {_UNJUDGED}", {"model.attention": "cbam"}),
        ("fpa", f"Feature pyramid attention at the deepest level. {_UNJUDGED}", {"model.centre": "fpa"}),
        ("aspp", f"Dilated convolutions at the deepest level. {_UNJUDGED}", {"model.centre": "aspp"}),
        ("softmax", f"Two classes and their softmax. {_UNJUDGED}", {"model.two_class": True}),
        ("lovasz", f"The symmetric Lovász hinge beside cross-entropy. {_UNJUDGED}", {"loss.lovasz": 0.25}),
        ("pos_weight", f"Contrail pixels count three times. {_UNJUDGED}", {"loss.pos_weight": 3.0}),
        ("smoothing", f"Label smoothing. {_UNJUDGED}", {"loss.label_smoothing": 0.1}),
        ("mixup", f"Pairs of samples blended, labels too. {_UNJUDGED}", {"augment.mixup": 0.5}),
        (
            "mixup_or",
            f"Pairs of samples blended, contrail where either has it. {_UNJUDGED}",
            {"augment.mixup": 0.5, "augment.mixup_labels": "or"},
        ),
        ("cutmix", f"Rectangles of other samples pasted in. {_UNJUDGED}", {"augment.cutmix": 0.5}),
        ("grid", f"Grid distortion. {_UNJUDGED}", {"augment.grid_distortion": 0.5}),
        (
            "flips_low",
            "A quarter of flips and turns. The notes found that even flip and rotate hurt: on labels half a pixel off "
            "they must (see augment.label_shift), which they did not know.",
            {"augment.flip": 0.25, "augment.rot90": 0.25},
        ),
        (
            "flips_high",
            "Full flips and turns, labels left where they are: hurt in the notes.",
            {"augment.flip": 0.5, "augment.rot90": 0.5},
        ),
        (
            "flips_shifted",
            "Full flips and turns with the label shift corrected: ours, and the first place's.",
            {"augment.flip": 0.5, "augment.rot90": 0.5, "augment.label_shift": None},
        ),
        ("frames3", f"One frame either side. {_UNJUDGED}", {"data.frames": [-1, 0, 1]}),
        ("frames5", f"Two frames either side. {_UNJUDGED}", {"data.frames": [-2, -1, 0, 1, 2]}),
        (
            "frames8",
            f"All eight frames, the labelled one the fifth; a fourth block, or the first would go unseen; no time "
            f"reversal. {_UNJUDGED}",
            {"data.frames": [-4, -3, -2, -1, 0, 1, 2, 3], "model.mix_blocks": 4, "augment.time_reversal": 0.0},
        ),
        (
            "before",
            f"Frames before the labelled one alone, as in use right after a scan; no time reversal. {_UNJUDGED}",
            {"data.frames": [-3, -2, -1, 0], "augment.time_reversal": 0.0},
        ),
        (
            "lstm",
            f"An LSTM over time in place of 3-D blocks. {_UNJUDGED}",
            {"model.mixer": "lstm", "model.mix_blocks": 1},
        ),
        ("image_norm", f"Each sample normalised by itself. {_UNJUDGED}", {"data.normalise": "image"}),
        (
            "no_clip",
            f"The differences of ash within bounds so wide that nothing clips; needs stores of ash_wide. {_UNJUDGED}",
            {"data.composite": "ash_wide"},
        ),
        (
            "bands",
            f"Nine bands and two differences; needs stores of bands_diffs. {_UNJUDGED}",
            {"data.composite": "bands_diffs"},
        ),
    ),
]

PRESETS: dict[str, Preset] = {preset.name: preset for preset in (*_OURS, *_NOTES, *_KIN, *_VARIANTS)}


def config_of(name: str) -> RunConfig:
    """A preset's complete config."""
    lineage = [PRESETS[name]]
    while (parent := lineage[-1].parent) is not None:
        lineage.append(PRESETS[parent])
    tree: dict[str, Any] = RunConfig().model_dump(mode="json") | {"preset": name}
    for preset in reversed(lineage):
        for key, value in preset.settings.items():
            *path, last = key.split(".")
            branch = tree
            for part in path:
                branch = branch[part]
            branch[last] = value
    return parse_config(tree, name)


def _over(base: dict[str, Any], tree: dict[str, Any]) -> dict[str, Any]:
    """`base` with the values of `tree`, group by group."""
    both = [key for key in tree if isinstance(tree[key], dict) and isinstance(base.get(key), dict)]
    return base | tree | {key: _over(base[key], tree[key]) for key in both}


def get_config(preset_or_file: str) -> RunConfig:
    """A preset's config by name, or one read from a YAML file, which says what differs from the preset that it names,
    or from the defaults. Raises ContrailError for neither.
    """
    if preset_or_file in PRESETS:
        return config_of(preset_or_file)
    if Path(preset_or_file).suffix in {".yaml", ".yml"}:
        tree = read_tree(Path(preset_or_file))
        if isinstance(tree, dict) and tree.get("preset") in PRESETS:
            tree = _over(config_of(tree["preset"]).model_dump(mode="json"), tree)
        return parse_config(tree, preset_or_file)
    if Path(preset_or_file).is_file():
        raise ContrailError(f"{preset_or_file}: no such preset; for a file of settings, name it .yaml")
    close = difflib.get_close_matches(preset_or_file, PRESETS, 1)
    hint = f"did you mean {close[0]}?" if close else "see `contrail-train presets ls`, or name a .yaml file"
    raise ContrailError(f"{preset_or_file}: no such preset: {hint}")
