"""Causal attention of prompts, without gradients; plain: `attend` in `arch/attention.py`, which is torch's own."""

import torch
from torch import Tensor

from .library import call

LANES = 16   # numbers in the widest vector: a head must be a multiple of it


def takes(q: Tensor, mask: Tensor | None) -> bool:
    """Plain causal attention whose gradient nobody wants, heads that fill vectors, and a CPU with AVX-512: with half as
    many registers torch's own is the faster one."""
    wide = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return wide and mask is None and not torch.is_grad_enabled() and q.shape[-1] % LANES == 0


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q (b, t, h, d), k and v (b, t, j, d), float32, all tokens from the start -> (b, t, h, d)."""
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    out, (batch, steps, heads, size) = torch.empty_like(q), q.shape
    call("attend", q, k, v, batch, steps, heads, k.shape[2], size, out)
    return out
