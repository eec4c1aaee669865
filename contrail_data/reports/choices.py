"""What a user chooses about pictures. Command lines import this module for their help, so it imports nothing heavy."""

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


class Theme(StrEnum):
    """What surrounds the images of a picture."""

    DARK = "dark"
    """White text on black, for a screen."""
    LIGHT = "light"
    """Black text on white, for paper."""
