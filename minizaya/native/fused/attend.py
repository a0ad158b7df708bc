"""Causal attention, with its gradients; plain: `attend` in `arch/attention.py`, which is torch's own."""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from .library import call

LANES = 16   # numbers in the widest vector: a head must be a multiple of it


def able(size: int) -> bool:
    """Heads of `size` fill vectors, and the CPU has AVX-512: with half as many registers torch's own is the faster."""
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512") and size % LANES == 0


def takes(q: Tensor, mask: Tensor | None) -> bool:
    """Plain causal attention, which it is `able` to do."""
    return mask is None and able(q.shape[-1])


def padding(valid: Tensor | None, window: int | None, size: int) -> Tensor | None:
    """How many columns of padding each row begins with, int64 (b,), from valid, bool (b, t).

    None where `attend` cannot go by that: there is no padding, or other padding than this, or a window of keys that is
    shorter than the row, or somebody wants a gradient, or it is not `able` at all.
    """
    if valid is None or torch.is_grad_enabled() or not able(size) or window is not None and window < valid.shape[1]:
        return None
    if bool((valid[:, 1:] < valid[:, :-1]).any()):
        return None
    return (~valid).sum(1)


def attend(q: Tensor, k: Tensor, v: Tensor, padded: Tensor | None = None) -> Tensor:
    """q (b, t, h, d), k and v (b, t, j, d), float32, all tokens from the start -> (b, t, h, d).

    padded: int64 (b,), so many tokens at the start of each row are padding: nobody sees them but each itself. Not with
    gradients.
    """
    if torch.is_grad_enabled():
        return Causal.apply(q, k, v)
    return forward(q, k, v, padded, None)


def forward(q: Tensor, k: Tensor, v: Tensor, padded: Tensor | None, logs: Tensor | None) -> Tensor:
    """logs: float32 (b, h, t) or None, is filled with the logarithm of what each softmax is divided by."""
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    out, (batch, steps, heads, size) = torch.empty_like(q), q.shape
    call("attend", q, k, v, padded, batch, steps, heads, k.shape[2], size, out, logs)
    return out


class Causal(torch.autograd.Function):
    """`attend` of whole texts, for whoever learns from it."""

    @staticmethod
    def forward(ctx: FunctionCtx, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v, (batch, steps, heads, _) = q.contiguous(), k.contiguous(), v.contiguous(), q.shape
        logs = q.new_empty(batch, heads, steps)
        out = forward(q, k, v, None, logs)
        ctx.save_for_backward(q, k, v, out, logs)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, out, logs = ctx.saved_tensors
        (batch, steps, heads, size), found = q.shape, tuple(map(torch.empty_like, (q, k, v)))
        call("attend_back", q, k, v, out, logs, gradient.contiguous(), batch, steps, heads, k.shape[2], size, *found)
        return found
