"""PointRend: a mask decided again, point by point, where it is least certain.

Source: Kirillov et al. 2020, "PointRend: Image Segmentation as Rendering".
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from contrail_train.config.model import PointRendConfig

HIDDEN_LAYERS = 3


class PointRend(nn.Module):
    """A network that sees the encoder's finest features and the decoder's logit at single points.

    Each of its layers gets that logit, as in the paper, and its result is added to the logit. It is initially zero, so
    that a mask starts as that of the decoder. The backward pass of sampling is not deterministic on CUDA.

    Args:
        channels: Channels of the features.
        config: Number and choice of points, width of the layers.
    """

    def __init__(self, channels: int, config: PointRendConfig):
        super().__init__()
        self.config = config
        widths = [channels] + HIDDEN_LAYERS * [config.width]
        self.layers = nn.ModuleList(nn.Conv1d(width + 1, config.width, 1) for width in widths[:-1])
        self.last = nn.Conv1d(config.width + 1, 1, 1)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, logits_b1hw: Tensor, features_bchw: Tensor, places_bn2: Tensor) -> Tensor:
        """Predict points.

        Args:
            logits_b1hw: The mask so far, at any resolution.
            features_bchw: The finest features, at any resolution.
            places_bn2: x and y of each point, -1 and 1 being the borders of the image.

        Returns:
            Logits (b, 1, n).
        """
        logit_b1n, x_bcn = at_places(logits_b1hw, places_bn2), at_places(features_bchw, places_bn2)
        for layer in self.layers:
            x_bcn = functional.relu(layer(torch.cat([x_bcn, logit_b1n], dim=1)))
        return torch.as_tensor(logit_b1n + self.last(torch.cat([x_bcn, logit_b1n], dim=1)))

    def at_drawn_points(
        self, logits_b1hw: Tensor, features_bchw: Tensor, shares: tuple[float, float], centre: tuple[float, float]
    ) -> tuple[Tensor, Tensor]:
        """Predict points of training: mostly the most uncertain ones of more candidates, the others anywhere.

        Args:
            logits_b1hw: The decoder's mask, of a padded image.
            features_bchw: The finest features.
            shares: Shares of the image in the width and the height of the padded one.
            centre: Its centre, x and y, in the padded one.

        Returns:
            Logits (b, 1, n), and x and y of the points in the image without padding, (b, n, 2).
        """
        config, b, device = self.config, len(logits_b1hw), logits_b1hw.device
        uncertain = round(config.uncertain * config.points)
        candidates = math.ceil(config.oversample * uncertain)
        place_bn2 = 2 * torch.rand(b, candidates + config.points - uncertain, 2, device=device) - 1
        padded_bn2 = torch.stack([share * place_bn2[..., i] + centre[i] for i, share in enumerate(shares)], dim=2)
        certainty_bn = at_places(logits_b1hw.detach(), padded_bn2[:, :candidates])[:, 0].abs()
        chosen_bn = certainty_bn.topk(uncertain, largest=False).indices
        others_bn = torch.arange(candidates, place_bn2.shape[1], device=device).expand(b, -1)
        index_bn2 = torch.cat([chosen_bn, others_bn], dim=1)[:, :, None].expand(-1, -1, 2)
        return self(logits_b1hw, features_bchw, padded_bn2.gather(1, index_bn2)), place_bn2.gather(1, index_bn2)

    def refine(self, logits_b1hw: Tensor, features_bchw: Tensor, size: tuple[int, int]) -> Tensor:
        """Double the resolution of a mask up to that of the image, and each time predict its most uncertain pixels.

        A mask that has the image's resolution is refined once.

        Args:
            logits_b1hw: The decoder's mask.
            features_bchw: The finest features.
            size: Height and width of the image.

        Returns:
            Logits (b, 1, *size).
        """
        logits_b1hw = logits_b1hw.float()
        doublings = max(round(math.log2(size[0] / logits_b1hw.shape[2])), 1)
        for left in reversed(range(doublings)):
            rows, columns = size[0] >> left, size[1] >> left
            logits_b1hw = functional.interpolate(logits_b1hw, (rows, columns), mode="bilinear")
            logits_b1n = logits_b1hw.flatten(2)
            count = min(self.config.points, rows * columns)
            index_bn = logits_b1n[:, 0].abs().topk(count, largest=False).indices
            x_bn, y_bn = index_bn % columns, index_bn // columns  # of their centres, as sampling aligns no corners
            places_bn2 = torch.stack([(2 * x_bn + 1) / columns - 1, (2 * y_bn + 1) / rows - 1], dim=2)
            points_b1n = self(logits_b1hw, features_bchw, places_bn2).float()
            logits_b1hw = logits_b1n.scatter(2, index_bn[:, None], points_b1n).unflatten(2, (rows, columns))
        return logits_b1hw


def at_places(x_bchw: Tensor, places_bn2: Tensor) -> Tensor:
    """Sample maps bilinearly.

    Args:
        x_bchw: The maps.
        places_bn2: x and y of each point, -1 and 1 being the borders of the image.

    Returns:
        Values (b, c, n), float32.
    """
    places_b1n2 = places_bn2[:, None]
    return functional.grid_sample(x_bchw.float(), places_b1n2, padding_mode="border", align_corners=False)[:, :, 0]
