"""Parameters and operations of models, counted without computing anything.

`python tests/helpers/costs.py` counts the models of all presets, which takes a minute or two, and writes the file of
costs that the package ships. Run it after a change of presets.yaml, of the schema of models, or of the models.
"""

from __future__ import annotations

import json
from dataclasses import asdict

import torch
from torch.utils.flop_counter import FlopCounterMode

from contrail_data.progress import progress
from contrail_data.storage.files import write_atomically
from contrail_train.config.presets import COSTS, PRESETS, Cost, cost_key, get_config
from contrail_train.config.schema import RunConfig
from contrail_train.models.segmenter import build

CHANNELS, SIDE = 3, 256


def count(config: RunConfig) -> Cost:
    """Count by a forward pass on the meta device, where tensors have shapes but no values.

    Args:
        config: Settings of a run.

    Returns:
        The cost for a sample of CHANNELS channels and SIDE x SIDE pixels.
    """
    with torch.device("meta"):
        settings, data = config.model.model_copy(update={"pretrained": False}), config.data
        model = build(settings, CHANNELS, data.frames, len(data.targets)).eval()
        side = config.model.image_size or SIDE
        x_btchw = torch.empty(1, len(config.data.frames), CHANNELS, side, side)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(x_btchw, (SIDE, SIDE))
    return Cost(sum(p.numel() for p in model.parameters()), counter.get_total_flops())


def main() -> None:
    """Count the models of all presets and write preset_costs.json."""
    configs = {cost_key(config): config for config in map(get_config, PRESETS)}
    costs = {}
    with progress("count", len(configs), unit="models") as advance:
        for key, config in configs.items():
            costs[key] = asdict(count(config))
            advance(1)
    rows = [f'"{key}": {json.dumps(cost)}' for key, cost in sorted(costs.items())]
    write_atomically(COSTS, [b"{\n", ",\n".join(rows).encode(), b"\n}\n"])


if __name__ == "__main__":
    main()
