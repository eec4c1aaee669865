"""The files of predicted scenes, which other programs open directly: their names, and what writes each format."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from contrail_data.errors import ContrailError
from contrail_data.reports.choices import Theme
from contrail_data.scans.scene import grid_of
from contrail_data.storage.files import check_new, write_atomically
from contrail_train.contrails.shapes import contrails, to_features
from contrail_train.scenes.cf import write_netcdf
from contrail_train.scenes.geotiff import write_geotiff
from contrail_train.scenes.geozarr import write_zarr
from contrail_train.scenes.pictures import write_pictures

SUFFIXES = (".zarr", ".nc", ".tif", ".geojson", ".png", ".gif")


def output_names(out: Path, times_by_grid: Sequence[Sequence[np.datetime64]]) -> dict[np.datetime64, Path]:
    """Name the files of an output.

    GeoTIFF and PNG hold one time, GeoJSON any, and other formats the times of one grid. If that makes several files,
    each has the time of its first scan in its name.

    Args:
        out: The file that the user named.
        times_by_grid: Times of the scans on each grid.

    Returns:
        The file that begins with each time.
    """
    times = [time for times in times_by_grid for time in times]
    count = 1 if out.suffix == ".geojson" else len(times if out.suffix in (".tif", ".png") else times_by_grid)
    if count == 1:
        return dict.fromkeys(times, out)
    minutes, seconds = (np.datetime_as_string(np.array(times), unit).tolist() for unit in ("m", "s"))
    stamps = minutes if len(set(minutes)) == len(times) else seconds
    return {
        time: out.with_name(f"{out.stem}-{re.sub('[-:]', '', stamp)}{out.suffix}")
        for time, stamp in zip(times, stamps, strict=True)
    }


def check_outputs(names: Mapping[Path, Mapping[np.datetime64, Path]], overwrite: bool) -> None:
    """Check that scenes can be written to files.

    Args:
        names: By output, its files as of `output_names`.
        overwrite: Whether existing ones may be replaced.

    Raises:
        ContrailError: If the format of a file is unknown, or it exists and may not be replaced.
    """
    for out, paths in names.items():
        if out.suffix not in SUFFIXES:
            raise ContrailError(f"{out}: not a format of scenes; choose a name that ends in {', '.join(SUFFIXES)}")
        for path in dict.fromkeys(paths.values()):
            check_new(path, overwrite, out.suffix)


def write(
    scenes: Sequence[xr.Dataset],
    out: Path,
    names: Mapping[np.datetime64, Path],
    *,
    altitude: float | None = None,
    theme: Theme = Theme.DARK,
    places: bool = False,
) -> list[Path]:
    """Write scenes in the format that the suffix selects. Files appear complete or not at all.

    Args:
        scenes: Predicted scenes with `mask` and `valid`, one for each grid, see `predict.predict_files`.
        out: The file that the user named.
        names: Its files as of `output_names`.
        altitude: Metres for which shapes in GeoJSON are corrected for parallax; None for no correction.
        theme: Colours around pictures.
        places: Whether NetCDF and zarr files hold the latitude and longitude of each pixel.

    Returns:
        The files written.
    """
    if out.suffix == ".geojson":
        write_atomically(out, [json.dumps(geojson(scenes, altitude), allow_nan=False).encode()])
        return [out]
    parts = [scene.isel(time=[i]) for scene in scenes for i in range(scene.sizes["time"])]
    paths = []
    for part in parts if out.suffix in (".tif", ".png") else scenes:
        path = names[part["time"].values[0]]
        if out.suffix == ".tif":
            write_geotiff(part.isel(time=0), path)
        elif out.suffix in (".png", ".gif"):
            write_pictures(part, path, theme)
        elif out.suffix == ".nc":
            write_netcdf(part, path, places=places)
        else:
            write_zarr(part, path, places=places)
        paths.append(path)
    return paths


def geojson(scenes: Sequence[xr.Dataset], altitude: float | None) -> dict[str, Any]:
    """Express the contrails of all times as one feature collection.

    Args:
        scenes: Predicted scenes with `mask`, one for each grid.
        altitude: Metres for which shapes are corrected for parallax; None for no correction.

    Returns:
        The centre line and the outline of each contrail, in order of time, with the scenes' provenance.
    """
    features: list[dict[str, Any]] = []
    times = [scene.isel(time=i) for scene in scenes for i in range(scene.sizes["time"])]
    for one in sorted(times, key=lambda scene: scene["time"].values):
        traced = contrails(
            one["mask"].values > 0,
            np.nan_to_num(one["probability"].values),
            grid_of(one),
            row_time=one["scan_time"].values,
            satellite=str(one.attrs["platform"]),
            altitude=altitude,
        )
        features += to_features(traced)
    provenance = {key: scenes[0].attrs[key] for key in ("model", "threshold", "gate", "composite", "software")}
    provenance["platform"] = ", ".join(sorted({str(scene.attrs["platform"]) for scene in scenes}))
    provenance["inputs"] = sorted({name for scene in scenes for name in scene.attrs["inputs"]})
    return {"type": "FeatureCollection", "features": features, **provenance}
