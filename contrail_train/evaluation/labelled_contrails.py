"""Labelled contrails one by one: as annotators marked them, or separated from the label."""

import numpy as np
import xarray as xr

from contrail_train.contrails.cleaning import Mask
from contrail_train.contrails.instances import Instances, measured, separate_mask


def labelled_contrails(store: xr.Dataset, sample: int, target_yx: Mask) -> Instances:
    """Return the labelled contrails of a sample.

    A store with `instance_masks` says which pixels each annotator marked as part of which contrail. A pixel of the
    label belongs to the contrail for which most of them did, and other pixels to none. Where there are no such marks,
    contrails are separated from the label as predicted ones are from their mask.

    Args:
        store: A store of samples.
        sample: Index of the sample.
        target_yx: Its label.

    Returns:
        The contrails; none outside of the label.
    """
    count = int(store["instance_count"].values[sample]) if "instance_count" in store.variables else 0
    if not count:
        return separate_mask(target_yx, target_yx.astype(np.float32))
    marks_nyx = store["instance_masks"].isel(sample=sample, instance=slice(count)).values
    votes_nyx = np.bitwise_count(marks_nyx)
    numbers_yx = np.where(target_yx & (votes_nyx.max(0) > 0), votes_nyx.argmax(0) + 1, 0)
    without_gaps_yx = np.searchsorted(np.unique(numbers_yx[numbers_yx > 0]), numbers_yx, side="right")
    return measured(without_gaps_yx.astype(np.int32), target_yx.astype(np.float32))
