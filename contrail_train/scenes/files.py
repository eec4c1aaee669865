"""Predicted scenes as files that other programs open directly: CF zarr and NetCDF, GeoTIFF, GeoJSON, PNG and GIF."""

import io
import json
import math
import re
import shutil
import warnings
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import xarray as xr
import yaml
from PIL import Image
from rasterio.io import MemoryFile
from rasterio.shutil import copy
from rasterio.transform import from_origin
from scipy import ndimage

from contrail_data.errors import ContrailError
from contrail_data.geo.fixed_grid import FixedGrid
from contrail_data.reports.choices import Theme
from contrail_data.reports.figures import Mark, Panel, draw_picture, enlarged
from contrail_data.reports.ground import Ground
from contrail_data.scans.scene import grid_of
from contrail_data.storage.files import check_new, partial_path, publish, reported_errors, write_atomically
from contrail_train.contrails.shapes import contrails, to_features

SUFFIXES = (".zarr", ".nc", ".tif", ".geojson", ".png", ".gif")
DEGREES = 0.02
"""Side of a GeoTIFF's pixel in degrees."""
_PICTURE, _LARGEST_PICTURE = 1000, 2500
"""Approximate width to which small scans are enlarged, and largest side of a picture, pixels."""
_MISSING = np.uint8(96)
"""Grey of pixels without data, which are stored as white."""


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
) -> list[Path]:
    """Write scenes in the format that the suffix selects. Files appear complete or not at all.

    Args:
        scenes: Predicted scenes with `mask` and `valid`, one for each grid, see `predict.predict_files`.
        out: The file that the user named.
        names: Its files as of `output_names`.
        altitude: Metres for which shapes in GeoJSON are corrected for parallax; None for no correction.
        theme: Colours around pictures.

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
            _write_geotiff(part.isel(time=0), path)
        elif out.suffix in (".png", ".gif"):
            _write_pictures(part, path, theme)
        elif out.suffix == ".nc":
            _write_netcdf(part, path)
        else:
            _write_zarr(part, path)
        paths.append(path)
    return paths


def _codes(values: npt.NDArray[np.float32], threshold: float, step: float) -> npt.NDArray[np.float32]:
    """Round to multiples of a step, but never across the threshold, also when read as float32; NaN stays NaN."""
    first = math.ceil(threshold / step)
    if np.float32(first * step) < threshold:
        first += 1
    codes = np.rint(values / np.float32(step))
    return np.where(values >= np.float32(threshold), np.maximum(codes, first), np.minimum(codes, first - 1))


# ------------------------------------------------------------------------------------------------------- CF conventions


def _write_netcdf(scene: xr.Dataset, out: Path) -> None:
    """Write everything but the composite. A full disk would end in an error without a reason if netCDF wrote to it."""
    dataset, encoding = _cf_dataset(scene)
    for name in ("probability", "gate_score", "mask", "valid"):
        if name in encoding:
            encoding[name] |= {"zlib": True, "complevel": 1}
    dataset.attrs["inputs"] = "\n".join(scene.attrs["inputs"])
    content = dataset.to_netcdf(engine="netcdf4", encoding=encoding)  # GDAL misses h5netcdf's units
    write_atomically(out, [content])


def _write_zarr(scene: xr.Dataset, out: Path) -> None:
    """Write everything but the composite."""
    dataset, encoding = _cf_dataset(scene)
    staged = partial_path(out)
    try:
        with reported_errors(str(out), "written"):
            with warnings.catch_warnings():  # about consolidated metadata, which all readers accept
                warnings.filterwarnings("ignore", category=UserWarning, module="zarr")
                dataset.to_zarr(staged, mode="w", encoding=encoding, zarr_format=3, consolidated=True)
            publish(staged, out)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _cf_dataset(scene: xr.Dataset) -> tuple[xr.Dataset, dict[str, dict[str, Any]]]:
    """The scene with CF attributes, and the encoding of its variables."""
    dataset = scene.drop_vars(["image", "channel", "scan_start", "scan_end"], errors="ignore")
    dataset["mask"] = dataset["mask"].where(dataset["valid"] > 0, np.uint8(255))
    for name, limit in (("probability", "threshold"), ("gate_score", "gate")):
        if name in dataset:
            dataset[name] = dataset[name].copy(data=1e-4 * _codes(dataset[name].values, scene.attrs[limit], 1e-4))
    variables = yaml.safe_load(files(__package__).joinpath("cf.yaml").read_text())
    variables = {name: variable for name, variable in variables.items() if name in dataset.variables}
    for name, variable in variables.items():
        dataset[name].attrs |= variable.get("attributes", {})
    for name in ("mask", "valid"):
        dataset[name].attrs["flag_values"] = np.array([0, 1], np.uint8)
    return dataset, {name: variable["encoding"] for name, variable in variables.items()}


# ------------------------------------------------------------------------------------------------------------- GeoTIFF


def _write_geotiff(scene: xr.Dataset, out: Path) -> None:
    """Write one time as a cloud-optimised GeoTIFF in latitude and longitude, 255 where there is no data.

    Band 1 is the probability in steps of 1/250, resampled bilinearly because GeoTIFF has no geostationary projection,
    and band 2 the mask.
    """
    grid = grid_of(scene)
    south, west, north, east = _degrees_covered(scene, grid, out)
    height, width = north - south, east - west
    profile = {"driver": "GTiff", "width": width, "height": height, "count": 2, "dtype": "uint8", "nodata": 255}
    profile |= {"crs": "EPSG:4326", "tiled": True, "blockxsize": 256, "blockysize": 256}
    corner = from_origin(grid.projection.longitude + west * DEGREES, north * DEGREES, DEGREES, DEGREES)
    with MemoryFile() as memory:
        with memory.open(transform=corner, **profile) as file:
            for top in range(0, height, 256):
                rows = min(256, height - top)
                y = (north - top - 0.5 - np.arange(rows)) * DEGREES
                x = grid.projection.longitude + (west + 0.5 + np.arange(width)) * DEGREES
                p, mask = _resampled(scene, *grid.indices(y[:, np.newaxis], x[np.newaxis]))
                window = rasterio.windows.Window(0, top, width, rows)
                for band, values in ((1, _codes(p, scene.attrs["threshold"], 1 / 250)), (2, mask)):
                    file.write(np.where(np.isnan(p), 255, values).astype(np.uint8), band, window=window)
            file.scales = (1 / 250, 1.0)
            file.set_band_description(1, "probability of a contrail")
            file.set_band_description(2, "contrail: 0 no, 1 yes")
            tags = {key: str(scene.attrs[key]) for key in ("platform", "model", "threshold", "composite", "software")}
            file.update_tags(time=str(scene["time"].values), inputs=" ".join(scene.attrs["inputs"]), **tags)
        with MemoryFile(ext=".tif") as optimised:
            copy(memory.name, optimised.name, driver="COG", compress="DEFLATE", overview_resampling="nearest")
            write_atomically(out, [optimised.read()])


def _resampled(
    scene: xr.Dataset, rows: npt.NDArray[np.float64], columns: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Interpolate the probability bilinearly between the pixels that are not missing, and the mask along with it.

    A place is in the mask if one of its pixels is and its probability reaches the threshold, or the least probability
    of these pixels, if that is lower (they may have been added by hysteresis). So without cleaning, mask and
    probability agree everywhere, and regions that were removed stay removed.

    Args:
        scene: One time of a predicted scene.
        rows: Fractional rows of places; NaN where not seen.
        columns: Fractional columns, likewise.

    Returns:
        The probability, NaN where the nearest pixel is missing, and the mask.
    """
    probability, valid, mask = (scene[name].values for name in ("probability", "valid", "mask"))
    seen = grid_of(scene).contains(rows, columns)
    rows, columns = np.where(seen, rows, 0), np.where(seen, columns, 0)
    i, j = np.floor(rows), np.floor(columns)
    total, weights = np.zeros(rows.shape), np.zeros(rows.shape)
    lowest, highest = np.full(rows.shape, np.inf), np.full(rows.shape, -np.inf)
    level, nearest = np.full(rows.shape, np.inf), np.zeros(rows.shape)
    for di, row_weight in enumerate((1 - (rows - i), rows - i)):
        for dj, column_weight in enumerate((1 - (columns - j), columns - j)):
            place = (
                (i + di).clip(0, len(valid) - 1).astype(np.intp),
                (j + dj).clip(0, valid.shape[1] - 1).astype(np.intp),
            )
            weight = row_weight * column_weight
            p, has_value = probability[place], (valid[place] > 0) & (weight > 1e-6)
            total += np.where(has_value, weight * p, 0)
            weights += np.where(has_value, weight, 0)
            lowest, highest = (
                np.where(has_value, limit(bound, p), bound) for limit, bound in ((np.fmin, lowest), (np.fmax, highest))
            )
            level = np.where(has_value & (mask[place] > 0), np.fmin(level, p), level)
            is_nearest = (row_weight >= 0.5) & (column_weight >= 0.5)
            nearest = np.maximum(nearest, is_nearest & has_value)
    seen &= nearest > 0
    with np.errstate(invalid="ignore"):
        p = np.where(seen, np.clip(total / weights, lowest, highest), np.nan).astype(np.float32)
    threshold = np.float32(scene.attrs["threshold"])
    return p, np.isfinite(level) & (p >= np.minimum(level, threshold).astype(np.float32))


def _degrees_covered(scene: xr.Dataset, grid: FixedGrid, out: Path) -> tuple[int, int, int, int]:
    # South, west, north and east of the valid pixels in multiples of `DEGREES`; longitudes relative to the satellite's.
    valid = scene["valid"].values > 0
    if not valid.any():
        raise ContrailError(f"{out}: no pixel of the scene could be predicted; choose another area")
    y, x = np.nonzero(valid & ~ndimage.binary_erosion(valid))  # the extremes lie at the edge
    latitude, longitude = grid.projection.to_geodetic(grid.x + x * grid.dx, grid.y + y * grid.dy)
    east = (longitude - grid.projection.longitude + 180) % 360 - 180
    bottom, left = (math.floor(float(values.min()) / DEGREES) for values in (latitude, east))
    top, right = (math.ceil(float(values.max()) / DEGREES) for values in (latitude, east))
    return bottom, left, max(top, bottom + 1), max(right, left + 1)


# ------------------------------------------------------------------------------------------------------------- GeoJSON


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


# ------------------------------------------------------------------------------------------------------------- pictures


def _write_pictures(scene: xr.Dataset, out: Path, theme: Theme) -> None:
    """Write one time as PNG, or several as an animated GIF."""
    first, *others = (picture(scene.isel(time=i), theme) for i in range(scene.sizes["time"]))
    animation: dict[str, Any] = {"save_all": True, "append_images": others, "duration": 500, "loop": 0}
    content = io.BytesIO()
    first.save(content, out.suffix[1:], **animation if out.suffix == ".gif" else {})
    write_atomically(out, [content.getvalue()])


def picture(scene: xr.Dataset, theme: Theme = Theme.DARK) -> Image.Image:
    """Draw the composite of one time with coastlines and a graticule, with contrails outlined.

    Args:
        scene: One time of a predicted scene with `mask`.
        theme: Colours around the image.

    Returns:
        The picture, reduced by a whole factor if it is large, and enlarged if it is small.
    """
    image_cyx = scene["image"].values
    rgb = np.moveaxis(image_cyx[[0, 1, 2] if len(image_cyx) >= 3 else [0, 0, 0]], 0, -1)
    rgb = np.where((image_cyx == 255).all(0)[..., np.newaxis], _MISSING, rgb)
    grid, width = grid_of(scene), image_cyx.shape[2]
    reduction = math.ceil(max(rgb.shape) / _LARGEST_PICTURE)
    panel = Panel(
        image=rgb,
        width=math.ceil(width / reduction) if width > _PICTURE else enlarged(width, _PICTURE),
        outlines={Mark.PREDICTION: scene["mask"].values > 0},
        ground=Ground(grid.projection.crs_wkt, grid.geotransform, grid.height, grid.width),
    )
    time = str(scene["time"].values.astype("datetime64[m]")).replace("T", " ")
    title = (
        f"{scene.attrs['platform']} {str(scene.attrs['instrument']).upper()}  {time} UTC  {scene.attrs['composite']}"
    )
    return draw_picture([[panel]], title=title, marks=[Mark.PREDICTION], theme=theme)
