"""A synthetic scene: brightness temperatures of a record and its labels, a pure function of (seed, index).

A scene is the surface below water clouds below one layer of ice (anvils, cirrus, contrails) whose emissivity grows with
wavelength. Fields are power-law noise that drifts with the wind of its layer. The brightness temperature of band b
with wavelength l is T = B_l^-1((1 - e) B_l(T_below) + e B_l(T_ice)), where e = 1 - exp(-k_b tau) and B_l is Planck's
law. The coefficients are rounded so that colours and spread of the ash composite are like those of real records.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import fft

from contrail_data.errors import ContrailError
from contrail_data.geo.geometry import local_solar_hour
from contrail_data.sample import RECORD_FRAMES, RECORD_LABELLED_FRAME
from contrail_data.synthetic.lines import SCENERIES, Line, Mask, Scenery, annotate, draw_line, make_lines
from contrail_data.synthetic.metadata import metadata, site_of
from contrail_data.synthetic.noise import Field, Rng, generator, power_law_noise, sensor_noise

LABEL_SHIFT = (0.5, 0.5)
"""Pixels (down, right) by which OpenContrails labels lie off the image."""


class Band(NamedTuple):
    """How a band of the imager sees a scene."""

    wavelength: float
    """Micrometres."""
    cirrus: float
    """Absorption optical depth of natural ice, relative to that at 11.2 micrometres."""
    contrail: float
    """The same for the small crystals of young contrails."""
    dry: float
    """Clear-sky brightness temperature minus that of band 14 in dry air, in kelvin."""
    moist: float
    """Kelvin added at full moisture."""
    gas: float
    """Share of the clear-sky signal that comes from the absorbing gas above."""
    gas_temperature: float
    """Kelvin."""


BANDS = {
    8: Band(6.19, 0.95, 0.95, -1.0, 0.0, 0.94, 238.0),
    9: Band(6.93, 0.95, 0.95, -1.0, 0.0, 0.88, 248.0),
    10: Band(7.34, 0.95, 0.95, -1.0, 0.0, 0.80, 254.0),
    11: Band(8.44, 0.86, 0.92, -0.6, -2.5, 0.0, 250.0),
    12: Band(9.61, 0.90, 0.92, -1.0, -1.0, 0.50, 235.0),
    13: Band(10.33, 0.95, 0.95, 0.5, 0.7, 0.0, 250.0),
    14: Band(11.19, 1.00, 1.00, 0.0, 0.0, 0.0, 250.0),
    15: Band(12.27, 1.10, 1.27, -0.7, -3.4, 0.0, 250.0),
    16: Band(13.27, 1.15, 1.25, -1.5, -2.0, 0.35, 228.0),
}


def checked_bands(bands: Sequence[int]) -> tuple[int, ...]:
    """Check that bands can be synthesized.

    Args:
        bands: Numbers of ABI bands, in any order.

    Returns:
        The bands, ascending.

    Raises:
        ContrailError: If there are none, or one is repeated or not an infrared one.
    """
    if not bands or len(set(bands)) < len(bands) or not set(bands) <= set(BANDS):
        raise ContrailError(f"bands {','.join(map(str, sorted(bands)))}: give distinct bands from 8 to 16")
    return tuple(sorted(bands))


class Record(NamedTuple):
    """One synthetic record."""

    bands: dict[int, Field]
    """Brightness temperature by band, float32 (y, x, time), in kelvin."""
    individual: Mask
    """Marks of 4 to 6 annotators, int32 0/1 (y, x, 1, annotator)."""
    mask: Mask
    """Strict majority of the annotators, int32 0/1 (y, x, 1)."""
    lines: list[Line]
    """The contrails and their lookalikes, whose motion is known."""
    marked: list[npt.NDArray[np.bool_]]
    """Marks of the annotators on each contrail by itself, bool (y, x, annotator)."""


def synthesize(
    seed: int,
    index: int,
    *,
    size: int = 256,
    bands: Sequence[int] = (11, 14, 15),
    label_shift: tuple[float, float] = LABEL_SHIFT,
    scenery: Scenery = SCENERIES["clear"],
) -> Record:
    """Make a record: eight frames at 10-minute steps on pixels of 2 km, with labels of frame 4.

    A band's imagery does not depend on the label shift or on which other bands are requested.

    Args:
        seed: Seed of the data.
        index: Index of the record.
        size: Rows and columns.
        bands: ABI bands, 8 to 16.
        label_shift: Pixels (down, right) by which labels lie off the image.
        scenery: How often contrails and their lookalikes occur, and how well they can be seen.

    Returns:
        The record.
    """
    latitude, longitude = site_of(seed, index)
    time = np.datetime64(int(metadata(seed, index)["timestamp"]), "s")
    hour = float(local_solar_hour(longitude, time))
    day = float(time.astype("datetime64[D]").astype(int) % 365.25)
    season = math.copysign(1, latitude) * math.cos(2 * math.pi * (day - 200) / 365)  # 1 at midsummer
    rng = generator(seed, index, 2)
    place = generator(seed, round(latitude * 100) + 10_000, round(longitude * 100) + 50_000)
    # Wider than the tile, so that opposite edges of the periodic fields do not meet.
    n = fft.next_fast_len(size + size // 4, real=True)

    def field(random: Rng, slope: float, **shape: Any) -> Field:
        return power_law_noise(random, n, slope, **shape)[:, :size, :size]

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

    # Winds in rows and columns per frame; the high wind is stronger than the low one and turned against it.
    heading = rng.uniform(0, 2 * np.pi)
    low, high = _wind(heading, rng.uniform(0.8, 2)), _wind(heading + rng.normal(0, 0.6), rng.uniform(*scenery.wind))
    height, cover = _water_clouds(rng, field, low, heading)
    ice, top, streak_angle = _ice(rng, field, high, heading)
    tropopause = 212.0 + 0.2 * abs(latitude) - 4 * moisture + rng.normal(0, 4)
    lines = make_lines(rng, size, streak_angle, high, scenery)
    young = np.zeros((RECORD_FRAMES, size, size), np.float32)
    for line in lines:
        for t in range(RECORD_FRAMES):
            draw_line((young if line.small_crystals else ice)[t], line, t)
    # Thin ice radiates from inside the layer, thick ice from its top.
    ice_temperature = np.maximum(tropopause + top + 14.0 * np.exp(-0.4 * ice), 190.0)

    lapse = np.float32(rng.uniform(4.5, 6.5))
    steps = np.arange(RECORD_FRAMES, dtype=np.float32)[:, None, None] - RECORD_LABELLED_FRAME
    window = surface + np.float32(0.25 * rng.normal()) * steps - cover * lapse * height
    dry_above = np.exp(-height / 2.2)  # of the moisture, the part above a cloud's top
    haze = moist * (1 - cover * (1 - dry_above))
    images = {}
    for band in bands:
        b = BANDS[band]
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
        seen = np.exp(-np.float32(b.cirrus) * ice - np.float32(b.contrail) * young)
        radiance = 1 / np.expm1(k / above)
        radiance += seen * (1 / np.expm1(k / below) - radiance)
        temperature = k / np.log1p(1 / radiance)
        temperature += sensor_noise(generator(seed, index, 3, band), size)
        images[band] = np.ascontiguousarray(np.moveaxis(temperature, 0, -1), np.float32)
    contrast = ((window - ice_temperature) * np.exp(-ice))[RECORD_LABELLED_FRAME]
    marks = annotate(generator(seed, index, 4), lines, contrast, label_shift)
    mask = (2 * marks.individual.sum(-1) > marks.individual.shape[-1]).astype(np.int32)
    return Record(images, marks.individual, mask, lines, marks.lines)


def _wind(heading: float, speed: float) -> tuple[float, float]:
    return speed * math.sin(heading), speed * math.cos(heading)


def _front(rng: Rng, size: int, wiggle: Field) -> Field:
    """Bending transition from -1 to 1 across the tile, (size, size)."""
    angle = rng.uniform(0, 2 * np.pi)
    position = np.arange(size, dtype=np.float32) / size - 0.5
    across = position[:, None] * math.cos(angle) - position * math.sin(angle) + rng.uniform(-0.3, 0.3) + 0.08 * wiggle
    return np.asarray(np.tanh(across / float(rng.choice([0.04, 0.12, 0.4]))), np.float32)


def _land(rng: Rng, field: Callable[..., Field]) -> tuple[Field, Field, Field]:
    """Share of land in [0, 1], relief and rivers in kelvin, deficit by the emissivity at 8.4 micrometres in kelvin.

    Each is (size, size) and the same for every record of a site.
    """
    shape, hills = field(rng, 2.0)[0], field(rng, 1.6)[0]
    land = np.clip((shape - rng.normal(0, 1.1)) * 12, 0, 1)
    river = np.exp(-((hills - shape) ** 2) * 900) * land
    bare = float(rng.choice([0.1, 0.3, 1.2])) * np.clip(1 + 0.3 * hills, 0, None) * land
    return land, 0.9 * hills - rng.uniform(-2, 3) * river, bare


def _water_clouds(
    rng: Rng, field: Callable[..., Field], drift: tuple[float, float], heading: float
) -> tuple[Field, Field]:
    """Top height in km and cover in [0, 1] of water clouds, each (frame, size, size)."""
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
    """Anvils and cirrus.

    Returns their optical depth at 11.2 micrometres, the excess of their tops over the tropopause in kelvin, each
    (frame, size, size), and the direction of the streaks in radians.
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
