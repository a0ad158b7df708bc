"""Causal attention, with its gradients; plain: `attend` in `arch/attention.py`, which is torch's own."""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from ...arch.attention import Place
from .library import call

LANES = 16   # numbers in the widest vector: a head must be a multiple of it


def able(size: int) -> bool:
    """Heads of `size` fill vectors, and the CPU has AVX-512: with half as many registers torch's own is the faster."""
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512") and size % LANES == 0


def at_left(valid: Tensor | None) -> bool:
    """Is all padding at the left? valid: bool (b, t), or None: there is none."""
    return valid is None or not bool((valid[:, 1:] < valid[:, :-1]).any())


def firsts(place: Place, batch: int, steps: int, window: int | None) -> Tensor | None:
    """The first key that each query sees, int64 (b, t), or None: all see from the start.

    place: `regular`, or with padding `at_left`, of which each token sees itself. window: of keys, or None.
    """
    if place.position is None and place.valid is None and (window is None or window >= steps):
        return None
    column = torch.arange(steps, device="cpu")   # where the loops run, whatever torch takes by default
    found = (column - (column if place.position is None else place.position)).expand(batch, steps)
    if window is not None:
        found = found.maximum(column - window + 1)
    if place.valid is not None:
        found = torch.where(place.valid, found.maximum((~place.valid).sum(1, keepdim=True)), column)
    return found.contiguous()


def attend(q: Tensor, k: Tensor, v: Tensor, first: Tensor | None = None) -> Tensor:
    """q (b, t, h, d), k and v (b, t, j, d), float32, all tokens from the start -> (b, t, h, d).

    first: see `firsts`; no query's is after itself, nor after the next query's.
    """
    if torch.is_grad_enabled():
        return Causal.apply(q, k, v, first)
    return forward(q, k, v, first, None)


def forward(q: Tensor, k: Tensor, v: Tensor, first: Tensor | None, logs: Tensor | None) -> Tensor:
    """logs: float32 (b, h, t) or None, is filled with the logarithm of what each softmax is divided by."""
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    out, (batch, steps, heads, size) = torch.empty_like(q), q.shape
    call("attend", q, k, v, first, batch, steps, heads, k.shape[2], size, out, logs)
    return out


class Causal(torch.autograd.Function):
    """`attend` for whoever learns from it."""

    @staticmethod
    def forward(ctx: FunctionCtx, q: Tensor, k: Tensor, v: Tensor, first: Tensor | None) -> Tensor:
        q, k, v, (batch, steps, heads, _) = q.contiguous(), k.contiguous(), v.contiguous(), q.shape
        logs = q.new_empty(batch, heads, steps)
        out = forward(q, k, v, first, logs)
        ctx.save_for_backward(q, k, v, first, out, logs)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, first, out, logs = ctx.saved_tensors
        (batch, steps, heads, size), found = q.shape, tuple(map(torch.empty_like, (q, k, v)))
        call("attend_back", q, k, v, first, out, logs, gradient.contiguous(), batch, steps, heads, k.shape[2], size,
             *found)
        return *found, None
