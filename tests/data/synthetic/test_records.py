"""The embedded default data: layout, determinism, physics and labels."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from contrail_data.errors import ContrailError
from contrail_data.scans.tiles import Tile
from contrail_data.synthetic.lines import SCENERIES, Line, annotate, draw_line
from contrail_data.synthetic.metadata import metadata
from contrail_data.synthetic.records import write_records
from contrail_data.synthetic.scene import BANDS, Record, synthesize

SIZE = 64


def digests(root: Path) -> dict[str, str]:
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in root.rglob("*") if p.is_file()
    }


def positive(size: int = 96, least: int = 40, seed: int = 5) -> tuple[int, Record]:
    for index in range(60):
        record = synthesize(seed, index, size=size)
        if record.mask.sum() >= least:
            return index, record
    raise AssertionError("no positive record among 60")


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("synthetic")
    assert write_records(root, 5, seed=3, size=SIZE, workers=2) == {"train": 4, "validation": 1}
    return root


def test_layout_is_that_of_opencontrails(tree):
    for split, count in (("train", 4), ("validation", 1)):
        entries = json.loads((tree / f"{split}_metadata.json").read_text())
        assert {e["record_id"] for e in entries} == {p.name for p in (tree / split).iterdir()}
        assert len(entries) == count
        for entry in entries:
            assert set(entry) == {
                *("record_id", "projection_wkt", "row_min", "row_size", "col_min", "col_size", "timestamp")
            }
            folder = tree / split / entry["record_id"]
            masks = {"human_pixel_masks.npy"} | ({"human_individual_masks.npy"} if split == "train" else set())
            assert {p.name for p in folder.iterdir()} == masks | {f"band_{b}.npy" for b in (11, 14, 15)}
            for band in (11, 14, 15):
                array = np.load(folder / f"band_{band}.npy")
                assert (array.dtype.str, array.shape) == ("<f4", (SIZE, SIZE, 8))
                assert array.flags.c_contiguous
                assert 150 < array.min() < array.max() < 350
            mask = np.load(folder / "human_pixel_masks.npy")
            assert (mask.dtype.str, mask.shape) == ("<i4", (SIZE, SIZE, 1))
            if split == "train":
                votes = np.load(folder / "human_individual_masks.npy")
                assert votes.dtype.str == "<i4"
                assert votes.shape[:3] == (SIZE, SIZE, 1)
                assert 4 <= votes.shape[3] <= 6
                np.testing.assert_array_equal(mask, votes.mean(-1) > 0.5)


def test_bytes_depend_on_seed_and_index_alone(tree, tmp_path):
    write_records(tmp_path / "again", 5, seed=3, size=SIZE, workers=1)
    assert digests(tmp_path / "again") == digests(tree)
    write_records(tmp_path / "fewer", 3, seed=3, size=SIZE, workers=2)
    fewer = digests(tmp_path / "fewer")
    assert {k: v for k, v in fewer.items() if "metadata" not in k}.items() <= digests(tree).items()
    write_records(tmp_path / "other", 5, seed=4, size=SIZE)
    assert not {p for p in digests(tmp_path / "other") if "/" in p} & set(digests(tree))


def test_a_band_is_the_same_whatever_else_is_asked_for():
    alone, all_nine = (
        synthesize(1, 2, size=SIZE, bands=(14,)),
        synthesize(1, 2, size=SIZE, bands=range(8, 17)),
    )
    np.testing.assert_array_equal(alone.bands[14], all_nine.bands[14])
    np.testing.assert_array_equal(alone.individual, all_nine.individual)
    level = {b: float(np.quantile(a, 0.9)) for b, a in all_nine.bands.items()}
    assert level[8] < level[9] < level[10] < level[14] < level[13]  # vapour, window
    assert level[12] < level[14]  # ozone
    assert level[16] < level[15] < level[14]  # carbon dioxide, vapour continuum
    assert all_nine.bands[8].std() < all_nine.bands[14].std()


def test_running_again_resumes_and_extends(tree, tmp_path, monkeypatch):
    root = tmp_path / "part"
    write_records(root, 2, seed=3, size=SIZE)
    lost = next((root / "train").iterdir()) / "band_14.npy"
    lost.unlink()
    made: list[int] = []
    original = synthesize

    def counted(seed: int, index: int, **options: object) -> Record:
        made.append(index)
        return original(seed, index, **options)

    monkeypatch.setattr("contrail_data.synthetic.records.synthesize", counted)
    seen: list[str] = []
    write_records(root, 5, seed=3, size=SIZE, on_record=seen.append)
    assert len(made) == 4  # the damaged one and three new ones
    assert len(set(seen)) == 5
    assert digests(root) == digests(tree)
    write_records(root, 2, seed=3, size=SIZE)
    assert digests(root) == digests(tree)  # a smaller run forgets nothing


def test_folders_with_other_data_are_left_as_they_are(tree, tmp_path):
    with pytest.raises(ContrailError, match="with another seed"):
        write_records(tree, 5, seed=9, size=SIZE)
    with pytest.raises(ContrailError, match="with another label_shift"):
        write_records(tree, 5, seed=3, size=SIZE, label_shift=(0.0, 0.0))
    (tmp_path / "train_metadata.json").write_text("[]")
    with pytest.raises(ContrailError, match="not synthetic"):
        write_records(tmp_path, 2, size=SIZE)
    assert (tmp_path / "train_metadata.json").read_text() == "[]"
    (tmp_path / "synthetic.json").write_text("{")
    with pytest.raises(ContrailError, match="not readable"):
        write_records(tmp_path, 2, size=SIZE)


@pytest.mark.parametrize(
    "wrong",
    [
        {"records": 0},
        {"seed": -1},
        {"size": 16},
        {"bands": (7, 14)},
        {"bands": (14, 14)},
        {"bands": ()},
        {"validation_fraction": 1.5},
        {"validation_fraction": float("nan")},
        {"label_shift": (float("nan"), 0.0)},
        {"scenery": "foggy"},
        {"workers": 0},
    ],
)
def test_arguments_out_of_range_are_refused(tmp_path, wrong):
    with pytest.raises(ContrailError) as caught:
        write_records(tmp_path / "new", **{"records": 2, **wrong})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_metadata_is_plausible():
    entries = [metadata(0, i) for i in range(300)]
    ids = {e["record_id"] for e in entries}
    assert len(ids) == 300
    assert all(i.isdigit() and 15 <= len(i) <= 19 for i in ids)
    assert any(int(i) > 2**63 for i in ids)  # as in the dataset: no 64-bit integer
    times = np.array([e["timestamp"] for e in entries])
    assert set(times % 3600) == {0.0, 1200.0, 2400.0}
    assert np.datetime64("2019-04-04") <= np.datetime64(int(times.min()), "s")
    assert np.datetime64(int(times.max()), "s") < np.datetime64("2020-04-05")
    places = []
    for entry in entries[:30]:
        assert -2100 < entry["row_size"] < -1850
        assert 1850 < entry["col_size"] < 2100
        numbers = {k: entry[k] for k in ("projection_wkt", "row_min", "row_size", "col_min", "col_size")}
        tile = Tile(**numbers, height=256, width=256).footprint()
        places.append((round(tile["latitude"], 3), round(tile["longitude"], 3)))
        assert abs(tile["latitude"]) <= 41
        assert -119.1 < tile["longitude"] < -31
    assert len(set(places)) == 10  # three records a site


def test_thin_ice_darkens_the_split_window_difference():
    """Contrail pixels against the same scene's pixels a little beside them, labels without shift."""
    red, green, window = [], [], []
    for index in range(40):
        record = synthesize(5, index, size=96, label_shift=(0.0, 0.0))
        on = record.mask[..., 0] > 0
        if on.sum() < 30:
            continue
        beside = np.zeros_like(on)
        for dy, dx in ((6, 0), (-6, 0), (0, 6), (0, -6)):
            beside |= np.roll(on, (dy, dx), (0, 1))
        beside &= ~(record.individual.max(-1)[..., 0] > 0)
        b11, b14, b15 = (record.bands[b][..., 4] for b in (11, 14, 15))
        red.append(np.median((b15 - b14)[on]) - np.median((b15 - b14)[beside]))
        green.append(np.median((b14 - b11)[on]) - np.median((b14 - b11)[beside]))
        window.append(np.median(b14[on]) - np.median(b14[beside]))
    assert len(red) >= 6
    assert -4 < np.median(red) < -0.4
    assert -4 < np.median(green) < -0.2
    assert -20 < np.median(window) < -1
    assert np.mean(np.array(red) < 0) > 0.8


def test_ice_reproduces_the_check_values():
    """A contrail over clear land, dataset.md: (11, 14, 15) = (288, 290, 288) becomes (277, 277, 272.8)."""
    below, seen = {11: 288.0, 14: 290.0, 15: 288.0}, {}
    for band, temperature in below.items():
        b = BANDS[band]
        k = 14387.77 / b.wavelength
        emissivity = 1 - np.exp(-0.223 * b.contrail)
        radiance = (1 - emissivity) / np.expm1(k / temperature) + emissivity / np.expm1(k / 214.0)
        seen[band] = k / np.log1p(1 / radiance)
    assert seen[14] == pytest.approx(279.4, abs=0.5)
    assert seen[15] - seen[14] == pytest.approx(272.8 - 277, abs=1.0)
    assert seen[14] - seen[11] == pytest.approx(0, abs=1.0)


def test_about_half_are_positive_and_few_pixels():
    share = np.array([synthesize(0, i, size=96, bands=(14,)).mask.mean() for i in range(40)])
    assert 0.25 <= (share > 0).mean() <= 0.65
    assert 0.001 < share[share > 0].mean() < 0.03  # lines fill more of a small tile: 1 % at 256 pixels


def test_annotators_disagree():
    _, record = positive()
    votes = record.individual[..., 0, :].sum(-1)
    assert ((votes > 0) & (votes < record.individual.shape[-1])).any()
    np.testing.assert_array_equal(record.mask[..., 0], record.individual[..., 0, :].mean(-1) > 0.5)


def test_scenes_move_with_the_wind():
    """The line's own crest moves by its drift, and the scene at large changes from frame to frame."""
    line = Line(
        row=40, column=40, angle=0.6, half=20, bend=2, wave=0.5, phase=1, sigma=0.9, growth=0.1, tau=0.3,
        decay=8, birth=-1, drift=(1.5, -2.0), contrail=True,
    )  # fmt: skip
    frames = np.zeros((8, 80, 80), np.float32)
    for t in range(8):
        draw_line(frames[t], line, t)
    y, x = np.mgrid[:80, :80]
    weight = frames / frames.sum((1, 2), keepdims=True)
    centre = np.stack([(weight * y).sum((1, 2)), (weight * x).sum((1, 2))], -1)
    np.testing.assert_allclose(np.diff(centre, axis=0), [[1.5, -2.0]] * 7, atol=0.05)
    spread = np.sqrt((weight * (((y - centre[:, :1, None]) * np.cos(0.6)) ** 2)).sum((1, 2)))
    assert frames.max((1, 2))[7] < frames.max((1, 2))[0]
    assert spread[7] > spread[0]
    unborn = np.zeros((80, 80), np.float32)
    draw_line(unborn, line, -2)
    assert not unborn.any()
    scene = synthesize(5, positive()[0], size=96).bands[14]
    change = np.abs(np.diff(scene, axis=-1)).mean((0, 1))
    assert (change > 0.1).all()
    assert np.abs(scene[..., 7] - scene[..., 0]).mean() > change.max()


@pytest.mark.parametrize("shift", [(0.5, 0.5), (0.41, -1.3)])
def test_labels_lie_the_shift_down_and_right(shift):
    """Mean displacement of the labels' centroid over lines well inside the tile."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:96, :96]
    contrast = np.full((96, 96), 60, np.float32)
    moved = []
    for i in range(150):
        line = Line(
            row=48 + rng.uniform(-3, 3), column=48 + rng.uniform(-3, 3), angle=rng.uniform(0, np.pi), half=25,
            bend=rng.normal(), wave=0.4, phase=rng.uniform(0, 6), sigma=0.9, growth=0.1, tau=0.3, decay=8,
            birth=2, drift=(2, 1), contrail=True,
        )  # fmt: skip
        centres = []
        for s in ((0.0, 0.0), shift):
            marks = annotate(np.random.default_rng(i), [line], contrast, s).sum((2, 3))
            centres.append([np.average(y, weights=marks), np.average(x, weights=marks)])
        moved.append(np.subtract(centres[1], centres[0]))
    np.testing.assert_allclose(np.mean(moved, 0), shift, atol=0.04)


def test_label_shift_leaves_the_imagery_alone():
    index, shifted = positive()
    plain = synthesize(5, index, size=96, label_shift=(0.0, 0.0))
    for band in plain.bands:
        np.testing.assert_array_equal(plain.bands[band], shifted.bands[band])
    assert (plain.mask != shifted.mask).any()


def test_faint_scenery_is_the_problem_that_the_benchmarks_measured():
    """Their figures hold as long as these bytes stay."""
    record = synthesize(3, 5, size=64, scenery=SCENERIES["faint"])
    digest = hashlib.sha256(record.bands[11].tobytes() + record.mask.tobytes()).hexdigest()
    assert digest == "b5203e9f447be70ef4938fe39309b6a6055262be9a5e609bd713e552828313e8"


def test_clear_scenery_shows_more_contrail_pixels_than_faint():
    pixels = {
        name: sum(int(synthesize(1, i, size=64, bands=(14,), scenery=scenery).mask.sum()) for i in range(24))
        for name, scenery in SCENERIES.items()
    }
    assert pixels["clear"] > 1.5 * pixels["faint"] > 0
