"""Any timm model that offers `features_only` as a pyramid of NCHW features, with weights from hub or file."""

from __future__ import annotations

import difflib
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
import safetensors.torch
import timm
import torch
from timm.layers import PatchEmbed
from timm.models import adapt_input_conv, get_pretrained_cfg, is_model_in_modules
from torch import Tensor, nn

from contrail_data.errors import ContrailError

log = logging.getLogger(__name__)

PROBE_SIDES = (64, 128, 192, 224, 256, 384)
"""Image heights to measure a model at, three times as wide: it must take one of them. Most take any."""
HUB_TIMEOUT = 5.0
"""Seconds the hub may take to answer at all; timm's own way retries an unreachable one for 46 s."""
PREFIXES = ("module.", "model.", "encoder.", "backbone.", "body.")
"""What wrappers put before a network's own names."""


class Encoder(nn.Module):
    """A timm feature extractor together with the `channels` and `strides` of its levels, shallow to deep.

    They are measured by one forward pass: `feature_info` is wrong once a stem has been changed, and silent
    about layout. Image sides must be multiples of `multiple`: the deepest stride, or more where windows must fit.
    Raises ValueError where the features are no pyramid.
    """

    def __init__(self, backbone: nn.Module, in_channels: int):
        super().__init__()
        self.backbone = backbone.eval()  # a probe must not touch running statistics
        side, shapes = _probe(backbone, in_channels)
        self.train()
        # which pair of axes is nearer to the image's shape: not equal to it, as convolutions without padding
        # make 31 x 95 of 64 x 192
        self.channels_last = [abs(s[2] - 3 * s[1]) < abs(s[3] - 3 * s[2]) for s in shapes]
        measured = [(s[3], s[1]) if last else (s[1], s[2]) for s, last in zip(shapes, self.channels_last, strict=True)]
        self.channels: list[int] = [channels for channels, _ in measured]
        self.strides: list[int] = [2 ** round(math.log2(side / rows)) for _, rows in measured]
        if self.strides != sorted(set(self.strides)):
            raise ValueError(f"its features have strides {self.strides}, which is no pyramid")
        self.multiple = self.strides[-1] if side == PROBE_SIDES[0] else side
        self.probe_shape = (1, in_channels, side, 3 * side)

    def forward(self, x_bchw: Tensor) -> list[Tensor]:
        """(b, in_channels, h, w) → [(b, channels[i], h / strides[i], w / strides[i])], shallow to deep."""
        features = self.backbone(x_bchw)
        return [f.permute(0, 3, 1, 2) if last else f for f, last in zip(features, self.channels_last, strict=True)]

    def serve_only(self, levels: Sequence[int]) -> None:
        """Take out of the gradient what no feature of `levels` depends on, such as HRNet's paths to its other levels:
        a distributed run waits for a gradient of every parameter that may have one.
        """
        training = self.training
        with torch.enable_grad():
            features = self.eval()(torch.zeros(self.probe_shape))
            parameters = list(self.parameters())
            total = torch.stack([features[level].sum() for level in levels]).sum()
            gradients = torch.autograd.grad(total, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.requires_grad_(gradient is not None)
        self.train(training)


def _probe(backbone: nn.Module, in_channels: int) -> tuple[int, list[torch.Size]]:
    """The first of PROBE_SIDES that the model takes, and the shapes of its features there. Raises what the first and
    smallest image made it raise where it takes none.
    """
    refused: Exception | None = None
    for side in PROBE_SIDES:
        try:
            with torch.no_grad():
                return side, [f.shape for f in backbone(torch.zeros(1, in_channels, side, 3 * side))]
        except Exception as error:  # each timm model refuses in its own way, with its own type
            refused = refused or error
    assert refused is not None
    raise refused


def build_encoder(
    name: str, in_channels: int, pretrained: bool | str, drop_path: float, stem_stride: int | None = None
) -> Encoder:
    """The pyramid of the timm model `name`, with its first convolution made for `in_channels`.

    name: a model, with a tag of its weights or the beginning of one (convnext_tiny.dinov3). pretrained: False; True for
    timm's weights, from the hub or its local cache; or the path of a .safetensors, .pth or .pt file (see
    `load_weights`). drop_path: rate of stochastic depth. stem_stride: 1 halves the stride of the first strided
    convolution, so that every level has twice the resolution. Logs what was loaded. Raises ContrailError for an unknown
    name, a model without a feature pyramid or with a fixed image size, a drop_path or stem that the model does not
    have, and weights that cannot be had or do not fit.
    """
    name = full_name(name)
    options: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
    if is_model_in_modules(name, ("swin_transformer", "swin_transformer_v2", "swin_transformer_v2_cr")):
        options["strict_img_size"] = False
    if pretrained is True:
        options |= {"pretrained": True, "pretrained_cfg_overlay": _hub_source(name)}
    try:
        backbone = timm.create_model(name, features_only=True, in_chans=in_channels, **options)
        if "strict_img_size" not in options:
            for module in backbone.modules():
                if isinstance(module, PatchEmbed):
                    module.strict_img_size = False
                    module.register_forward_pre_hook(_tell_grid)
        encoder = Encoder(backbone, in_channels)
    except OSError as error:
        raise ContrailError(
            f"model.pretrained=true: weights of {name} cannot be fetched ({_line(error)}): "
            "try again, or set model.pretrained=PATH"
        ) from error
    except Exception as error:  # each timm model refuses in its own way, with its own type
        if "drop_path_rate" in str(error):
            raise ContrailError(f"model.drop_path: {name} has no stochastic depth; set it to 0") from error
        raise ContrailError(
            f"model.encoder={name} cannot serve as an encoder ({_line(error)}): "
            "choose a timm model that offers features_only at several strides for images of any size"
        ) from error
    if isinstance(pretrained, str):
        log.info("encoder %s: %s", name, load_weights(encoder, name, Path(pretrained)))
    return encoder if stem_stride is None else _with_fine_stem(encoder, name, in_channels)


def _tell_grid(embed: PatchEmbed, inputs: tuple[Tensor]) -> None:
    """Let a model that asks its patch embedding for the grid (CoaT) know that of this image, not of its first one."""
    proj = embed.proj
    embed.grid_size = tuple(
        (inputs[0].shape[2 + axis] + 2 * int(proj.padding[axis]) - proj.kernel_size[axis]) // proj.stride[axis] + 1
        for axis in (0, 1)
    )


def check_encoder(name: str, pretrained: bool | str) -> None:
    """Raises ContrailError for an unknown model or a weight file that is not there, before anything is built."""
    full_name(name)
    if isinstance(pretrained, str):
        _there(Path(pretrained))


def _there(path: Path) -> None:
    if not path.is_file():
        raise ContrailError(f"model.pretrained={path} does not exist: give the path of a weight file")


def full_name(name: str) -> str:
    """The name of a timm model, a tag that is only begun made whole. Raises ContrailError where timm knows none."""
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "https://huggingface.co/timm lists them"
        raise ContrailError(f"model.encoder={name} is not a timm model: {hint}")
    known = timm.list_pretrained(f"{architecture}.*")
    if not tag or name in known:
        return name
    begun = [whole for whole in known if whole.startswith(name)]
    if len(begun) != 1:
        raise ContrailError(f"model.encoder={name}: timm has {', '.join(begun or known) or 'no tags of it'}: name one")
    return begun[0]


def _with_fine_stem(encoder: Encoder, name: str, in_channels: int) -> Encoder:
    """The encoder with half the stride in its first strided convolution, measured again."""
    strided = (m for m in encoder.backbone.modules() if isinstance(m, nn.Conv2d) and m.stride[0] > 1)
    stem = next(strided, None)
    try:
        if stem is None or not isinstance(stem.padding, tuple):
            raise ValueError("it has no strided convolution")
        stride = stem.stride[0] // 2
        if stem.kernel_size == stem.stride:  # patches, which overlap from now on
            stem.padding = ((stem.kernel_size[0] - stride) // 2,) * 2
        stem.stride = (stride, stride)
        finer = Encoder(encoder.backbone, in_channels)
        if [2 * s for s in finer.strides] != encoder.strides:
            raise ValueError(f"strides {encoder.strides} would become {finer.strides}")
    except Exception as error:
        raise ContrailError(
            f"model.stem_stride=1: {name} cannot have a finer stem ({_line(error)}): leave it away"
        ) from error
    return finer


def _hub_source(name: str) -> dict[str, str]:
    """The file that timm is to load in place of a download, if the cache has it; {} where the hub answers."""
    config = get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise ContrailError(f"model.pretrained=true: timm has no weights for {name}; use false or a path")
    found: dict[str, str] = {}
    try:
        if config.hf_hub_id:
            cached = huggingface_hub.try_to_load_from_cache(config.hf_hub_id, "model.safetensors")
            if isinstance(cached, str):
                found = {"file": cached}
            else:
                huggingface_hub.model_info(config.hf_hub_id, timeout=HUB_TIMEOUT)
    except Exception as error:  # its HTTP library, hence the type, changes with its version
        raise ContrailError(
            f"model.pretrained=true: weights of {name} cannot be fetched from {config.hf_hub_id} on the hub "
            f"({_line(error)}): download them elsewhere and set model.pretrained=PATH"
        ) from error
    log.info("encoder %s: timm's weights, from %s", name, config.hf_hub_id or config.url)
    return found


def load_weights(encoder: Encoder, name: str, path: Path) -> str:
    """Load a file into an encoder that was built for `name`; returns a line that says what matched.

    The file holds a state dict, perhaps under "state_dict" or "model", of timm's classifier, of an encoder,
    or of a whole network with one; prefixes of `PREFIXES` are dropped and tensors the encoder has no use for
    ignored. Every tensor of the encoder must be found by name with its shape, save that a first convolution
    of 3 channels is adapted to others (timm's adapt_input_conv). A .pth or .pt file with foreign names serves
    as well if its tensors equal those of timm's classifier one by one, in order, in shape and in kind
    (weight, running_mean, ...). Raises ContrailError for an unreadable file, or one of other weights.
    """
    source = _read(path)
    matched, misfit = _match(encoder, source)
    how = "by name"
    if misfit and path.suffix != ".safetensors":  # safetensors keeps no order
        renamed = _rename_by_order(source, timm.create_model(name).state_dict())
        if renamed is not None:
            how = "by order"
            matched, misfit = _match(encoder, renamed)
    if misfit:
        wanted = sum(not key.endswith("num_batches_tracked") for key in encoder.state_dict())
        raise ContrailError(
            f"model.pretrained={path}: only {len(matched)} of {wanted} tensors of {name} are in it, "
            f"the first that is not: {misfit}; give weights of {name}"
        )
    encoder.load_state_dict(matched, strict=False)  # strict but for batch counters: nothing is missing here
    return f"{len(matched)} tensors matched {how}, {len(source) - len(matched)} others ignored, from {path}"


def _read(path: Path) -> dict[str, Tensor]:
    """Tensors of a weight file by name, batch counters left out: some files have them and some do not."""
    _there(path)
    try:
        if path.suffix == ".safetensors":
            payload: Any = safetensors.torch.load_file(path)
        else:
            payload = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # OSError, UnpicklingError, SafetensorError, RuntimeError, ...
        raise ContrailError(
            f"model.pretrained={path} cannot be read ({type(error).__name__}): "
            "give a .safetensors file, or a .pth file of nothing but tensors"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(payload, dict) and isinstance(payload.get(key), dict):
            payload = payload[key]
    if not isinstance(payload, dict):
        raise ContrailError(f"model.pretrained={path} holds a {type(payload).__name__}: give a state dict")
    return {
        key: value
        for key, value in payload.items()
        if isinstance(value, Tensor) and not key.endswith("num_batches_tracked")
    }


def _canonical(key: str) -> str:
    """A name without wrappers' prefixes, `stages_0.` of features_only made equal to `stages.0.`."""
    while key.startswith(PREFIXES):
        key = key.split(".", 1)[1]
    return key.replace("_", ".")


def _match(encoder: Encoder, source: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Tensors of `source` under the encoder's names, and the first that is missing or misshapen, if any."""
    found = {_canonical(key): value for key, value in source.items()}
    matched: dict[str, Tensor] = {}
    misfit = ""
    for key, wanted in encoder.state_dict().items():
        if key.endswith("num_batches_tracked"):
            continue
        value = found.get(_canonical(key))
        if value is not None and value.ndim == 4 and value.shape[1] == 3 != wanted.shape[1]:
            value = adapt_input_conv(wanted.shape[1], value)
        if value is not None and value.shape == wanted.shape:
            matched[key] = value
        elif not misfit:
            there = "absent" if value is None else f"{tuple(value.shape)} there"
            misfit = f"{key} {tuple(wanted.shape)}, {there}"
    return matched, misfit


def _rename_by_order(source: dict[str, Tensor], classifier: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """`source` under the names of timm's classifier, if shapes and kinds agree one by one, else None."""
    names = [key for key in classifier if not key.endswith("num_batches_tracked")]
    kinds = [(classifier[key].shape, key.rpartition(".")[2]) for key in names]
    if [(value.shape, key.rpartition(".")[2]) for key, value in source.items()] != kinds:
        return None
    return dict(zip(names, source.values(), strict=True))


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
