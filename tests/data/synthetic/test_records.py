"""Synthetic records: layout, determinism, physics and labels."""

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


def test_the_layout_is_that_of_opencontrails(tree):
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


def test_bytes_depend_only_on_seed_and_index(tree, tmp_path):
    write_records(tmp_path / "again", 5, seed=3, size=SIZE, workers=1)
    assert digests(tmp_path / "again") == digests(tree)
    write_records(tmp_path / "fewer", 3, seed=3, size=SIZE, workers=2)
    fewer = digests(tmp_path / "fewer")
    assert {k: v for k, v in fewer.items() if "metadata" not in k}.items() <= digests(tree).items()
    write_records(tmp_path / "other", 5, seed=4, size=SIZE)
    assert not {p for p in digests(tmp_path / "other") if "/" in p} & set(digests(tree))


def test_a_band_does_not_depend_on_the_other_requested_bands():
    one_band, all_nine = (
        synthesize(1, 2, size=SIZE, bands=(14,)),
        synthesize(1, 2, size=SIZE, bands=range(8, 17)),
    )
    np.testing.assert_array_equal(one_band.bands[14], all_nine.bands[14])
    np.testing.assert_array_equal(one_band.individual, all_nine.individual)
    level = {b: float(np.quantile(a, 0.9)) for b, a in all_nine.bands.items()}
    assert level[8] < level[9] < level[10] < level[14] < level[13]  # vapour, window
    assert level[12] < level[14]  # ozone
    assert level[16] < level[15] < level[14]  # carbon dioxide, vapour continuum
    assert all_nine.bands[8].std() < all_nine.bands[14].std()


def test_a_second_run_repairs_and_extends_the_records(tree, tmp_path, monkeypatch):
    root = tmp_path / "part"
    write_records(root, 2, seed=3, size=SIZE)
    missing_file = next((root / "train").iterdir()) / "band_14.npy"
    missing_file.unlink()
    synthesized_indices: list[int] = []
    original = synthesize

    def counted(seed: int, index: int, **options: object) -> Record:
        synthesized_indices.append(index)
        return original(seed, index, **options)

    monkeypatch.setattr("contrail_data.synthetic.records.synthesize", counted)
    steps: list[int] = []
    write_records(root, 5, seed=3, size=SIZE, advance=steps.append)
    assert len(synthesized_indices) == 4  # the damaged one and three new ones
    assert sum(steps) == 5
    assert digests(root) == digests(tree)
    write_records(root, 2, seed=3, size=SIZE)
    assert digests(root) == digests(tree)  # a smaller run removes nothing


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
    "invalid",
    [
        {"bands": (7, 14)},
        {"bands": (14, 14)},
        {"bands": ()},
        {"label_shift": (float("nan"), 0.0)},
    ],
)
def test_arguments_out_of_range_are_refused(tmp_path, invalid):
    with pytest.raises(ContrailError) as caught:
        write_records(tmp_path / "new", **{"records": 2, **invalid})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_metadata_is_plausible():
    entries = [metadata(0, i) for i in range(300)]
    ids = {e["record_id"] for e in entries}
    assert len(ids) == 300
    assert all(i.isdigit() and 15 <= len(i) <= 19 for i in ids)
    assert any(int(i) > 2**63 for i in ids)  # as in the data set, some ids exceed signed 64-bit integers
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
    assert len(set(places)) == 10  # three records per site


@pytest.mark.slow
def test_thin_ice_darkens_the_split_window_difference():
    """Compare contrail pixels with pixels of the same scene six pixels away; the labels are not shifted."""
    red, green, window = [], [], []
    for index in range(40):
        record = synthesize(5, index, size=96, label_shift=(0.0, 0.0))
        contrail = record.mask[..., 0] > 0
        if contrail.sum() < 30:
            continue
        nearby = np.zeros_like(contrail)
        for dy, dx in ((6, 0), (-6, 0), (0, 6), (0, -6)):
            nearby |= np.roll(contrail, (dy, dx), (0, 1))
        nearby &= ~(record.individual.max(-1)[..., 0] > 0)
        b11, b14, b15 = (record.bands[b][..., 4] for b in (11, 14, 15))
        red.append(np.median((b15 - b14)[contrail]) - np.median((b15 - b14)[nearby]))
        green.append(np.median((b14 - b11)[contrail]) - np.median((b14 - b11)[nearby]))
        window.append(np.median(b14[contrail]) - np.median(b14[nearby]))
    assert len(red) >= 6
    assert -4 < np.median(red) < -0.4
    assert -4 < np.median(green) < -0.2
    assert -20 < np.median(window) < -1
    assert np.mean(np.array(red) < 0) > 0.8


def test_thin_ice_reproduces_the_check_values():
    """A contrail changes bands (11, 14, 15) of clear land from (288, 290, 288) to (277, 277, 272.8) K (dataset.md)."""
    surface, observed = {11: 288.0, 14: 290.0, 15: 288.0}, {}
    for band, temperature in surface.items():
        b = BANDS[band]
        k = 14387.77 / b.wavelength
        emissivity = 1 - np.exp(-0.223 * b.contrail)
        radiance = (1 - emissivity) / np.expm1(k / temperature) + emissivity / np.expm1(k / 214.0)
        observed[band] = k / np.log1p(1 / radiance)
    assert observed[14] == pytest.approx(279.4, abs=0.5)
    assert observed[15] - observed[14] == pytest.approx(272.8 - 277, abs=1.0)
    assert observed[14] - observed[11] == pytest.approx(0, abs=1.0)


@pytest.mark.slow
def test_about_half_of_the_records_and_few_pixels_are_positive():
    share = np.array([synthesize(0, i, size=96, bands=(14,)).mask.mean() for i in range(40)])
    assert 0.25 <= (share > 0).mean() <= 0.65
    assert 0.001 < share[share > 0].mean() < 0.03  # lines cover a larger share of a small tile; at 256 pixels it is 1 %


def test_annotators_disagree_about_some_pixels():
    _, record = positive()
    votes = record.individual[..., 0, :].sum(-1)
    assert ((votes > 0) & (votes < record.individual.shape[-1])).any()
    np.testing.assert_array_equal(record.mask[..., 0], record.individual[..., 0, :].mean(-1) > 0.5)


def test_scenes_move_with_the_wind():
    """The crest of a line moves by its drift, and the rest of the scene changes from frame to frame."""
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
def test_labels_are_displaced_by_the_label_shift(shift):
    """Measure the mean displacement of the labels' centroid for lines well inside the tile."""
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
            marks = annotate(np.random.default_rng(i), [line], contrast, s).individual.sum((2, 3))
            centres.append([np.average(y, weights=marks), np.average(x, weights=marks)])
        moved.append(np.subtract(centres[1], centres[0]))
    np.testing.assert_allclose(np.mean(moved, 0), shift, atol=0.04)


def test_the_label_shift_does_not_change_the_imagery():
    index, shifted = positive()
    unshifted = synthesize(5, index, size=96, label_shift=(0.0, 0.0))
    for band in unshifted.bands:
        np.testing.assert_array_equal(unshifted.bands[band], shifted.bands[band])
    assert (unshifted.mask != shifted.mask).any()


def test_faint_scenery_stays_that_of_the_benchmarks():
    """Their figures are valid as long as it does. Processors differ in the last bit of a sine, so bytes do as well."""
    record = synthesize(3, 4, size=64, scenery=SCENERIES["faint"])
    assert record.mask.sum() == pytest.approx(144, abs=2)
    expected = [284.99622, 292.84793, 291.95773, 294.1742, 281.64328, 296.12234, 286.04196, 286.13715, 277.48526]
    np.testing.assert_allclose(record.bands[14][::31, ::31, 0].ravel(), expected, atol=1e-3)


@pytest.mark.slow
def test_clear_scenery_shows_more_contrail_pixels_than_faint():
    pixels = {
        name: sum(int(synthesize(1, i, size=64, bands=(14,), scenery=scenery).mask.sum()) for i in range(24))
        for name, scenery in SCENERIES.items()
    }
    assert pixels["clear"] > 1.5 * pixels["faint"] > 0
