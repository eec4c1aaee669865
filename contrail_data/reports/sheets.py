"""Kinds of contact sheets. Command lines import this module for their help texts, so it imports nothing heavy."""

from enum import StrEnum


class Sheet(StrEnum):
    """Which records a contact sheet shows, and in what order."""

    POSITIVES = "positives"
    """Most labelled pixels first."""
    DISAGREED = "disagreed"
    """Largest share of disputed pixels first."""
    BRIGHTEST = "brightest"
    """Clear scenes first, in which contrails show best."""
    RANDOM = "random"
    """Drawn at random."""
