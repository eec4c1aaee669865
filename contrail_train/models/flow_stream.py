"""The second stream of a network, which sees how the imagery moves (Simonyan and Zisserman 2014)."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from contrail_train.models.layers import Norm, make_norm

TYPICAL = 5.0  # pixels of flow that become 1


class FlowStream(nn.Module):
    """A small encoder of the flow to all other frames, with a pyramid like that of the images.

    Flow is smooth and there are no weights for stacks of it, so a few convolutions, one for each halving of the
    resolution, take the place of a second large network. The last ones start at 0: a new stream changes nothing.

    Args:
        frames: Number of frames.
        labelled: Index of the labelled frame, whose flow is 0.
        channels: Channels of the images' features at each stride to which features are given, ascending.
        width: Channels of the convolutions.
        norm: Kind of normalisation.
    """

    def __init__(self, frames: int, labelled: int, channels: Mapping[int, int], width: int, norm: Norm):
        super().__init__()
        self.others = [frame for frame in range(frames) if frame != labelled]
        self.stages, self.to_features = nn.ModuleList(), nn.ModuleList()
        last, stride = 2 * len(self.others), 1
        for target, features in channels.items():
            halvings = round(math.log2(target / stride))
            steps = [2] * halvings or [1]
            layers: list[nn.Module] = []
            for step in steps:
                convolution = nn.Conv2d(last, width, 3, stride=step, padding=1, bias=False)
                layers += [convolution, make_norm(norm, width), nn.ReLU(inplace=True)]
                last = width
            self.stages.append(nn.Sequential(*layers))
            project = nn.Conv2d(width, features, 1)
            nn.init.zeros_(project.weight)
            nn.init.zeros_(project.bias)  # type: ignore[arg-type]
            self.to_features.append(project)
            stride = target

    def forward(self, flow_btdhw: Tensor) -> list[Tensor]:
        """Compute features to be added to those of the images.

        Args:
            flow_btdhw: Flow in pixels (down, right) from the labelled frame to each frame, (b, t, 2, h, w); h and w are
                multiples of the coarsest stride.

        Returns:
            Features at each of the strides.
        """
        x_bchw = flow_btdhw[:, self.others].flatten(1, 2) / TYPICAL
        features = []
        for stage, project in zip(self.stages, self.to_features, strict=True):
            x_bchw = stage(x_bchw)
            features.append(torch.as_tensor(project(x_bchw)))
        return features
