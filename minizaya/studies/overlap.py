"""Do experts repeat each other? The measure of the ZAYA1-8B report, appendix D.

    Q_e     the top d singular directions of one matrix of expert e, as columns: (D, d), orthonormal
    s_ij    ||Q_i^T Q_j||_F^2 / d, between 0 (nothing in common) and 1 (the same subspace)

An expert reads the stream through `gate_up_proj` (the rows' space, "input") and writes to it through `down_proj` (the
columns' space, "output"). Two random subspaces of D dimensions share d / D on average: that is the floor, not zero.
"""

import torch
from torch import Tensor

from ..arch.experts import Experts


def top_subspace(matrix: Tensor, d: int, side: str) -> Tensor:
    """The d strongest singular directions of `matrix`, orthonormal columns.

    Args:
        matrix: (rows, columns). d: 1 .. min(rows, columns).
        side: "input", directions of the columns' index, (columns, d); or "output", (rows, d).
    Raises ValueError for another `side` or a d out of range.
    """
    if side not in ("input", "output"):
        raise ValueError(f"side must be 'input' or 'output', got {side!r}")
    if not 1 <= d <= min(matrix.shape):
        raise ValueError(f"d must be in 1..{min(matrix.shape)} for a matrix of shape {tuple(matrix.shape)}, got {d}")
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)   # strongest first
    return right[:d].T if side == "input" else left[:, :d]


def overlap(first: Tensor, second: Tensor) -> Tensor:
    """||first^T second||_F^2 / d, a number in 0..1. first, second: (D, d), orthonormal columns.

    It is the mean squared cosine of the angles between the two subspaces, so it does not depend on the bases.
    """
    return (first.T @ second).square().sum() / first.shape[1]


@torch.no_grad()
def expert_overlap(experts: Experts, d: int) -> dict[str, Tensor]:
    """s_ij of one layer's `arch.experts.Experts`: {"input": (E, E), "output": (E, E)}, ones on the diagonal."""
    maps = {}
    for side, stack in (("input", experts.gate_up_proj), ("output", experts.down_proj)):
        spaces = [top_subspace(matrix, d, side) for matrix in stack.detach()]
        maps[side] = torch.stack([torch.stack([overlap(one, other) for other in spaces]) for one in spaces])
    return maps


def off_diagonal(square: Tensor) -> Tensor:
    """The mean of a square matrix (E, E) without its diagonal."""
    return (square.sum() - square.trace()) / (len(square) * (len(square) - 1))
