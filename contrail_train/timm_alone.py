"""timm, imported without wandb.

Where wandb is installed, timm imports it for a function that is not used here, which takes as long as importing torch
(benchmarks/first_step.py).
"""

import sys

if "wandb" not in sys.modules:
    sys.modules["wandb"] = None  # type: ignore[assignment]  # importing it now is an ImportError, which timm expects
    try:
        import timm
    finally:
        del sys.modules["wandb"]
else:
    import timm

__all__ = ["timm"]
