"""A picture that explains a composite: its colours and each of its channels on a scan."""

import math

import numpy as np
import xarray as xr
from PIL import Image

from contrail_data.bands import BANDS
from contrail_data.composites import Channel, Composite
from contrail_data.reports.choices import Theme
from contrail_data.reports.figures import MISSING, Panel, draw_picture, enlarged
from contrail_data.reports.ground import Ground
from contrail_data.scans.scene import composite_of, grid_of

_WIDTH = 560
"""Width that a panel comes near to, pixels."""


def difference_text(channel: Channel) -> tuple[str, str]:
    """State which bands a channel shows.

    Args:
        channel: The channel.

    Returns:
        By number, such as "b15 - b14", and by wavelength, such as "12.3 - 11.2".
    """
    numbers = " - ".join(f"b{band:02d}" for band in channel.bands)
    return numbers, " - ".join(f"{BANDS[band].wavelength:.1f}" for band in channel.bands)


def composite_picture(scene: xr.Dataset, composite: Composite, theme: Theme) -> Image.Image:
    """Draw a composite of a scan, as colours if it has three channels, and each channel in grey.

    Args:
        scene: A scene of one time. Large ones are averaged over blocks of pixels.
        composite: The composite, whose bands the scene has.
        theme: Colours around the images.

    Returns:
        The picture.
    """
    factor = math.ceil(scene.sizes["x"] / _WIDTH)
    if factor > 1:
        scene = scene.coarsen(y=factor, x=factor, boundary="trim").mean(keep_attrs=True)
    unit_cyx = composite_of(scene, composite)[0].values
    missing_yx = np.isnan(unit_cyx).any(0)
    image_cyx = np.rint(np.nan_to_num(unit_cyx) * 255).astype(np.uint8)
    grid = grid_of(scene)
    ground = Ground(grid.projection.crs_wkt, grid.geotransform, grid.height, grid.width)
    width = enlarged(grid.width, _WIDTH)
    panels = []
    if len(image_cyx) == 3:
        names = ", ".join(composite.channel_names)
        colours = np.moveaxis(image_cyx, 0, -1).copy()
        colours[missing_yx] = MISSING
        panels.append(Panel(image=colours, width=width, caption=f"{names} as red, green, blue", ground=ground))
    for channel, image_yx in zip(composite.channels, image_cyx, strict=True):
        wavelengths = difference_text(channel)[1]
        bounds = f"black {channel.low:g} K, white {channel.high:g} K"
        grey = np.repeat(image_yx[..., np.newaxis], 3, -1)
        grey[missing_yx] = MISSING
        caption = f"{channel.name}: {wavelengths} micrometres, {bounds}"
        panels.append(Panel(image=grey, width=width, caption=caption, ground=ground))
    columns = 2 if len(panels) <= 4 else 3
    time = np.datetime_as_string(scene["time"].values[0], "m").replace("T", " ")
    no_data = "; slate: no data" if missing_yx.any() else ""
    title = f"{composite.name}: {scene.attrs['platform']}, {scene.attrs['scene']}, {time} UTC{no_data}"
    rows = [panels[first : first + columns] for first in range(0, len(panels), columns)]
    return draw_picture(rows, title=title, theme=theme)
