"""The random choices of augmentation, made on the CPU without the batch, so that none of them waits for the device."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import betaincinv
from torch import Tensor

from contrail_train.config.augment import AugmentConfig, GridDistortionConfig

MAX_CHANNELS = 64
"""Channels for which brightness and contrast are drawn, as a draw does not depend on the image."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Draw:
    """What happens to each sample of a batch: CPU tensors with a leading b, float64 unless stated otherwise.

    `draw[rows]`, with a slice or indices, is the draw of some of the samples, such as those of one process or one
    micro-batch.
    """

    matrix_b23: Tensor
    """Affine map from output to input, in pixels of the target relative to the image's centre, (y, x)."""
    stretch_b2n: Tensor
    """Displacement, as a fraction of (height, width), at n evenly spaced lines across the output; 0: none."""
    crop_b4: Tensor
    """(top, bottom, left, right) of the part of the output that is computed, as fractions of the sides; 0, 1, 0, 1: all
    of it. Its size is the same for all samples."""
    reversed_b: Tensor
    """bool: whether the frames are in reverse order."""
    gain_bc: Tensor
    """Factor of each of `MAX_CHANNELS` channels; 1: none."""
    offset_bc: Tensor
    """Value added to each of `MAX_CHANNELS` channels; 0: none."""
    blur_b: Tensor
    """Standard deviation of the blur, in pixels of the target; 0: none."""
    noise_b: Tensor
    """Standard deviation of the noise; 0: none."""
    noise_seed_b: Tensor
    """int64: seed of the noise."""
    cut_out_b4: Tensor
    """(top, bottom, left, right) of a hole, as fractions of the crop's sides; zeros: none."""
    mixup_b: Tensor
    """Share of the partner; 0: none."""
    erased_b: Tensor
    """bool: whether contrails are erased."""
    pasted_b: Tensor
    """bool: whether a sample without contrails takes those of its partner."""
    cutmix_b4: Tensor
    """(top, bottom, left, right) of the rectangle taken from the partner, likewise; zeros: none."""

    def __len__(self) -> int:
        return len(self.matrix_b23)

    def __getitem__(self, rows: slice | list[int] | np.ndarray | Tensor) -> Self:
        return replace(self, **{name: part[rows] for name, part in vars(self).items()})

    def placed_as(self, other: Self, which_b: Tensor) -> Self:
        """Take from another draw where contrails of some samples come to lie.

        Args:
            other: The other draw for the same samples.
            which_b: bool, which samples.

        Returns:
            The draw with matrices, stretches, crops and rectangles of cutmix of the other one.
        """
        names = ("matrix_b23", "stretch_b2n", "crop_b4", "cutmix_b4")
        parts = {name: getattr(self, name).clone() for name in names}
        for name, part in parts.items():
            part[which_b] = getattr(other, name)[which_b]
        return replace(self, **parts)


@dataclass(frozen=True)
class _Random:
    """Random numbers for a batch, a stream for each name and a row for each sample.

    So a setting does not change the draws of any other, and the first samples of a larger batch are drawn alike.
    """

    batch: int
    key: tuple[int, ...]
    attempt: int

    def uniform(self, name: str, columns: int) -> Floats:
        # (b, columns) in [0, 1)
        attempt = (self.attempt,) if self.attempt else ()
        generator = np.random.default_rng((*self.key, int.from_bytes(name.encode()), *attempt))
        return generator.random((self.batch, columns))

    def chosen(self, name: str, probability: float, columns: int) -> tuple[npt.NDArray[np.bool_], Floats]:
        # (b, 1) which samples are chosen, and (b, columns) further numbers in [0, 1)
        u = self.uniform(name, 1 + columns)
        return u[:, :1] < probability, u[:, 1:]

    def symmetric(self, name: str, probability: float, columns: int) -> Floats:
        # (b, columns) in [-1, 1), 0 for samples that are not chosen
        chosen, u = self.chosen(name, probability, columns)
        return np.where(chosen, 2 * u - 1, 0.0)


def draw(
    config: AugmentConfig,
    batch: int,
    height: int,
    width: int,
    *,
    seed: int,
    step: int,
    attempt: int = 0,
    crop: int | None = None,
) -> Draw:
    """Draw what happens to the samples of one step.

    The result is a pure function of the arguments; global random states are neither used nor changed.

    Args:
        config: Probabilities and limits.
        batch: Number of samples b, over all processes.
        height: Height of the target in pixels.
        width: Its width.
        seed: Seed of the run.
        step: Number of the step.
        attempt: Number of draws for this step before it.
        crop: Side in pixels of the part of the output to compute, at most height and width; None for all of it.

    Returns:
        The draw.
    """
    random, size = _Random(batch, (seed, step), attempt), (height, width)
    part = size if crop is None else (crop, crop)
    arrays = {
        "matrix_b23": _matrix(config, random, size),
        "stretch_b2n": np.zeros((batch, 2, 2)),
        "crop_b4": _rectangle(np.tile(np.array(part, np.float64), (batch, 1)), random.uniform("crop", 2), size),
        "reversed_b": random.chosen("time_reversal", config.time_reversal, 0)[0][:, 0],
        "gain_bc": np.ones((batch, MAX_CHANNELS)),
        "offset_bc": np.zeros((batch, MAX_CHANNELS)),
        "noise_seed_b": np.zeros(batch, np.int64),
        "cut_out_b4": np.zeros((batch, 4)),
        "cutmix_b4": _cutmix_rectangle(config.cutmix, random, part),
    }
    arrays |= {name: np.zeros(batch) for name in ("blur_b", "noise_b", "mixup_b")}
    for name, group in (("erase", config.erase), ("copy_paste", config.copy_paste)):
        chosen, _ = random.chosen(name, 0.0 if group is None else group.probability, 0)
        arrays["erased_b" if name == "erase" else "pasted_b"] = chosen[:, 0]
    if (distortion := config.grid_distortion) is not None:
        arrays["stretch_b2n"] = _stretch(distortion, random)
    if (light := config.brightness_contrast) is not None:
        u = random.symmetric("brightness_contrast", light.probability, 2 * MAX_CHANNELS).reshape(batch, -1, 2)
        arrays["gain_bc"], arrays["offset_bc"] = 1 + light.contrast * u[..., 0], light.brightness * u[..., 1]
    if (blur := config.blur) is not None:
        chosen, u = random.chosen("blur", blur.probability, 1)
        arrays["blur_b"] = np.where(chosen, blur.sigma * (1 - u), 0.0)[:, 0]
    if (noise := config.noise) is not None:
        chosen, u = random.chosen("noise", noise.probability, 2)
        arrays["noise_b"] = np.where(chosen, noise.std * (1 - u), 0.0)[:, 0]
        arrays["noise_seed_b"] = (u[:, 1] * 2**53).astype(np.int64)
    if (hole := config.cut_out) is not None:
        chosen, u = random.chosen("cut_out", hole.probability, 2)
        arrays["cut_out_b4"] = _rectangle(np.where(chosen, float(hole.side), 0.0) * np.ones(2), u, part)
    if (mixup := config.mixup) is not None:  # the share is from Beta(alpha, alpha), by its quantile function
        chosen, u = random.chosen("mixup", mixup.probability, 1)
        arrays["mixup_b"] = np.where(chosen, betaincinv(mixup.alpha, mixup.alpha, u), 0.0)[:, 0]
    return Draw(**{name: torch.from_numpy(array) for name, array in arrays.items()})


def _matrix(config: AugmentConfig, random: _Random, size: tuple[int, int]) -> Floats:
    """(b, 2, 3) flips and quarter turns, then rotation and zoom, then shift."""
    flip_y, flip_x = np.where(random.uniform("flip", 2) < config.flip, -1.0, 1.0).T
    chosen, u = random.chosen("rot90", config.rot90, 1)
    # by 90°, 180° or 270°; only by 180° if the image is not square
    quarters = np.where(chosen, 1 + np.floor(3 * u).astype(int) if size[0] == size[1] else 2, 0)[:, 0]
    # exact 0 and ±1, unlike cos(π/2): the eight elements of the dihedral group only move pixels
    cos, sin = np.array([1.0, 0.0, -1.0, 0.0])[quarters], np.array([0.0, 1.0, 0.0, -1.0])[quarters]
    dihedral = np.array([[flip_y * cos, -flip_y * sin], [flip_x * sin, flip_x * cos]])

    degrees, zoom, shift = np.zeros(random.batch), np.ones(random.batch), np.zeros((random.batch, 2))
    if config.affine is not None:
        affine = random.symmetric("affine", config.affine.probability, 4)
        degrees = degrees + config.affine.rotate * affine[:, 0]
        zoom = zoom * (1 + config.affine.scale * affine[:, 1])
        shift = config.affine.shift * affine[:, 2:] * size
    if config.turn is not None:
        degrees = degrees + config.turn.degrees * random.symmetric("turn", config.turn.probability, 1)[:, 0]
    if config.multi_scale is not None:
        exponent = random.symmetric("multi_scale", config.multi_scale.probability, 1)[:, 0]
        zoom = zoom * config.multi_scale.factor**exponent
    cos, sin = np.cos(np.deg2rad(degrees)) / zoom, np.sin(np.deg2rad(degrees)) / zoom
    turn = np.array([[cos, -sin], [sin, cos]])
    return np.concatenate([np.einsum("ijb,jkb->bik", dihedral, turn), shift[:, :, None]], axis=2)


def _stretch(config: GridDistortionConfig, random: _Random) -> Floats:
    """(b, 2, n) displacement at the lines of a grid.

    The widths of the input's cells sum up to those of the output's equal ones, as in albumentations' GridDistortion
    (normalized), so the edges of the image stay in place.
    """
    cells = config.cells
    chosen, u = random.chosen("grid_distortion", config.probability, 2 * cells)
    extent = 1 + config.stretch * (2 * u.reshape(-1, 2, cells) - 1)
    extra = extent / extent.mean(axis=2, keepdims=True) - 1
    stretch = np.zeros((random.batch, 2, cells + 1))
    stretch[:, :, 1:-1] = np.where(chosen[:, :, None], extra.cumsum(axis=2)[:, :, :-1] / cells, 0.0)
    return stretch


def _cutmix_rectangle(probability: float, random: _Random, size: tuple[int, int]) -> Floats:
    """(b, 4) rectangles whose share of the area is uniform, Beta(1, 1)."""
    chosen, u = random.chosen("cutmix", probability, 3)
    return _rectangle(np.sqrt(np.where(chosen, u[:, :1], 0.0)) * size, u[:, 1:], size)


def _rectangle(sides_b2: Floats, place_b2: Floats, size: tuple[int, int]) -> Floats:
    """(b, 4) top, bottom, left, right, as fractions that fall on pixels' edges; zeros without a side.

    `place_b2` in [0, 1) is the position among those possible.
    """
    image = np.array(size)
    sides = np.minimum(np.round(sides_b2), image)
    first = np.floor(place_b2 * (image - sides + 1))
    edges = np.stack([first, first + sides], axis=2) / image[:, None]
    return np.where((sides > 0).all(axis=1)[:, None], edges.reshape(-1, 4), 0.0)
