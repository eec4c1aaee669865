"""Valid 3-D convolutions over time, as in the third place of the 2023 competition, as a mixer."""

import torch
from torch import Tensor, nn

from contrail_train.models.layers import Norm, make_norm


class ValidConvs3d(nn.Module):
    """3-D convolutions of two frames each, without padding in time, so that each leaves one frame less.

    t frames need t - 1 of them: two for three frames. Each is 2×3×3 and keeps the number of channels; norm and ReLU
    follow. The last norm's scale is initially zero and its result is added to the labelled frame, so that a new mixer
    is the identity, whatever the place of that frame in the window.

    A 3-D convolution of two frames is a 2-D one over their stacked channels; conv3d took .5 to 1.3 times as long on the
    CPU, but would need another layout, and bf16 conv3d was broken in some releases.

    Args:
        channels: Channels of the level.
        frames: Number of frames.
        labelled: Index of the labelled frame.
        norm: Kind of normalisation.
    """

    def __init__(self, channels: int, frames: int, labelled: int, norm: Norm):
        super().__init__()
        self.labelled = labelled
        steps = range(frames - 1)
        self.convolutions = nn.ModuleList(nn.Conv2d(2 * channels, channels, 3, padding=1, bias=False) for _ in steps)
        self.norms = nn.ModuleList(make_norm(norm, channels, scale=float(step < frames - 2)) for step in steps)

    def forward(self, x_tbchw: Tensor) -> Tensor:
        """Mix the frames.

        Args:
            x_tbchw: Features of all frames.

        Returns:
            Features of the labelled frame, (b, c, h, w).
        """
        batch = x_tbchw.shape[1]
        x_nchw = x_tbchw.flatten(0, 1)
        for i, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            pairs_nchw = torch.cat([x_nchw[:-batch], x_nchw[batch:]], dim=1)
            x_nchw = norm(convolution(pairs_nchw))
            if i + 1 < len(self.norms):
                x_nchw = x_nchw.relu()
        return x_tbchw[self.labelled] + x_nchw
