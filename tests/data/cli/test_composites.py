"""Bands and composites are listed, explained and drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contrail_data.bands import BANDS
from contrail_data.composites import COMPOSITES, from_dict
from contrail_data.geo.fixed_grid import FixedGrid, Projection
from contrail_data.reports.choices import Theme
from contrail_data.reports.composite_picture import composite_picture
from contrail_data.reports.figures import MISSING
from contrail_data.scans.scene import assemble
from helpers.cli import run_data

MINE = "name: mine\nchannels: [{name: R, band: 15, minus: 14, low: -5, high: 3}]\n"


def test_bands_and_composites_are_listed_with_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(MINE)
    (tmp_path / "broken.yml").write_text(MINE.replace("-5", "cold"))
    (tmp_path / "run.yaml").write_text("epochs: 3\n")
    (tmp_path / "text.yaml").write_text("a: b: c\n")
    listed = run_data("composites", "ls", cwd=tmp_path)
    assert listed.returncode == 0, listed.stderr
    for text in (*COMPOSITES, "mine.yaml", "b08", "12.3", "where contrails form"):
        assert text in listed.stdout
    assert "run.yaml" not in listed.stdout
    assert "note: broken.yml: channel 'R': low and high are kelvin" in listed.stderr
    assert "run.yaml" not in listed.stderr
    named = run_data("composites", "ls", tmp_path / "run.yaml")
    assert named.returncode == 1
    assert "a composite has the keys name, channels" in named.stderr


def test_a_composite_is_explained_in_kelvin_and_by_what_its_bands_see(tmp_path: Path) -> None:
    shown = run_data("composites", "show", "ash").stdout
    for row in (("R", "b15 - b14", "12.3 - 11.2", "-4", "2"), ("B", "b14", "11.2", "243", "303")):
        assert any(all(cell in line for cell in row) for line in shown.splitlines()), row
    for text in ("what the labellers saw", "split window", "cloud phase", BANDS[11].name):
        assert text in shown
    (tmp_path / "mine.yaml").write_text(MINE)
    assert "b15 - b14" in run_data("composites", "show", tmp_path / "mine.yaml").stdout
    for name in COMPOSITES:
        assert run_data("composites", "show", name).returncode == 0
    wide = run_data("composites", "show", "ash+ash_wide").stdout
    assert "ash_wide_R" in wide
    assert "float16" in wide


def test_a_picture_shows_colours_and_channels_of_a_scan() -> None:
    kelvin = {11: 280.0, 14: 281.0, 15: 280.0}
    grid = FixedGrid(Projection(-75.0), -0.02, 0.08, 56e-6, -56e-6, 120, 1200)
    temperature = np.broadcast_to(np.array([*kelvin.values()], np.float32)[:, None, None], (1, 3, 120, 1200)).copy()
    temperature[..., 600:] = np.nan
    time = np.datetime64("2024-03-01T12:00", "ns")
    scene = assemble(temperature, [*kelvin], grid, [(time, time)], {"platform": "GOES-16", "scene": "test"})
    colour = np.rint(255 * np.array([3 / 6, 5 / 9, 38 / 60])).astype(int).tolist()
    pixels = np.asarray(composite_picture(scene, COMPOSITES["ash"], Theme.DARK)).reshape(-1, 3)
    size = 40 * 200  # of the half of a panel with values, at a third of the scan's resolution
    for expected in (colour, *([grey] * 3 for grey in colour), MISSING):
        assert (np.abs(pixels.astype(int) - expected) <= 1).all(1).sum() > 0.6 * size, expected
    single = from_dict({"name": "b", "channels": [{"name": "B", "band": 14, "low": 243, "high": 303}]})
    assert composite_picture(scene, single, Theme.LIGHT).height < 200  # one panel


@pytest.mark.slow
def test_a_picture_of_a_scan_is_written(scans: Path, tmp_path: Path) -> None:
    given = ("composites", "show", "ash", "--picture", tmp_path / "ash.png")
    done = run_data(*given, "--scan", scans)
    assert done.returncode == 0, done.stderr
    assert "holds 8 scans, of which the first is drawn" in done.stderr
    with Image.open(tmp_path / "ash.png") as picture:
        assert picture.width > 500
    lacking = run_data("composites", "show", "bands", "--picture", tmp_path / "b.png", "--scan", scans)
    assert lacking.returncode == 1
    assert "bands 8, 9, 10, 12, 13, 16 are missing (available: 11, 14, 15)" in lacking.stderr
    for arguments, code, message in [
        ((*given, "--scan", scans), 1, "exists; choose another"),
        ((*given[:4], tmp_path / "c.png"), 1, "--picture: needs a scan to draw"),
        ((*given[:3], "--scan", scans), 2, "--scan: has no effect without --picture"),
        ((*given[:4], tmp_path / "d.png", "--scan", tmp_path / "none"), 1, "none"),
    ]:
        refused = run_data(*arguments)
        assert refused.returncode == code, refused.stderr
        assert len(refused.stderr.splitlines()) == 1
        assert message in refused.stderr
