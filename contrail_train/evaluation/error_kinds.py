"""Typical errors: small contrails missed, lines taken for contrails, neighbouring contrails merged.

Every wrong pixel belongs to one kind: a missed one to its labelled contrail, a false one to its predicted contrail.
"""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from contrail_data.reports.page import Table
from contrail_train.evaluation.outcomes import Outcome

SMALL = 32
"""Pixels below which a contrail is small."""
LINE_LIKE = 3.0
"""Ratio of length to width from which a contrail looks like a line."""


class ErrorKind(TypedDict):
    """One kind of error."""

    error: str
    contrails: int
    of: int
    """Number of contrails among which these are: small, large or all labelled ones, or predicted ones."""
    pixels: int
    """Wrong pixels in them."""
    lost: float
    """Share of all wrong pixels."""


def count_kinds(outcomes: Sequence[Outcome]) -> list[ErrorKind]:
    """Count the errors of each kind.

    Args:
        outcomes: What became of each record.

    Returns:
        The kinds, whose pixels add up to all wrong pixels.
    """
    sizes, hits, joined, outside, elongation = (
        np.concatenate([getattr(outcome, name) for outcome in outcomes])
        for name in ("sizes", "hits", "joined", "outside", "elongation")
    )
    missed, small, untouched, line_like = sizes - hits, sizes < SMALL, hits == 0, elongation >= LINE_LIKE
    labelled, predicted = len(sizes), len(joined)
    kinds = [
        (f"labelled, below {SMALL} px, no pixel found", small & untouched, int(small.sum()), missed),
        (f"labelled, from {SMALL} px, no pixel found", ~small & untouched, int((~small).sum()), missed),
        ("labelled, found in part", ~untouched & (missed > 0), labelled, missed),
        (f"on no label, at least {LINE_LIKE:g} times as long as wide", (joined == 0) & line_like, predicted, outside),
        ("on no label, of another shape", (joined == 0) & ~line_like, predicted, outside),
        ("joins several labelled contrails", joined > 1, predicted, outside),
        ("exceeds a single labelled contrail", (joined == 1) & (outside > 0), predicted, outside),
    ]
    all_wrong = max(int(missed.sum() + outside.sum()), 1)
    return [
        {
            "error": name,
            "contrails": int(members.sum()),
            "of": of,
            "pixels": int(wrong[members].sum()),
            "lost": float(wrong[members].sum() / all_wrong),
        }
        for name, members, of, wrong in kinds
    ]


def kinds_table(kinds: Sequence[ErrorKind]) -> Table:
    """Tabulate the kinds of errors.

    Args:
        kinds: Part of an analysis.

    Returns:
        The table.
    """
    rows = [[k["error"], f"{k['contrails']:,}", f"{k['of']:,}", f"{k['pixels']:,}", f"{k['lost']:.1%}"] for k in kinds]
    header = ["error", "contrails", "of", "wrong pixels", "of all wrong pixels"]
    return Table(header, rows, "Kinds of errors, by contrail", {4: [kind["lost"] for kind in kinds]})
