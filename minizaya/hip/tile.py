"""One matrix instruction of MI300 by hand: which of its 64 lanes holds what. D = A B, A (32, 8), B (8, 32), bfloat16.

The tables of `kernels/mfma.h` in torch, for lesson 14; `tests/lessons/test_hip_lesson.py` holds both to each other.
"""

from einops import rearrange
from torch import Tensor


def rows_of(a: Tensor) -> Tensor:
    """A (32, 8) -> (64, 4): lane l brings A[l % 32, 4 * (l // 32) + j], j = 0..3."""
    return rearrange(a, "row (half j) -> (half row) j", half=2)


def columns_of(b: Tensor) -> Tensor:
    """B (8, 32) -> (64, 4): lane l brings B[4 * (l // 32) + j, l % 32]."""
    return rearrange(b, "(half j) column -> (half column) j", half=2)


def collected(acc: Tensor) -> Tensor:
    """acc (64, 16) by lane -> D (32, 32): acc[l, r] is D[8 * (r // 4) + 4 * (l // 32) + r % 4, l % 32]."""
    return rearrange(acc, "(half column) (block r) -> (block half r) column", half=2, r=4)


def multiply(lanes_a: Tensor, lanes_b: Tensor) -> Tensor:
    """What the instruction does with what 64 lanes bring, (64, 4) twice -> (64, 16)."""
    a = rearrange(lanes_a, "(half row) j -> row (half j)", half=2)
    b = rearrange(lanes_b, "(half column) j -> (half j) column", half=2)
    return rearrange(a @ b, "(block half r) column -> (half column) (block r)", half=2, r=4)
