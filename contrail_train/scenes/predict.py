"""A predictor over a whole scan: tiles of the kind it was trained on, blended back onto the imager's own grid.

Two threads take a few tiles at a time from the scan to predictions, so that one resamples while the other predicts. Of
a large scan, such as a full disk, they read what these tiles need, so that memory does not grow with their number.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr

from contrail_data import __version__
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
"""Threads that read and predict tiles."""
_MOST_WAITING = 2 * WORKERS
"""Groups of tiles that are predicted, or wait to be blended, at once."""
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
        predicted_nyx: What `predicted_planes` returned of an earlier prediction of the scan, which is not repeated.

    Returns:
        On the imager's grid: `probability` float32 (time, y, x), NaN where nothing is predicted; `gate_score` likewise,
        if the model has a gate; the composite `image` uint8 (time, channel, y, x); and `scan_time` (time, y).

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
    if predicted_nyx is None:
        predicted_nyx = _predict_tiles(model, scenes, Mosaic(grid, tiling, model.decision.gate > 0), batch)
    image_tcyx = np.empty((1, len(composite.channels), grid.height, grid.width), np.uint8)
    for first in range(0, grid.height, _ROWS):
        part = slice(first, min(first + _ROWS, grid.height))
        window = scan.isel(y=part)
        image_tcyx[:, :, part], valid_yx = _compose(composite, window)
        predicted_nyx[:, part][:, ~valid_yx] = np.nan
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


def _predict_tiles(model: Predictor, scenes: Sequence[xr.Dataset], mosaic: Mosaic, batch: int) -> Field:
    """Predict all tiles of a scan and blend them; returns the planes of the mosaic, which was empty."""
    plan = strips(mosaic.grid, mosaic.tiling, native=model.native, pixel=model.pixel)
    count = sum(map(len, plan))
    if not count:
        raise ContrailError(
            f"nothing is visible within {mosaic.tiling.max_zenith:g} degrees of zenith angle: raise --max-zenith"
        )
    start = scenes[model.offsets.index(0)]["scan_start"].values[0].astype("datetime64[m]")
    with progress(f"scan of {start}", count, unit="tiles") as advance:
        for group, predictions in _predict_groups(model, scenes, plan, batch):
            for tile, p_hw, score in predictions:
                mosaic.add(tile, p_hw, score)
            advance(len(group))
    mosaic.average()
    return mosaic.planes_nyx


def _predict_groups(
    model: Predictor, scenes: Sequence[xr.Dataset], plan: Sequence[Sequence[Tile]], batch: int
) -> Iterator[tuple[Sequence[Tile], list[_TilePrediction]]]:
    """Groups of up to `batch` tiles that lie side by side, with their predictions, in the order of the plan."""
    groups = [
        [strip[i] for i in part]
        for strip in plan
        for part in np.array_split(np.arange(len(strip)), math.ceil(len(strip) / batch))
    ]
    threads = torch.get_num_threads()
    # Threads of one operation wait for each other, so they are not to share their cores with the reading of tiles.
    own_threads = max(threads // WORKERS, 1)
    pool = ThreadPoolExecutor(WORKERS, initializer=torch.set_num_threads, initargs=(own_threads,))
    try:
        predicting: deque[tuple[list[Tile], Future[list[_TilePrediction]]]] = deque()
        for group in groups:
            predicting.append((group, pool.submit(_predict_group, model, scenes, group)))
            if len(predicting) > _MOST_WAITING:
                first, prediction = predicting.popleft()
                yield first, prediction.result()
        for last, prediction in predicting:
            yield last, prediction.result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def _predict_group(model: Predictor, scenes: Sequence[xr.Dataset], group: Sequence[Tile]) -> list[_TilePrediction]:
    frames = _read_tiles(model, scenes, group)
    if not frames:
        return []
    tiles, images, valid = zip(*frames, strict=True)
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


def _compose(composite: Composite, window: xr.Dataset) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """The composite of some rows of a scan, uint8 (1, channel, y, x), and where it has pixels, (y, x)."""
    temperature = window["brightness_temperature"].isel(time=0)
    bands = {band: temperature.sel(band=band).values[..., np.newaxis] for band in composite.bands}
    valid_yx = ~np.isnan(np.stack(list(bands.values()))).any((0, -1))
    image_tcyx = stored_frames(composite, bands, np.uint8)
    whiten(image_tcyx, valid_yx[np.newaxis])
    return image_tcyx, valid_yx


def _scene(model: Predictor, scan: xr.Dataset, predicted_nyx: Field, image_tcyx: npt.NDArray[np.uint8]) -> xr.Dataset:
    composite = from_dict(model.composite)
    planes = zip(_PLANES, predicted_nyx, strict=False)  # scores only if the model has a gate
    return xr.Dataset(
        {
            **{name: (("time", "y", "x"), plane_yx[np.newaxis]) for name, plane_yx in planes},
            "image": (("time", "channel", "y", "x"), image_tcyx),
        },
        coords={
            **{
                name: scan.coords[name]
                for name in ("time", "scan_start", "scan_end", "scan_time", "y", "x", grid_mapping_of(scan))
            },
            "channel": np.array(composite.channel_names),
        },
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


def _predict_in_memory(model: Predictor, window_btchw: npt.NDArray[Any], valid_bhw: npt.NDArray[np.bool_]) -> Predicted:
    try:
        return model.predict(window_btchw, valid_bhw)
    except torch.OutOfMemoryError:  # try half of the tiles at a time
        if len(window_btchw) == 1:
            raise ContrailError("out of memory with a single tile: choose another --device") from None
    halves = zip(np.array_split(window_btchw, 2), np.array_split(valid_bhw, 2), strict=True)
    parts = zip(*(_predict_in_memory(model, *half) for half in halves), strict=True)
    return Predicted(*(np.concatenate(part) for part in parts))
