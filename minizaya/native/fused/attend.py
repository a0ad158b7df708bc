"""Causal attention of prompts, without gradients; plain: `attend` in `arch/attention.py`, which is torch's own."""

import torch
from torch import Tensor

from .library import call

LANES = 16   # numbers in the widest vector: a head must be a multiple of it


def able(size: int) -> bool:
    """Nobody wants a gradient, heads of `size` fill vectors, and the CPU has AVX-512: with half as many registers
    torch's own is the faster one."""
    wide = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return wide and not torch.is_grad_enabled() and size % LANES == 0


def takes(q: Tensor, mask: Tensor | None) -> bool:
    """Plain causal attention, which it is `able` to do."""
    return mask is None and able(q.shape[-1])


def padding(valid: Tensor | None, window: int | None, size: int) -> Tensor | None:
    """How many columns of padding each row begins with, int64 (b,), from valid, bool (b, t).

    None where `attend` cannot go by that: there is no padding, or other padding than this, or a window of keys that is
    shorter than the row, or it is not `able` at all.
    """
    crops = valid is not None and window is not None and window < valid.shape[1]
    if valid is None or crops or not able(size) or bool((valid[:, 1:] < valid[:, :-1]).any()):
        return None
    return (~valid).sum(1)


def attend(q: Tensor, k: Tensor, v: Tensor, padded: Tensor | None = None) -> Tensor:
    """q (b, t, h, d), k and v (b, t, j, d), float32, all tokens from the start -> (b, t, h, d).

    padded: int64 (b,), so many tokens at the start of each row are padding: nobody sees them but each itself.
    """
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    out, (batch, steps, heads, size) = torch.empty_like(q), q.shape
    call("attend", q, k, v, padded, batch, steps, heads, k.shape[2], size, out)
    return out
