"""Colours, outlines and captions of pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from contrail_data.build.build import build
from contrail_data.composites import COMPOSITES, Channel, Composite
from contrail_data.reports import sheet_layout
from contrail_data.reports.pictures import LABEL_COLOUR, PREDICTION_COLOUR, VOTE_COLOUR, SampleViewer
from contrail_data.sources.open import open_source
from contrail_data.store.reader import open_store, read_scalars
from contrail_data.store.schema import PixelDtype
from contrail_data.store.settings import StoreSettings
from helpers.stores import predict_square


def test_outlines_surround_the_marked_pixels(store: xr.Dataset, tmp_path: Path) -> None:
    prediction = predict_square(store, tmp_path / "p.zarr", pseudo=False)
    tile = np.asarray(SampleViewer(store, read_scalars(store), prediction).tile(0, votes=True))
    assert tile.shape == (224, 224, 3)  # 32 pixels, 7 each
    colours = tile[3::7, 3::7]
    # The majority marked row 16, columns 3 to 15; two of four marked row 8; rows and columns 20 to 23 are predicted.
    for colour, rows, columns in (
        (LABEL_COLOUR, slice(15, 18), slice(2, 17)),
        (VOTE_COLOUR, slice(7, 10), slice(2, 17)),
        (PREDICTION_COLOUR, slice(19, 25), slice(19, 25)),
    ):
        ring = np.zeros((32, 32), bool)
        ring[rows, columns] = True
        ring[rows.start + 1 : rows.stop - 1, columns.start + 1 : columns.stop - 1] = False
        np.testing.assert_array_equal((colours == colour).all(-1), ring)
    without_votes = np.asarray(SampleViewer(store, read_scalars(store)).tile(0))
    assert not (without_votes == VOTE_COLOUR).all(-1).any()


def test_other_composites_are_shown_as_ash_if_they_have_its_bands(raw: Path, tmp_path: Path) -> None:
    bands = tuple(Channel(f"b{b}", b, None, 150, 350) for b in (11, 14, 15))
    pictures = []
    for recipe in (COMPOSITES["ash"], Composite("four", (*bands, Channel("d", 15, 14, -4, 2)))):
        out = tmp_path / recipe.name
        settings = StoreSettings(recipe, dtype=PixelDtype.FLOAT32, size=32)
        build(open_source(raw, "train", recipe), settings, out, workers=1)
        store = open_store(out)
        pictures.append(SampleViewer(store, read_scalars(store)).rgb(3, 4).astype(int))
    assert np.abs(pictures[0] - pictures[1]).max() <= 1


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(codec="latin-1", categories=["L", "N", "P"]), max_size=100), st.integers(40, 400))
def test_captions_are_never_cut(record_id: str, width: int) -> None:
    text = f"{record_id}\n2019-04-04 12:00 UTC\n21.98°N 60.93°W"
    font = sheet_layout.load_font(12)
    lines = sheet_layout.wrap_text(text, font, width)
    assert all(font.getlength(line) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "").replace("\n", "")
