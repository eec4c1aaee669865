"""How near evaluated records are to training records."""

from __future__ import annotations

import numpy as np
import xarray as xr

from contrail_data.splits.leaks import NO_MATCHES, Matches
from contrail_train.evaluation.nearness import Near, nearness

NAT = np.datetime64("NaT", "ns")


def tiles(prefix: str, *rows: tuple[float, float]) -> xr.Dataset:
    """Scalars of tiles of 4 x 4 degrees at (longitude, hour), NaN if unknown, with two frames ten minutes apart."""
    longitude, hour = np.array(rows, float).T
    start = np.datetime64("2019-10-05", "ns") + (np.nan_to_num(hour) * 3600).astype("timedelta64[s]")
    time = np.where(np.isnan(hour), NAT, start)[:, None] + np.timedelta64(10, "m") * np.arange(2)
    corner = np.array([(1, -1), (1, 1), (-1, 1), (-1, -1)]) * 2
    values = {
        "record_id": [f"{prefix}{i}" for i in range(len(rows))],
        "source_digest": [""] * len(rows),
        "labelled_frame": np.zeros(len(rows), int),
        "latitude": np.where(np.isnan(longitude), np.nan, 10),
        "longitude": longitude,
    }
    return xr.Dataset(
        {name: ("sample", np.asarray(value)) for name, value in values.items()}
        | {
            "time": (("sample", "time"), time),
            "corner_latitude": (("sample", "corner"), values["latitude"][:, None] + corner[:, 0]),
            "corner_longitude": (("sample", "corner"), longitude[:, None] + corner[:, 1]),
        }
    )


def test_nearness_to_training_follows_footprint_and_time() -> None:
    training = tiles("train", (0, 12), (40, 12))
    evaluated = tiles("new", (1, 12.5), (1, 20), (40.5, 18), (80, 12), (np.nan, np.nan))
    found = nearness(evaluated, [training], {"train0"}, [NO_MATCHES])  # train1 is in the store, but held out
    expected = [Near.SITE_AND_TIME, Near.SITE, Near.NEITHER, Near.NEITHER, np.nan]
    np.testing.assert_array_equal(found.near, expected)
    assert found.notes == []


def test_a_scene_in_the_image_shows_nearness_where_the_place_is_unknown() -> None:
    training, evaluated = tiles("train", (np.nan, np.nan)), tiles("new", (np.nan, np.nan), (np.nan, np.nan))
    one = np.zeros(1, int)
    same_scene = Matches(one, one, np.ones(1), np.zeros(1, bool))
    found = nearness(evaluated, [training], {"train0", "elsewhere"}, [same_scene])
    np.testing.assert_array_equal(found.near, [Near.SITE_AND_TIME, np.nan])
    assert found.notes[0].startswith("1 of 1 training records lack place or time")
    assert found.notes[1].startswith("nearness to 1 of 2 records that influenced the model is not known")
