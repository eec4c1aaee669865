"""Draw a satellite scan, the contrails found in it, and where they are on the map: the picture of the README.

    python docs/picture.py SCANS SCENE.nc CONTRAILS.geojson -o picture.png

SCANS holds the ABI files that `contrail-train predict-scans` was given; the others are what it wrote of one scan.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import shapely
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from PIL import Image

from contrail_data import composite_of, open_abi
from contrail_data.geo.coastline import coastline
from contrail_data.reports.figures import Mark


def draw(scans: Path, scene_file: Path, features_file: Path) -> Figure:
    """Draw the three panels.

    Args:
        scans: Folder of ABI files.
        scene_file: NetCDF of one predicted scan.
        features_file: GeoJSON of the same scan.

    Returns:
        The figure.
    """
    predicted = xr.open_dataset(scene_file).squeeze("time")
    scan = open_abi(scans).sel(time=[predicted["time"].values], method="nearest")
    image_yxc = composite_of(scan, "ash").isel(time=0).transpose("y", "x", "channel").values
    latitude_yx, longitude_yx = scan["latitude"].values, scan["longitude"].values
    features = json.loads(features_file.read_text())["features"]
    shapes = [shapely.geometry.shape(feature["geometry"]) for feature in features]
    centre_lines = [shapely.get_coordinates(shape) for shape in shapes if "LineString" in shape.geom_type]

    figure = Figure(figsize=(13.5, 4.9), layout="constrained")
    image_axes, found_axes, map_axes = figure.subplots(1, 3)
    time = np.datetime_as_string(predicted["time"].values, "m").replace("T", " ")
    image_axes.set_title(f"{scan.attrs['platform']} ash-RGB, {time} UTC", fontsize=11)
    found_axes.set_title("Contrails found", fontsize=11)
    for axes in (image_axes, found_axes):
        axes.imshow(np.nan_to_num(image_yxc, nan=1.0))
        axes.set_axis_off()
    mask_yx = predicted["mask"].values == 1
    found_axes.contour(mask_yx, levels=[0.5], colors=Mark.PREDICTION.colour, linewidths=1.0)

    map_axes.set_title(f"On the map: {len(centre_lines)} contrails", fontsize=11)
    map_axes.set_facecolor("#eef3f7")
    map_axes.plot(*coastline().T, color="#4d5b66", linewidth=0.8)
    map_axes.add_collection(LineCollection(centre_lines, colors="#c2185b", linewidths=1.8))
    edges = [(array[0], array[-1], array[:, 0], array[:, -1]) for array in (longitude_yx, latitude_yx)]
    outline = [np.concatenate([top, right, bottom[::-1], left[::-1]]) for top, bottom, left, right in edges]
    map_axes.plot(*outline, color="#4d5b66", linewidth=0.8, linestyle=":")
    map_axes.set_xlim(np.nanmin(longitude_yx), np.nanmax(longitude_yx))
    map_axes.set_ylim(np.nanmin(latitude_yx), np.nanmax(latitude_yx))
    map_axes.set_aspect(1 / np.cos(np.deg2rad(np.nanmean(latitude_yx))))
    map_axes.xaxis.set_major_formatter(lambda value, _: f"{abs(value):g}°{'W' if value < 0 else 'E'}")
    map_axes.yaxis.set_major_formatter(lambda value, _: f"{abs(value):g}°{'S' if value < 0 else 'N'}")
    map_axes.tick_params(labelsize=9)
    return figure


def main() -> None:
    """Parse the command line and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scans", type=Path, metavar="SCANS")
    parser.add_argument("scene", type=Path, metavar="SCENE.nc")
    parser.add_argument("features", type=Path, metavar="CONTRAILS.geojson")
    parser.add_argument("-o", "--out", type=Path, required=True)
    arguments = parser.parse_args()
    canvas = FigureCanvasAgg(draw(arguments.scans, arguments.scene, arguments.features))
    canvas.figure.set_dpi(80)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    picture.quantize(256).save(arguments.out, optimize=True)  # a third of the size
    print(arguments.out)


if __name__ == "__main__":
    main()
