"""The weights of a file in an encoder, under whatever names the file has them."""

from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from timm.models import adapt_input_conv
from torch import Tensor, nn

from contrail_data.errors import ContrailError
from contrail_train.config.model import VIDEO_PREFIX

COUNTER = "num_batches_tracked"
PREFIXES = ("module.", "model.", "encoder.", "backbone.", "body.")
"""Prefixes that wrappers put before the names of a network's tensors."""


def load_weights(encoder: nn.Module, name: str, path: Path) -> str:
    """Load the weights of a file into an encoder.

    The file holds a state dict, possibly under "state_dict" or "model", of timm's classifier, of an encoder, or of a
    network with an encoder. `PREFIXES` are dropped, and tensors that the encoder does not have are ignored. Every
    tensor of the encoder must be present by name and shape; only a first convolution of 3 channels is adapted to other
    numbers (timm's `adapt_input_conv`). A .pth or .pt file with other names is accepted too if its tensors agree with
    those of timm's classifier one by one, in order, in shape and in kind (weight, running_mean, ...).

    Args:
        encoder: Changed in place.
        name: Name of its timm model.
        path: A .safetensors, .pth or .pt file.

    Returns:
        A line that says what matched.

    Raises:
        ContrailError: If the file cannot be read or holds other weights.
    """
    source = _read(path)
    how = "by name"
    if not name.startswith(VIDEO_PREFIX) and path.suffix != ".safetensors" and _match(encoder, source)[1]:
        renamed = _rename_by_order(source, timm.create_model(name).state_dict())  # safetensors keeps no order
        if renamed is not None:
            source, how = renamed, "by order"
    count = load_tensors(encoder, name, source, str(path))
    return f"{count} tensors matched {how}, {len(source) - count} others ignored, from {path}"


def load_tensors(encoder: nn.Module, name: str, source: dict[str, Tensor], where: str) -> int:
    """Load tensors into an encoder by name, as `load_weights` does.

    Args:
        encoder: Changed in place.
        name: Its name, for messages.
        source: Tensors by name.
        where: The setting `model.pretrained`, for messages.

    Returns:
        Number of tensors.

    Raises:
        ContrailError: If one of the encoder's tensors is missing or has another shape.
    """
    matched, misfit = _match(encoder, source)
    if misfit:
        needed = sum(not key.endswith(COUNTER) for key in encoder.state_dict())
        raise ContrailError(
            f"model.pretrained={where}: only {len(matched)} of {needed} tensors of {name} are in it, "
            f"and the first that is not is {misfit}; give weights of {name}"
        )
    encoder.load_state_dict(matched, strict=False)  # only batch counters are missing
    return len(matched)


def _read(path: Path) -> dict[str, Tensor]:
    """Tensors of a weight file by name, without batch counters, which only some files have."""
    try:
        if path.suffix == ".safetensors":
            payload: Any = safetensors.torch.load_file(path)
        else:
            payload = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # OSError, UnpicklingError, SafetensorError, RuntimeError, ...
        raise ContrailError(
            f"model.pretrained={path}: cannot be read ({type(error).__name__}); "
            "give a .safetensors file, or a .pth file with nothing but tensors"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(payload, dict) and isinstance(payload.get(key), dict):
            payload = payload[key]
    if not isinstance(payload, dict):
        raise ContrailError(f"model.pretrained={path}: holds a {type(payload).__name__}; give a state dict")
    return {k: v for k, v in payload.items() if isinstance(v, Tensor) and not k.endswith(COUNTER)}


def _canonical(key: str) -> str:
    """A name without the prefixes of wrappers, and with dots for the underscores of features_only (stages_0)."""
    while key.startswith(PREFIXES):
        key = key.split(".", 1)[1]
    return key.replace("_", ".")


def _match(encoder: nn.Module, source: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Tensors of `source` under the encoder's names, and the first one that is missing or misshapen, in words."""
    by_name = {_canonical(key): value for key, value in source.items()}
    matched: dict[str, Tensor] = {}
    misfit = ""
    for key, own in encoder.state_dict().items():
        if key.endswith(COUNTER):
            continue
        value = by_name.get(_canonical(key))
        if value is not None and value.ndim in (4, 5) and value.shape[1] == 3 != own.shape[1]:
            value = adapt_input_conv(own.shape[1], value.flatten(2, -2)).unflatten(2, value.shape[2:-1])
        if value is not None and value.shape == own.shape:
            matched[key] = value
        elif not misfit:
            misfit = f"{key} {tuple(own.shape)}, {'absent' if value is None else f'there {tuple(value.shape)}'}"
    return matched, misfit


def _rename_by_order(source: dict[str, Tensor], classifier: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """`source` under the names of timm's classifier; None unless shapes and kinds agree one by one."""
    names = [key for key in classifier if not key.endswith(COUNTER)]
    kinds = [(classifier[key].shape, key.rpartition(".")[2]) for key in names]
    if [(value.shape, key.rpartition(".")[2]) for key, value in source.items()] != kinds:
        return None
    return dict(zip(names, source.values(), strict=True))
