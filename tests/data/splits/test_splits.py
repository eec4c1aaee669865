"""Groups, folds, leaks and weights: leaks are found, and folds have none between them."""

from __future__ import annotations

import csv
import json
from unittest.mock import patch

import numpy as np
import pytest
import shapely
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from contrail_data.cli.main import app
from contrail_data.errors import ContrailError
from contrail_data.sources.metadata import metadata_records
from contrail_data.splits.folds import make_folds, pairs_between_folds
from contrail_data.splits.groups import group_records, record_classes, sampling_weights, site_and_day
from contrail_data.splits.keys import RecordKeys, gaps, overlaps, site_overlaps
from contrail_data.splits.leaks import LeakKind, find_leaks, large_groups
from helpers.cli import run_data

NAT = np.datetime64("NaT", "ns")
HALF = 2.25  # degrees


def records(*rows: tuple[float, float, float], **changed) -> xr.Dataset:
    """Return tiles of 4.5 x 4.5 degrees at (latitude, longitude, minutes) with eight frames ten minutes apart."""
    latitude, longitude, minutes = np.array(rows, float).reshape(-1, 3).T
    known_minutes = np.where(np.isnan(minutes), 0, minutes)
    start = np.datetime64("2019-10-05T12:00", "ns") + (known_minutes * 60).astype("timedelta64[s]")
    time = start[:, None] + np.timedelta64(10, "m") * (np.arange(8) - 4)
    time[np.isnan(minutes)] = NAT
    longitude = (longitude + 180) % 360 - 180
    count = len(rows)
    values = {
        "record_id": [f"r{i}" for i in range(count)],
        "source_digest": [f"11:{i}a 14:{i}b" for i in range(count)],
        "label_source": ["human"] * count,
        "positive_pixels": [i % 2 for i in range(count)],
        "labelled_frame": [4] * count,
        "latitude": latitude,
        "longitude": longitude,
        "local_solar_hour": np.full(count, 12.0),
    } | changed
    corners = np.array([(1, -1), (1, 1), (-1, 1), (-1, -1)]) * HALF
    return xr.Dataset(
        {name: ("sample", np.asarray(value)) for name, value in values.items()}
        | {
            "time": (("sample", "time"), time),
            "corner_latitude": (("sample", "corner"), latitude[:, None] + corners[:, 0]),
            "corner_longitude": (("sample", "corner"), (longitude[:, None] + corners[:, 1] + 180) % 360 - 180),
        }
    )


def groups(records: xr.Dataset, **options: float) -> np.ndarray:
    """Return the group names of the records of one store."""
    return group_records([records], **options)[0]


def test_groups_join_records_that_overlap_in_place_and_time():
    far = (0, 40, 0)
    neighbours = records((0, 0, 0), (0, 2, 140), (0, 2, 141 + 1440), (0, 4, 1440 * 4), far)
    # With 140 minutes between labelled frames, the sequences are 70 minutes apart. A day later, nothing is shared.
    assert [len(set(groups(neighbours)[list(pair)])) for pair in ((0, 1), (1, 2), (2, 3), (3, 4))] == [1, 2, 2, 2]
    assert len(set(groups(neighbours, minutes=60))) == 5
    touching = records((0, 0, 0), (0, 2 * HALF, 0), (0, 2 * HALF - 0.5, 0))
    assert len(set(groups(touching)[:2])) == 1  # joined through the third
    assert len(set(groups(touching.isel(sample=[0, 1])))) == 2


def test_groups_join_records_of_one_site_and_day_and_take_the_smallest_name():
    day = records((10, 20, 0), (10, 20, 600), (10, 20, 800), (10, 21, 610))
    first, second = "10.0 20.0 2019-10-05", "10.0 20.0 2019-10-06"
    assert groups(day).tolist() == [first, first, second, first]


@pytest.mark.parametrize("longitude", [0, 179.5, -178.0])
@pytest.mark.parametrize("latitude", [0.0, 75.0])
def test_leaks_are_found_across_the_date_line(latitude, longitude):
    leaks = find_leaks(records((latitude, longitude, 0), (latitude, longitude + HALF, 20)))
    assert leaks.kind.tolist() == ["footprint"]
    assert leaks.minutes.tolist() == [20]
    # The overlap is half of a tile, but slightly less as its sides are straight lines between corners, not parallels.
    assert leaks.overlap[0] == pytest.approx(0.5, abs=2e-3 if latitude == 0 else 0.02)


def test_records_without_place_or_time_are_joined_only_by_equal_data():
    nan = float("nan")
    digests = ["ash:1", "ash:1", "", "", "11:x 14:y"]
    incomplete = records((0, 0, nan), (nan, 0, 0), (nan, nan, nan), (nan, nan, nan), (0, 0, 0), source_digest=digests)
    assert groups(incomplete).tolist() == ["r0", "r0", "r2", "r3", "0.0 0.0 2019-10-05"]
    leaks = find_leaks(incomplete)
    assert (leaks.kind.tolist(), leaks.a.tolist(), leaks.b.tolist()) == (["data"], [0], [1])
    one_band = records((50, 0, 0), record_id=["other"], source_digest=["14:y"])
    assert find_leaks(incomplete, one_band).a.tolist() == [4]


def test_empty_stores_and_single_records_have_no_leaks():
    empty, one = records((0, 0, 0)).isel(sample=[]), records((0, 0, 0))
    assert len(groups(empty)) == len(find_leaks(empty, one)) == len(find_leaks(one, empty)) == len(find_leaks(one)) == 0
    assert [len(g) for g in group_records([empty, one])] == [0, 1]
    assert len(sampling_weights([record_classes(empty, "month")])) == 0
    with pytest.raises(ContrailError, match="1 groups cannot be 2 folds"):
        make_folds(groups(one), np.ones(1, bool), 2)


def every_pair(a: RecordKeys, b: RecordKeys, overlap: float) -> dict[str, set[tuple[int, int]]]:
    """Compare each record of A with each of B, or with those behind it if B is A."""
    i, j = (index.ravel() for index in np.indices((len(a), len(b))))
    i, j = (i[i < j], j[i < j]) if a is b else (i, j)
    tokens_a, tokens_b = ([{*keys.token[keys.token_of == n]} for n in range(len(keys))] for keys in (a, b))
    related = {
        "id": a.record_id[i] == b.record_id[j],
        "data": np.array([bool(tokens_a[k] & tokens_b[m]) for k, m in zip(i, j, strict=True)], bool),
        "footprint": (gaps(a, b, (i, j)) <= 70) & (overlaps(a, b, (i, j)) > overlap),
    }
    return {kind: {*zip(i[of].tolist(), j[of].tolist(), strict=True)} for kind, of in related.items()}


def shares_by_shapely(place_a: np.ndarray, place_b: np.ndarray) -> np.ndarray:
    """Return the shares of the smaller footprints (pair, 5, 2), projected about the centre of the one."""

    def projected(place: np.ndarray, centre: np.ndarray) -> np.ndarray:
        phi, phi0 = np.radians(place[..., 0]), np.radians(centre[..., 0])
        delta = np.radians(place[..., 1] - centre[..., 1])
        cosine = np.sin(phi0) * np.sin(phi) + np.cos(phi0) * np.cos(phi) * np.cos(delta)
        x = np.cos(phi) * np.sin(delta)
        y = np.cos(phi0) * np.sin(phi) - np.sin(phi0) * np.cos(phi) * np.cos(delta)
        return np.sqrt(2 / (1 + cosine))[..., None] * np.stack([x, y], -1)

    shapes = [shapely.convex_hull(shapely.multipoints(projected(p[:, 1:], place_a[:, :1]))) for p in (place_a, place_b)]
    smaller = np.minimum(*map(shapely.area, shapes))
    common = shapely.area(shapely.intersection(*shapes))
    return np.divide(common, smaller, out=np.zeros(len(common)), where=smaller > 0)


def test_overlaps_are_those_of_a_geometry_library():
    rng = np.random.default_rng(2)
    centre = np.array([62.0, 179.5]) + rng.uniform(-4, 4, (60, 2))
    corners = np.array([(1, -1), (1, 1), (-1, 1), (-1, -1)]) * HALF + rng.uniform(-1, 1, (60, 4, 2))
    sites = np.concatenate([centre[:, None], centre[:, None] + corners], 1)
    sites[10:20, 1:] = sites[10:20, [1, 3, 2, 4]]  # corners in another order
    sites[20, 1:] = sites[20, 1]  # a point, a line and a triangle
    sites[21, 1:] = sites[21, 1] + np.arange(4)[:, None]
    sites[22, 2] = sites[22, 1]
    sites[23, 1] = sites[23, 2:].mean(0)  # a corner within the others
    sites[24] = sites[25]
    sites[26] = sites[27] + np.array([0, 2 * HALF])  # an edge that touches another one
    sites[26:28, 1:] = sites[26:28, :1] + np.array([(1, -1), (1, 1), (-1, 1), (-1, -1)]) * HALF
    p, q = (number.ravel() for number in np.indices((60, 60)))
    p, q = np.minimum(p, q), np.maximum(p, q)
    share = site_overlaps(sites, p, q)
    np.testing.assert_allclose(share, shares_by_shapely(sites[p], sites[q]), atol=1e-9)
    assert (share == 0).sum() > 100
    assert ((share > 0) & (share < 1)).sum() > 1000


def test_a_large_group_is_listed_by_its_first_record():
    digests = [f"11:{number // 5} 14:{number // 5}" for number in range(15)] + ["11:x 14:y", "11:y 14:z"]
    some = records(*((0, 0, 10_000 * number) for number in range(17)), source_digest=digests)
    complete, short = find_leaks(some), find_leaks(some, listed=4)
    assert len(complete) == 3 * 10
    assert [*zip(short.a.tolist(), short.b.tolist(), strict=True)] == [
        (first, first + k) for first in (0, 5, 10) for k in (1, 2, 3, 4)
    ]
    assert large_groups(some, None, 4) == {
        "id": [], "data": [(0, 5, 0), (5, 5, 0), (10, 5, 0)], "footprint": [],
    }  # fmt: skip
    assert len(find_leaks(some, listed=5)) == len(complete)
    a, b = some.isel(sample=[0, 1, 2, 5, 15]), some.isel(sample=[3, 4, 6, 7, 8, 9, 16])
    between, all_between = find_leaks(a, b, listed=4), find_leaks(a, b)
    assert large_groups(a, b, 4)["data"] == [(0, 3, 2), (3, 1, 4)]
    assert [*zip(between.a.tolist(), between.b.tolist(), strict=True)] == [
        (0, 0), (0, 1), (1, 0), (2, 0), (3, 2), (3, 3), (3, 4), (3, 5),
    ]  # fmt: skip
    for side in ("a", "b"):  # every record that leaks is listed
        assert set(getattr(between, side)) == set(getattr(all_between, side))


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(2, 40), st.booleans())
def test_large_groups_of_one_place_and_time_show_every_record_that_leaks(seed, count, within):
    rng = np.random.default_rng(seed)
    scenes = np.array([(0, 0, 0), (0, 1, 30), (30, 0, 0), (30, 0, 50), (30, 0, 300), (np.nan, 0, 0)])
    a, b = (records(*scenes[rng.integers(0, len(scenes), count)]) for _ in range(2))
    pair = (a, None) if within else (a, b)
    leaks = find_leaks(*pair), find_leaks(*pair, listed=4)
    complete, short = (found[found.of(LeakKind.FOOTPRINT)] for found in leaks)
    of_all, some = (
        [*zip(found.a.tolist(), found.b.tolist(), found.overlap.tolist(), strict=True)] for found in (complete, short)
    )
    assert set(some) <= set(of_all)
    assert some == sorted(set(some))
    leaking = [[{*found.a, *found.b}] if within else [{*found.a}, {*found.b}] for found in (short, complete)]
    assert leaking[0] == leaking[1]
    if not large_groups(*pair, 4)["footprint"]:
        assert some == of_all


def test_thousands_of_records_at_one_place_and_time_are_a_few_pairs_each():
    some = records(*[(0, 0, 0)] * 4000, (0, 1, 0))
    leaks = find_leaks(some, listed=100)
    assert large_groups(some, None, 100)["footprint"] == [(0, 4000, 0)]
    assert len(leaks) == 3999 + 4000


def records_at_random(rng: np.random.Generator, count: int, *, repeated: bool) -> xr.Dataset:
    """Return records near the date line, some at the same place and time, with the same id or data, or incomplete."""
    rows = np.column_stack([rng.uniform(-60, 60, count), rng.uniform(-190, -150, count), rng.integers(0, 900, count)])
    if repeated:
        rows = np.round(rows / [40, 4, 30]) * [40, 4, 30]
    rows[rng.random(count) < 0.1, rng.integers(0, 3)] = np.nan
    ids = [f"r{i}" for i in rng.integers(0, 9 * count, count)]
    some = records(*rows, record_id=ids, source_digest=[f"11:{i}" if i else "" for i in rng.integers(0, count, count)])
    single = xr.DataArray(rng.random(count) < 0.3, dims="sample")  # a sequence may be a single frame
    return some.assign(time=some["time"].where(~single | (xr.DataArray(range(8), dims="time") == 4)))


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(2, 40), st.booleans())
def test_leaks_and_groups_are_those_of_every_pair(seed, count, repeated):
    rng = np.random.default_rng(seed)
    all_records = records_at_random(rng, count, repeated=repeated)
    at_a_time = patch("contrail_data.splits.near.CANDIDATES", int(rng.integers(1, 400)))
    with at_a_time:
        compare_with_every_pair(all_records, rng, count)


def compare_with_every_pair(all_records: xr.Dataset, rng: np.random.Generator, count: int) -> None:
    """Compare leaks, groups and folds with what every pair of records gives."""
    split = count // 2
    a, b = all_records.isel(sample=slice(0, split)), all_records.isel(sample=slice(split, None))
    keys = RecordKeys.of(all_records)
    pairs = every_pair(keys, keys, 0.001)
    for leaks, compared in (
        (find_leaks(all_records), pairs),
        (find_leaks(a, b), every_pair(RecordKeys.of(a), RecordKeys.of(b), 0.001)),
    ):
        listed = [*zip(leaks.kind.tolist(), leaks.a.tolist(), leaks.b.tolist(), strict=True)]
        assert listed == [(kind, *pair) for kind, of_kind in compared.items() for pair in sorted(of_kind)]
    within = find_leaks(all_records)
    np.testing.assert_array_equal(within.overlap, overlaps(keys, keys, (within.a, within.b)))
    group = np.concatenate(group_records([a, b]))
    name = site_and_day(all_records)
    joined = np.eye(count, dtype=bool) | (name[:, None] == name)
    for i, j in set().union(*pairs.values()):
        joined[i, j] = joined[j, i] = True
    for _ in range(count):
        joined = joined @ joined
    assert (joined == (group[:, None] == group)).all()
    assert group.tolist() == [min(name[with_it]) for with_it in joined]
    fold = rng.integers(0, 2, count)
    assert pairs_between_folds([a, b], fold) == sum(fold[i] != fold[j] for i, j in set().union(*pairs.values()))
    if len(set(group)) > 1:
        assert pairs_between_folds([a, b], make_folds(group, rng.random(count) < 0.4, 2)) == 0


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6))
def test_folds_keep_groups_together_and_are_balanced_and_stable(seed, k):
    rng = np.random.default_rng(seed)
    group = np.array([f"g{i}" for i in rng.integers(0, 1200, 2000)])
    positive = rng.random(2000) < 0.45
    fold = make_folds(group, positive, k)
    assert len(np.unique(np.char.add(group, fold.astype(str)))) == len(np.unique(group))
    assert np.ptp(np.bincount(fold, minlength=k)) <= 20
    assert np.ptp(np.bincount(fold, positive, k)) <= 20
    extended_fold = make_folds(
        np.append(group, [f"new{i}" for i in range(20)]), np.append(positive, np.zeros(20, bool)), k
    )
    assert (extended_fold[:2000] != fold).mean() < 0.05
    order = rng.permutation(2000)
    assert (make_folds(group[order], positive[order], k) == fold[order]).all()


def test_one_large_group_does_not_take_the_positives_of_others():
    group = np.array(["large"] * 300 + [f"g{i}" for i in range(700)])
    positive = np.arange(1000) % 2 == 0
    fold = make_folds(group, positive, 3)
    assert np.bincount(fold).tolist() == [333, 333, 334] or np.ptp(np.bincount(fold)) <= 2
    assert np.ptp(np.bincount(fold, positive)) <= 2


def test_weights_make_classes_equally_frequent():
    all_records = records(*[(0, 0, 0)] * 3, (50, 0, 60 * 24 * 40), (float("nan"), 0, float("nan")))
    month, positive = (record_classes(all_records, factor) for factor in ("month", "positive"))
    weight = sampling_weights([month])
    assert weight == pytest.approx(np.array([1, 1, 1, 3, 3]) / 9 * 5)
    assert sampling_weights([month], power=0).tolist() == [1] * 5
    both = sampling_weights([month, positive])
    assert both[1] / both[0] == pytest.approx(3 / 2)


def test_records_with_the_same_data_get_the_same_fold(stores, tmp_path):
    names = [str(tmp_path / f"{n}.zarr") for n in "ab"]
    result = CliRunner().invoke(app, ["splits", *names, "-k", "2", "-o", str(tmp_path / "folds.csv")])
    assert result.exit_code == 0
    assert "or image: 0" in result.output
    fold = {row["record_id"]: row["fold"] for row in csv.DictReader((tmp_path / "folds.csv").open())}
    assert len(fold) == 7
    assert all(fold[f"a{i}"] == fold[f"b{j}"] for i, j in ((0, 0), (1, 1), (3, 2)))
    repeated = CliRunner().invoke(app, ["splits", names[0], names[0]])
    assert isinstance(repeated.exception, ContrailError)


def test_no_file_is_replaced_without_overwrite_and_none_is_written_into_a_store(stores, tmp_path):
    store = tmp_path / "a.zarr"
    existing = tmp_path / "validation_metadata.json"
    existing.write_text("mine")
    for command in (["audit", str(store), "-o"], ["audit", str(store), "--page"], ["splits", str(store), "-o"],
                    ["report", str(store), "-o"]):  # fmt: skip
        for file, message in (
            (existing, "exists"),
            (store / "folds.csv", "lies in the store"),
            (existing / "x", "written"),
        ):
            refused = CliRunner().invoke(app, [*command, str(file)])
            assert isinstance(refused.exception, ContrailError)
            assert message in str(refused.exception)
    assert existing.read_text() == "mine"
    assert run_data("audit", store, "-o", "x", "--page", "x").returncode == 2
    folds = tmp_path / "folds.csv"
    folds.write_text("mine")
    assert CliRunner().invoke(app, ["splits", str(store), "-k", "2", "-o", str(folds), "--overwrite"]).exit_code == 0
    assert folds.read_text().startswith("record_id,store")


@pytest.mark.slow
def test_leaks_within_the_validation_split_are_those_counted_earlier(real_data, tmp_path):
    """Of the 1,856 validation records at 253 sites, 22 share a site within 40 minutes, none at the same time."""
    path = real_data / "opencontrails/validation_metadata.json"
    all_records = metadata_records(path, 256)
    # Sequences last 70 minutes, so those that overlap in time have labelled frames within 70 minutes.
    leaks = find_leaks(all_records, minutes=0)
    same_site = leaks[leaks.overlap > 0.5]
    assert len(np.unique([same_site.a, same_site.b])) == 22
    assert set(same_site.minutes.tolist()) <= {20, 40}
    zone = np.array([entry["projection_wkt"] for entry in json.loads(path.read_text())])
    slivers = find_leaks(all_records, minutes=0, overlap=0)
    in_one_zone = slivers[zone[slivers.a] == zone[slivers.b]]
    # An earlier count included only pairs in one UTM zone.
    assert len(np.unique([in_one_zone.a, in_one_zone.b])) == 66
    in_one_zone = in_one_zone[in_one_zone.minutes == 0]
    assert len(np.unique([in_one_zone.a, in_one_zone.b])) == 14
    result = CliRunner().invoke(app, ["splits", str(path), "-o", str(tmp_path / "folds.csv")])
    assert "1,856 records in 5 folds" in result.output
    assert "or image: 0" in result.output
    page = tmp_path / "audit.html"
    assert CliRunner().invoke(app, ["audit", str(path), "--page", str(page)]).exit_code == 4
    assert "overlapping footprint and time" in page.read_text()
