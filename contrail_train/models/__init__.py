"""Networks: `build(config, in_channels)` puts encoder, decoder and head together."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from contrail_train.config import ModelConfig
from contrail_train.models.decoders import UNet, build_unet
from contrail_train.models.encoder import Encoder, build_encoder
from contrail_train.models.heads import mask_head

SMALLEST_SIDE = 32


class Segmenter(nn.Module):
    """Encoder, decoder, mask head, for one frame at a time."""

    def __init__(self, encoder: Encoder, decoder: UNet):
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.mask_head = mask_head(decoder.out_channels)

    def forward(self, x_btchw: Tensor) -> dict[str, Tensor]:
        """(b, 1, c, h, w) floats → {"logits_b1hw": (b, 1, h, w)}, at the input's own size whatever it is.

        Raises ValueError for more than one frame, or a side below 32 pixels.
        """
        frames, height, width = x_btchw.shape[1], x_btchw.shape[3], x_btchw.shape[4]
        if frames != 1:
            raise ValueError(f"this model takes one frame a sample, not {frames}")
        if min(height, width) < SMALLEST_SIDE:
            raise ValueError(f"an image of {height} x {width} pixels is too small: both sides need {SMALLEST_SIDE}")
        x_bchw = x_btchw[:, 0]
        # skips and upsampled features only fit each other when every halving is exact
        stride = self.encoder.strides[-1]
        pad_y, pad_x = -height % stride, -width % stride
        top, left = pad_y // 2, pad_x // 2
        if pad_y or pad_x:
            x_bchw = functional.pad(x_bchw, (left, pad_x - left, top, pad_y - top), mode="reflect")
        features = self.encoder(x_bchw)
        logits_b1hw = self.mask_head(self.decoder(features, height + pad_y, width + pad_x))
        return {"logits_b1hw": logits_b1hw[:, :, top : top + height, left : left + width]}


def build(config: ModelConfig, in_channels: int) -> Segmenter:
    """The network that `config` describes, float32 on the CPU, drawn from torch's global random state.

    Raises ContrailError for an encoder or weights that cannot be had, or too few `decoder_channels`.
    """
    encoder = build_encoder(config.encoder, in_channels, config.pretrained, config.drop_path)
    return Segmenter(encoder, build_unet(encoder.channels, encoder.strides, config))
