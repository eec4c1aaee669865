"""Predicted scenes of the scans that a path or an archive names, written to files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from contrail_data.composites import from_dict
from contrail_data.errors import ContrailError
from contrail_data.sample import FRAME_STEP
from contrail_data.scans.listing import Scan, assign_frames, list_abi_scans, list_satpy_scans
from contrail_train.contrails.cleaning import Cleaning, clean
from contrail_train.inference.predictor import Predictor
from contrail_train.scenes.files import check_outputs, write
from contrail_train.scenes.predict import predict_scans
from contrail_train.scenes.tiling import Area, Tiling


@dataclass(frozen=True, kw_only=True)
class SceneRequest:
    """Which scans to predict, how, and the files to write."""

    source: str
    """Folder, glob or archive of scans."""
    outs: Sequence[Path]
    """Files to write; the suffix of each selects its format."""
    tiling: Tiling
    cleaning: Cleaning
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
    batch: int = 8
    """Tiles that are predicted at once."""
    overwrite: bool = False


def predict_files(model: Predictor, request: SceneRequest) -> tuple[list[str], list[str], list[Path]]:
    """Predict scans and write the scene to files.

    Args:
        model: A predictor of masks.
        request: The scans, how to predict them, and the files.

    Returns:
        Notes on the input, such as files that cannot be read; a line on each predicted scan; and the files written.

    Raises:
        ContrailError: If an output cannot be written, which is checked before anything is predicted, or as of
            `predict_scans`.
    """
    scans, notes = _find_scans(model, request)
    times = list(request.times) or _usable_times(model, request, scans)
    check_outputs(request.outs, request.overwrite)
    scene = predict_scans(model, scans, times, request.tiling, area=request.area, batch=request.batch)
    scene = _with_mask(scene, request.cleaning, model.decision.gate)
    lines = [_summary(scene.isel(time=i)) for i in range(scene.sizes["time"])]
    paths = [path for out in request.outs for path in write(scene, out, altitude=request.altitude)]
    return notes, lines, paths


def _summary(scene: xr.Dataset) -> str:
    contrail, predicted, size = int(scene["mask"].sum()), int(scene["valid"].sum()), scene["mask"].size
    counts = f"{contrail:,} contrail pixels, {100 * contrail / max(predicted, 1):.3f} % of the predicted ones"
    time = np.datetime_as_string(scene["time"].values, "s")
    return f"{time}: {counts} ({100 * predicted / size:.1f} % of the window)"


def _find_scans(model: Predictor, request: SceneRequest) -> tuple[list[Scan], list[str]]:
    """The scans in the source, and notes on it."""
    bands = from_dict(model.composite).bands
    if request.reader is not None:
        return list_satpy_scans(request.source, request.reader, bands).scans, []
    since = until = None
    if request.times:
        tolerance = np.timedelta64(round(request.tiling.tolerance * 60), "s")
        since = min(request.times) + FRAME_STEP * model.offsets[0] - tolerance
        until = max(request.times) + FRAME_STEP * model.offsets[-1] + tolerance
    listing = list_abi_scans(request.source, bands, since=since, until=until, product=request.product)
    return listing.scans, [*listing.notes, *listing.problems]


def _usable_times(model: Predictor, request: SceneRequest, scans: Sequence[Scan]) -> list[np.datetime64]:
    bands = set(from_dict(model.composite).bands)
    first, last = model.offsets[0], model.offsets[-1]
    complete = [scan for scan in scans if bands <= set(scan.bands)]
    times = [
        scan.start
        for scan in complete
        if None not in assign_frames(scans, scan.start, before=-first, after=last, tolerance=request.tiling.tolerance)
    ]
    if complete and not times:
        frames = f"the frames {list(model.offsets)}, 10 minutes apart"
        raise ContrailError(f"{request.source}: no scan has {frames}; add scans, or choose a 2D model")
    return times or [scans[0].start]


def _with_mask(scene: xr.Dataset, cleaning: Cleaning, gate: float) -> xr.Dataset:
    """The scene with `mask` and `valid`, uint8 (time, y, x)."""
    probability = scene["probability"].values
    valid = ~np.isnan(probability)
    mask = clean(np.nan_to_num(probability), valid, cleaning)
    if "gate_score" in scene:
        mask &= scene["gate_score"].values >= gate
    defaults = vars(Cleaning(cleaning.threshold))
    steps = {k: v for k, v in vars(cleaning).items() if k == "threshold" or v != defaults[k]}
    axes = ("time", "y", "x")
    return scene.assign(mask=(axes, mask.astype(np.uint8)), valid=(axes, valid.astype(np.uint8))).assign_attrs(
        post_processing=", ".join(f"{name} {value:g}" for name, value in steps.items())
    )
