"""Settings that have no effect beside the others: told, never silently taken."""

from __future__ import annotations

from collections.abc import Callable

from contrail_train.config.schema import RunConfig
from contrail_train.config.settings import value_of

_NEEDS: dict[str, tuple[str, Callable[[RunConfig], bool]]] = {
    "data.fold": (
        "data.holdout=0 holds nothing out, or data.validation says what is",
        lambda c: (c.data.holdout > 0 or c.data.folds is not None) and not c.data.validation,
    ),
    "data.holdout": (
        "data.folds or data.validation says what is held out",
        lambda c: c.data.folds is None and not c.data.validation,
    ),
    "data.leave_out": ("there is no data.folds", lambda c: c.data.folds is not None),
    "data.balance_power": ("data.balance is empty", lambda c: bool(c.data.balance)),
    "data.pseudo.step": ("data.pseudo.target is not quantised", lambda c: c.data.pseudo.target == "quantised"),
    "augment.shift": ("augment.affine=0", lambda c: c.augment.affine > 0),
    "augment.scale": ("augment.affine=0", lambda c: c.augment.affine > 0),
    "augment.rotate": ("augment.affine=0", lambda c: c.augment.affine > 0),
    "augment.turn_degrees": ("augment.turn=0", lambda c: c.augment.turn > 0),
    "augment.multi_scale_factor": ("augment.multi_scale=0", lambda c: c.augment.multi_scale > 0),
    "augment.grid_cells": ("augment.grid_distortion=0", lambda c: c.augment.grid_distortion > 0),
    "augment.grid_stretch": ("augment.grid_distortion=0", lambda c: c.augment.grid_distortion > 0),
    "augment.cut_out_side": ("augment.cut_out=0", lambda c: c.augment.cut_out > 0),
    "augment.brightness": ("augment.brightness_contrast=0", lambda c: c.augment.brightness_contrast > 0),
    "augment.contrast": ("augment.brightness_contrast=0", lambda c: c.augment.brightness_contrast > 0),
    "augment.blur_sigma": ("augment.blur=0", lambda c: c.augment.blur > 0),
    "augment.noise_std": ("augment.noise=0", lambda c: c.augment.noise > 0),
    "augment.mixup_alpha": ("augment.mixup=0", lambda c: c.augment.mixup > 0),
    "augment.mixup_labels": ("augment.mixup=0", lambda c: c.augment.mixup > 0),
    "augment.time_reversal": ("there is one frame", lambda c: len(c.data.frames) > 1),
    "model.mixer": ("there is one frame", lambda c: len(c.data.frames) > 1),
    "model.mix_levels": ("model.mixer=none", lambda c: c.model.mixer != "none"),
    "model.mix_blocks": ("nothing is mixed by blocks or layers", lambda c: c.model.mixer in ("conv3d", "lstm")),
    "model.upsample": ("model.decoder is not unet", lambda c: c.model.decoder == "unet"),
    "model.decoder": ("a record head alone has none", lambda c: c.model.head != "record"),
    "model.attention": ("a record head alone has no decoder", lambda c: c.model.head != "record"),
    "model.centre": ("a record head alone has no decoder", lambda c: c.model.head != "record"),
    "model.deep_supervision": ("a record head alone has no decoder", lambda c: c.model.head != "record"),
    "model.two_class": ("a record head alone has no mask", lambda c: c.model.head != "record"),
    "model.record_dropout": ("there is no record head", lambda c: c.model.head != "mask"),
    "loss.pos_weight": ("there is no cross-entropy", lambda c: c.loss.bce > 0 or c.model.head != "mask"),
    "loss.label_smoothing": ("there is no cross-entropy", lambda c: c.loss.bce > 0 or c.model.head != "mask"),
    "loss.focal_gamma": ("loss.focal=0", lambda c: c.loss.focal > 0),
    "loss.tversky_miss": ("loss.tversky=0", lambda c: c.loss.tversky > 0),
    "loss.auxiliary": ("model.deep_supervision=false", lambda c: c.model.deep_supervision),
    "loss.record": ("there is no record head", lambda c: c.model.head != "mask"),
    "optim.mixer_lr": ("nothing is mixed", lambda c: c.model.mixer != "none" and len(c.data.frames) > 1),
    "optim.encoder_lr": ("the encoder is frozen", lambda c: "encoder" not in c.model.freeze),
    "optim.decoder_lr": ("there is no decoder", lambda c: c.model.head != "record"),
    "optim.average_best": ("there are no more epochs", lambda c: c.optim.average_best <= c.epochs),
    "micro_batch": ("batch_size is no larger", lambda c: (c.micro_batch or 0) <= c.batch_size),
}
"""By key: why it would have no effect, and when it has one."""

_OF_MASKS = ("bce", "dice", "symmetric_dice", "lovasz", "focal", "tversky")


def without_effect(config: RunConfig, widths_used: int | None = None) -> list[str]:
    """One line for each setting that differs from its default to no avail, and for what is hardly meant.

    widths_used: how many of `model.decoder_channels` the decoder takes, once the encoder is known.
    """
    default = RunConfig()
    told = [
        f"{key}={value} has no effect: {reason}"
        for key, (reason, has_effect) in _NEEDS.items()
        if (value := value_of(config, key)) != value_of(default, key) and not has_effect(config)
    ]
    model = config.model
    if len(config.data.frames) > 1 and model.mixer == "none":
        told.append("model.mixer=none: of data.frames only the labelled one is looked at")
    if "encoder" in model.freeze and not model.pretrained and config.start is None:
        told.append("model.freeze names the encoder, whose random weights stay: set model.pretrained or start")
    if model.head == "record":
        terms = [
            f"loss.{term}" for term in _OF_MASKS if value_of(config, f"loss.{term}") != getattr(default.loss, term)
        ]
        if terms:
            told.append(f"{', '.join(terms)}: no effect, a record head has its own cross-entropy")
    widths = model.decoder_channels
    chosen = model.head != "record" and widths != default.model.decoder_channels
    if chosen and widths_used is not None and len(widths) > widths_used:
        told.append(f"model.decoder_channels={widths}: {model.decoder} takes the first {widths_used} of them here")
    return told
