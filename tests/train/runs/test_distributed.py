"""Training on two processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from helpers.runs import TINY

GRADIENTS = """
import sys, torch
from contrail_train.runs.distributed import join
from contrail_train.training.fit import fit
from contrail_train.config.settings import parse_config
import yaml
clip = torch.nn.utils.clip_grad_norm_
def saving(parameters, norm):
    parameters = list(parameters)
    torch.save([p.grad.clone() for p in parameters], f"{sys.argv[2]}-{join(torch.device('cpu'))[0].rank}.pt")
    return clip(parameters, norm)
torch.nn.utils.clip_grad_norm_ = saving
torch.set_num_threads(1)
from pathlib import Path
fit(parse_config(yaml.safe_load(open(sys.argv[1])), "test"), Path(sys.argv[2]), stop_after=1)
"""


@pytest.mark.slow
def test_two_processes_compute_the_gradient_of_one(store: Path, tmp_path: Path) -> None:
    """Train with torchrun and gloo, batch norms over both processes, cross-entropy and global Dice."""
    import torch

    from contrail_train.config.presets import get_config
    from contrail_train.config.settings import to_yaml, with_settings

    pairs = [*TINY, "model.drop_path=0", "batch_size=8", "loss.dice=1", "device=cpu", f"data.train={store}"]
    (tmp_path / "config.yaml").write_text(to_yaml(with_settings(get_config("unet2d"), pairs)))
    (tmp_path / "gradients.py").write_text(GRADIENTS)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    for name, launcher in (("one", []), ("two", torchrun)):
        command = [sys.executable, *launcher, tmp_path / "gradients.py", tmp_path / "config.yaml", tmp_path / name]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
    one, first, second = (torch.load(tmp_path / f"{name}.pt") for name in ("one-0", "two-0", "two-1"))
    for reference, a, b in zip(one, first, second, strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, reference, rtol=0, atol=1e-3 * float(reference.abs().max()))
