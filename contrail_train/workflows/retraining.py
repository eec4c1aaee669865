"""What rounds of pseudo-labelling take, and the ways in which they use their labels; without torch."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING

from contrail_data.errors import ContrailError
from contrail_data.store.schema import Kind, Stated, kind_of

if TYPE_CHECKING:
    from contrail_train.config.schema import RunConfig

SETTINGS = "rounds-of.json"
"""The file by which a folder of rounds is recognised."""


class Retraining(StrEnum):
    """How a model is trained on human labels and pseudo-labels."""

    MIXED = "mixed"
    """On both at once, weighted by `data.pseudo.weight`."""
    PRETRAIN = "pretrain"
    """On both at once, and then, from these weights, on human labels only."""


def check_rounds(config: RunConfig, read: Callable[[str], Stated | None]) -> None:
    """Refuse settings that hold out records by themselves, stores that are not of samples, and models without masks.

    Args:
        config: Settings of all runs.
        read: Reads a store, or its header, by path, URL or name; None of one that cannot be read yet.

    Raises:
        ContrailError: If they are such.
    """
    if config.data.validation or config.data.folds is not None:
        raise ContrailError("data.validation, data.folds: rounds make their own folds; omit both settings")
    if {kind_of(store) for name in config.data.train if (store := read(name)) is not None} - {Kind.SAMPLES}:
        raise ContrailError("data.train: rounds make their own pseudo-labels; name only stores of samples")
    if config.model.decoder is None:
        raise ContrailError("model.decoder: null, so the model predicts no masks to label with; choose a segmenter")
