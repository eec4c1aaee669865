"""The files of predicted scenes, which other programs open directly: their names, and what writes each format."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from contrail_data.errors import ContrailError
from contrail_data.reports.choices import Theme
from contrail_data.storage.files import check_new, write_atomically
from contrail_train.contrails.shapes import Contrail
from contrail_train.scenes.cf import write_netcdf
from contrail_train.scenes.contrails import SceneContrails
from contrail_train.scenes.geotiff import write_geotiff
from contrail_train.scenes.geozarr import write_zarr
from contrail_train.scenes.pictures import write_pictures
from contrail_train.scenes.vectors import (
    STYLE,
    geojson,
    provenance_of,
    require_geopandas,
    write_geoparquet,
    write_style,
)

VECTORS = (".geojson", ".parquet")
"""Formats that hold single contrails of any number of times and grids."""
PICTURES = (".png", ".gif")
"""Formats that show the composite."""
SUFFIXES = (".zarr", ".nc", ".tif", *VECTORS, *PICTURES)


def output_names(out: Path, times_by_grid: Sequence[Sequence[np.datetime64]]) -> dict[np.datetime64, Path]:
    """Name the files of an output.

    GeoTIFF and PNG hold one time, GeoJSON and GeoParquet any, and other formats the times of one grid. If that makes
    several files, each has the time of its first scan in its name.

    Args:
        out: The file that the user named.
        times_by_grid: Times of the scans on each grid.

    Returns:
        The file that begins with each time.
    """
    times = [time for times in times_by_grid for time in times]
    count = 1 if out.suffix in VECTORS else len(times if out.suffix in (".tif", ".png") else times_by_grid)
    if count == 1:
        return dict.fromkeys(times, out)
    minutes, seconds = (np.datetime_as_string(np.array(times), unit).tolist() for unit in ("m", "s"))
    stamps = minutes if len(set(minutes)) == len(times) else seconds
    return {
        time: out.with_name(f"{out.stem}-{re.sub('[-:]', '', stamp)}{out.suffix}")
        for time, stamp in zip(times, stamps, strict=True)
    }


def check_outputs(names: Mapping[Path, Mapping[np.datetime64, Path]], overwrite: bool, *, style: bool = False) -> None:
    """Check that scenes can be written to files.

    Args:
        names: By output, its files as of `output_names`.
        overwrite: Whether existing ones may be replaced.
        style: Whether a style is written beside each GeoJSON file.

    Raises:
        ContrailError: If the format of a file is unknown, or it exists and may not be replaced.
    """
    for out, paths in names.items():
        if out.suffix not in SUFFIXES:
            raise ContrailError(f"{out}: not a format of scenes; choose a name that ends in {', '.join(SUFFIXES)}")
        if out.suffix == ".parquet":
            require_geopandas(str(out))
        for path in dict.fromkeys(paths.values()):
            check_new(path, overwrite, out.suffix)
        if style and out.suffix == ".geojson":
            check_new(out.with_suffix(STYLE), overwrite, STYLE)


def write(
    scenes: Sequence[SceneContrails],
    out: Path,
    names: Mapping[np.datetime64, Path],
    *,
    altitude: float | None = None,
    theme: Theme = Theme.DARK,
    places: bool = False,
    style: bool = False,
) -> list[Path]:
    """Write scenes in the format that the suffix selects. Files appear complete or not at all.

    Args:
        scenes: Predicted scenes, one for each grid, see `series.predict_files`.
        out: The file that the user named.
        names: Its files as of `output_names`.
        altitude: Metres for which shapes in GeoJSON and GeoParquet are corrected for parallax; None for no correction.
        theme: Colours around pictures.
        places: Whether NetCDF and zarr files hold the latitude and longitude of each pixel.
        style: Whether to write a style for QGIS beside a GeoJSON file.

    Returns:
        The files written.
    """
    if out.suffix in VECTORS:
        traced, provenance = trace_all(scenes, altitude), provenance_of([each.scene for each in scenes])
        if out.suffix == ".parquet":
            write_geoparquet([contrail for image in traced for contrail in image], provenance, out)
            return [out]
        write_atomically(out, [json.dumps(geojson(traced, provenance), allow_nan=False).encode()])
        return [out, write_style(out)] if style else [out]
    paths = []
    for scene in (each.labelled for each in scenes):
        times = [scene.isel(time=[i]) for i in range(scene.sizes["time"])]
        for part in times if out.suffix in (".tif", ".png") else [scene]:
            path = names[part["time"].values[0]]
            if out.suffix == ".tif":
                write_geotiff(part.isel(time=0), path)
            elif out.suffix in PICTURES:
                write_pictures(part, path, theme)
            elif out.suffix == ".nc":
                write_netcdf(part, path, places=places)
            else:
                write_zarr(part, path, places=places)
            paths.append(path)
    return paths


def trace_all(scenes: Sequence[SceneContrails], altitude: float | None) -> list[list[Contrail]]:
    """Trace the contrails of several scenes on the Earth.

    Args:
        scenes: The contrails of scenes on different grids.
        altitude: Metres for which positions are corrected for parallax; None for no correction.

    Returns:
        The contrails of each time, in order of time.
    """
    timed = [
        (time, contrails)
        for each in scenes
        for time, contrails in zip(each.scene["time"].values, each.trace(altitude), strict=True)
    ]
    return [contrails for _, contrails in sorted(timed, key=lambda one: one[0])]
