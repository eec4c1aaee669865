"""Random fields of synthetic scenes, each a pure function of its random generator."""

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import fft

from contrail_data.sample import RECORD_FRAMES, RECORD_LABELLED_FRAME

Field = npt.NDArray[np.float32]


Rng = np.random.Generator


def generator(seed: int, *key: int) -> Rng:
    """Make the random generator of a part of a scene.

    Args:
        seed: Seed of the data.
        *key: What the generator is for, such as the index of the record and the number of the part.

    Returns:
        A generator that depends on the seed and the key only.
    """
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *key])))


@lru_cache(maxsize=4)
def _wavenumbers(n: int) -> tuple[Field, Field]:
    """Wavenumbers of a real transform in cycles per pixel: rows (n, 1) and columns (1, n // 2 + 1)."""
    return fft.fftfreq(n).astype(np.float32)[:, None], fft.rfftfreq(n).astype(np.float32)[None]


def power_law_noise(
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
    """Draw periodic Gaussian noise of unit variance with the amplitude spectrum |k|^-slope.

    Args:
        rng: Random generator.
        n: Rows and columns.
        slope: Exponent of the spectrum.
        drift: Rows and columns per frame; the fields of all frames of a record are returned if it is given.
        turn: Change between frames in addition to the drift: radians per frame at which a second field is mixed in.
        stretch: Factor by which features are lengthened along `angle`.
        angle: Direction of features, in radians from the column axis.
        wavelength: Wavelength in pixels of ridges across `angle`, such as cloud streets; 0 for none.

    Returns:
        float32 (frame, n, n); one frame without a drift.
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


def sensor_noise(rng: Rng, size: int) -> Field:
    """Draw the noise of a band: white noise of 0.1 K after the average of two taps that bilinear resampling amounts to.

    That leaves 0.05 K. Smooth real scenes show 0.03 to 0.05 K in one band.

    Args:
        rng: Random generator.
        size: Rows and columns.

    Returns:
        Kelvin, float32 (frame, size, size).
    """
    raw = rng.random((RECORD_FRAMES, size + 1, size + 1), dtype=np.float32)
    raw = raw[:, 1:] + raw[:, :-1]
    raw = raw[:, :, 1:] + raw[:, :, :-1]
    raw -= 2
    raw *= np.float32(0.1 * math.sqrt(12) / 4)
    return raw
