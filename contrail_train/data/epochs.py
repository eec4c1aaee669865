"""Which items are drawn in an epoch: every item once, or one of every record.

A draw is a function of seed and epoch, so every process computes the same one, and takes its share of each step.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contrail_train.data.items import Bools, Ints, Items
from contrail_train.data.loader import epoch_order


@dataclass(frozen=True, kw_only=True)
class Epochs:
    """What epochs are drawn from: n units, each an item, or a record of which one item is drawn."""

    frequency: npt.NDArray[np.float64]
    """(n) how often a unit is drawn, relative to the others."""
    first: Ints
    """(n) row of the unit's own item; -1 for a record that has only others."""
    others: Ints
    """Rows of the other items, one unit after the other."""
    start: Ints
    """(n + 1) where the other items of each unit begin."""
    probability: float
    """Probability of drawing one of the others, all of which are equally probable."""

    def __len__(self) -> int:
        return len(self.first)

    @property
    def representatives(self) -> Ints:
        """(n) the row of each unit's own item, or of its first other one."""
        return np.where(self.first < 0, np.append(self.others, -1)[self.start[:-1]], self.first)

    def rows(self, seed: int, epoch: int) -> Ints:
        """Draw an epoch.

        Args:
            seed: Seed of the run.
            epoch: Number of the epoch.

        Returns:
            Rows of the items in the order in which they are trained on, over all processes.
        """
        order = epoch_order(self.frequency, seed, epoch)
        # another stream than that of the order
        u = np.random.Generator(np.random.Philox(key=[seed, epoch]).jumped()).random((2, len(order)))
        rows, count = self.first[order], np.diff(self.start)[order]
        replaced = (count > 0) & ((u[0] < self.probability) | (rows < 0))
        at = self.start[order] + np.floor(u[1] * count).astype(np.int64)
        rows[replaced] = self.others[at[replaced]]
        return rows


def every_item(count: int) -> Epochs:
    """Draw every item once in an epoch.

    Args:
        count: Number of items to train on.

    Returns:
        The epochs.
    """
    return Epochs(
        frequency=np.ones(count),
        first=np.arange(count),
        others=np.zeros(0, np.int64),
        start=np.zeros(count + 1, np.int64),
        probability=0.0,
    )


def one_of_each_record(items: Items, is_human: Bools, probability: float) -> Epochs:
    """Draw one item of each record: its human-labelled frame, or with a probability a pseudo-labelled one.

    A record without a human-labelled frame always gives a pseudo-labelled one.

    Args:
        items: The n items to train on.
        is_human: (n) whether the item has a human label.
        probability: Probability of a pseudo-labelled frame.

    Returns:
        The epochs.
    """
    records, record = np.unique(items.store * (items.sample.max() + 1) + items.sample, return_inverse=True)
    first = np.full(len(records), -1)
    first[record[is_human]] = np.flatnonzero(is_human)
    others = np.flatnonzero(~is_human)
    others = others[np.argsort(record[others], kind="stable")]
    return Epochs(
        frequency=np.ones(len(first)),
        first=first,
        others=others,
        start=np.searchsorted(record[others], np.arange(len(first) + 1)),
        probability=probability,
    )
