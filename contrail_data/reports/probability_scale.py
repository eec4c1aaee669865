"""Colours of probability maps, even in the logit so that small probabilities differ, and their colour bar."""

from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.colors import Normalize
from matplotlib.image import AxesImage
from scipy.special import logit

from contrail_data.reports.ground import CASING

_TICKS = (1e-6, 1e-5, 1e-4, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999)
"""Probabilities that a colour bar labels, and at which it may begin and end."""


def scaled(
    probability_yx: npt.NDArray[np.floating[Any]], threshold: float
) -> tuple[npt.NDArray[np.floating[Any]], Normalize]:
    """Scale a map of probabilities for a colour map that is even in the logit.

    The colours begin at a tenth of the threshold or at the median pixel, whichever is lower. They end at 0.9, or
    higher if the threshold or a pixel is.

    Args:
        probability_yx: Probabilities, NaN where there are no pixels.
        threshold: Probability from which a pixel is predicted.

    Returns:
        Logits that lie between both ends, and the scale.
    """
    values = probability_yx[np.isfinite(probability_yx)]
    median, highest = (float(np.median(values)), float(values.max())) if values.size else (threshold, threshold)
    low = max((tick for tick in _TICKS if tick <= min(threshold / 10, median)), default=_TICKS[0])
    high = min((tick for tick in _TICKS if tick >= max(threshold, highest, 0.9)), default=_TICKS[-1])
    return logit(np.clip(probability_yx, low, high)), Normalize(*logit((low, high)))


def draw_scale(drawn: AxesImage, width: int, threshold: float) -> None:
    """Draw a colour bar right of a map, with a line at the threshold.

    Args:
        drawn: The map, drawn with the scale of `scaled`.
        width: Its width, pixels.
        threshold: Probability from which a pixel is predicted.
    """
    axes_of_bar = drawn.axes.inset_axes((1 + 10 / width, 0.03, 14 / width, 0.94))
    bar = drawn.axes.figure.colorbar(drawn, cax=axes_of_bar)
    low, high = drawn.get_clim()
    ticks = [tick for tick in _TICKS if low <= logit(tick) <= high]
    bar.set_ticks(logit(ticks), labels=[f"{tick:g}".replace("e-0", "e-") for tick in ticks])
    bar.minorticks_off()
    bar.set_label(f"probability, threshold {threshold:.3g} (line)")
    with np.errstate(divide="ignore"):  # a threshold of 0 or 1
        place = np.clip(logit(threshold), low, high)
    axes_of_bar.axhline(place, color="white", linewidth=2, path_effects=CASING)
