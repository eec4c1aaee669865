"""What a model costs: parameters, and floating-point operations of a forward pass, without computing anything."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import platformdirs
import torch
from torch.utils.flop_counter import FlopCounterMode

from contrail_data.progress import progress
from contrail_data.storage.files import write_atomically
from contrail_train.config.schema import RunConfig

CHANNELS, SIDE = 3, 256


@dataclass(frozen=True)
class Cost:
    parameters: int
    flop: int
    """Of one sample forward, all frames: a multiplication and an addition are two."""


def costs(configs: Sequence[RunConfig]) -> list[Cost]:
    """The cost of each config's model on samples of CHANNELS x SIDE x SIDE; those counted before are remembered in the
    cache folder, as counting takes about a second each.
    """
    files = [_remembered_at(config) for config in configs]
    missing = {file: config for file, config in zip(files, configs, strict=True) if not file.is_file()}
    if missing:
        with progress("count", len(missing), unit="models") as advance:
            for file, config in missing.items():
                file.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(file, [json.dumps(asdict(count(config))).encode()])
                advance(1)
    return [Cost(**json.loads(file.read_bytes())) for file in files]


def count(config: RunConfig) -> Cost:
    """Count by a pass on the meta device, which has shapes and no numbers."""
    from contrail_train.models.segmenter import build

    with torch.device("meta"):
        model = build(config.model.model_copy(update={"pretrained": False}), CHANNELS, config.data.frames).eval()
        side = config.model.image_size or SIDE
        x_btchw = torch.empty(1, len(config.data.frames), CHANNELS, side, side)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(x_btchw, (SIDE, SIDE))
    return Cost(sum(p.numel() for p in model.parameters()), counter.get_total_flops())


def _remembered_at(config: RunConfig) -> Path:
    versions = [importlib.metadata.version(name) for name in ("contrail-kit", "torch", "timm")]
    known = [versions, config.model.model_dump(mode="json", exclude={"pretrained", "freeze"}), config.data.frames]
    name = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:24]
    root = os.environ.get("CONTRAIL_CACHE") or str(platformdirs.user_cache_path("contrail"))
    return Path(root) / "costs" / f"{name}.json"
