"""Which models the C++ of this room knows: those made of the parts of `arch`, as they are, in the CPU's memory."""

import torch
from torch import nn

from ..arch.block import Block
from ..arch.cca import CCA
from ..arch.experts import Experts
from ..arch.model import Zaya
from ..arch.residual import PlainResidual, ResidualScaling, RMSNorm
from ..arch.router import Router, RouterMLP

KNOWN = frozenset({Zaya, Block, CCA, Router, RouterMLP, Experts, RMSNorm, ResidualScaling, PlainResidual, nn.Embedding,
                   nn.Linear, nn.Conv1d, nn.ModuleList})
NUMBERS = (torch.float32, torch.bfloat16)


def obstacle(model: nn.Module) -> str | None:
    """Why C++ does not know this model, or None."""
    if type(model) is not Zaya:
        return f"it is a {type(model).__name__}"
    for name, module in model.named_modules():
        if type(module) not in KNOWN or "forward" in vars(module):
            return f"{name or 'the model'} is a {type(module).__name__} of its own kind"
        if module._forward_hooks or module._forward_pre_hooks:
            return f"{name or 'the model'} has a hook"
    if not model.layers[0].attention.fast:
        return "its backend is 'reference'"
    kinds = {(weight.dtype, weight.device.type, weight.is_contiguous()) for weight in model.parameters()}
    if kinds not in ({(number, "cpu", True)} for number in NUMBERS):
        return "its weights are not all float32, or all bfloat16, in the CPU's memory"
    if any(block.router.balancing_bias.dtype != torch.float32 for block in model.layers):
        return "a balancing bias is not float32"
    return None
