"""The ways in which a round of pseudo-labelling uses its labels."""

from enum import StrEnum


class Retraining(StrEnum):
    """How a model is trained on human labels and pseudo-labels."""

    MIXED = "mixed"
    """On both at once, weighted by `data.pseudo.weight`."""
    PRETRAIN = "pretrain"
    """On both at once, and then, from these weights, on human labels only."""
