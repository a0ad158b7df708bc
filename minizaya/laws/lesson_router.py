"""Laws of small steps that only the exercises of lesson 03 ask for."""

import torch
from torch import Tensor

from ..arch import router as lib
from ..studies import overlap as measure
from . import strategies as draw_a
from .core import expect, expect_trainable, law
from .router import choices

# ---- the skip route --------------------------------------------------------------------------------------------------


def limits(draw):
    case = choices(draw)
    return dict(probs=case["probs"], bias=case["bias"][:-1])


def limit_from_choice(probs: Tensor, bias: Tensor) -> Tensor:
    """The library's subject: let it choose among the experts alone, then take the score of the chosen one."""
    best, _ = lib.choose(probs[..., :-1], bias)
    return (probs[..., :-1] + bias).gather(-1, best[..., None])[..., 0] - probs[..., -1]


@law("router.skip_limit", "a token is skipped when the skip bias passes the best expert's biased score less p_skip",
     cases=draw_a.cases(limits), axes=dict(probs="b t e", bias="e"), subjects={"choose": limit_from_choice},
     guards=[lib.choose])
def skip_limit(fn, probs, bias):
    """fn(probs, bias): probs float (b, t, E + 1), the skip route last; bias float32 (E,), of the experts only ->
    (b, t), the skip bias above which the token is skipped."""
    wanted = torch.tensor([[max(p + q for p, q in zip(token[:-1], bias.tolist())) - token[-1] for token in row]
                           for row in probs.tolist()], dtype=probs.dtype)
    expect(fn(probs, bias), wanted, "b t")


# ---- memory across layers --------------------------------------------------------------------------------------------


def depths(draw):
    layers, b, t, r = (draw_a.size(draw, 1, most) for most in (4, 2, 3, 3))
    return dict(states=draw_a.tensor(draw, layers, b, t, r), scales=draw_a.tensor(draw, layers, r))


def climb(states: Tensor, scales: Tensor) -> Tensor:
    """The library's subject: one layer after the other."""
    memory, below = [], None
    for state, scale in zip(states, scales):
        below = lib.depth_average(state, below, scale)
        memory.append(below)
    return torch.stack(memory)


@law("router.depth_memory", "layer l remembers every state up to its own, times all the scales passed on the way up",
     cases=draw_a.cases(depths), axes=dict(states="l b t r", scales="l r"), subjects={"depth_average": climb},
     guards=[lib.depth_average])
def depth_memory(fn, states, scales):
    """fn(states, scales): float (layers, b, t, R), what each layer's down-projection made; (layers, R), of which
    scales[l] weighs what layer l receives from layer l - 1 (scales[0] weighs nothing) -> (layers, b, t, R)."""
    def right(states, scales):
        rows = []
        for layer in range(len(states)):
            total = torch.zeros_like(states[0])
            for origin in range(layer + 1):
                weight = torch.ones_like(scales[0])
                for passed in range(origin + 1, layer + 1):
                    weight = weight * scales[passed]
                total = total + weight * states[origin]
            rows.append(total)
        return torch.stack(rows)

    expect(fn(states, scales), right(states, scales), "l b t r")
    expect_trainable(fn, right, dict(states="l b t r", scales="l r"), dict(states=states, scales=scales))


# ---- overlap ---------------------------------------------------------------------------------------------------------


def basis(draw, size: int) -> Tensor:
    """An orthonormal matrix of readable numbers: up to three turns by the angle of the 3-4-5 triangle."""
    q = torch.eye(size, dtype=torch.float64)
    for _ in range(draw_a.size(draw, 0, 3) if size > 1 else 0):
        i = draw_a.size(draw, 0, size - 2)
        j = draw_a.size(draw, i + 1, size - 1)
        turn = torch.eye(size, dtype=torch.float64)
        turn[i, i] = turn[j, j] = 0.6
        turn[i, j], turn[j, i] = 0.8, -0.8
        q = turn @ q
    return q


def spectrum(draw, rows: int, columns: int) -> Tensor:
    """(rows, columns), with singular values 1, 2, 3, ...: far apart, so rounding cannot decide which d are on top."""
    rank = min(rows, columns)
    return basis(draw, rows)[:, :rank] @ torch.diag(torch.arange(rank, 0, -1).double()) @ basis(draw, columns)[:rank]


def two_matrices(draw):
    rows, columns = draw_a.size(draw, 2, 5), draw_a.size(draw, 2, 5)
    return dict(first=spectrum(draw, rows, columns), second=spectrum(draw, rows, columns),
                d=draw_a.size(draw, 1, min(rows, columns)))


@law("experts.overlap", "overlap is the mean squared cosine between two experts' strongest d input directions",
     cases=draw_a.cases(two_matrices), axes=dict(first="o c", second="o c"), examples=60,
     subjects={"overlap": lambda first, second, d: measure.overlap(*(measure.top_subspace(m, d, "input")
                                                                     for m in (first, second)))},
     guards=[measure.top_subspace, measure.overlap])
def overlap(fn, first, second, d):
    """fn(first, second, d): float (rows, D) twice, weights that read D channels; an int -> a tensor without axes,
    ||Q1^T Q2||_F^2 / d, where Q (D, d) holds the d strongest right singular vectors."""
    projectors = []
    for matrix in (first, second):
        values, vectors = torch.linalg.eigh(matrix.T @ matrix)      # smallest first
        top = vectors[:, len(values) - d:]
        projectors.append(top @ top.T)
    # the trace of a product of two projectors is ||Q1^T Q2||_F^2
    expect(fn(first, second, d), torch.trace(projectors[0] @ projectors[1]) / d, "")
