"""What is imported with timm, and that what is deferred works when it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch._dynamo.utils

from contrail_train.timm_alone import DeferredHelpers

HELPERS = "torch._dynamo.utils"


LATE = ("wandb", "matplotlib", "scipy.optimize", "scipy.spatial", "torch._dynamo", "numba", "shapely", HELPERS)
"""What many runs do not need, which is imported at its first use."""
PROGRAM = f"""
import gc, os, sys
gc.disable()
import torch
disable = torch.compiler.disable
import contrail_train.training.fit
print([name for name in {LATE} if name in sys.modules], torch.compiler.disable is disable, flush=True)

if not os.fork():  # the compiler is imported while its helpers are deferred
    from contrail_train.timm_alone import DeferredHelpers
    sys.modules["{HELPERS}"] = deferred = DeferredHelpers("{HELPERS}")
    import torch._dynamo
    print(sys.modules["{HELPERS}"] is deferred, sys.modules["{HELPERS}"] is torch._dynamo.utils, flush=True)
    os._exit(0)
os.wait()

from torchvision.ops import roi_align
boxes = torch.tensor([[0.0, 0.0, 0.0, 2.0, 2.0]])
print(roi_align(torch.ones(1, 1, 4, 4), boxes, 1).item())
print(torch.compile(lambda x: x + 1, backend="eager")(torch.zeros(1)).item())
"""


@pytest.mark.slow
def test_training_is_imported_without_the_compiler_which_works_afterwards() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[] True", "False True", "1.0", "1.0"]


def test_deferred_helpers_are_those_of_the_compiler() -> None:
    helpers = DeferredHelpers(HELPERS)
    assert helpers.istensor is torch._dynamo.utils.istensor
    assert helpers.is_compile_supported("cpu") == torch._dynamo.utils.is_compile_supported("cpu")
    assert not hasattr(helpers, "__file__")
