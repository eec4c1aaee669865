"""Training on two processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.runs import TINY

GRADIENTS = """
import os, sys
from pathlib import Path
from contrail_data.process import speed_up_imports
speed_up_imports()
import torch
import torch._dynamo
from contrail_train.config.settings import read_config
from contrail_train.runs.distributed import join
from contrail_train.training.fit import fit

config, folder = read_config(Path(sys.argv[1])), Path(sys.argv[1]).parent
clip = torch.nn.utils.clip_grad_norm_

def train(name, **environment):
    child = os.fork()
    if child:
        return child
    os.environ |= environment

    def saving(parameters, norm):
        parameters = list(parameters)
        rank = join(torch.device("cpu"))[0].rank
        torch.save([p.grad.clone() for p in parameters], folder / f"{name}-{rank}.pt")
        return clip(parameters, norm)

    torch.nn.utils.clip_grad_norm_ = saving
    fit(config, folder / name, stop_after=1)
    os._exit(0)

children = [train("one")]
children += [train("two", WORLD_SIZE="2", RANK=rank, LOCAL_RANK=rank) for rank in "01"]
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""
"""Train in one process, and in two that find each other by the variables that torchrun sets. All are forked from one
that has imported torch, and its compiler, which recomputed activations need."""


@pytest.mark.slow
def test_two_processes_compute_the_gradient_of_one(store: Path, tmp_path: Path) -> None:
    """Train with gloo, batch norms over both processes, recomputed activations, global Dice, mixtures, mean teacher."""
    import torch

    from contrail_train.config.presets import get_config
    from contrail_train.config.settings import to_yaml, with_settings

    mixing = ["augment.mixup.probability=0.7", "augment.cutmix=0.3", "model.record_head.dropout=0"]
    model = ["model.drop_path=0", "model.checkpoint_activations=true"]
    unlabelled = [f"data.unlabelled={store}", "loss.consistency={weight: 50, rise: 0}", "augment.noise.probability=1"]
    pairs = [*TINY, *mixing, *model, *unlabelled, "batch_size=8", "loss.dice=1", "device=cpu", f"data.train={store}"]
    (tmp_path / "config.yaml").write_text(to_yaml(with_settings(get_config("unet2d"), pairs)))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, "-c", GRADIENTS, tmp_path / "config.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    one, first, second = (torch.load(tmp_path / f"{name}.pt") for name in ("one-0", "two-0", "two-1"))
    for reference, a, b in zip(one, first, second, strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, reference, rtol=0, atol=1e-3 * float(reference.abs().max()))
