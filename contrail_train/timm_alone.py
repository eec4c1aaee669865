"""timm, imported without what it would import for functions that are not used here.

Where wandb is installed, importing it takes as long as importing torch. The compiler of torch, `torch._dynamo`, takes
nearly as long (benchmarks/first_step.py); timm and torchvision import it to mark functions as not to be compiled, and
for a helper. Here it is imported once one of these functions is called.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

import torch

_HELPERS = "torch._dynamo.utils"


class DeferredHelpers(ModuleType):
    """Stands in for `torch._dynamo.utils`: has what torchvision imports, and imports that module for anything else."""

    def is_compile_supported(self, device_type: str) -> Any:
        """Defer to the function of the same name.

        Args:
            device_type: As there.

        Returns:
            As there.
        """
        return self._original().is_compile_supported(device_type)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the module `inspect` asks all modules for such names
            raise AttributeError(name)
        return getattr(self._original(), name)

    def _original(self) -> Any:
        if sys.modules.get(_HELPERS) is self:
            del sys.modules[_HELPERS]
        return import_module(_HELPERS)


@contextmanager
def _fewer_imports() -> Iterator[None]:
    """Hide wandb, which is an ImportError that timm expects, and defer imports of the compiler."""
    disable = torch.compiler.disable
    stand_ins: dict[str, Any] = {"wandb": None, _HELPERS: DeferredHelpers(_HELPERS)}
    own = {name: module for name, module in stand_ins.items() if name not in sys.modules}
    sys.modules.update(own)
    # torch's own decorator of the same purpose, which imports the compiler when the function is called
    torch.compiler.disable = getattr(torch, "_disable_dynamo", disable)
    try:
        yield
    finally:
        torch.compiler.disable = disable
        for name, module in own.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


with _fewer_imports():
    import timm

__all__ = ["timm"]
