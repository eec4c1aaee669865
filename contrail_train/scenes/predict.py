"""A predictor over a whole scan: tiles of the kind it was trained on, blended back onto the imager's own grid.

Threads take a few tiles at a time from the scan to predictions, so that one resamples while another predicts; they
compose the image while the last tiles are predicted. Of a large scan, such as a full disk, they read what these tiles
need, so that memory does not grow with their number.
"""

import math
import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from threading import BoundedSemaphore
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr

from contrail_data import __version__
from contrail_data.ahead import map_ahead
from contrail_data.composites import Composite, from_dict, whiten
from contrail_data.errors import ContrailError
from contrail_data.geo.areas import Area
from contrail_data.labels.predictor import Predicted
from contrail_data.progress import progress
from contrail_data.scans.listing import Scan
from contrail_data.scans.scene import grid_mapping_of, grid_of, row_times
from contrail_data.scans.tiles import Tile, cut_window
from contrail_data.store.frames import stored_frames
from contrail_train.inference.predictor import Predictor
from contrail_train.scenes.frames import frames_at
from contrail_train.scenes.tiling import Field, Mosaic, Tiling, fill_missing, load_windows, strips, window_of_area

_TileFrames = tuple[Tile, npt.NDArray[Any], npt.NDArray[np.bool_]]
"""A tile, its frames as a store holds them (t, c, y, x), and where the predicted frame has pixels (y, x)."""
_TilePrediction = tuple[Tile, npt.NDArray[np.float32], float]
"""A tile, its probabilities (y, x) and its record score."""
WORKERS = 2
"""Threads that read and predict tiles on the CPU, and the most that predict at once on any device."""
_predicting = BoundedSemaphore(WORKERS)
"""Bounds the memory of a device."""
MOST_HELD = 2**28
"""Bytes up to which scans are read at once. Tiles of a larger one unpack each chunk of its files about four times."""
_ROWS = 256
"""Rows of the scene that are composed at once, to bound memory."""
_PLANES = ("probability", "gate_score")
"""What is predicted."""


def predict_scan(
    model: Predictor,
    scans: Sequence[Scan],
    time: np.datetime64,
    tiling: Tiling,
    *,
    area: Area | None = None,
    batch: int = 8,
    with_image: bool = True,
    predicted_nyx: Field | None = None,
) -> xr.Dataset:
    """Predict the scan that starts nearest to a time.

    Args:
        model: A predictor of masks.
        scans: Scans to choose from, also for the frames before and after.
        time: The time, UTC.
        tiling: How the scan is covered with tiles.
        area: South, west, north, east in degrees; None predicts all that is visible.
        batch: Tiles that are predicted at once.
        with_image: Whether to compute the composite.
        predicted_nyx: What `predicted_planes` returned of an earlier prediction of the scan, which is not repeated.

    Returns:
        On the imager's grid: `probability` float32 (time, y, x), NaN where nothing is predicted; `gate_score` likewise,
        if the model has a gate; `scan_time` (time, y); and with `with_image` the composite `image` uint8 (time,
        channel, y, x).

    Raises:
        ContrailError: If the time has no scan, a file cannot be read, or the area is not seen.
    """
    composite = from_dict(model.composite)
    frames = frames_at(model, scans, time, tiling)
    scenes = [frame.open().sel(band=list(composite.bands)) for frame in frames]
    is_small = sum(scene["brightness_temperature"].nbytes for scene in scenes) <= MOST_HELD
    if predicted_nyx is None and area is None and is_small:
        scenes = [scene.load() for scene in scenes]
    # predictions are to lie on the image, not on the labels' grid
    model = replace(model.with_fixed_shift(), label_shift=(0.0, 0.0))
    scan = scenes[model.offsets.index(0)]
    full = grid_of(scan)
    rows, columns = window_of_area(full, area)
    scan = scan.assign_coords(scan_time=(("time", "y"), row_times(scan))).isel(y=rows, x=columns)
    grid = full.window(rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start)
    mosaic = Mosaic(grid, tiling, model.decision.gate > 0)
    groups = _groups(model, mosaic, batch) if predicted_nyx is None else []
    valid_yx = np.empty((grid.height, grid.width), bool)
    image_tcyx = np.empty((1, len(composite.channels), *valid_yx.shape), np.uint8) if with_image else None
    parts = [slice(first, min(first + _ROWS, grid.height)) for first in range(0, grid.height, _ROWS)]
    tasks: list[Callable[[], Any]] = [partial(_predict_group, model, scenes, group) for group in groups]
    tasks += [partial(_compose, composite, scan, part, mosaic, valid_yx, image_tcyx) for part in parts]
    with closing(_run_in_order(tasks, _workers(model))) as results:
        if groups:
            _add_groups(mosaic, groups, results, scan["scan_start"].values[0])
        deque(results, maxlen=0)  # wait until all rows are composed
    if predicted_nyx is None:
        predicted_nyx = mosaic.average(valid_yx)
    else:
        predicted_nyx[:, ~valid_yx] = np.nan
    scene = _scene(model, scan, predicted_nyx, image_tcyx)
    return scene.assign_attrs(inputs=sorted({name for one in scenes for name in one.attrs["source"]}))


def predicted_planes(scene: xr.Dataset) -> Field:
    """Take from a predicted scan what took long to compute.

    Args:
        scene: As `predict_scan` returns it.

    Returns:
        Probabilities and, if the model has a gate, record scores, (plane, y, x) float32.
    """
    return np.concatenate([scene[name].values for name in _PLANES if name in scene])


def _groups(model: Predictor, mosaic: Mosaic, batch: int) -> list[list[Tile]]:
    """The tiles of a scan in groups of up to `batch` that lie side by side."""
    plan = strips(mosaic.grid, mosaic.tiling, native=model.native, pixel=model.pixel)
    if not plan:
        raise ContrailError(
            f"nothing is visible within {mosaic.tiling.max_zenith:g} degrees of zenith angle: raise --max-zenith"
        )
    return [
        [strip[i] for i in part]
        for strip in plan
        for part in np.array_split(np.arange(len(strip)), math.ceil(len(strip) / batch))
    ]


def _add_groups(
    mosaic: Mosaic,
    groups: Sequence[Sequence[Tile]],
    results: Iterator[list[_TilePrediction]],
    start: np.datetime64,
) -> None:
    """Add the predictions of all groups of tiles to the mosaic."""
    with progress(f"scan of {start.astype('datetime64[m]')}", sum(map(len, groups)), unit="tiles") as advance:
        for group, predictions in zip(groups, results, strict=False):
            for tile, p_hw, score in predictions:
                mosaic.add(tile, p_hw, score)
            advance(len(group))


def _workers(model: Predictor) -> int:
    """Threads for a scan: as many as there are cores, if another device than the CPU does most of the work."""
    return WORKERS if model.device.type == "cpu" else max(WORKERS, os.cpu_count() or 1)


def _run_in_order(tasks: Sequence[Callable[[], Any]], workers: int) -> Generator[Any]:
    """Run tasks on threads; yields their results in order. A few are ahead of it, which bounds memory."""
    threads = torch.get_num_threads()
    # Threads of one operation wait for each other, so they are not to share their cores with the reading of tiles.
    own_threads = max(threads // workers, 1)
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(own_threads,))
    try:
        yield from map_ahead(pool, lambda task: task(), tasks, most=2 * workers)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def _predict_group(model: Predictor, scenes: Sequence[xr.Dataset], group: Sequence[Tile]) -> list[_TilePrediction]:
    frames = _read_tiles(model, scenes, group)
    if not frames:
        return []
    tiles, images, valid = zip(*frames, strict=True)
    with _predicting:
        predicted = _predict_in_memory(model, np.stack(images), np.stack(valid))
    return list(zip(tiles, predicted.probability, predicted.score.tolist(), strict=True))


def _read_tiles(model: Predictor, scenes: Sequence[xr.Dataset], group: Sequence[Tile]) -> list[_TileFrames]:
    """The tiles of a group whose predicted frame has pixels; what they share is read once."""
    composite = from_dict(model.composite)
    kelvin_tbyx, grid = load_windows(scenes, group)
    now = model.offsets.index(0)
    tiles = []
    for tile in group:
        bands_byxt = cut_window(kelvin_tbyx, grid, tile)
        valid_tyx = ~np.moveaxis(np.asarray(np.isnan(bands_byxt).any(0)), -1, 0)
        if not valid_tyx[now].any():
            continue
        fill_missing(bands_byxt, valid_tyx)
        image_tcyx = stored_frames(composite, dict(zip(composite.bands, bands_byxt, strict=True)), model.dtype)
        whiten(image_tcyx, valid_tyx | valid_tyx.any((1, 2), keepdims=True))
        tiles.append((tile, image_tcyx, valid_tyx[now]))
    return tiles


def _compose(
    composite: Composite,
    scan: xr.Dataset,
    rows: slice,
    mosaic: Mosaic,
    valid_yx: npt.NDArray[np.bool_],
    image_tcyx: npt.NDArray[np.uint8] | None,
) -> None:
    """Find where some rows of a scan have pixels to predict, and compute their composite, if there is an image."""
    kelvin_byx = scan["brightness_temperature"].isel(time=0, y=rows).values
    has_pixels_yx = ~np.asarray(np.isnan(kelvin_byx).any(0))
    valid_yx[rows] = has_pixels_yx & mosaic.within(rows)
    if image_tcyx is not None:
        bands = dict(zip(composite.bands, kelvin_byx[..., np.newaxis], strict=True))
        part_tcyx = stored_frames(composite, bands, np.uint8)
        whiten(part_tcyx, has_pixels_yx[np.newaxis])
        image_tcyx[:, :, rows] = part_tcyx


def _scene(
    model: Predictor, scan: xr.Dataset, predicted_nyx: Field, image_tcyx: npt.NDArray[np.uint8] | None
) -> xr.Dataset:
    composite = from_dict(model.composite)
    planes = zip(_PLANES, predicted_nyx, strict=False)  # scores only if the model has a gate
    names = ("time", "scan_start", "scan_end", "scan_time", "y", "x", grid_mapping_of(scan))
    scene = xr.Dataset(
        {name: (("time", "y", "x"), plane_yx[np.newaxis]) for name, plane_yx in planes},
        coords={name: scan.coords[name] for name in names},
        attrs={
            "Conventions": "CF-1.11",
            "title": "contrail probability",
            "platform": scan.attrs["platform"],
            "instrument": scan.attrs["instrument"],
            "model": model.decision.model,
            "threshold": model.decision.threshold,
            "gate": model.decision.gate,
            "composite": composite.name,
            "software": f"contrail {__version__}",
        },
    )
    if image_tcyx is None:
        return scene
    return scene.assign(image=(("time", "channel", "y", "x"), image_tcyx)).assign_coords(
        channel=np.array(composite.channel_names)
    )


def _predict_in_memory(model: Predictor, window_btchw: npt.NDArray[Any], valid_bhw: npt.NDArray[np.bool_]) -> Predicted:
    try:
        return model.predict(window_btchw, valid_bhw)
    except torch.OutOfMemoryError:  # try half of the tiles at a time
        if len(window_btchw) == 1:
            raise ContrailError("out of memory with a single tile: choose another --device") from None
    halves = zip(np.array_split(window_btchw, 2), np.array_split(valid_bhw, 2), strict=True)
    parts = zip(*(_predict_in_memory(model, *half) for half in halves), strict=True)
    return Predicted(*(np.concatenate(part) for part in parts))
