"""What is imported with timm, and that what is deferred works when it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch._dynamo.utils

from contrail_train.timm_alone import DeferredHelpers

HELPERS = "torch._dynamo.utils"


def output_of(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_timm_is_imported_without_the_compiler_which_works_afterwards() -> None:
    program = """
import sys
import torch
disable = torch.compiler.disable
from contrail_train.timm_alone import timm
print("torch._dynamo" in sys.modules, "torch._dynamo.utils" in sys.modules, torch.compiler.disable is disable)
from torchvision.ops import roi_align
boxes = torch.tensor([[0.0, 0.0, 0.0, 2.0, 2.0]])
print(roi_align(torch.ones(1, 1, 4, 4), boxes, 1).item())
print(torch.compile(lambda x: x + 1, backend="eager")(torch.zeros(1)).item())
"""
    assert output_of(program).split("\n") == ["False False True", "1.0", "1.0"]


@pytest.mark.slow
def test_the_compiler_can_be_imported_while_its_helpers_are_deferred() -> None:
    program = f"""
import sys
from contrail_train.timm_alone import DeferredHelpers
sys.modules["{HELPERS}"] = DeferredHelpers("{HELPERS}")
import torch._dynamo
print(type(sys.modules["{HELPERS}"]) is DeferredHelpers, torch._dynamo.utils is sys.modules["{HELPERS}"])
"""
    assert output_of(program) == "False True"


def test_deferred_helpers_are_those_of_the_compiler() -> None:
    helpers = DeferredHelpers(HELPERS)
    assert helpers.istensor is torch._dynamo.utils.istensor
    assert helpers.is_compile_supported("cpu") == torch._dynamo.utils.is_compile_supported("cpu")
    assert not hasattr(helpers, "__file__")
