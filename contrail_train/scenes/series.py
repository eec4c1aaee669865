"""Scans that a path or an archive names, predicted and written to files."""

import logging
import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from contrail_data.composites import from_dict
from contrail_data.errors import ContrailError, UsageError
from contrail_data.geo.areas import Area
from contrail_data.geo.fixed_grid import FixedGrid
from contrail_data.reports.choices import Theme
from contrail_data.scans.abi_files import ALWAYS
from contrail_data.scans.listing import (
    Scan,
    ScanListing,
    assign_frames,
    list_abi_scans,
    list_satpy_scans,
    scans_of,
    spans_around,
)
from contrail_data.scans.scene import require_bands
from contrail_train.contrails.cleaning import Cleaning, clean
from contrail_train.inference.predictor import Predictor
from contrail_train.scenes.contrails import LONGEST_STEP, SceneContrails
from contrail_train.scenes.files import PICTURES, check_outputs, output_names, trace_all, write
from contrail_train.scenes.frames import frames_at, in_seconds, neighbours, scan_at
from contrail_train.scenes.kept import forget, keep, kept_file, read_kept
from contrail_train.scenes.predict import predict_scan, predicted_planes
from contrail_train.scenes.tiling import Tiling
from contrail_train.scenes.vectors import provenance_of, require_geopandas, to_geodataframe

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

log = logging.getLogger(__name__)


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
    since: np.datetime64 | None = None
    """Without times: earliest start of a scan to predict, UTC."""
    until: np.datetime64 | None = None
    """Without times: latest start of a scan to predict, UTC."""
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
    """Whether contrails that cross, touch or are broken are separated, rather than each region being one contrail."""
    tracks: bool = False
    """Whether contrails are followed through the times; implies `instances`."""
    style: bool = False
    """Whether a style for QGIS is written beside each GeoJSON file."""
    batch: int = 8
    """Tiles that are predicted at once."""
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of `predict_files`."""

    notes: list[str]
    """What the user should know."""
    set_aside: list[str]
    """One line for each file, scan or time that could not be used."""
    lines: list[str] = field(default_factory=list)
    """One line on each predicted scan."""
    scenes: list[SceneContrails] = field(default_factory=list)
    """The predicted scenes, one for each grid; with their `image` if contrails are tracked or pictures drawn."""
    paths: list[Path] = field(default_factory=list)
    """The files written."""


class _Joining:
    """Scenes on one grid, which are joined as they come, so that not all of them are held twice.

    Args:
        most: Number of scenes at most.
    """

    def __init__(self, most: int):
        self._most = most
        self._planes: dict[Hashable, tuple[Any, npt.NDArray[Any]]] = {}
        self._others: list[xr.Dataset] = []

    def add(self, scene: xr.Dataset) -> None:
        """Add a scene.

        Args:
            scene: A scene of one time, as of `predict_scan`.
        """
        for name, plane in scene.data_vars.items():
            if name not in self._planes:
                self._planes[name] = plane.dims, np.empty((self._most, *plane.shape[1:]), plane.dtype)
            self._planes[name][1][len(self._others)] = plane.values[0]
        self._others.append(scene.drop_vars(list(scene.data_vars)))

    def join(self) -> xr.Dataset:
        """Join the scenes along time.

        Returns:
            The scene of all times.
        """
        joined = xr.concat(self._others, "time", coords="minimal", compat="override", combine_attrs="override")
        inputs = sorted({name for scene in self._others for name in scene.attrs["inputs"]})
        platforms = ", ".join(dict.fromkeys(str(scene.attrs["platform"]) for scene in self._others))
        planes = {name: (dims, values[: len(self._others)]) for name, (dims, values) in self._planes.items()}
        return xr.Dataset(planes, joined.coords, joined.attrs | {"inputs": inputs, "platform": platforms})


def predict_files(model: Predictor, request: SceneRequest) -> Outcome:
    """Predict scans and write them to files.

    A time that cannot be predicted is set aside, unless it is the only one. Scans on several grids (of a mesoscale
    sector that moved) become one file per grid in formats that need a common one. Of several times, those that an
    interrupted call has predicted are not predicted again: they are kept in the cache until all outputs are written.

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
    longest = max(map(_longest, middles.values()))
    request.cleaning.check(times=longest)
    if request.tracks and longest < 2:
        raise UsageError("--tracks: has no effect on 1 time; omit it, or select more, at most 20 minutes apart")
    names = {out: output_names(out, list(middles.values())) for out in request.outs}
    check_outputs(names, request.overwrite, style=request.style)
    if len(middles) > 1:
        outcome.notes.append(f"the scans lie on {len(middles)} grids: formats that need one grid get a file for each")
    scenes, kept = _predict_each(model, scans, time_of, request, outcome.notes, failures)
    if not scenes:
        raise failures[0]
    outcome.set_aside.extend(map(str, failures))
    joined = [_with_mask(scene, request.cleaning, model.decision.gate) for scene in scenes]
    outcome.lines.extend(sorted(_summary(scene.isel(time=i)) for scene in joined for i in range(scene.sizes["time"])))
    separated = request.instances or request.tracks
    for scene in joined:
        outcome.scenes.append(
            SceneContrails(scene=scene, separated=separated, confidence=model.confidence, tracked=request.tracks)
        )
    options: dict[str, Any] = {name: getattr(request, name) for name in ("altitude", "theme", "places", "style")}
    for out in request.outs:
        outcome.paths.extend(write(outcome.scenes, out, names[out], **options))
    forget(kept)
    return outcome


def predict_scene(model: Predictor, scene: xr.Dataset, batch: int = 8) -> xr.Dataset:
    """Predict the scans of an open scene, all that have the frames that the model needs.

    Args:
        model: A predictor of masks.
        scene: The scene, or a window of it.
        batch: Tiles that are predicted at once.

    Returns:
        `probability`, `mask`, `valid` and more on the imager's grid, (time, y, x), as `contrail-train predict-scans`
        writes them.

    Raises:
        ContrailError: If the scene is empty, lacks a band, or has no scan with all of these frames.
    """
    if not all(scene.sizes.get(axis, 0) for axis in ("time", "band", "y", "x")):
        raise ContrailError(f"scene: has no pixels ({dict(scene.sizes)}); select some along time, band, y and x")
    model = model.with_fixed_shift()  # scans have no label grid
    require_bands("scene", from_dict(model.composite).bands, scene["band"].values.tolist())
    cleaning = model.cleaning or Cleaning(model.decision.threshold)
    request = SceneRequest(source="scene", tiling=Tiling(model.size), cleaning=cleaning)
    scans, notes = scans_of(scene), list[str]()
    times = _usable_times(model, request, scans, notes)
    cleaning.check(times=_longest(times))
    for note in notes:
        warnings.warn(note, stacklevel=3)
    joining = _Joining(len(times))
    for time in times:
        joining.add(predict_scan(model, scans, time, request.tiling, batch=batch))
    return _with_mask(joining.join(), cleaning, model.decision.gate)


def contrail_table(
    model: Predictor,
    source: str,
    *,
    times: Sequence[np.datetime64] = (),
    since: np.datetime64 | None = None,
    until: np.datetime64 | None = None,
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
        since: Without times: earliest start of a scan to predict, UTC.
        until: Without times: latest start of a scan to predict, UTC.
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
        since=since,
        until=until,
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
    """All scans, the time of each scan to predict, an outcome with notes on them, and the times without a scan."""
    listing = _find_scans(model, request)
    outcome = Outcome(notes=list(listing.notes), set_aside=list(listing.problems))
    times = [time.astype("datetime64[s]") for time in sorted(request.times)]
    times = times or _usable_times(model, request, listing.scans, outcome.notes)
    failures: list[ContrailError] = []
    time_of: dict[Scan, np.datetime64] = {}
    for time in times:
        try:
            time_of.setdefault(scan_at(listing.scans, time, request.tiling), time)
        except ContrailError as error:
            failures.append(error)
    if not time_of:
        raise failures[0]
    return listing.scans, time_of, outcome, failures


def _find_scans(model: Predictor, request: SceneRequest) -> ScanListing:
    bands = from_dict(model.composite).bands
    if request.reader is not None:
        return list_satpy_scans(request.source, request.reader, bands)
    frames = neighbours(model, request.tiling)
    spans = spans_around(request.times, **frames)
    if not spans:
        first = ALWAYS[0] if request.since is None else spans_around([request.since], **frames)[0][0]
        last = ALWAYS[1] if request.until is None else spans_around([request.until], **frames)[0][1]
        spans = [(first, last)]
    return list_abi_scans(request.source, bands, spans=spans, product=request.product)


def _usable_times(
    model: Predictor, request: SceneRequest, scans: Sequence[Scan], notes: list[str]
) -> list[np.datetime64]:
    asked = [
        scan
        for scan in scans
        if (request.since is None or scan.start >= request.since)
        and (request.until is None or scan.start <= request.until)
    ]
    if not asked:
        first, last = (in_seconds(end(scan.start for scan in scans)) for end in (min, max))
        there = f"the only scan starts at {first}" if first == last else f"the scans start from {first} to {last}"
        raise ContrailError(f"{request.source}: no scan starts between --since and --until; {there}")
    times = [
        scan.start
        for scan in asked
        if None not in assign_frames(scans, scan.start, **neighbours(model, request.tiling))
    ]
    frames = f"frames {list(model.offsets)}, 10 minutes apart"
    if not times:
        raise ContrailError(f"{request.source}: no scan has the {frames}; add scans, or choose a 2D model")
    if len(times) < len(asked):
        notes.append(f"{len(asked) - len(times)} of {len(asked)} scans are not predicted, for want of the {frames}")
    return times


def _predict_each(
    model: Predictor,
    scans: Sequence[Scan],
    time_of: Mapping[Scan, np.datetime64],
    request: SceneRequest,
    notes: list[str],
    failures: list[ContrailError],
) -> tuple[list[xr.Dataset], list[Path]]:
    """Predict scans; returns a scene for each grid, and where the predictions are kept."""
    with_image = request.tracks or any(out.suffix in PICTURES for out in request.outs)
    scenes: dict[FixedGrid, _Joining] = {}
    kept: list[Path] = []
    found, keeps = 0, len(time_of) > 1
    for scan, time in time_of.items():
        try:
            frames = frames_at(model, scans, time, request.tiling)
            file = kept_file(model, frames, request.tiling, request.area, request.batch)
            before_nyx = read_kept(file) if keeps else None
            scene = predict_scan(
                *(model, scans, time, request.tiling),
                area=request.area,
                batch=request.batch,
                with_image=with_image,
                predicted_nyx=before_nyx,
            )
        except ContrailError as error:
            where = in_seconds(time)
            failures.append(error if str(error).startswith(where) else ContrailError(f"{where}: {error}"))
            continue
        scenes.setdefault(scan.grid, _Joining(len(time_of))).add(scene)
        found += before_nyx is not None
        if keeps:
            kept.append(file)
            keeps = before_nyx is not None or _keep_or_warn(file, scene)
    if found:
        notes.append(f"{found} of {len(time_of)} scans had been predicted by a command that did not finish")
    return [joining.join() for joining in scenes.values()], kept


def _keep_or_warn(file: Path, scene: xr.Dataset) -> bool:
    """Keep a predicted scan; returns whether that was possible."""
    try:
        keep(file, predicted_planes(scene))
    except ContrailError as error:
        log.warning("if it is interrupted, the command will predict all scans again: %s", error)
        return False
    return True


def _breaks(times: npt.NDArray[np.datetime64]) -> npt.NDArray[np.int64]:
    """Where to divide ascending times, as neighbours are too far apart to show the same contrails."""
    return np.flatnonzero(np.diff(times) > LONGEST_STEP) + 1


def _longest(times: Sequence[np.datetime64]) -> int:
    """The number of times of the longest series that shows the same contrails."""
    return max(map(len, np.split(times, _breaks(np.array(times)))))


def _with_mask(scene: xr.Dataset, cleaning: Cleaning, gate: float) -> xr.Dataset:
    """The scene with `mask` and `valid`, uint8 (time, y, x)."""
    breaks, probability = _breaks(scene["time"].values), scene["probability"].values
    valid = ~np.isnan(probability)
    series = zip(np.split(probability, breaks), np.split(valid, breaks), strict=True)
    mask = np.concatenate([clean(*part, cleaning) for part in series])
    if "gate_score" in scene:
        mask &= scene["gate_score"].values >= gate
    steps = {"threshold": cleaning.threshold, **cleaning.steps}
    axes = ("time", "y", "x")
    return scene.assign(mask=(axes, mask.view(np.uint8)), valid=(axes, valid.view(np.uint8))).assign_attrs(
        post_processing=", ".join(f"{name} {value:g}" for name, value in steps.items())
    )


def _summary(scene: xr.Dataset) -> str:
    contrail, predicted, size = int(scene["mask"].sum()), int(scene["valid"].sum()), scene["mask"].size
    counts = f"{contrail:,} contrail pixels, {100 * contrail / max(predicted, 1):.3f} % of the predicted ones"
    time = np.datetime_as_string(scene["time"].values, "s")
    return f"{time}: {counts} ({100 * predicted / size:.1f} % of the window)"
