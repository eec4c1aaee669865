"""Panels, as in the first place of the 2023 competition: frames side by side in one image, instead of a mixer.

The encoder sees all frames at once, across the borders between them, and the labelled frame's part of its features goes
to the decoder.
"""

import torch
from torch import Tensor


class Panels:
    """Frames as the panels of one image, row by row in ascending order.

    The grid is the one closest to a square that holds them: 1×2 for two frames, 2×2 for three and four, 2×3 for five
    and six, 3×3 for seven and eight. Panels without a frame are zero, the mean of the normalised channels.

    Args:
        frames: Number of frames.
        labelled: Index of the labelled frame.
    """

    def __init__(self, frames: int, labelled: int):
        self.rows = round(frames**0.5)
        self.columns = -(-frames // self.rows)
        self.empty = self.rows * self.columns - frames
        self.place = divmod(labelled, self.columns)

    def join(self, x_tbchw: Tensor) -> Tensor:
        """Put frames side by side.

        Args:
            x_tbchw: Images of all frames.

        Returns:
            One image per sample, (b, c, rows·h, columns·w).
        """
        panels = [*x_tbchw.unbind(0), *self.empty * [torch.zeros_like(x_tbchw[0])]]
        rows = [torch.cat(panels[start : start + self.columns], 3) for start in range(0, len(panels), self.columns)]
        return torch.cat(rows, 2)

    def crop(self, x_bchw: Tensor) -> Tensor:
        """Cut out the labelled frame's panel.

        Args:
            x_bchw: Features of the joined image at any stride.

        Returns:
            Its panel, (b, c, h, w).
        """
        height, width = x_bchw.shape[2] // self.rows, x_bchw.shape[3] // self.columns
        row, column = self.place
        return x_bchw[:, :, row * height :, column * width :][:, :, :height, :width]
