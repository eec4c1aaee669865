"""Rows of the table of effects: settings that differ from the base."""

from __future__ import annotations

from dataclasses import dataclass

from contrail_data.labels.predictor import Symmetries

BASE = "base: unet2d_dice"
PLAIN = "a plain smp script"


@dataclass(frozen=True)
class Row:
    """One setting that differs from the base."""

    settings: tuple[str, ...] = ()
    symmetries: Symmetries = Symmetries.NONE
    frames: bool = False
    """Whether it needs several frames of each record."""
    plain: bool = False
    """Whether `plain.py` trains it."""
    continued: bool = False
    """Whether it starts from the base's run of the same seed and fold."""
    mixed: bool = False
    """Whether it changes a base that mixes several frames."""
    unlabelled: bool = False
    """Whether it also learns from the other frames of the records that it trains on."""
    composite: str = "ash"
    """Composite of the synthetic records."""


STRONG = (
    *("augment.affine.shift=0.2", "augment.affine.scale=0.5", "augment.affine.rotate=180", "augment.cut_out={}"),
    *("augment.grid_distortion={}", "augment.brightness_contrast={}", "augment.blur={}", "augment.noise={}"),
)
MIXED = ("data.frames=[-1,0,1]", "model.mixer.kind=conv3d")

ROWS = {
    BASE: Row(),
    "all symmetries at test time": Row(symmetries=Symmetries.DIHEDRAL),
    "label shift off": Row(("augment.label_shift=[0,0]",)),
    "learning rate 2e-3": Row(("optim.lr=2e-3",)),
    "positive pixels 3 times": Row(("loss.pos_weight=3",)),
    "no shift, zoom, rotation": Row(("augment.affine=null",)),
    "cross-entropy only": Row(("loss.dice=0",)),
    "Dice of weight 1": Row(("loss.dice=1",)),
    PLAIN: Row(plain=True),
    "no average of weights": Row(("optim.ema=0",)),
    "decoder fpn": Row(("model.decoder.kind=fpn", "model.decoder.channels=[128]")),
    "cutmix": Row(("augment.cutmix=0.5",)),
    "images at twice the size": Row(("model.image_size=256",)),
    "crops of 64 pixels, at twice the size": Row(("data.crop=64", "model.image_size=256")),
    "encoder from random weights": Row(("model.pretrained=false",)),
    "batch norms frozen": Row(("model.freeze=[batch_norm]",)),
    "only Dice": Row(("loss.bce=0", "loss.dice=1")),
    "no flips or turns": Row(("augment.flip=0", "augment.rot90=0")),
    "learning rate 5e-4": Row(("optim.lr=5e-4",)),
    "encoder at a third of the learning rate": Row(("optim.encoder_lr=3e-4",)),
    "positive pixels 5 times": Row(("loss.pos_weight=5",)),
    "focal loss": Row(("loss.bce=0", "loss.focal={}")),
    "symmetric Lovász hinge": Row(("loss.dice=0", "loss.lovasz=0.01")),
    "brightness and contrast": Row(("augment.brightness_contrast={}",)),
    "mixup": Row(("augment.mixup={}",)),
    "contrails copied into negatives": Row(("augment.copy_paste={}",)),
    "contrails erased": Row(("augment.erase={probability: 0.25}",)),
    "a rim of 16 pixels": Row(("model.rim=16",)),
    "PointRend": Row(("model.decoder.point_rend={}",)),
    "blocks supervised by max-pooled targets": Row(
        ("model.decoder.deep_supervision=true", "loss.auxiliary_target=max_pool")
    ),
    "attention scse": Row(("model.decoder.attention=scse",)),
    "record head as an additional task": Row(("model.record_head={auxiliary: true}",)),
    "score head": Row(("model.score_head={}",)),
    "decoder unetplusplus": Row(("model.decoder.kind=unetplusplus",)),
    "decoder fastfcn": Row(("model.decoder.kind=fastfcn", "model.decoder.channels=[128]")),
    "stronger augmentation as a whole": Row(STRONG),
    "encoder resnetrs50 from random weights": Row(("model.encoder=resnetrs50", "model.pretrained=false")),
    "normalised by ImageNet's statistics": Row(("data.normalise=imagenet",)),
    "each image normalised": Row(("data.normalise=image",)),
    "as long again": Row(continued=True),
    "as long again, decoder frozen": Row(("model.freeze=[decoder]",), continued=True),
    "as long again, encoder frozen": Row(("model.freeze=[encoder]",), continued=True),
    "rotation up to 45 degrees": Row(("augment.affine.rotate=45",)),
    "the annotators' mean": Row(("data.target=mean",)),
    "twice the annotators' mean": Row(("data.target=clip2",)),
    "upsampled bilinearly": Row(("model.decoder.upsample=bilinear",)),
    "upsampled bilinearly, corners aligned": Row(
        ("model.decoder.upsample=bilinear", "model.decoder.align_corners=true")
    ),
    "upsampled by shuffled pixels": Row(("model.decoder.upsample=pixel_shuffle",)),
    "two maps, contrail and background": Row(("model.decoder.two_class=true",)),
    "hard and soft labels at once": Row(("data.second_target=mean",)),
    "maps of six annotators": Row(("model.annotator_maps=6",)),
    "two composites stacked": Row(composite="ash+ash_cira"),
    "mean teacher, squared difference": Row(("loss.consistency={weight: 10}",), frames=True, unlabelled=True),
    "mean teacher, cross-entropy": Row(("loss.consistency={kind: bce}",), frames=True, unlabelled=True),
    "encoder convnext_atto": Row(("model.encoder=convnext_atto",)),
    "encoder convnext_atto, first level enlarged": Row(
        ("model.encoder=convnext_atto", "model.decoder.first_level=true")
    ),
    "encoder resnet18": Row(("model.encoder=resnet18",)),
    "video encoder r3d_18, one frame either side": Row(
        ("model.encoder=torchvision/r3d_18", "model.decoder.channels=[128,64,32,32]", "data.frames=[-1,0,1]"),
        frames=True,
    ),
    "own features added": Row(("model.mixer.own_frame=add",), mixed=True),
    "own features concatenated": Row(("model.mixer.own_frame=concat",), mixed=True),
    "convolved shortcuts": Row(("model.mixer.shortcut=conv",), mixed=True),
    "one block": Row(("model.mixer.blocks=1",), mixed=True),
    "mixer valid3d": Row(("model.mixer.kind=valid3d",), mixed=True),
    "mixer lstm": Row(("model.mixer.kind=lstm",), mixed=True),
    "mixer transformer": Row(("model.mixer.kind=transformer",), mixed=True),
    "mixer panels": Row(("model.mixer.kind=panels",), mixed=True),
    "mean over the frames": Row(("model.mixer.kind=mean",), mixed=True),
    "flow as a second stream": Row(("model.flow_stream={}",), mixed=True),
    "neighbours warped by flow": Row(("data.warp=true",), mixed=True),
    "time reversed in half of the cases": Row(("augment.time_reversal=0.5",), mixed=True),
    "group norms": Row(("model.norm=group",), mixed=True),
    "seven frames": Row(("data.frames=[-3,-2,-1,0,1,2,3]",), mixed=True),
    "two frames before": Row(("data.frames=[-2,-1,0]",), mixed=True),
    "one frame either side": Row(MIXED, frames=True),
    "one frame either side, as long again": Row(MIXED, frames=True, continued=True),
    "one frame either side, as long again, only the mixer": Row(
        (*MIXED, "model.freeze=[encoder,decoder]"), frames=True, continued=True
    ),
}
