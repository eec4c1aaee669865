"""Settings of `augment`: random changes of training samples."""

from typing import Annotated, Literal

from pydantic import Field

from contrail_data.settings.strict import Probability, Strict

LARGEST_LABEL_SHIFT = 8  # pixels


class Augmentation(Strict):
    """A random change of samples with parameters."""

    probability: float = Field(0.5, gt=0.0, le=1.0)
    """Probability per sample."""


class AffineConfig(Augmentation):
    """A random shift, zoom and rotation, drawn together."""

    shift: float = Field(0.1, ge=0.0, le=0.5)
    """Largest shift along each axis, as a fraction of the side of the image."""
    scale: float = Field(0.3, ge=0.0, lt=1.0)
    """The zoom factor is drawn between 1 - scale and 1 + scale."""
    rotate: float = Field(15.0, ge=0.0, le=180.0)
    """Largest rotation, in degrees."""


class TurnConfig(Augmentation):
    """A random rotation that is drawn independently of `affine`."""

    degrees: float = Field(45.0, gt=0.0, le=180.0)
    """Largest rotation, in degrees."""


class MultiScaleConfig(Augmentation):
    """A random zoom, uniform in its logarithm, drawn independently of `affine`."""

    factor: float = Field(2.0, gt=1.0, le=4.0)
    """The zoom is drawn between 1 / factor and factor."""


class GridDistortionConfig(Augmentation):
    """Stretch and compress the rows and columns of a coarse grid."""

    cells: int = Field(5, ge=2, le=32)
    """Cells of the grid along each side."""
    stretch: float = Field(0.3, gt=0.0, lt=1.0)
    """Largest change of the width of a cell, as a fraction of it."""


class CutOutConfig(Augmentation):
    """Set a random square of all frames to the mean of each channel. The label stays as it is."""

    side: int = Field(16, ge=1, le=4096)
    """Side of the square, in pixels of the label."""


class CopyPasteConfig(Augmentation):
    """Copy the contrails of another sample of the batch, with their label, into a sample without any.

    What is added is the difference between contrails and the mean of their surroundings.
    Nothing happens if the other sample, the neighbour in the batch, has none either.
    """


class EraseConfig(Augmentation):
    """Replace the contrails of a sample by the mean of their surroundings. It then counts as one without contrails."""


class BrightnessContrastConfig(Augmentation):
    """Scale and shift the values of each channel, equally in all frames."""

    brightness: float = Field(0.2, ge=0.0, le=10.0)
    """Largest value added or subtracted, in standard deviations."""
    contrast: float = Field(0.2, ge=0.0, lt=1.0)
    """The factor is drawn between 1 - contrast and 1 + contrast."""


class BlurConfig(Augmentation):
    """Blur with a Gaussian of random width."""

    sigma: float = Field(1.0, ge=0.01, le=4.0)
    """Largest standard deviation of the Gaussian, in pixels of the label."""


class NoiseConfig(Augmentation):
    """Add Gaussian noise of random strength."""

    std: float = Field(0.1, gt=0.0, le=10.0)
    """Largest standard deviation of the noise, in standard deviations of the channel."""


class MixupConfig(Augmentation):
    """Blend each sample with another one of the batch."""

    alpha: float = Field(0.4, ge=0.01, le=100.0)
    """The share of the other sample is drawn from the distribution Beta(alpha, alpha)."""
    labels: Literal["linear", "or"] = "linear"
    """linear: labels are blended as the images are; or: a pixel is a contrail if it is one in either sample."""


class AugmentConfig(Strict):
    """Random changes of training samples, with probabilities per sample.

    Everything that moves pixels, the label shift included, is combined into one resampling.
    """

    flip: Probability = 0.5
    """Probability of a horizontal flip and, independently, of a vertical flip."""
    rot90: Probability = 0.5
    """Probability of a rotation by 90, 180 or 270 degrees (only 180 if the image is not square)."""
    affine: AffineConfig | None = AffineConfig()
    turn: TurnConfig | None = None
    multi_scale: MultiScaleConfig | None = None
    grid_distortion: GridDistortionConfig | None = None
    label_shift: Annotated[tuple[float, float], Field(strict=False)] | None = None
    """(down, right): how far labels lie from the image features that they mark, in pixels, at most 8 each way. null: as
    recorded in the store."""
    cut_out: CutOutConfig | None = None
    brightness_contrast: BrightnessContrastConfig | None = None
    blur: BlurConfig | None = None
    noise: NoiseConfig | None = None
    time_reversal: Probability = 0.0
    """Probability of reversing the order of the frames. Needs frames that are symmetric about the labelled frame."""
    mixup: MixupConfig | None = None
    cutmix: Probability = 0.0
    """Probability of pasting a rectangle of another sample of the batch together with its label. The rectangle's share
    of the area is uniform."""
    copy_paste: CopyPasteConfig | None = None
    erase: EraseConfig | None = None
    redraw: int = Field(0, ge=0, le=20)
    """How many times places and rectangles are drawn again for a positive sample of which no contrail would remain in
    the image. 0: never; such a sample counts as a record without a contrail."""

    @property
    def together(self) -> int:
        """How many neighbours of a batch mix."""
        return 2 if self.mixup is not None or self.cutmix or self.copy_paste is not None else 1

    def _check_combination(self) -> None:
        if self.label_shift is not None and max(map(abs, self.label_shift)) > LARGEST_LABEL_SHIFT:
            raise ValueError(
                f"augment.label_shift={list(self.label_shift)}: at most {LARGEST_LABEL_SHIFT} pixels each way are "
                "possible; give [down, right]"
            )
