"""The scores that calibrations and evaluations state, as they are stored in JSON."""

from __future__ import annotations

from typing import TypedDict


class ScoreValues(TypedDict):
    """Scores over labelled records; None where there is nothing to divide by."""

    records: int
    positive_records: int
    groups: int
    """(site, day) groups of records."""
    threshold: float
    gate: float
    dice: float
    """Global Dice."""
    dice_low: float | None
    dice_high: float | None
    """95 % bootstrap interval over groups; None for a single group."""
    precision: float | None
    recall: float | None
    auc_pr: float | None
    tolerant_dice: float | None
    record_dice: float | None
    record_auc_pr: float | None
    dice_without_gate: float
    tp: int
    fp: int
    fn: int
    """Pixels."""
