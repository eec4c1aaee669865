"""The embedded default data: made-up scenes in the OpenContrails layout, deterministic by (seed, index).

A scene is the surface under water clouds, under one layer of ice (anvils, cirrus, contrails) whose emissivity
grows with wavelength; fields are power-law noise that drifts with the wind of its layer. The brightness
temperature of band b, wavelength l, is T = B_l^-1((1 - e) B_l(T_below) + e B_l(T_ice)) with
e = 1 - exp(-k_b tau) and B_l Planck's law. Coefficients are rounded by eye so that the ash composite of real
records is met in colour and spread; a score reached on such data says nothing about real contrails.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import fft

from contrail_data.errors import ContrailError
from contrail_data.geo.geometry import local_solar_hour, to_geodetic
from contrail_data.sample import RECORD_FRAMES, RECORD_LABELLED_FRAME
from contrail_data.scans.tiles import utm_wkt
from contrail_data.storage.files import write_atomically

LABEL_SHIFT = (0.5, 0.5)  # OpenContrails labels lie this far down and right of the imagery
VERSION = 2  # raise when the same (seed, index) gives other data

Field = npt.NDArray[np.float32]
Mask = npt.NDArray[np.int32]
Rng = np.random.Generator


class _Band(NamedTuple):
    wavelength: float  # micrometre
    cirrus: float  # absorption optical depth of natural ice relative to 11.2 micrometre
    contrail: float  # the same for the small crystals of young contrails
    dry: float  # clear-sky minus band 14, kelvin, in dry air
    moist: float  # added at full moisture
    gas: float  # share of the clear-sky signal that comes from the absorbing gas above
    gas_temperature: float


_BANDS = {
    8: _Band(6.19, 0.95, 0.95, -1.0, 0.0, 0.94, 238.0),
    9: _Band(6.93, 0.95, 0.95, -1.0, 0.0, 0.88, 248.0),
    10: _Band(7.34, 0.95, 0.95, -1.0, 0.0, 0.80, 254.0),
    11: _Band(8.44, 0.86, 0.92, -0.6, -2.5, 0.0, 250.0),
    12: _Band(9.61, 0.90, 0.92, -1.0, -1.0, 0.50, 235.0),
    13: _Band(10.33, 0.95, 0.95, 0.5, 0.7, 0.0, 250.0),
    14: _Band(11.19, 1.00, 1.00, 0.0, 0.0, 0.0, 250.0),
    15: _Band(12.27, 1.10, 1.27, -0.7, -3.4, 0.0, 250.0),
    16: _Band(13.27, 1.15, 1.25, -1.5, -2.0, 0.35, 228.0),
}


class Record(NamedTuple):
    """One synthetic record."""

    bands: dict[int, Field]
    """Band number: brightness temperature, float32 (row, column, time), kelvin."""
    individual: Mask
    """int32 0/1 (row, column, 1, annotator), 4 to 6 annotators."""
    mask: Mask
    """int32 0/1 (row, column, 1): mean(individual) > 0.5, strictly."""


@dataclass(frozen=True)
class _Line:
    """A thin curved object; lengths in pixels, optical depth and sigma at `age` frames after `birth`."""

    row: float  # centre in the labelled frame
    column: float
    angle: float  # radians from the column axis towards increasing rows
    half: float  # half length
    bend: float
    wave: float
    phase: float
    sigma: float
    growth: float  # of sigma a frame
    tau: float  # optical depth of the crest at birth
    decay: float  # frames in which the ice content falls to 1/e
    birth: float
    drift: tuple[float, float]  # rows, columns a frame
    contrail: bool


def write_records(
    root: Path,
    records: int,
    *,
    seed: int = 0,
    validation_fraction: float = 0.2,
    size: int = 256,
    bands: Sequence[int] = (11, 14, 15),
    label_shift: tuple[float, float] = LABEL_SHIFT,
    on_record: Callable[[str], None] | None = None,
    workers: int = 2,
) -> dict[str, int]:
    """Write records 0 .. records-1 of a seed under `root` in the OpenContrails layout.

    `{train,validation}/<record_id>/band_XX.npy` float32 (row, column, time), `human_pixel_masks.npy` int32
    (row, column, 1), `human_individual_masks.npy` int32 (row, column, 1, annotator; train only), then
    `{train,validation}_metadata.json`. A record's bytes depend on (seed, index, size, bands, label_shift) only,
    its split on (index, validation_fraction). Complete records are left alone, so running again resumes and a
    larger `records` extends. `on_record` is called with each record's id, from the calling thread.

    Returns the number of these records by split. Raises ContrailError for arguments out of range, a folder
    that holds other data or other settings, and a folder that cannot be written.
    """
    bands = tuple(sorted(bands))
    _check(records, seed, validation_fraction, size, bands, label_shift, workers)
    settings = {
        "synthetic": VERSION,
        "seed": seed,
        "validation_fraction": validation_fraction,
        "size": size,
        "label_shift": [float(d) for d in label_shift],
    }
    entries = [metadata(seed, i, size) for i in range(records)]
    splits = [_split(i, validation_fraction) for i in range(records)]

    def write(index: int) -> str:
        record_id = str(entries[index]["record_id"])
        folder = root / splits[index] / record_id
        names = [*(f"band_{b:02d}.npy" for b in bands), "human_pixel_masks.npy"]
        if splits[index] == "train":
            names.append("human_individual_masks.npy")
        if not all((folder / n).is_file() for n in names):
            record = synthesize(seed, index, size=size, bands=bands, label_shift=label_shift)
            folder.mkdir(parents=True, exist_ok=True)
            for name, array in zip(names, (*record.bands.values(), record.mask, record.individual), strict=False):
                _save(folder / name, array)
        return record_id

    try:
        _claim(root, settings)
        with ThreadPoolExecutor(workers) as pool:
            futures = [pool.submit(write, i) for i in range(records)]
            try:
                for future in as_completed(futures):
                    record_id = future.result()
                    if on_record is not None:
                        on_record(record_id)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        for split in ("train", "validation"):
            path = root / f"{split}_metadata.json"
            known = json.loads(path.read_bytes()) if path.is_file() else []
            new = [e for e, s in zip(entries, splits, strict=True) if s == split]
            merged = {e["record_id"]: e for e in (*known, *new)}  # a smaller run must not forget a larger one's
            ordered = sorted(merged.values(), key=lambda e: str(e["record_id"]))
            write_atomically(path, [json.dumps(ordered, indent=1).encode()])
    except OSError as error:
        raise ContrailError(f"{root}: cannot be written ({error.strerror}): check space and permissions") from None
    return {split: splits.count(split) for split in ("train", "validation")}


def _check(
    records: int,
    seed: int,
    validation_fraction: float,
    size: int,
    bands: Sequence[int],
    label_shift: tuple[float, float],
    workers: int,
) -> None:
    if records < 1 or workers < 1:
        raise ContrailError(f"records {records}, workers {workers}: give at least 1 of each")
    if seed < 0:
        raise ContrailError(f"seed {seed}: give a whole number from 0")
    if not 0 <= validation_fraction <= 1:
        raise ContrailError(f"validation fraction {validation_fraction}: give a number from 0 to 1")
    if not 32 <= size <= 2048:
        raise ContrailError(f"size {size}: give rows and columns from 32 to 2048")
    if not bands or len(set(bands)) < len(bands) or not set(bands) <= set(_BANDS):
        raise ContrailError(f"bands {','.join(map(str, bands))}: give different ones of 8 to 16")
    if not all(abs(d) <= 8 for d in label_shift):  # NaN fails too
        raise ContrailError(f"label shift {label_shift}: give pixels down and right, at most 8")


_SETTINGS = {"synthetic": "version of contrail"}


def _claim(root: Path, settings: dict[str, Any]) -> None:
    """Mark the folder as synthetic data of these settings. Raises ContrailError when it is something else."""
    marker = root / "synthetic.json"
    if marker.is_file():
        try:
            found = dict(json.loads(marker.read_bytes()))
        except ValueError:
            raise ContrailError(f"{marker}: not readable: choose another folder") from None
        if found != settings:
            changed = ", ".join(_SETTINGS.get(k, k) for k in settings if found.get(k) != settings[k])
            raise ContrailError(f"{root}: holds synthetic records of another {changed}: choose another folder")
        return
    for name in ("zarr.json", "train", "validation", "test", "train_metadata.json", "validation_metadata.json"):
        if (root / name).exists():
            raise ContrailError(f"{root}: holds {name} that is not synthetic: choose another folder")
    root.mkdir(parents=True, exist_ok=True)
    write_atomically(marker, [json.dumps(settings).encode()])


def _save(path: Path, array: npt.NDArray[Any]) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array)
    write_atomically(path, [buffer.getbuffer()])


def _split(index: int, validation_fraction: float) -> str:
    """Validation records spread evenly: among the first n there are n * validation_fraction, rounded."""
    before, after = (math.floor(i * validation_fraction + 0.5) for i in (index, index + 1))
    return "validation" if after > before else "train"


# ---------------------------------------------------------------------------------------------- time and place


def metadata(seed: int, index: int, size: int = 256) -> dict[str, Any]:
    """The entry of record `index` in `{split}_metadata.json`: record_id, projection_wkt, row_min, row_size,
    col_min, col_size (metres; row_size negative, (row_min, col_min) the outer upper-left corner), timestamp
    (POSIX seconds UTC, of the labelled frame).
    """
    rng = _rng(seed, index, 0)
    latitude, longitude = _site(seed, index)
    wkt = utm_wkt(longitude)
    easting, northing = to_geodetic(wkt).transform(longitude, latitude, direction="INVERSE")
    site = _rng(seed, round(latitude * 100) + 10_000, round(longitude * 100) + 40_000)
    row_size, col_size = -site.uniform(1900, 2050), site.uniform(1860, 2060)
    start = 1554336000 + 1200 * int(rng.integers(0, 72 * 366))  # 2019-04-04T00:00Z, 20-minute slots, one year
    return {
        # Multiplication by a number coprime to the modulus: no two records of a seed share an id.
        "record_id": str(
            10**15 + (index * 6364136223846793005 + int(_rng(seed, 0, 5).integers(2**62))) % (9998 * 10**15 + 2)
        ),
        "projection_wkt": wkt,
        "row_min": round(northing - row_size * size / 2, 3),
        "row_size": round(row_size, 6),
        "col_min": round(easting - col_size * size / 2, 3),
        "col_size": round(col_size, 6),
        "timestamp": float(start),
    }


def _site(seed: int, index: int) -> tuple[float, float]:
    """Latitude, longitude of the tile's centre, on the dataset's lattice of about 4.5 degrees of arc over the
    Americas; three records in a row share a site.
    """
    rng = _rng(seed, index // 3, 1)
    latitude = -41.0 + 4.5 * int(rng.integers(0, 19))
    step = 4.5 / math.cos(math.radians(latitude))
    return latitude, -119.0 + step * int(rng.integers(0, int(87 / step) + 1))


def _rng(seed: int, *key: int) -> Rng:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *key])))


# --------------------------------------------------------------------------------------------------- the scene


def synthesize(
    seed: int,
    index: int,
    *,
    size: int = 256,
    bands: Sequence[int] = (11, 14, 15),
    label_shift: tuple[float, float] = LABEL_SHIFT,
) -> Record:
    """Record `index` of a seed: pure, and the same imagery whatever `label_shift` and the other bands asked for.

    Eight frames at 10-minute steps on `size` x `size` pixels of 2 km; labels are of frame 4 and rasterised
    `label_shift` = (rows, columns) pixels down and right of the imagery.
    """
    latitude, longitude = _site(seed, index)
    time = np.datetime64(int(metadata(seed, index)["timestamp"]), "s")
    hour = float(local_solar_hour(longitude, time))
    day = float(time.astype("datetime64[D]").astype(int) % 365.25)
    season = math.copysign(1, latitude) * math.cos(2 * math.pi * (day - 200) / 365)  # 1 in midsummer
    rng = _rng(seed, index, 2)
    place = _rng(seed, round(latitude * 100) + 10_000, round(longitude * 100) + 50_000)
    n = fft.next_fast_len(size + size // 4, real=True)  # wider than the tile, so that its edges do not join

    def field(random: Rng, slope: float, **shape: Any) -> Field:
        return _noise(random, n, slope, **shape)[:, :size, :size]

    # Moisture sets the split-window difference of clear sky: moist in the tropics and in summer.
    moisture = float(np.clip(rng.normal(0.96 - 0.010 * abs(latitude) + 0.15 * season, 0.24), 0.02, 1.1))
    front = _front(rng, size, field(rng, 2.2)[0])
    moist = moisture * (1 + 0.3 * front * rng.uniform(-1, 1)) + 0.06 * field(rng, 2.2)[0]

    sea = 300.0 - 0.0095 * latitude**2 + 2.5 * season * abs(latitude) / 40 + rng.normal(0, 2)
    land, relief, bare = _land(place, field)
    diurnal = rng.uniform(4, 13) * math.cos((hour - 13.5) * math.pi / 12) * (1.3 - 0.6 * moisture)
    warm = diurnal + season * abs(latitude) / 8 + rng.normal(0, 2)
    surface = sea + land * (warm + relief * (1.5 - diurnal / 20)) + rng.uniform(0, 6) * front * (0.4 + 0.6 * land)
    surface = surface - 4.0 * moist + 0.3 * field(rng, 1.7)[0]

    # Winds: rows and columns a frame; the high wind is stronger and turned against the low one.
    heading = rng.uniform(0, 2 * np.pi)
    low, high = _wind(heading, rng.uniform(0.8, 2)), _wind(heading + rng.normal(0, 0.6), rng.uniform(1.5, 4))
    height, cover = _water_clouds(rng, field, low, heading)
    ice, top, streak_angle = _ice(rng, field, high, heading)
    tropopause = 212.0 + 0.2 * abs(latitude) - 4 * moisture + rng.normal(0, 4)
    lines = _lines(rng, size, streak_angle, high)
    contrail = np.zeros((RECORD_FRAMES, size, size), np.float32)
    for line in lines:
        for t in range(RECORD_FRAMES):
            _draw((contrail if line.contrail else ice)[t], line, t)
    # Thin ice radiates from inside the layer, thick ice from its top.
    ice_temperature = np.maximum(tropopause + top + 14.0 * np.exp(-0.4 * ice), 190.0)

    lapse = np.float32(rng.uniform(4.5, 6.5))
    steps = np.arange(RECORD_FRAMES, dtype=np.float32)[:, None, None] - RECORD_LABELLED_FRAME
    window = surface + np.float32(0.25 * rng.normal()) * steps - cover * lapse * height
    dry_above = np.exp(-height / 2.2)  # of the moisture, the part above a cloud's top
    haze = moist * (1 - cover * (1 - dry_above))
    images = {}
    for band in bands:
        b = _BANDS[band]
        offset = b.dry * (1 - 0.6 * cover) + b.moist * haze
        if band == 11:
            offset = offset - bare * (1 - cover) - 0.5 * cover  # quartz, droplets emit less at 8.4
        below = (1 - b.gas) * (window + offset) + b.gas * (b.gas_temperature + 5 * b.gas * (0.5 - moist))
        above = (1 - 0.4 * b.gas) * ice_temperature + 0.4 * b.gas * b.gas_temperature
        if band == 11:
            above = above + 0.9 * np.minimum(ice, 1)  # large crystals scatter: thick ice is warmer at 8.4
        elif band == 15:
            above = above - 0.35
        k = np.float32(14387.77 / b.wavelength)  # second radiation constant in micrometre kelvin
        seen = np.exp(-np.float32(b.cirrus) * ice - np.float32(b.contrail) * contrail)
        radiance = 1 / np.expm1(k / above)
        radiance += seen * (1 / np.expm1(k / below) - radiance)
        temperature = k / np.log1p(1 / radiance)
        temperature += _sensor_noise(_rng(seed, index, 3, band), size)
        images[band] = np.ascontiguousarray(np.moveaxis(temperature, 0, -1), np.float32)
    contrast = (window[RECORD_LABELLED_FRAME] - ice_temperature[RECORD_LABELLED_FRAME]) * np.exp(
        -ice[RECORD_LABELLED_FRAME]
    )
    individual = _annotate(_rng(seed, index, 4), lines, contrast, label_shift)
    mask = (2 * individual.sum(-1) > individual.shape[-1]).astype(np.int32)
    return Record(images, individual, mask)


def _wind(heading: float, speed: float) -> tuple[float, float]:
    return speed * math.sin(heading), speed * math.cos(heading)


@lru_cache(maxsize=4)
def _wavenumbers(n: int) -> tuple[Field, Field]:
    """Rows (n, 1) and columns (1, n // 2 + 1) of a real transform, cycles a pixel."""
    return fft.fftfreq(n).astype(np.float32)[:, None], fft.rfftfreq(n).astype(np.float32)[None]


def _noise(
    rng: Rng,
    n: int,
    slope: float,
    *,
    drift: tuple[float, float] | None = None,
    turn: float = 0.0,
    stretch: float = 1.0,
    angle: float = 0.0,
    wavelength: float = 0.0,
) -> Field:
    """Gaussian noise of unit variance and amplitude spectrum |k|^-slope, float32 (frames, n, n); periodic.

    With `drift` (rows, columns a frame) there are 8 frames, at rest in frame 4, that also change by mixing in a
    second field at `turn` radians a frame; else one frame. `stretch` lengthens features along `angle`;
    `wavelength` (pixels) adds a ridge across `angle`, as of cloud streets.
    """
    ky, kx = _wavenumbers(n)
    along = (kx * math.cos(angle) + ky * math.sin(angle)) * stretch
    across = ky * math.cos(angle) - kx * math.sin(angle)
    k2 = along**2 + across**2
    amplitude = (k2 + np.float32(0.5 / n**2)) ** np.float32(-slope / 2)
    if wavelength:
        peak = np.exp(-0.5 * ((np.sqrt(k2) - 1 / wavelength) * wavelength * 2) ** 2)
        amplitude += peak * np.float32(0.5 * math.sqrt(float((amplitude**2).sum() / (peak**2).sum())))
    amplitude[0, 0] = 0

    def spectrum() -> npt.NDArray[np.complex64]:
        parts = rng.standard_normal((*k2.shape, 2), dtype=np.float32)
        values: npt.NDArray[np.complex64] = parts.view(np.complex64)[..., 0] * amplitude
        return values

    first = spectrum()[None]
    if drift is not None:
        steps = np.arange(RECORD_FRAMES, dtype=np.float32)[:, None, None] - RECORD_LABELLED_FRAME
        if turn:
            first = first * np.cos(turn * steps) + spectrum() * np.sin(turn * steps)
        turns = np.complex64(-2j * np.pi) * steps
        first = first * np.exp(turns * (ky * drift[0])) * np.exp(turns * (kx * drift[1]))
    fields = fft.irfft2(first, s=(n, n), overwrite_x=True)
    fields *= 1 / fields[-1].std()
    return np.asarray(fields, np.float32)


def _front(rng: Rng, size: int, wiggle: Field) -> Field:
    """A bending transition from -1 to 1 across the tile, (size, size)."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = (
        (np.arange(size, dtype=np.float32) / size - 0.5)[:, None],
        (np.arange(size, dtype=np.float32) / size - 0.5),
    )
    across = y * math.cos(angle) - x * math.sin(angle) + rng.uniform(-0.3, 0.3) + 0.08 * wiggle
    return np.asarray(np.tanh(across / float(rng.choice([0.04, 0.12, 0.4]))), np.float32)


def _land(rng: Rng, field: Callable[..., Field]) -> tuple[Field, Field, Field]:
    """Share of land in [0, 1]; its relief and rivers, kelvin; its lack of 8.4 micrometre emissivity, kelvin;
    each (size, size), the same for every record of a site.
    """
    shape, hills = field(rng, 2.0)[0], field(rng, 1.6)[0]
    land = np.clip((shape - rng.normal(0, 1.1)) * 12, 0, 1)
    river = np.exp(-((hills - shape) ** 2) * 900) * land
    bare = float(rng.choice([0.1, 0.3, 1.2])) * np.clip(1 + 0.3 * hills, 0, None) * land
    return land, 0.9 * hills - rng.uniform(-2, 3) * river, bare


def _water_clouds(
    rng: Rng, field: Callable[..., Field], drift: tuple[float, float], heading: float
) -> tuple[Field, Field]:
    """Top height in km and cover in [0, 1], each (frames, size, size)."""
    streets = rng.random() < 0.4
    shape = field(
        rng,
        rng.uniform(1.15, 1.6),
        drift=drift,
        turn=0.05,
        wavelength=rng.uniform(5, 10) if streets else 0.0,
        stretch=2.0 if streets else 1.0,
        angle=heading,
    )
    excess = shape - np.float32(rng.normal(0.9, 1.0) + 0.3 * streets)
    height = np.clip(rng.uniform(0.6, 3.2) + excess * rng.uniform(0.2, 1.3), 0.3, 6.5)
    cover = np.clip(excess * rng.uniform(0.8, 3), 0, 1)
    return np.asarray(height, np.float32), np.asarray(cover, np.float32)


def _ice(
    rng: Rng, field: Callable[..., Field], drift: tuple[float, float], heading: float
) -> tuple[Field, Field, float]:
    """Optical depth at 11.2 micrometre of anvils and cirrus, their top's excess over the tropopause in kelvin,
    each (frames, size, size), and the streaks' angle.
    """
    angle = heading + rng.normal(0, 0.5)
    streaks = field(rng, 1.45, drift=drift, turn=0.02, stretch=rng.uniform(2, 7), angle=angle)
    deck = field(rng, 1.9, drift=drift, turn=0.03) + np.float32(0.16) * streaks  # fringed along the wind
    excess = np.clip(deck - np.float32(rng.normal(1.4, 1.0)), 0, None)
    depth = 5 * excess * np.sqrt(excess)
    patch = field(rng, 2.2, drift=drift)
    cover = np.clip(streaks + patch - np.float32(rng.normal(0.9, 0.9)), 0, None)
    depth += np.float32(rng.uniform(0.08, 0.45)) * cover * np.sqrt(cover)
    # Tops rise where the cloud is thick, and never quite evenly.
    top = rng.uniform(0, 14) - np.float32(rng.uniform(2, 9)) * excess * (1 + np.float32(0.3) * streaks)
    return np.asarray(depth, np.float32), np.asarray(top, np.float32), angle


def _sensor_noise(rng: Rng, size: int) -> Field:
    """(frames, size, size) kelvin: white noise of 0.1 K after the two-tap average that bilinear resampling is.

    That leaves 0.05 K; smooth real scenes have 0.03 to 0.05 K left in one band.
    """
    raw = rng.random((RECORD_FRAMES, size + 1, size + 1), dtype=np.float32)
    raw = raw[:, 1:] + raw[:, :-1]
    raw = raw[:, :, 1:] + raw[:, :, :-1]
    raw -= 2
    raw *= np.float32(0.1 * math.sqrt(12) / 4)
    return raw


# --------------------------------------------------------------------------------------- contrails and labels


_END = 5.0  # pixels, at most, that an annotator's end of a line lies off the line's own


def _lines(rng: Rng, size: int, streak_angle: float, wind: tuple[float, float]) -> list[_Line]:
    """Contrails in groups of nearly parallel ones, or none, and two kinds of streaks that are none: wide fuzzy
    ones, and lee waves, which look like contrails in every single frame but stand still in the wind.
    """
    lines = []
    scale = size / 256
    groups = 1 + int(rng.poisson(1.2 * scale)) if rng.random() < 0.52 else 0
    waves = int(rng.poisson(1.2 * scale)) if rng.random() < 0.6 else 0
    for group in range(groups + waves):
        contrail = group < groups
        angle, spot = rng.uniform(0, np.pi), rng.uniform(0.1, 0.9, 2) * size
        strength = rng.uniform(0.5, 1.2)
        for _ in range(rng.geometric(1 / (1 + 4.0 * scale))):
            sigma, birth = rng.uniform(0.55, 1.0), rng.uniform(-7, 6)
            drift = (wind[0] + rng.normal(0, 0.15), wind[1] + rng.normal(0, 0.15)) if contrail else (0.0, 0.0)
            half = float(np.clip(22 * min(scale, 1) ** 0.5 * rng.lognormal(0, 0.65), 7, 110))
            row, column = spot + rng.normal(0, 28 * min(scale, 2), 2)
            lines.append(
                _Line(
                    row=float(row),
                    column=float(column),
                    angle=angle + rng.normal(0, 0.12),
                    half=half,
                    bend=rng.normal(0, 0.04) * half,
                    wave=rng.normal(0, 0.02) * min(half, 30),
                    phase=rng.uniform(0, 2 * np.pi),
                    sigma=sigma,
                    growth=rng.uniform(0.02, 0.14),
                    tau=strength * rng.lognormal(-1.5, 0.5),
                    decay=rng.uniform(5, 16),
                    birth=birth,
                    drift=drift,
                    contrail=contrail,
                )
            )
    for _ in range(rng.poisson(1.2)):
        half = rng.uniform(15, 70)
        lines.append(
            _Line(
                row=rng.uniform(0, size),
                column=rng.uniform(0, size),
                angle=streak_angle + rng.normal(0, 0.3),
                half=half,
                bend=rng.normal(0, 0.15) * half,
                wave=rng.normal(0, 3),
                phase=rng.uniform(0, 2 * np.pi),
                sigma=rng.uniform(2.5, 6),
                growth=0.05,
                tau=rng.uniform(0.03, 0.15),
                decay=40.0,
                birth=-10.0,
                drift=wind,
                contrail=False,
            )
        )
    return lines


def _near(
    line: _Line, shape: tuple[int, int], frame: float, reach: float, shift: tuple[float, float] = (0.0, 0.0)
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Rows, columns of the pixels within `reach` across the line (each once), and where they lie: pixels along
    it from its centre, and across it from its curved axis. `shift` moves the line by rows, columns.
    """
    uy, ux = math.sin(line.angle), math.cos(line.angle)
    t = frame - RECORD_LABELLED_FRAME
    row, column = line.row + line.drift[0] * t + shift[0], line.column + line.drift[1] * t + shift[1]
    steep = abs(uy) > abs(ux)
    (major, minor), (um, un) = ((row, column), (uy, ux)) if steep else ((column, row), (ux, uy))
    span = (line.half + reach + _END) * abs(um)
    first = max(math.floor(major - span), 0)
    last = min(math.ceil(major + span), shape[0 if steep else 1] - 1)
    m = np.arange(first, last + 1)[:, None]
    side = -um if steep else um  # of the unit vector across the line, (ux, -uy) in (rows, columns)
    centre = minor + (m - major) * (un / um) + _axis(line, (m - major) / um) / side
    k = math.ceil(reach / abs(um)) + 1
    other = np.rint(centre).astype(np.intp) + np.arange(-k, k + 1)
    rows, columns = np.broadcast_arrays(*((m, other) if steep else (other, m)))
    inside = (other >= 0) & (other < shape[1 if steep else 0])
    rows, columns = rows[inside], columns[inside]
    along = (rows - row) * uy + (columns - column) * ux
    across = (rows - row) * ux - (columns - column) * uy - _axis(line, along)
    return rows, columns, along, across


def _axis(line: _Line, along: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """The curved axis: its distance from the straight one."""
    u = along / line.half
    return np.asarray(line.bend * (u**2 - 1 / 3) + line.wave * np.sin(4 * u + line.phase))


def _profile(line: _Line, frame: float) -> tuple[float, float]:
    """Crest optical depth and sigma in a frame; depth 0 before birth. Spreading dilutes, ice decays."""
    age = frame - line.birth
    if age < 0:
        return 0.0, line.sigma
    sigma = line.sigma + line.growth * age
    return line.tau * line.sigma / sigma * math.exp(-age / line.decay), sigma


def _draw(tau: Field, line: _Line, frame: int) -> None:
    """Add the line's optical depth in a frame to `tau` (size, size)."""
    depth, sigma = _profile(line, frame)
    if depth < 0.003:
        return
    rows, columns, along, across = _near(line, (tau.shape[0], tau.shape[1]), frame, 3 * sigma)
    u = along / line.half
    ends = np.clip((1 - np.abs(u)) * line.half / (3 * sigma) + 0.5, 0, 1)
    gaps = 1 + 0.3 * np.sin(line.half / 4 * u + 7 * line.phase)
    tau[rows, columns] += depth * np.exp(-0.5 * (across / sigma) ** 2) * ends * gaps


def _annotate(rng: Rng, lines: Sequence[_Line], contrast: Field, shift: tuple[float, float]) -> Mask:
    """What 4 to 6 annotators marked in the labelled frame, int32 (row, column, 1, annotator).

    `contrast` (row, column): kelvin that opaque ice would darken the pixel by. Each annotator misses faint
    lines, places ends and edges on their own; a few streaks are taken for contrails by some of them.
    """
    shape = (contrast.shape[0], contrast.shape[1])
    count = int(rng.choice([4, 5, 6], p=[0.7, 0.2, 0.1]))
    marks = np.zeros((*shape, 1, count), np.int32)
    for line in lines:
        depth, sigma = _profile(line, RECORD_LABELLED_FRAME)
        draws = np.clip(rng.normal(size=(count, 5)), -2.5, 2.5)
        streak = rng.random(count) < (0.4 if rng.random() < 0.06 else 0.0)
        # Seen in the imagery: no label shift here.
        rows, columns, along, across = _near(line, shape, RECORD_LABELLED_FRAME, 1.0)
        on = (np.abs(across) <= 0.71) & (np.abs(along) <= line.half)
        if on.sum() < 9:  # the labelling guide wants at least 10 pixels of length
            continue
        signal = float(contrast[rows[on], columns[on]].mean()) * -math.expm1(-depth)
        for r in range(count):
            if not (streak[r] if not line.contrail else signal > 2.8 * math.exp(0.3 * draws[r, 0])):
                continue
            width = (0.8 + 0.75 * sigma) * math.exp(0.3 * draws[r, 1])
            rows, columns, along, across = _near(line, shape, RECORD_LABELLED_FRAME, width + 1.25, shift)
            start, stop = -line.half + _END / 2.5 * draws[r, 2], line.half + _END / 2.5 * draws[r, 3]
            marked = (np.abs(across - 0.5 * draws[r, 4]) <= width) & (along >= start) & (along <= stop)
            marks[rows[marked], columns[marked], 0, r] = 1
    return marks
