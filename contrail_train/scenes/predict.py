"""A predictor over whole scans: tiles of the kind it was trained on, blended back onto the imager's own grid.

One strip of tiles is predicted while the next one is read, so memory grows with the width of the scan and not with the
number of tiles.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr

from contrail_data import __version__
from contrail_data.composites import Composite, from_dict, stored_frames, whiten
from contrail_data.errors import ContrailError, UsageError
from contrail_data.geo.fixed_grid import FixedGrid
from contrail_data.geo.geometry import satellite_zenith
from contrail_data.labels.predictor import Predicted
from contrail_data.progress import progress
from contrail_data.reports.choices import Theme
from contrail_data.scans.abi_files import ALWAYS
from contrail_data.scans.listing import (
    Scan,
    ScanListing,
    assign_frames,
    list_abi_scans,
    list_satpy_scans,
    spans_around,
)
from contrail_data.scans.scene import grid_mapping_of, grid_of, row_times
from contrail_data.scans.tiles import Tile, cut
from contrail_train.contrails.cleaning import Cleaning, clean
from contrail_train.inference.predictor import Predictor
from contrail_train.scenes.contrails import LONGEST_STEP, SceneContrails
from contrail_train.scenes.files import check_outputs, output_names, trace_all, write
from contrail_train.scenes.tiling import Area, Mosaic, Tiling, fill_missing, load_window, strips, window_of_area
from contrail_train.scenes.vectors import provenance_of, require_geopandas, to_geodataframe

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

_TileFrames = tuple[Tile, npt.NDArray[Any], npt.NDArray[np.bool_]]
"""A tile, its frames as a store holds them (t, c, y, x), and where the predicted frame has pixels (y, x)."""
_ROWS = 256
"""Rows of the scene that are composed at once, to bound memory."""


@dataclass(frozen=True, kw_only=True)
class SceneRequest:
    """Which scans to predict, how, and the files to write."""

    source: str
    """Folder, glob or archive of scans."""
    tiling: Tiling
    cleaning: Cleaning
    outs: Sequence[Path] = ()
    """Files to write; the suffix of each selects its format."""
    times: Sequence[np.datetime64] = ()
    """Times to predict, UTC. Empty: every scan that has the frames and bands that the model needs."""
    area: Area | None = None
    """South, west, north, east in degrees; None for all that is visible."""
    product: str = "L1b-RadF"
    """Product to list in an archive."""
    reader: str | None = None
    """satpy reader of the files, or auto; None for ABI files."""
    altitude: float | None = None
    """Metres for which shapes in GeoJSON are corrected for parallax."""
    theme: Theme = Theme.DARK
    """Colours around pictures."""
    places: bool = False
    """Whether NetCDF and zarr files hold the latitude and longitude of each pixel."""
    instances: bool = False
    """Whether contrails that cross, touch or are broken are told apart, rather than each region being one contrail."""
    tracks: bool = False
    """Whether contrails are followed through the times; implies `instances`."""
    style: bool = False
    """Whether a style for QGIS is written beside each GeoJSON file."""
    batch: int = 8
    """Tiles that are predicted at once."""
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What `predict_files` did."""

    notes: list[str]
    """What the user should know."""
    set_aside: list[str]
    """One line for each file, scan or time that could not be used."""
    lines: list[str] = field(default_factory=list)
    """One line on each predicted scan."""
    scenes: list[SceneContrails] = field(default_factory=list)
    """The predicted scenes, one for each grid."""
    paths: list[Path] = field(default_factory=list)
    """The files written."""


def predict_files(model: Predictor, request: SceneRequest) -> Outcome:
    """Predict scans and write them to files.

    A time that cannot be predicted is set aside, unless it is the only one. Scans on several grids (of a mesoscale
    sector that moved) become one file per grid in formats that need a common one.

    Args:
        model: A predictor of masks.
        request: The scans, how to predict them, and the files.

    Returns:
        What was done.

    Raises:
        ContrailError: If an output cannot be written, which is checked before anything is predicted, or if no time can
            be predicted.
        UsageError: If tracks are asked for and there is a single time.
    """
    scans, time_of, outcome, failures = _choose_scans(model, request)
    middles: dict[FixedGrid, list[np.datetime64]] = {}
    for scan in time_of:
        middles.setdefault(scan.grid, []).append(scan.middle)
    longest = max(len(part) for own in middles.values() for part in _series(np.array(own)))
    request.cleaning.check(times=longest)
    if request.tracks and longest < 2:
        raise UsageError("--tracks: has no effect on 1 time; omit it, or select more, at most 20 minutes apart")
    names = {out: output_names(out, list(middles.values())) for out in request.outs}
    check_outputs(names, request.overwrite, style=request.style)
    if len(middles) > 1:
        outcome.notes.append(f"the scans lie on {len(middles)} grids: formats that need one grid get a file for each")
    scenes: dict[FixedGrid, list[xr.Dataset]] = {}
    for scan, time in time_of.items():
        try:
            scene = predict_scan(model, scans, time, request.tiling, area=request.area, batch=request.batch)
            scenes.setdefault(scan.grid, []).append(scene)
        except ContrailError as error:
            failures.append(error if str(error).startswith(str(time)) else ContrailError(f"{time}: {error}"))
    if not scenes:
        raise failures[0]
    outcome.set_aside.extend(map(str, failures))
    joined = [_with_mask(_joined(parts), request.cleaning, model.decision.gate) for parts in scenes.values()]
    outcome.lines.extend(sorted(_summary(scene.isel(time=i)) for scene in joined for i in range(scene.sizes["time"])))
    separated = request.instances or request.tracks
    for scene in joined:
        outcome.scenes.append(
            SceneContrails(scene=scene, separated=separated, confidence=model.confidence, tracked=request.tracks)
        )
    options: dict[str, Any] = {name: getattr(request, name) for name in ("altitude", "theme", "places", "style")}
    for out in request.outs:
        outcome.paths.extend(write(outcome.scenes, out, names[out], **options))
    return outcome


def contrail_table(
    model: Predictor,
    source: str,
    *,
    times: Sequence[np.datetime64] = (),
    area: Area | None = None,
    tracks: bool = False,
    altitude: float | None = None,
    reader: str | None = None,
) -> "GeoDataFrame":
    """Predict scans and list their single contrails. It needs the extra `geo`.

    Args:
        model: A predictor of masks.
        source: Folder, glob or archive of scans.
        times: Times to predict, UTC. Empty: every scan that has the frames and bands that the model needs.
        area: South, west, north, east in degrees; None for all that is visible.
        tracks: Whether to follow contrails through the times.
        altitude: Metres for which positions are corrected for parallax; None for no correction.
        reader: satpy reader of the files, or auto; None for ABI files.

    Returns:
        One row for each contrail at each time, see `contrail_train.scenes.vectors.to_geodataframe`.

    Raises:
        ContrailError: If no time can be predicted, or the extra is not installed.
        UsageError: If tracks are asked for and there is a single time.
    """
    require_geopandas("a table of contrails")
    request = SceneRequest(
        source=source,
        tiling=Tiling(model.size),
        cleaning=model.cleaning or Cleaning(model.decision.threshold),
        times=times,
        area=area,
        instances=True,
        tracks=tracks,
        reader=reader,
    )
    scenes = predict_files(model.for_masks(), request).scenes
    traced = [contrail for image in trace_all(scenes, altitude) for contrail in image]
    return to_geodataframe(traced, provenance_of([each.scene for each in scenes]))


def _choose_scans(
    model: Predictor, request: SceneRequest
) -> tuple[Sequence[Scan], dict[Scan, np.datetime64], Outcome, list[ContrailError]]:
    """All scans, the time of each scan to predict, what is to be said of them, and the times that have none."""
    listing = _find_scans(model, request)
    outcome = Outcome(notes=list(listing.notes), set_aside=list(listing.problems))
    times = [time.astype("datetime64[s]") for time in sorted(request.times)]
    times = times or _usable_times(model, request, listing.scans, outcome.notes)
    failures: list[ContrailError] = []
    time_of: dict[Scan, np.datetime64] = {}
    for time in times:
        try:
            time_of.setdefault(_scan_at(listing.scans, time, request.tiling), time)
        except ContrailError as error:
            failures.append(error)
    if not time_of:
        raise failures[0]
    return listing.scans, time_of, outcome, failures


def _summary(scene: xr.Dataset) -> str:
    contrail, predicted, size = int(scene["mask"].sum()), int(scene["valid"].sum()), scene["mask"].size
    counts = f"{contrail:,} contrail pixels, {100 * contrail / max(predicted, 1):.3f} % of the predicted ones"
    time = np.datetime_as_string(scene["time"].values, "s")
    return f"{time}: {counts} ({100 * predicted / size:.1f} % of the window)"


def _find_scans(model: Predictor, request: SceneRequest) -> ScanListing:
    bands = from_dict(model.composite).bands
    if request.reader is not None:
        return list_satpy_scans(request.source, request.reader, bands)
    around = spans_around(request.times, **_neighbours(model, request.tiling))
    return list_abi_scans(request.source, bands, spans=around or (ALWAYS,), product=request.product)


def _usable_times(
    model: Predictor, request: SceneRequest, scans: Sequence[Scan], notes: list[str]
) -> list[np.datetime64]:
    times = [
        scan.start
        for scan in scans
        if None not in assign_frames(scans, scan.start, **_neighbours(model, request.tiling))
    ]
    frames = f"frames {list(model.offsets)}, 10 minutes apart"
    if not times:
        raise ContrailError(f"{request.source}: no scan has the {frames}; add scans, or choose a 2D model")
    if len(times) < len(scans):
        notes.append(f"{len(scans) - len(times)} of {len(scans)} scans are not predicted, for want of the {frames}")
    return times


def _neighbours(model: Predictor, tiling: Tiling) -> dict[str, Any]:
    """Arguments of `assign_frames` and `spans_around` for the frames that the model needs."""
    return {"before": -model.offsets[0], "after": model.offsets[-1], "tolerance": tiling.tolerance}


def _series(times: npt.NDArray[np.datetime64]) -> list[npt.NDArray[np.int64]]:
    """Indices of ascending times, divided where neighbours are too far apart to show the same contrails."""
    return np.split(np.arange(len(times)), np.flatnonzero(np.diff(times) > LONGEST_STEP) + 1)


def _with_mask(scene: xr.Dataset, cleaning: Cleaning, gate: float) -> xr.Dataset:
    """The scene with `mask` and `valid`, uint8 (time, y, x)."""
    probability = scene["probability"].values
    valid = ~np.isnan(probability)
    series = _series(scene["time"].values)
    mask = np.concatenate([clean(np.nan_to_num(probability[part]), valid[part], cleaning) for part in series])
    if "gate_score" in scene:
        mask &= scene["gate_score"].values >= gate
    steps = {"threshold": cleaning.threshold, **cleaning.steps}
    axes = ("time", "y", "x")
    return scene.assign(mask=(axes, mask.astype(np.uint8)), valid=(axes, valid.astype(np.uint8))).assign_attrs(
        post_processing=", ".join(f"{name} {value:g}" for name, value in steps.items())
    )


def _joined(scenes: Sequence[xr.Dataset]) -> xr.Dataset:
    """Join scenes on one grid."""
    inputs = sorted({name for scene in scenes for name in scene.attrs["inputs"]})
    joined = xr.concat(
        scenes, "time", data_vars="minimal", coords="minimal", compat="override", combine_attrs="override"
    )
    platforms = ", ".join(dict.fromkeys(str(scene.attrs["platform"]) for scene in scenes))
    return joined.assign_attrs(inputs=inputs, platform=platforms)


def _scan_at(scans: Sequence[Scan], time: np.datetime64, tiling: Tiling) -> Scan:
    """Return the scan that starts nearest to a time."""
    scan = min(scans, key=lambda scan: abs(scan.start - time))
    if abs(scan.start - time) > np.timedelta64(round(60 * tiling.tolerance), "s"):
        raise ContrailError(f"{time}: no scan starts within {tiling.tolerance:g} minutes; choose another time")
    return scan


def _open_frames(model: Predictor, scans: Sequence[Scan], time: np.datetime64, tiling: Tiling) -> list[xr.Dataset]:
    _scan_at(scans, time, tiling)
    window = assign_frames(scans, time, **_neighbours(model, tiling))
    frames = []
    for offset in model.offsets:
        if (scan := window[offset - model.offsets[0]]) is None:
            frame = f"frame {offset:+d} of {list(model.offsets)}, 10 minutes apart"
            raise ContrailError(f"{time}: no scan for {frame}; choose another time, or a 2D model")
        frames.append(scan)
    if any(scan.grid != frames[0].grid for scan in frames):
        raise ContrailError(f"{time}: its scans are on different grids; choose a time when the sector did not move")
    return [scan.open() for scan in frames]


def predict_scan(
    model: Predictor,
    scans: Sequence[Scan],
    time: np.datetime64,
    tiling: Tiling,
    *,
    area: Area | None = None,
    batch: int = 8,
) -> xr.Dataset:
    """Predict the scan that starts nearest to a time.

    Args:
        model: A predictor of masks.
        scans: Scans to choose from, also for the frames before and after.
        time: The time, UTC.
        tiling: How the scan is covered with tiles.
        area: South, west, north, east in degrees; None predicts all that is visible.
        batch: Tiles that are predicted at once.

    Returns:
        On the imager's grid: `probability` float32 (time, y, x), NaN where nothing is predicted; `gate_score` likewise,
        if the model has a gate; the composite `image` uint8 (time, channel, y, x); and `scan_time` (time, y).

    Raises:
        ContrailError: If the time has no scan, a file cannot be read, or the area is not seen.
    """
    scenes = _open_frames(model, scans, time, tiling)
    # predictions are to lie on the image, not on the labels' grid
    model = replace(model.with_fixed_shift(), label_shift=(0.0, 0.0))
    composite = from_dict(model.composite)
    scan = scenes[model.offsets.index(0)]
    full = grid_of(scan)
    rows, columns = window_of_area(full, area)
    scan = scan.assign_coords(scan_time=(("time", "y"), row_times(scan))).isel(y=rows, x=columns)
    grid = full.window(rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start)
    mosaic = Mosaic(grid, tiling, with_score=model.decision.gate > 0)
    plan = strips(grid, tiling, native=model.native, pixel=model.pixel)
    count = sum(map(len, plan))
    if not count:
        raise ContrailError(
            f"nothing is visible within {tiling.max_zenith:g} degrees of zenith angle: raise --max-zenith"
        )
    with progress("scene", count, unit="tiles") as advance:
        for strip, frames in _read_ahead(model, scenes, plan):
            for start in range(0, len(frames), batch):
                tiles, images, valid = zip(*frames[start : start + batch], strict=True)
                predicted = _predict_in_memory(model, np.stack(images), np.stack(valid))
                for tile, p_hw, score in zip(tiles, predicted.probability, predicted.score, strict=True):
                    mosaic.add(tile, p_hw, float(score))
            advance(len(strip))
    image_tcyx = np.empty((1, len(composite.channels), grid.height, grid.width), np.uint8)
    for first in range(0, grid.height, _ROWS):
        part = slice(first, min(first + _ROWS, grid.height))
        window = scan.isel(y=part)
        image_tcyx[:, :, part], valid_yx = _compose(composite, window)
        with np.errstate(invalid="ignore"):
            zenith = satellite_zenith(*grid_of(window).geodetic(), grid.projection.longitude)
            mosaic.average(part, valid_yx & (zenith <= tiling.max_zenith))
    scene = _scene(model, scan, mosaic.probability, image_tcyx)
    if mosaic.score is not None:
        scene["gate_score"] = (("time", "y", "x"), mosaic.score[np.newaxis])
    return scene.assign_attrs(inputs=sorted({name for one in scenes for name in one.attrs["source"]}))


def _read_ahead(
    model: Predictor, scenes: Sequence[xr.Dataset], plan: Sequence[Sequence[Tile]]
) -> Iterator[tuple[Sequence[Tile], list[_TileFrames]]]:
    """Each strip with its tiles' frames, while the next strip is read."""
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(_read_tiles, model, scenes, plan[0])
        for number, strip in enumerate(plan, 1):
            frames = waiting.result()
            if number < len(plan):
                waiting = pool.submit(_read_tiles, model, scenes, plan[number])
            yield strip, frames


def _read_tiles(model: Predictor, scenes: Sequence[xr.Dataset], strip: Sequence[Tile]) -> list[_TileFrames]:
    """The tiles of a strip whose predicted frame has pixels; what they share is read once."""
    composite = from_dict(model.composite)
    windows = [load_window(scene.sel(band=list(composite.bands)), strip) for scene in scenes]
    now = model.offsets.index(0)
    tiles = []
    for tile in strip:
        bands_byxt = np.concatenate([cut(scene, tile) for scene in windows], axis=-1)
        valid_tyx = np.moveaxis(~np.isnan(bands_byxt).any(0), -1, 0)
        if not valid_tyx[now].any():
            continue
        fill_missing(bands_byxt, valid_tyx)
        with np.errstate(invalid="ignore"):
            bands = dict(zip(composite.bands, bands_byxt, strict=True))
            image_tcyx = stored_frames(composite, bands, model.dtype)
        whiten(image_tcyx, valid_tyx | valid_tyx.any((1, 2), keepdims=True))
        tiles.append((tile, image_tcyx, valid_tyx[now]))
    return tiles


def _compose(composite: Composite, window: xr.Dataset) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """The composite of some rows of a scan, uint8 (1, channel, y, x), and where it has pixels, (y, x)."""
    temperature = window["brightness_temperature"].isel(time=0)
    bands = {band: temperature.sel(band=band).values[..., np.newaxis] for band in composite.bands}
    valid_yx = ~np.isnan(np.stack(list(bands.values()))).any((0, -1))
    with np.errstate(invalid="ignore"):
        image_tcyx = stored_frames(composite, bands, np.uint8)
    whiten(image_tcyx, valid_yx[np.newaxis])
    return image_tcyx, valid_yx


def _scene(
    model: Predictor, scan: xr.Dataset, probability_yx: npt.NDArray[np.float32], image_tcyx: npt.NDArray[np.uint8]
) -> xr.Dataset:
    composite = from_dict(model.composite)
    return xr.Dataset(
        {
            "probability": (("time", "y", "x"), probability_yx[np.newaxis]),
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
