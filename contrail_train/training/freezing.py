"""Parts of a model that a run does not train: the setting `model.freeze`."""

from torch import nn

from contrail_data.errors import ContrailError
from contrail_train.config.schema import RunConfig
from contrail_train.models.layers import batch_norms
from contrail_train.models.segmenter import Segmenter
from contrail_train.training.start import Start

PARTS = {"encoder": "encoder", "mixer": "mixers", "decoder": "decoder"}
"""Attributes of the model by the part's name in `model.freeze`."""


def check_freeze(model: Segmenter, config: RunConfig, start: Start | None) -> None:
    """Refuse to freeze a part whose weights are still random, or batch norms where there are none.

    Args:
        model: The model.
        config: Settings of the run.
        start: What the model's weights were copied from, if from anything.

    Raises:
        ContrailError: If what a name in `model.freeze` stands for is one of these.
    """
    for name in config.model.freeze:
        part = name.removesuffix("_batch_norm")
        if not _frozen_by(name, model):
            where = f"the {part}" if part in PARTS else "the model outside of the mixer"
            raise ContrailError(f"model.freeze: {name} has no effect, as {where} has none; remove it")
        if start is not None and name in config.model.frozen_at_random and PARTS[part] not in start.parts:
            raise ContrailError(
                f"model.freeze: {name} would keep its random weights, as none of start={config.start} fit; remove it"
            )


def frozen_modules(model: Segmenter, config: RunConfig) -> list[nn.Module]:
    """List what `model.freeze` excludes from training for good.

    Args:
        model: The model.
        config: Settings of the run.

    Returns:
        The frozen parts of the model.
    """
    return [module for name in config.model.freeze for module in _frozen_by(name, model)]


def _frozen_by(name: str, model: Segmenter) -> list[nn.Module]:
    """The modules that one of the values of `model.freeze` names."""
    if name in PARTS:
        return [getattr(model, PARTS[name])]
    if name == "batch_norm":
        mixing = batch_norms(model.mixers)  # whose scales start at 0: frozen, they would switch the mixer off
        return [norm for norm in batch_norms(model) if norm not in mixing]
    return batch_norms(getattr(model, PARTS[name.removesuffix("_batch_norm")]))


def train_mode(model: Segmenter, config: RunConfig, *, encoder_is_frozen: bool = False) -> None:
    """Put a model into training mode, except for what is frozen: its statistics stay, and it drops nothing.

    Args:
        model: Changed in place.
        config: Settings of the run.
        encoder_is_frozen: Whether the encoder is frozen for the time being.
    """
    model.train()
    for module in frozen_modules(model, config) + ([model.encoder] if encoder_is_frozen else []):
        module.eval()
