"""The source of the weights that an encoder starts with: a file, the hub or a mirror of it, or the hub's cache."""

import logging
from pathlib import Path
from typing import Any

from timm.models import get_pretrained_cfg

from contrail_data.errors import ContrailError
from contrail_data.model_folders.hub import cached_file
from contrail_data.model_folders.hub_address import SCHEME, HubAddress, parse_hub_address
from contrail_data.model_folders.manifest import WEIGHTS

log = logging.getLogger(__name__)

TIMM_SCHEME = "hf-hub:"
"""How timm writes the address of a model on the hub."""
HUB_FILES = ("model.safetensors", WEIGHTS, "pytorch_model.bin")
"""Names of the file of weights in a repository, of which the first one is taken: timm's, ours, that of old models."""


def weights_file(pretrained: str) -> Path:
    """Find the file of weights that `model.pretrained` names, downloading it if it lies on the hub.

    Args:
        pretrained: Path of a file, or `hf://org/name[@revision]`, or the same as timm writes it, `hf-hub:org/name`.

    Returns:
        The file, on this machine.

    Raises:
        ContrailError: If it does not exist, or cannot be fetched and is not in the hub's cache.
    """
    address = pretrained.replace(TIMM_SCHEME, SCHEME, 1)
    if not address.startswith(SCHEME):
        if not Path(pretrained).is_file():
            raise ContrailError(
                f"model.pretrained={pretrained}: does not exist; give the path of a weight file, or hf://ORG/NAME"
            )
        return Path(pretrained)
    repository = parse_hub_address(address)
    for name in HUB_FILES:
        try:
            return cached_file(repository, name, refresh=True)
        except FileNotFoundError:
            continue
        except ContrailError as error:
            raise ContrailError(f"model.pretrained: {error}") from None
    raise ContrailError(
        f"model.pretrained={pretrained}: the repository has none of {', '.join(HUB_FILES)}; give the path of a file"
    )


def timm_source(name: str) -> dict[str, Any]:
    """Find the file from which timm is to load its weights of a model, downloading it if the hub's cache lacks it.

    Args:
        name: Complete name of the model.

    Returns:
        What timm calls an overlay of its configuration: the file; {} if timm has to fetch the weights by itself.

    Raises:
        ContrailError: If timm has no weights of the model, or they cannot be fetched.
    """
    config = get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise ContrailError(f"model.pretrained=true: timm has no weights for {name}; set false or a path")
    log.info("encoder %s: timm's weights, from %s", name, config.hf_hub_id or config.url)
    if not config.hf_hub_id:
        return {}
    try:
        file = cached_file(HubAddress(config.hf_hub_id), config.hf_hub_filename or HUB_FILES[0])
    except FileNotFoundError:  # under another name
        return {}
    except ContrailError as error:
        raise ContrailError(
            f"model.pretrained=true: the weights of {name} cannot be fetched: {error} (or download them elsewhere and "
            "set model.pretrained=PATH)"
        ) from None
    return {"file": str(file)}
