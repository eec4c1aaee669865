"""Draw the pictures of real data that the documentation shows.

    python docs/gallery.py DATA [-o docs/images] [--model MODEL]

DATA has the folders `ahi` and `ami` (a scan each, of Himawari and GK-2A) and `opencontrails` (records). The detector is
the one that the package ships, unless another one is named.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xarray as xr
from PIL import Image
from scipy import ndimage

from contrail_data.build.build import build
from contrail_data.composites import COMPOSITES
from contrail_data.reports.choices import Theme
from contrail_data.reports.figures import MISSING, RGB, Mark, Mask, Panel, draw_picture
from contrail_data.reports.ground import Ground
from contrail_data.reports.pictures import SampleViewer, find_record
from contrail_data.scans.scene import grid_of
from contrail_data.sources.open import open_source
from contrail_data.store.reader import open_store, read_scalars
from contrail_data.store.settings import StoreSettings
from contrail_train.contrails.cleaning import Cleaning
from contrail_train.inference.load import load_model
from contrail_train.inference.predictor import Predictor
from contrail_train.scenes.series import SceneRequest, predict_files
from contrail_train.scenes.tiling import Tiling

SCAN_WIDTH = 620
"""Width of a scan, pixels."""
PARTS, PART = 4, 100
"""Number of enlarged parts, and their side in pixels."""
NINE_BANDS = "1000603527582775543"
"""A record with all bands."""
LABELLED = (NINE_BANDS, "1000660467359258186", "1004946886927737572")
"""Records with contrails."""


def draw_scan(model: Predictor, folder: Path) -> Image.Image:
    """Predict a scan, and draw it beside the probability of contrails.

    Args:
        model: The detector.
        folder: Folder of the scan.

    Returns:
        The picture.
    """
    threshold = model.decision.threshold
    request = SceneRequest(
        source=str(folder),
        tiling=Tiling(model.size),
        cleaning=Cleaning(threshold, min_pixels=model.min_pixels or 1),
        reader="auto",
    )
    scene = predict_files(model, request).scenes[0].scene.isel(time=0)
    image_yxc = np.moveaxis(scene["image"].values, 0, -1)
    rgb = np.where((image_yxc == 255).all(-1, keepdims=True), MISSING, image_yxc)
    grid = grid_of(scene)
    outlines = {Mark.PREDICTION: scene["mask"].values > 0}
    shown = Panel(
        image=rgb,
        width=SCAN_WIDTH,
        caption=f"ash, {int(scene['mask'].values.sum()):,} px predicted",
        outlines=outlines,
        ground=Ground(grid.projection.crs_wkt, grid.geotransform, grid.height, grid.width),
    )
    probability_yx = scene["probability"].values
    probable = Panel(image=probability_yx, width=SCAN_WIDTH, caption="probability", threshold=threshold)
    time = str(scene["time"].values.astype("datetime64[m]")).replace("T", " ")
    title = f"{scene.attrs['platform']} {str(scene.attrs['instrument']).upper()}  {time} UTC"
    rows = [[shown, probable]]
    if largest := [draw_part(rgb, window) for window in windows_of(scene["mask"].values > 0)]:
        rows.append(largest)
    return draw_picture(rows, title=title, marks=outlines, theme=Theme.DARK)


def windows_of(mask_yx: Mask) -> list[tuple[slice, slice]]:
    """Find the largest groups of predicted contrails.

    Args:
        mask_yx: The predicted mask.

    Returns:
        Rows and columns around each of them, the largest first.
    """
    near, count = ndimage.label(ndimage.binary_dilation(mask_yx, iterations=10))
    sizes = ndimage.sum_labels(mask_yx, near, range(1, count + 1))
    windows = []
    for number in np.argsort(-sizes, kind="stable")[:PARTS] + 1:
        centre = ndimage.center_of_mass((near == number) & mask_yx)
        first = [int(np.clip(c - PART / 2, 0, n - PART)) for c, n in zip(centre, mask_yx.shape, strict=True)]
        windows.append((slice(first[0], first[0] + PART), slice(first[1], first[1] + PART)))
    return windows


def draw_part(rgb: RGB, window: tuple[slice, slice]) -> Panel:
    """Show a part of a scan enlarged, without an outline, for readers to judge themselves."""
    return Panel(
        image=rgb[window], width=PART * 3, caption=f"enlarged, from row {window[0].start}, column {window[1].start}"
    )


def record_store(data: Path, name: str, folder: Path) -> xr.Dataset:
    """Build a store of the train records in a composite."""
    composite = COMPOSITES[name]
    path = folder / f"{name}.zarr"
    build(open_source(data / "opencontrails", "train", composite), StoreSettings(composite), path, workers=1)
    return open_store(path)


def draw_composites(data: Path, folder: Path) -> Image.Image:
    """Draw one record in three composites.

    Args:
        data: The real data.
        folder: Where stores are built.

    Returns:
        The picture.
    """
    panels = []
    for name in ("ash", "ash_cira", "ash_wide"):
        store = record_store(data, name, folder)
        viewer = SampleViewer(store, read_scalars(store))
        sample = find_record(store, NINE_BANDS)
        rgb = viewer.rgb(sample, viewer.reference_frame(sample))
        panels.append(Panel(image=rgb, width=384, caption=name))
    return draw_picture([panels], title=f"record {NINE_BANDS} of OpenContrails", theme=Theme.DARK)


def draw_labels(data: Path, folder: Path) -> Image.Image:
    """Draw records with their labels.

    Args:
        data: The real data.
        folder: Where stores are built.

    Returns:
        The picture.
    """
    store = record_store(data, "ash", folder)
    records = read_scalars(store)
    viewer, panels = SampleViewer(store, records), []
    for record_id in LABELLED:
        sample = find_record(store, record_id)
        outlines = {Mark.LABEL: store["mask"].variable[sample].values > 0}
        if "annotators" in store.variables and records["annotator_count"].values[sample]:
            outlines = {Mark.VOTES: store["annotators"].variable[sample].values > 0, **outlines}
        rgb = viewer.rgb(sample, viewer.reference_frame(sample))
        panels.append(Panel(image=rgb, width=384, caption=f"record {record_id}", outlines=outlines))
    marks = [mark for mark in Mark if any(mark in panel.outlines for panel in panels)]
    return draw_picture([panels], title="records of OpenContrails", marks=marks, theme=Theme.DARK)


def main() -> None:
    """Parse the command line and write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("-o", "--out", type=Path, default=Path(__file__).parent / "images")
    parser.add_argument("--model", default="builtin:starter")
    options = parser.parse_args()
    model = load_model(options.model).with_fixed_shift()
    with tempfile.TemporaryDirectory() as temporary:
        pictures: dict[str, Callable[[], Image.Image]] = {
            "himawari": lambda: draw_scan(model, options.data / "ahi"),
            "gk2a": lambda: draw_scan(model, options.data / "ami"),
            "composites": lambda: draw_composites(options.data, Path(temporary)),
            "labels": lambda: draw_labels(options.data, Path(temporary)),
        }
        for name, draw in pictures.items():
            path = options.out / f"{name}.png"
            draw().quantize(256, Image.Quantize.MAXCOVERAGE).save(path, optimize=True)  # a third of the size
            print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
