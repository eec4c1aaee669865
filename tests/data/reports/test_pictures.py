"""Images, outlines, maps and captions of pictures."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from PIL import Image, ImageColor

from contrail_data.build.build import build
from contrail_data.composites import COMPOSITES, Channel, Composite
from contrail_data.geo.fixed_grid import FixedGrid, Projection
from contrail_data.reports.choices import Theme
from contrail_data.reports.figures import MISSING, Mark, Panel, Trace, draw_picture, enlarged
from contrail_data.reports.ground import Ground
from contrail_data.reports.image_files import write_images
from contrail_data.reports.pictures import SampleViewer
from contrail_data.sources.open import open_source
from contrail_data.store.reader import open_store, read_scalars
from contrail_data.store.schema import PixelDtype
from contrail_data.store.settings import StoreSettings
from helpers.stores import predict_square

GREY = np.full((32, 32, 3), 128, np.uint8)


def painted(picture: Image.Image, mark: Mark) -> np.ndarray:
    """Return where a picture has nearly the colour of a mark."""
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    return (np.abs(pixels - ImageColor.getrgb(mark.colour)) < 60).all(-1)


def test_outlines_surround_the_marked_pixels(store: xr.Dataset, tmp_path: Path) -> None:
    prediction = predict_square(store, tmp_path / "p.zarr", pseudo=False)
    picture = draw_picture([[SampleViewer(store, read_scalars(store), prediction).tile(0, votes=True)]])
    assert picture.size == (224, 224)  # 32 pixels, 7 each
    # The majority marked row 16, columns 3 to 15; two of four marked row 8; rows and columns 20 to 23 are predicted.
    for mark, rows, columns in (
        (Mark.LABEL, slice(16, 17), slice(3, 16)),
        (Mark.VOTES, slice(8, 9), slice(3, 16)),
        (Mark.PREDICTION, slice(20, 24), slice(20, 24)),
    ):
        y, x = np.nonzero(painted(picture, mark))
        assert (y.min() // 7, y.max() // 7) == (rows.start - 2, rows.stop + 1)
        assert (x.min() // 7, x.max() // 7) == (columns.start - 2, columns.stop + 1)
        marked = painted(picture, mark)[7 * rows.start : 7 * rows.stop, 7 * columns.start : 7 * columns.stop]
        assert not marked.any()
    without_votes = draw_picture([[SampleViewer(store, read_scalars(store)).tile(0)]])
    assert not painted(without_votes, Mark.VOTES).any()


def test_images_are_enlarged_by_whole_factors_and_reduced_without_losing_thin_lines() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (32, 32, 3)).astype(np.uint8)
    picture = np.asarray(draw_picture([[Panel(image=noise, width=enlarged(32, 100))]]))
    np.testing.assert_array_equal(picture[..., :3], noise.repeat(3, 0).repeat(3, 1))
    line = np.eye(300, dtype=bool)
    reduced = draw_picture([[Panel(image=np.zeros((300, 300, 3), np.uint8), width=100, outlines={Mark.LABEL: line})]])
    assert reduced.size == (100, 100)
    assert painted(reduced, Mark.LABEL).sum() > 100


@pytest.mark.parametrize("threshold", [0.0, 0.015, 0.4, 1.0])
def test_probabilities_about_the_threshold_are_visible_however_low_it_is(threshold: float) -> None:
    probability = np.full((32, 32), 0.2 * threshold, np.float32)
    probability[8:16] = min(3 * threshold, 1)
    panel = Panel(image=probability, width=96, threshold=threshold)
    picture = np.asarray(draw_picture([[panel]], theme=Theme.LIGHT)).astype(int)
    low, high = picture[80, 50], picture[40, 50]
    assert threshold == 0 or np.abs(low - high).sum() > 150


@pytest.mark.parametrize("threshold", [0.02, 0.5])
def test_small_probabilities_can_be_told_apart_however_high_the_threshold_is(threshold: float) -> None:
    probability = np.full((32, 32), 1e-4, np.float32)
    probability[8:12], probability[12:16], probability[24:28] = 1e-3, 1e-2, np.nan
    picture = np.asarray(draw_picture([[Panel(image=probability, width=96, threshold=threshold)]])).astype(int)
    shades = [picture[row, 50, :3].sum() for row in (12, 30, 42)]
    assert np.diff(shades).min() > 50
    np.testing.assert_array_equal(picture[78, 50, :3], MISSING)


@pytest.mark.parametrize("theme", list(Theme))
def test_a_map_labels_degrees_and_shows_coasts_in_the_projection_of_the_image(theme: Theme) -> None:
    grid = FixedGrid(Projection(-75.0), 0.0, 0.112, 56e-6, -56e-6, 300, 400)
    ground = Ground(grid.projection.crs_wkt, grid.geotransform, grid.height, grid.width)
    latitude, longitude = grid.geodetic()
    places = ground.to_degrees(np.array([[10.0, 20.0], [399.0, 299.0]]))
    np.testing.assert_allclose(places[:, 0], [longitude[20, 10], longitude[299, 399]], atol=1e-6)
    np.testing.assert_allclose(places[:, 1], [latitude[20, 10], latitude[299, 399]], atol=1e-6)
    image = np.full((300, 400, 3), 90, np.uint8)
    plain = draw_picture([[Panel(image=image, width=400)]], title="t", theme=theme)
    mapped = draw_picture([[Panel(image=image, width=400, ground=ground)]], title="t", theme=theme)
    background = mapped.getpixel((0, 0))
    assert (sum(background) > 600) == (theme is Theme.LIGHT)
    assert mapped.width > plain.width
    pixels = np.asarray(mapped)
    inside = pixels[-400:-40, -380:-20]
    assert (inside != 90).any()
    margin = pixels[:, :50]
    assert (margin != background).any()


def test_a_map_of_the_full_disk_and_one_across_the_date_line_are_drawn() -> None:
    for grid in (
        FixedGrid(Projection(-75.0), -0.15, 0.15, 1e-3, -1e-3, 301, 301),
        FixedGrid(Projection(140.7, sweep="y"), 0.10, 0.05, 5e-4, -5e-4, 60, 80),
    ):
        ground = Ground(grid.projection.crs_wkt, grid.geotransform, grid.height, grid.width)
        image = np.full((grid.height, grid.width, 3), 90, np.uint8)
        picture = np.asarray(draw_picture([[Panel(image=image, width=enlarged(grid.width, 300), ground=ground)]]))
        assert (picture == 255).all(-1).any()


def test_other_composites_are_shown_as_ash_if_they_have_its_bands_or_channels(raw: Path, tmp_path: Path) -> None:
    bands = tuple(Channel(f"b{b}", b, None, 150, 350) for b in (11, 14, 15))
    pictures = []
    four = Composite("four", (*bands, Channel("d", 15, 14, -4, 2)))
    stacked = Composite("stacked", (*COMPOSITES["ash"].channels, *bands[:1]))
    for recipe in (COMPOSITES["ash"], four, stacked):
        out = tmp_path / recipe.name
        settings = StoreSettings(recipe, dtype=PixelDtype.FLOAT32, size=32)
        build(open_source(raw, "train", recipe), settings, out, workers=1)
        store = open_store(out)
        pictures.append(SampleViewer(store, read_scalars(store)).rgb(3, 4).astype(int))
    assert all(np.abs(pictures[0] - other).max() <= 1 for other in pictures[1:])


def test_long_captions_are_broken_into_lines_and_never_cut() -> None:
    text = "a" * 100 + "\nfor $5 and $\\frac$\n2019-04-04 12:00 UTC\n21.98°N 60.93°W"
    panel = Panel(image=GREY, width=64, caption=text)
    assert all(len(line) <= 64 // 7 for line in panel.lines)
    assert "".join(panel.lines).replace(" ", "") == text.replace(" ", "").replace("\n", "")
    assert draw_picture([[panel]]).height >= 64 + 15 * len(panel.lines)


def test_names_of_traces_at_the_edge_are_complete() -> None:
    """As many pixels have the colour of a name at the upper right corner as in the middle."""
    image = np.full((100, 100, 3), 90, np.uint8)
    counts = []
    for row, column in ((50.0, 40.0), (1.0, 97.0)):
        trace = Trace(
            mask=np.zeros((100, 100), bool), path=np.array([[row, column]]), label="1240-17", colour=(1.0, 0.0, 0.0)
        )
        picture = np.asarray(draw_picture([[Panel(image=image, width=400, traces=[trace])]])).astype(int)
        counts.append(int((picture[..., 0] - picture[..., 1] > 100).sum()))
    assert counts[1] == pytest.approx(counts[0], rel=0.1)
    assert counts[0] > 100


def test_an_animation_keeps_the_colours_of_thin_lines(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(2):
        frame = np.stack([rng.integers(0, 60, (200, 200)), *rng.integers(90, 230, (2, 200, 200))], -1).astype(np.uint8)
        frame[100, 50:90], frame[120, 50:90] = (255, 60, 60), (190, 255, 60)
        frames.append(frame)
    write_images(tmp_path / "a.gif", [Image.fromarray(frame) for frame in frames])
    with Image.open(tmp_path / "a.gif") as animation:
        assert animation.n_frames == 2
        for number, frame in enumerate(frames):
            animation.seek(number)
            shown = np.asarray(animation.convert("RGB")).astype(int)
            for row in (100, 120):
                assert np.abs(shown[row, 50:90] - frame[row, 50:90]).max() < 40
