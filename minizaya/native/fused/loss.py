"""Cross entropy of a linear head that never holds all logits at once; plain: the head, then `F.cross_entropy`."""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from .library import call

ROWS = 256   # tokens whose logits are there at once: 4 MB of them at 4,096 words


class SummedLoss(torch.autograd.Function):
    """x (n, E), head weight (V, E), targets int64 (n,) -> sum of -log softmax(x W^T)[target], a scalar.

    Targets outside 0 .. V - 1 count nothing. The gradients are made on the way, while the logits are at hand.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        nats, logits = x.new_empty(len(x)), x.new_empty(min(ROWS, len(x)), len(weight))
        learning = any(ctx.needs_input_grad)
        dx, d_weight = (torch.empty_like(x), torch.zeros_like(weight)) if learning else (None, None)
        for start in range(0, len(x), ROWS):
            rows = slice(start, start + ROWS)
            part = torch.mm(x[rows], weight.mT, out=logits[: len(x[rows])])
            call("cross_entropy", part, targets[rows], len(part), len(weight), nats[rows])
            if learning:
                torch.mm(part, weight, out=dx[rows])
                d_weight.addmm_(part.mT, x[rows])
        ctx.save_for_backward(dx, d_weight)
        return nats.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        dx, d_weight = ctx.saved_tensors
        return dx * gradient, d_weight * gradient, None
