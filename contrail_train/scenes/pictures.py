"""Pictures of predicted scenes: the composite with contrails outlined, as PNG or animated GIF."""

import math
from pathlib import Path

import numpy as np
import xarray as xr
from PIL import Image

from contrail_data.reports.choices import Theme
from contrail_data.reports.figures import MISSING, Mark, Panel, draw_picture, enlarged
from contrail_data.reports.ground import Ground
from contrail_data.reports.image_files import write_images
from contrail_data.scans.scene import grid_of
from contrail_train.scenes.traces import traces_of

_PICTURE, _LARGEST_PICTURE = 1000, 2500
"""Approximate width to which small scans are enlarged, and largest side of a picture, pixels."""


def write_pictures(scene: xr.Dataset, out: Path, theme: Theme) -> None:
    """Write one time as PNG, or several as an animated GIF.

    Args:
        scene: A predicted scene with `mask`.
        out: The file; its suffix selects the format.
        theme: Colours around the image.
    """
    write_images(out, [picture(scene.isel(time=slice(i + 1)), theme) for i in range(scene.sizes["time"])])


def picture(scene: xr.Dataset, theme: Theme = Theme.DARK) -> Image.Image:
    """Draw the composite of the last time of a scene with coastlines and a graticule, with contrails outlined.

    Args:
        scene: A predicted scene with `mask`, up to the time to draw. If it has `track`, contrails are drawn in the
            colours of their tracks, with their names and where they came from.
        theme: Colours around the image.

    Returns:
        The picture, reduced by a whole factor if it is large, and enlarged if it is small.
    """
    tracked = "track" in scene
    traces = traces_of(scene) if tracked else []
    scene = scene.isel(time=-1)
    image_cyx = scene["image"].values
    rgb = np.moveaxis(image_cyx[[0, 1, 2] if len(image_cyx) >= 3 else [0, 0, 0]], 0, -1)
    rgb = np.where((image_cyx == 255).all(0)[..., np.newaxis], MISSING, rgb)  # stored as white
    grid, width = grid_of(scene), image_cyx.shape[2]
    reduction = math.ceil(max(rgb.shape) / _LARGEST_PICTURE)
    panel = Panel(
        image=rgb,
        width=math.ceil(width / reduction) if width > _PICTURE else enlarged(width, _PICTURE),
        outlines={} if tracked else {Mark.PREDICTION: scene["mask"].values > 0},
        traces=traces,
        ground=Ground(grid.projection.crs_wkt, grid.geotransform, grid.height, grid.width),
    )
    time = str(scene["time"].values.astype("datetime64[m]")).replace("T", " ")
    title = (
        f"{scene.attrs['platform']} {str(scene.attrs['instrument']).upper()}  {time} UTC  {scene.attrs['composite']}"
    )
    return draw_picture([[panel]], title=title, marks=[] if tracked else [Mark.PREDICTION], theme=theme)
