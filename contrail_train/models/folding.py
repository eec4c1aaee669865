"""Networks made faster for prediction on a CPU: batch norms folded into convolutions, channels innermost in memory."""

from typing import Any

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

_CONVOLUTIONS = (functional.conv2d, functional.conv3d)
_NORMS = (nn.BatchNorm2d, nn.BatchNorm3d, BatchNormAct2d)


class _Uses(TorchFunctionMode):
    """Notes while a network runs what uses the output of each convolution.

    Attributes:
        by_weight: For each convolution, by the id of its weight, the ids of the running means of the norms that use
            its output; None stands for any other use.
        by_norm: For each norm, by the id of its running mean, the ids of the weights of the convolutions before it;
            None stands for any other input.
    """

    def __init__(self) -> None:
        super().__init__()
        self.by_weight: dict[int, set[int | None]] = {}
        self.by_norm: dict[int, set[int | None]] = {}
        self._outputs: dict[int, tuple[Tensor, int]] = {}  # outputs are kept, so that no other tensor gets their id

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if not any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):
            return result  # such as a shape
        sources = [self._outputs[id(leaf)][1] for leaf in tree_leaves((args, kwargs)) if id(leaf) in self._outputs]
        norm = id(args[1]) if function is functional.batch_norm else None
        for weight in sources:
            self.by_weight[weight].add(norm)
        if norm is not None:
            self.by_norm.setdefault(norm, set()).update(sources or [None])
        if function in _CONVOLUTIONS:
            self._outputs[id(result)] = result, id(args[1])
            self.by_weight.setdefault(id(args[1]), set())
        return result


def prepare_for_cpu(model: nn.Module, *inputs: Any) -> None:
    """Fold batch norms into the convolutions before them, and lay weights out with channels innermost, in place.

    A norm is folded if it is the only user of the convolution's output, and that its only input. Outputs stay the same
    but for rounding; `benchmarks/scene.py` shows what it saves.

    Args:
        model: A network in evaluation mode. It cannot be trained afterwards.
        *inputs: Any arguments of its `forward`, with which it is called once.
    """
    with torch.no_grad(), _Uses() as uses:
        model(*inputs)
    convolutions = {id(m.weight): m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Conv3d))}
    names: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if type(module) in _NORMS:
            names.setdefault(id(module.running_mean), []).append(name)
    for weight, norms in uses.by_weight.items():
        (norm,) = norms if len(norms) == 1 else (None,)
        if norm not in names or weight not in convolutions or uses.by_norm[norm] != {weight}:
            continue
        convolution, bn = convolutions[weight], model.get_submodule(names[norm][0])
        statistics: Any = bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias
        fused = fuse_conv_bn_weights(convolution.weight, convolution.bias, *statistics)
        convolution.weight, convolution.bias = fused
        rest = nn.Sequential(bn.drop, bn.act) if isinstance(bn, BatchNormAct2d) else nn.Identity()
        for name in names[norm]:
            model.set_submodule(name, rest.eval())
    for module in convolutions.values():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)
