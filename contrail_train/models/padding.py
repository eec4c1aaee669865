"""Padding of images to whole cells of the encoder, with a rim on request, and resampling of the resulting maps."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Padding:
    """Where an image lies in a larger one, which continues it by reflection. All in pixels."""

    height: int
    width: int
    """Of the image."""
    top: int
    bottom: int
    left: int
    right: int
    """Added on each side."""

    @classmethod
    def to_multiple(cls, height: int, width: int, multiple: int, rim: int) -> "Padding":
        """Pad an image so that every halving of its sides is exact: skips and upsampled features only fit then.

        Args:
            height: Height of the image, pixels.
            width: Its width.
            multiple: What both sides become multiples of.
            rim: Least number of pixels added on each side.

        Returns:
            The padding, the same on opposite sides but for a pixel.
        """
        both = 2 * rim
        pad_y, pad_x = (both + -(side + both) % multiple for side in (height, width))
        return cls(height, width, pad_y // 2, pad_y - pad_y // 2, pad_x // 2, pad_x - pad_x // 2)

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the padded image."""
        return self.top + self.height + self.bottom, self.left + self.width + self.right

    @property
    def sides(self) -> tuple[int, int, int, int]:
        """Pixels added on each side, in the order of `torch.nn.functional.pad`."""
        return self.left, self.right, self.top, self.bottom

    @property
    def shares(self) -> tuple[float, float]:
        """Shares of the image in the width and the height of the padded one."""
        return self.width / self.size[1], self.height / self.size[0]

    @property
    def centre(self) -> tuple[float, float]:
        """Centre of the image, x and y, in the padded one, whose borders are -1 and 1."""
        return (self.left - self.right) / self.size[1], (self.top - self.bottom) / self.size[0]

    def pad_flow(self, flow_btdhw: Tensor) -> Tensor:
        """Continue optical flow beyond the borders as images are; where these are reflected, so are the vectors.

        Args:
            flow_btdhw: Flow in pixels (down, right), of the size of the image.

        Returns:
            The flow, (b, t, 2, *size).
        """
        padded = pad(flow_btdhw.flatten(1, 2), self.sides).unflatten(1, flow_btdhw.shape[1:3])
        if not _reflects(self.sides, self.height, self.width):
            return padded
        down_h, right_w = (
            functional.pad(padded.new_ones(side), pads, value=-1.0)
            for side, pads in ((self.height, self.sides[2:]), (self.width, self.sides[:2]))
        )
        return torch.stack([padded[:, :, 0] * down_h[:, None], padded[:, :, 1] * right_w], dim=2)

    def cut(self, logits_bkhw: Tensor, size: tuple[int, int]) -> Tensor:
        """Resample maps of the padded image to its size, cut the padding off, and resample to a size.

        Args:
            logits_bkhw: The maps, at any resolution.
            size: (h, w) of what remains.

        Returns:
            The maps, (b, k, *size).
        """
        padded = resize(logits_bkhw, self.size)
        rows, columns = slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)
        return resize(padded[:, :, rows, columns], size)

    def cut_at_own_size(self, logits_bkhw: Tensor) -> Tensor:
        """Cut the padding off maps and keep their resolution.

        Args:
            logits_bkhw: The maps of the padded image.

        Returns:
            The maps of the image.
        """
        if not any(self.sides):
            return logits_bkhw
        sides = zip(logits_bkhw.shape[2:], (self.height, self.width), self.size, strict=True)
        rows, columns = (max(round(n * side / padded), 1) for n, side, padded in sides)
        return self.cut(logits_bkhw, (rows, columns))


def pad(x_bchw: Tensor, sides: tuple[int, int, int, int]) -> Tensor:
    """Reflect images at the borders, or repeat the border if they are too small to reflect.

    Args:
        x_bchw: The images.
        sides: Pixels to add on the left, on the right, at the top and at the bottom.

    Returns:
        The padded images.
    """
    if not any(sides):
        return x_bchw
    fits = _reflects(sides, x_bchw.shape[2], x_bchw.shape[3])
    return functional.pad(x_bchw, sides, mode="reflect" if fits else "replicate")


def _reflects(sides: tuple[int, int, int, int], height: int, width: int) -> bool:
    return max(sides[:2]) < width and max(sides[2:]) < height


def enlarge(x_bchw: Tensor, factor: int, size: torch.Size) -> Tensor:
    """Repeat each pixel, and cut or repeat the borders at the bottom and on the right to a size.

    Args:
        x_bchw: The maps.
        factor: How often each pixel is repeated along each axis.
        size: (h, w) of the result.

    Returns:
        The maps, (b, c, *size).
    """
    x_bchw = functional.interpolate(x_bchw, scale_factor=factor)
    rows, columns = size
    missing = max(columns - x_bchw.shape[3], 0), max(rows - x_bchw.shape[2], 0)
    return pad(x_bchw, (0, missing[0], 0, missing[1]))[:, :, :rows, :columns]


def resize(x_bchw: Tensor, size: tuple[int, int]) -> Tensor:
    """Resample maps bilinearly, unless they have the size already.

    Args:
        x_bchw: The maps.
        size: (h, w) of the result.

    Returns:
        The maps, (b, c, *size).
    """
    if x_bchw.shape[2:] == size:
        return x_bchw
    return functional.interpolate(x_bchw, tuple(size), mode="bilinear", align_corners=False)
