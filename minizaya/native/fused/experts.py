"""Each expert on its own tokens, gathered once; plain: `arch/experts.py`."""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from ...arch.experts import Experts
from .library import call


class Visits(torch.autograd.Function):
    """x (n, D), routes int64 (n,), gates (n,), gate_up (E, 2F, D), down (E, D, F) -> (n, D); E = skip: zeros.

    A gate weighs what goes into its expert's last matrix, the same as weighing what comes out, in one pass less.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, routes: Tensor, gates: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
        order = torch.argsort(routes, stable=True)
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order), device=order.device)
        counts = torch.bincount(routes, minlength=len(gate_up) + 1)[:-1].tolist()
        mine = order[: sum(counts)]                      # those who skip sort last
        inputs, shares = x.index_select(0, mine), gates.index_select(0, mine)
        both, inner = x.new_empty(len(mine), gate_up.shape[1]), x.new_empty(len(mine), down.shape[2])
        for weight, tokens, to in zip(gate_up.mT.unbind(), inputs.split(counts), both.split(counts)):
            torch.mm(tokens, weight, out=to)
        call("swiglu", both, shares, len(mine), down.shape[2], inner)
        out = x.new_empty(len(x), x.shape[1])
        out[len(mine):] = 0
        for weight, tokens, to in zip(down.mT.unbind(), inner.split(counts), out[: len(mine)].split(counts)):
            torch.mm(tokens, weight, out=to)
        ctx.counts = counts
        ctx.save_for_backward(inputs, both, shares, gate_up, down, mine, back)
        return out.index_select(0, back)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, both, shares, gate_up, down, mine, back = ctx.saved_tensors
        counts, kept = ctx.counts, len(mine)
        d_out, d_inner = gradient.index_select(0, mine), inputs.new_empty(kept, down.shape[2])
        for weight, tokens, to in zip(down, d_out.split(counts), d_inner.split(counts)):
            torch.mm(tokens, weight, out=to)
        d_both, d_shares, inner = torch.empty_like(both), torch.empty_like(shares), torch.empty_like(d_inner)
        call("swiglu_back", d_inner, both, shares, kept, down.shape[2], d_both, d_shares, inner)
        d_gate_up, d_down = torch.empty_like(gate_up), torch.empty_like(down)
        for to, left, right in zip(d_down, d_out.split(counts), inner.split(counts)):
            torch.mm(left.mT, right, out=to)             # no token: zeros
        for to, left, right in zip(d_gate_up, d_both.split(counts), inputs.split(counts)):
            torch.mm(left.mT, right, out=to)
        dx, d_gates = gradient.new_empty(gradient.shape), gradient.new_zeros(len(gradient))
        dx[kept:] = 0
        for weight, tokens, to in zip(gate_up, d_both.split(counts), dx[:kept].split(counts)):
            torch.mm(tokens, weight, out=to)
        d_gates[mine] = d_shares
        return dx.index_select(0, back), None, d_gates, d_gate_up, d_down


def visits(experts: Experts, x: Tensor, routes: Tensor, gates: Tensor) -> Tensor:
    """`experts(x, routes, gates)`: x (b, t, D), routes int64 (b, t), gates (b, t) -> (b, t, D)."""
    if not torch.is_grad_enabled():   # nothing to keep for a gradient: one loop does it all
        x, (count, size, inner) = x.contiguous(), experts.down_proj.shape
        y = torch.empty_like(x)
        call("visits", x, routes.contiguous(), gates.contiguous(), experts.gate_up_proj, experts.down_proj,
             routes.numel(), size, inner, count, y)
        return y
    return Visits.apply(x.flatten(0, 1), routes.flatten(), gates.flatten(), experts.gate_up_proj,
                        experts.down_proj).view_as(x)
