"""A model over a whole scan: tiles of the kind it was trained on, blended back onto the imager's own grid.

A strip of tiles at a time: while a strip is predicted the next one is read, so memory follows the scan's width and not
the number of tiles. Where tiles overlap, probabilities are averaged with weights that fall to nothing at a tile's edge,
so that no seam is left.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from scipy import ndimage

from contrail_data import __version__
from contrail_data.composites import Composite, from_dict, stored_frames, whiten
from contrail_data.errors import ContrailError
from contrail_data.geo.fixed_grid import FixedGrid
from contrail_data.geo.geometry import satellite_zenith
from contrail_data.labels.predictor import Predicted
from contrail_data.progress import progress
from contrail_data.sample import FRAME_STEP
from contrail_data.scans.scene import GRID_MAPPING, grid_of, row_times
from contrail_data.scans.shots import Shot, abi_shots, frames_of, satpy_shots
from contrail_data.scans.tiles import Tile, cut, utm_tile
from contrail_train.contrails.cleaning import Cleaning, clean
from contrail_train.inference.predictor import Predictor
from contrail_train.scenes.files import check_outputs, write

Field = npt.NDArray[np.float32]
ROWS = 256


@dataclass(frozen=True)
class Tiling:
    """How a scan is covered."""

    size: int = 256
    """Pixels of a tile's side."""
    overlap: float = 0.25
    """Of a tile's side that it shares with each neighbour."""
    shift: tuple[float, float] = (0.0, 0.0)
    """Where the tiling begins, in fractions of its step down and right."""
    max_zenith: float = 70.0
    """Degrees of view zenith beyond which nothing is predicted."""
    tolerance: float = 5.0
    """Minutes that a neighbouring scan may start off its frame's time."""


def predict_scans(
    model: Predictor,
    shots: Sequence[Shot],
    times: Sequence[np.datetime64],
    tiling: Tiling,
    area: tuple[float, float, float, float] | None = None,
    batch: int = 8,
) -> xr.Dataset:
    """Predict scans: those that start nearest to `times`.

    area: (south, west, north, east) in degrees; None: all that is seen. Returns, on the imager's grid, `probability`
    float32 (time, y, x) with NaN where nothing can be told, `gate_score` likewise where the model has a gate, `image`
    uint8 (time, channel, y, x) of the composite, and `scan_time` (time, y). Raises ContrailError for a time without a
    scan, a band that is missing, a model whose composite is none of brightness temperatures, an area that is not seen,
    or scans of different grids.
    """
    composite = from_dict(model.composite)
    lacking = [s for s in shots if not set(composite.bands) <= set(s.bands)]
    whole = [s for s in shots if s not in lacking]
    if not whole:
        there = ", ".join(map(str, sorted({b for s in shots for b in s.bands}))) or "none"
        raise ContrailError(
            f"the model needs bands {', '.join(map(str, composite.bands))} (composite {composite.name!r}); "
            f"no scan has all of them (there are {there}): fetch them"
        )
    offsets = model.offsets
    made: list[xr.Dataset] = []
    for time in times:
        window = frames_of(whole, time, -offsets[0], offsets[-1], tiling.tolerance)
        frames = [window[offset - offsets[0]] for offset in offsets]
        if (shot := window[-offsets[0]]) is None:
            raise ContrailError(f"{time}: no scan within {tiling.tolerance:g} minutes: choose another time")
        if None in frames:
            missing = [offset for offset, frame in zip(offsets, frames, strict=True) if frame is None]
            raise ContrailError(
                f"{time}: the model looks at frames {list(offsets)}, 10 minutes apart, and there is no scan for "
                f"{missing[0]:+d}: choose another time, or a 2D model"
            )
        scenes = [s.open() for s in frames if s is not None]
        if any(grid_of(scene) != grid_of(scenes[0]) for scene in scenes):
            raise ContrailError(f"{time}: the scans are of different grids: choose a time when the sector stood still")
        made.append(_predict(model, composite, scenes, shot.open(), tiling, area, batch))
    if any(not one["x"].equals(made[0]["x"]) or not one["y"].equals(made[0]["y"]) for one in made):
        raise ContrailError("the times' scans are of different grids: predict them one by one")
    inputs = sorted({name for one in made for name in one.attrs["inputs"]})
    together = xr.concat(
        made, "time", data_vars="minimal", coords="minimal", compat="override", combine_attrs="override"
    )
    return together.assign_attrs(inputs=inputs)


def predict_files(
    model: Predictor,
    where: str,
    times: Sequence[np.datetime64],
    outs: Sequence[Path],
    tiling: Tiling,
    cleaning: Cleaning,
    area: tuple[float, float, float, float] | None,
    product: str,
    reader: str | None,
    altitude: float | None,
    batch: int,
    overwrite: bool,
) -> Iterator[str]:
    """Predict the scans that a path or an archive names into files; yields a line on each. See `predict_scans`.

    Without `times`: every scan that has the frames which the model looks at. Raises ContrailError before anything is
    predicted for outputs that cannot be written.
    """
    bands = from_dict(model.composite).bands
    before, after = (FRAME_STEP * n for n in (-model.offsets[0], model.offsets[-1]))
    slack = np.timedelta64(round(tiling.tolerance * 60), "s")
    span = (min(times) - before - slack, max(times) + after + slack) if times else (None, None)
    if reader is None:
        shots, notes, problems = abi_shots(where, span[0], span[1], product, bands, (0, 1))
    else:
        shots, notes, problems = satpy_shots(where, reader, bands), [], []
    moments = list(times) or [
        shot.start
        for shot in shots
        if None not in frames_of(shots, shot.start, -model.offsets[0], model.offsets[-1], tiling.tolerance)
        and set(bands) <= set(shot.bands)
    ]
    if not moments and any(set(bands) <= set(shot.bands) for shot in shots):
        raise ContrailError(
            f"{where}: no scan has the frames {list(model.offsets)}, 10 minutes apart, that the model looks at: add "
            "scans, or take a 2D model"
        )
    check_outputs(outs, overwrite)
    scene = predict_scans(model, shots, moments or [shots[0].start], tiling, area, batch)
    valid = ~np.isnan(scene["probability"].values)
    mask = clean(np.nan_to_num(scene["probability"].values), valid, cleaning)
    if "gate_score" in scene:
        mask &= scene["gate_score"].values >= model.decision.gate
    scene = scene.assign(
        mask=(("time", "y", "x"), mask.astype(np.uint8)), valid=(("time", "y", "x"), valid.astype(np.uint8))
    )
    default = Cleaning(cleaning.threshold)
    switched_on = [key for key, value in vars(cleaning).items() if key == "threshold" or value != vars(default)[key]]
    scene.attrs["post_processing"] = ", ".join(f"{key} {vars(cleaning)[key]:g}" for key in switched_on)
    yield from (f"note: {line}" for line in (*notes, *problems))
    for i, moment in enumerate(scene["time"].values):
        told, pixels = valid[i].sum(), int(mask[i].sum())
        yield (
            f"{np.datetime_as_string(moment, 's')}: {pixels:,} contrail pixels, {100 * pixels / max(told, 1):.3f} % "
            f"of what was predicted ({100 * valid[i].mean():.1f} % of the window)"
        )
    for out in outs:
        yield from (str(path) for path in write(scene, out, altitude=altitude))


def _predict(
    model: Predictor,
    composite: Composite,
    scenes: Sequence[xr.Dataset],
    labelled: xr.Dataset,
    tiling: Tiling,
    area: tuple[float, float, float, float] | None,
    batch: int,
) -> xr.Dataset:
    model = replace(model, label_shift=(0.0, 0.0))  # the answer is to lie on the image, not half a pixel off it
    grid = grid_of(labelled)
    top, bottom, left, right = _window(grid, area)
    gated = model.decision.gate > 0
    sums = [np.zeros((bottom - top, right - left), np.float32) for _ in range(3 if gated else 2)]
    seen = grid.window(top, left, bottom - top, right - left)
    strips = _strips(model, seen, tiling)
    count = sum(len(strip) for strip in strips)
    if not count:
        raise ContrailError(f"nothing is seen under {tiling.max_zenith:g} degrees of view zenith: raise --max-zenith")

    def load(strip: Sequence[Tile]) -> tuple[list[Tile], list[npt.NDArray[Any]], list[npt.NDArray[np.bool_]]]:
        return _frames(model, composite, scenes, strip)

    with progress("scene", count, unit="tiles") as advance, ThreadPoolExecutor(1) as ahead:
        waiting = ahead.submit(load, strips[0])
        for number in range(len(strips)):
            tiles, images, valid = waiting.result()
            if number + 1 < len(strips):
                waiting = ahead.submit(load, strips[number + 1])
            for start in range(0, len(tiles), batch):
                part = slice(start, start + batch)
                told = _predicted(model, np.stack(images[part]), np.stack(valid[part]))
                for tile, p_hw, score in zip(tiles[part], told.probability, told.score, strict=True):
                    _blend(seen, tile, p_hw, float(score) if gated else None, sums, tiling)
                advance(len(told.score))
            advance(len(strips[number]) - len(tiles))
    image_tcyx = np.empty((1, len(composite.channels), *sums[0].shape), np.uint8)
    for first in range(0, seen.height, ROWS):  # so that memory is that of a few rows, beside what is told
        rows = slice(first, min(first + ROWS, seen.height))
        window = labelled.isel(time=0, y=slice(top + rows.start, top + rows.stop), x=slice(left, right))
        bands = {b: window["brightness_temperature"].sel(band=b).values[..., np.newaxis] for b in composite.bands}
        there_yx = ~np.isnan(np.stack(list(bands.values()))).any((0, -1))
        with np.errstate(invalid="ignore"):
            image_tcyx[:, :, rows] = stored_frames(composite, bands, np.uint8)
            zenith = satellite_zenith(*grid_of(window).geodetic(), grid.projection.longitude)
            told = there_yx & (zenith <= tiling.max_zenith) & (sums[1][rows] > 1e-3)
        whiten(image_tcyx[:, :, rows], there_yx[np.newaxis])
        for total in (sums[0], *sums[2:]):
            total[rows] = np.where(told, total[rows] / np.maximum(sums[1][rows], 1e-6), np.nan)

    axes = labelled.isel(y=slice(top, bottom), x=slice(left, right)).coords
    variables: dict[str, Any] = {
        "probability": (("time", "y", "x"), sums[0][np.newaxis]),
        "image": (("time", "channel", "y", "x"), image_tcyx),
    }
    if gated:
        variables["gate_score"] = (("time", "y", "x"), sums[2][np.newaxis])
    return xr.Dataset(
        variables,
        coords={
            **{name: axes[name] for name in ("time", "y", "x", GRID_MAPPING)},
            "channel": np.array(composite.channel_names),
            "scan_time": (("time", "y"), row_times(labelled)[:, top:bottom]),
        },
        attrs={
            "Conventions": "CF-1.11",
            "title": "contrail probability",
            "platform": labelled.attrs["platform"],
            "instrument": labelled.attrs["instrument"],
            "model": model.decision.model,
            "threshold": model.decision.threshold,
            "gate": model.decision.gate,
            "composite": composite.name,
            "software": f"contrail {__version__}",
            "inputs": sorted({name for scene in scenes for name in scene.attrs["source"]}),
        },
    )


def _window(grid: FixedGrid, area: tuple[float, float, float, float] | None) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of the pixels that an area covers."""
    if area is None:
        return 0, grid.height, 0, grid.width
    south, west, north, east = area
    if not (-90 <= south < north <= 90 and west < east):  # NaN fails too
        raise ContrailError(
            f"--area {area}: give south, west, north, east in degrees, south below north, west below east"
        )
    edge = np.linspace(0, 1, 65)
    latitudes, longitudes = np.meshgrid(south + (north - south) * edge, west + (east - west) * edge)
    rows, columns = grid.indices(latitudes, longitudes)
    inside = (rows > -0.5) & (rows < grid.height - 0.5) & (columns > -0.5) & (columns < grid.width - 0.5)
    if not inside.any():
        raise ContrailError(f"--area {area}: lies outside of the scan: choose another area or scan")
    top, left = (max(math.floor(float(a[inside].min())), 0) for a in (rows, columns))
    bottom = min(math.ceil(float(rows[inside].max())) + 1, grid.height)
    return top, bottom, left, min(math.ceil(float(columns[inside].max())) + 1, grid.width)


def _predicted(model: Predictor, window_btchw: npt.NDArray[Any], valid_bhw: npt.NDArray[np.bool_]) -> Predicted:
    """Half at a time where the device's memory is too small. Raises ContrailError where one is too much."""
    try:
        return model.predict(window_btchw, valid_bhw)
    except torch.OutOfMemoryError:
        if len(window_btchw) == 1:
            raise ContrailError("out of memory with one tile: take another --device") from None
    halves = zip(np.array_split(window_btchw, 2), np.array_split(valid_bhw, 2), strict=True)
    parts = zip(*(_predicted(model, *half) for half in halves), strict=True)
    return Predicted(*(np.concatenate(part) for part in parts))


def _strips(model: Predictor, grid: FixedGrid, tiling: Tiling) -> list[list[Tile]]:
    """The tiles that are needed, from north to south, those of one strip side by side: for each pixel (every fourth
    will do) the nearest one of a regular pattern.
    """
    x, y = (axis[::4] for axis in grid.axes())
    latitude, longitude = grid.projection.to_geodetic(x[np.newaxis], y[:, np.newaxis])
    with np.errstate(invalid="ignore"):
        known = satellite_zenith(latitude, longitude, grid.projection.longitude) <= tiling.max_zenith
    step = tiling.size * (1 - tiling.overlap)
    down, right = tiling.shift
    if model.native:
        rows, columns = np.nonzero(known)
        i, j = (np.rint(4 * n / step - s).astype(int) for n, s in ((rows, down), (columns, right)))
    else:
        degrees = step * model.pixel / 111_320
        i = np.rint(-latitude[known] / degrees - down).astype(int)
        across = degrees / np.cos(np.radians(_latitude_of(i + down, degrees)))
        j = np.rint(longitude[known] / across - right).astype(int)
    strips: dict[int, list[Tile]] = {}
    for at, beside in np.unique(np.stack([i, j], -1), axis=0).tolist():
        if model.native:
            row, column = (round(step * (n + s)) - tiling.size // 2 for n, s in ((at, down), (beside, right)))
            window = grid.window(row, column, tiling.size, tiling.size)
            left, col_size, _, top, _, row_size = (float(v) for v in window.geotransform)
            side = tiling.size, tiling.size
            tile = Tile(grid.projection.crs_wkt, top, row_size, left, col_size, *side, native=True)
        else:
            centre = float(_latitude_of(at + down, degrees))
            place = (beside + right) * degrees / math.cos(math.radians(centre))
            tile = utm_tile(centre, (place + 180) % 360 - 180, tiling.size, model.pixel)
        strips.setdefault(at, []).append(tile)
    return [strip for _, strip in sorted(strips.items())]


def _latitude_of(strip: Any, degrees: float) -> Any:
    return np.clip(-strip * degrees, -83.0, 83.0)  # UTM ends at 84


def _frames(
    model: Predictor, composite: Composite, scenes: Sequence[xr.Dataset], strip: Sequence[Tile]
) -> tuple[list[Tile], list[npt.NDArray[Any]], list[npt.NDArray[np.bool_]]]:
    """(tiles, frames as stored (t, c, y, x), where the predicted frame has pixels (y, x)) of a strip, tiles without any
    pixel left out.
    """
    held = [_strip_of(scene.sel(band=list(composite.bands)), strip) for scene in scenes]
    now = list(model.offsets).index(0)
    tiles, images, valid = [], [], []
    for tile in strip:
        bands_byxt = np.concatenate([cut(scene, tile) for scene in held], axis=-1)
        valid_tyx = np.moveaxis(~np.isnan(bands_byxt).any(0), -1, 0)
        if not valid_tyx[now].any():
            continue
        _continue(bands_byxt, valid_tyx)
        with np.errstate(invalid="ignore"):
            frames = stored_frames(composite, dict(zip(composite.bands, bands_byxt, strict=True)), model.dtype)
        whiten(frames, valid_tyx | valid_tyx.any((1, 2), keepdims=True))
        tiles.append(tile)
        images.append(frames)
        valid.append(valid_tyx[now])
    return tiles, images, valid


def _continue(bands_byxt: npt.NDArray[np.float32], valid_tyx: npt.NDArray[np.bool_]) -> None:
    """Missing pixels get the nearest one's values, in place, for the model's eyes alone: at a hard edge it would see a
    line. Nothing is told there.
    """
    for frame, valid_yx in enumerate(valid_tyx):
        if valid_yx.any() and not valid_yx.all():
            nearest = ndimage.distance_transform_edt(~valid_yx, return_distances=False, return_indices=True)
            bands_byxt[..., frame] = bands_byxt[..., frame][:, nearest[0], nearest[1]]


def _strip_of(scene: xr.Dataset, strip: Sequence[Tile]) -> xr.Dataset:
    """The rows and columns of a scene that a strip of tiles needs, in memory: overlapping tiles are read once."""
    grid = grid_of(scene)
    edges = [tile.edge_indices(grid) for tile in strip]
    rows, columns = (np.concatenate([edge[axis] for edge in edges]) for axis in (0, 1))
    if np.isnan(rows).all():
        return scene.isel(y=slice(0, 1), x=slice(0, 1)).load()
    top, left = (max(math.floor(float(np.nanmin(a))) - 2, 0) for a in (rows, columns))
    bottom, right = (math.ceil(float(np.nanmax(a))) + 3 for a in (rows, columns))
    return scene.isel(y=slice(top, max(bottom, top + 2)), x=slice(left, max(right, left + 2))).load()


def _blend(
    grid: FixedGrid,
    tile: Tile,
    p_hw: Field,
    score: float | None,
    sums: Sequence[Field],
    tiling: Tiling,
) -> None:
    """Add a tile's probabilities, times their weights, to the grid's sums: of probability, of weight, of gate score."""
    rows, columns = tile.edge_indices(grid)
    if np.isnan(rows).all():
        return
    top, left = (max(math.floor(float(np.nanmin(a))), 0) for a in (rows, columns))
    bottom = min(math.ceil(float(np.nanmax(rows))) + 1, grid.height)
    right = min(math.ceil(float(np.nanmax(columns))) + 1, grid.width)
    if top >= bottom or left >= right:
        return
    y, x = tile.indices_of(grid.window(top, left, bottom - top, right - left))
    ramp = max(tiling.overlap * tiling.size / 2, 1.0)
    with np.errstate(invalid="ignore"):
        depth = np.minimum(np.minimum(y, tile.height - 1 - y), np.minimum(x, tile.width - 1 - x)) + 0.5
        share = np.clip(depth / ramp, 0, 1)
    weight = np.where(share > 0, 0.5 - 0.5 * np.cos(np.pi * share), 0).astype(np.float32)
    inside = weight > 0
    at = np.stack([y[inside], x[inside]])
    window = slice(top, bottom), slice(left, right)
    added = [ndimage.map_coordinates(p_hw, at, order=1, mode="nearest") * weight[inside], weight[inside]]
    if score is not None:
        added.append(score * weight[inside])
    for total, part in zip(sums, added, strict=True):
        total[window][inside] += part
