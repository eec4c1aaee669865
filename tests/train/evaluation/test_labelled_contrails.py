"""Labelled contrails one by one."""

from __future__ import annotations

import numpy as np
import xarray as xr

from contrail_train.evaluation.labelled_contrails import labelled_contrails


def test_marks_of_single_contrails_decide_where_there_are_any() -> None:
    marks = np.zeros((2, 3, 40, 50), np.uint8)  # (sample, instance, y, x)
    marks[0, 0, 10:13, 5:25] = 0b0111
    marks[0, 1, 10:13, 20:45] = 0b1011  # continues the first one, and shares five columns with it
    marks[0, 1, 10:13, 20:25] = 0b0001
    marks[0, 2, 30:33, 5:25] = 0b0001  # no majority, so not in the label
    target = np.zeros((40, 50), bool)
    target[10:13, 5:45] = True
    store = xr.Dataset(
        {
            "instance_masks": (("sample", "instance", "y", "x"), marks),
            "instance_count": ("sample", np.array([3, 0])),
        }
    )
    found = labelled_contrails(store, 0, target)
    assert [one.pixels for one in found.instances] == [60, 60]
    np.testing.assert_array_equal(found.labels_yx > 0, target)
    assert (found.labels_yx[10:13, 5:25] == 1).all()
    for elsewhere in (labelled_contrails(store, 1, target), labelled_contrails(store.drop_vars(store), 0, target)):
        assert [one.pixels for one in elsewhere.instances] == [120]
