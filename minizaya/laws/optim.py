"""Laws of Muon: the orthogonalisation, the size of a step, and what a step depends on."""

from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor

from ..train import muon as lib
from . import core
from . import strategies as draw_a
from .core import Broken, expect, finite, law, require

BAND = (0.68, 1.21)   # where p below takes every number from 0.002 to 1: its least and largest values, rounded outwards


def p(s: Tensor) -> Tensor:
    """What five Newton-Schulz steps make of a singular value, s / Frobenius norm in 0..1."""
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s ** 3 + 2.0315 * s ** 5
    return s


def rotation(draw, size: int) -> Tensor:
    """An orthogonal matrix."""
    return torch.linalg.qr(draw_a.tensor(draw, size, size) + 3 * torch.eye(size, dtype=torch.float64))[0]


def sizes(draw) -> tuple[int, int]:
    return draw_a.size(draw, 1, 5), draw_a.size(draw, 1, 5)


def with_values(draw, m: int, n: int) -> Tensor:
    """A float64 (m, n) with singular values 1, 1/2, 1/4 .. 1/128: none is too small for the band."""
    values = 0.5 ** draw_a.integers(draw, min(m, n), low=0, high=7).double()
    diagonal = torch.zeros(m, n, dtype=torch.float64)
    diagonal[range(min(m, n)), range(min(m, n))] = values
    return rotation(draw, m) @ diagonal @ rotation(draw, n)


def textbook(g: Tensor, added: float = 0.0) -> Tensor:
    """What Newton-Schulz must give, by way of the singular values. The norm is at least 1e-7, or a little is added to
    it: papers guard against zero in both ways."""
    u, s, vt = torch.linalg.svd(g, full_matrices=False)
    return u * p(s / (s.norm() + added if added else s.norm().clamp_min(1e-7))) @ vt


def expect_either(got: object, make: Callable[[float], Tensor], axes: str, what: str = "") -> None:
    """`expect`, with one guard or another: make(added) is what is wanted. Less than 1e-8 is added without a trace."""
    try:
        expect(got, make(0.0), axes, what)
    except Broken as error:
        for added in (1e-7, 1e-8):
            with suppress(Broken):
                expect(got, make(added), axes, what)
                return
        raise error from None


def same_shape(got, like: Tensor) -> Tensor:
    got = finite(got)
    require(got.shape == like.shape, f"you gave shape {tuple(got.shape)}, the law wants {tuple(like.shape)}")
    require(got.dtype == like.dtype, f"you gave type {got.dtype}, the law wants {like.dtype}")
    return got


def moves(fn) -> None:
    """Zero satisfies many laws; this asks for one step."""
    one = torch.eye(2, dtype=torch.float64)
    require(same_shape(fn(one), one).abs().sum() > 0, "the identity matrix becomes zero")


# ---- Newton-Schulz ---------------------------------------------------------------------------------------------------

NS = dict(subjects={"newton_schulz": lib.newton_schulz}, guards=[lib.newton_schulz, lib.matched])


def graded(draw):
    return dict(g=with_values(draw, *sizes(draw)))


def any_matrix(draw):
    return dict(g=draw_a.tensor(draw, *sizes(draw)))


@law("optim.polynomial", "five steps keep the singular vectors and send each singular value s to p(s / Frobenius norm)",
     cases=draw_a.cases(any_matrix), axes=dict(g="o c"), **NS)
def polynomial(fn, g):
    """fn(g): float64 (m, n) -> (m, n). Five steps x <- a x + b (x x^T) x + c (x x^T)^2 x from x = g / its Frobenius
    norm, with a, b, c = 3.4445, -4.7750, 2.0315. A zero matrix stays zero."""
    expect_either(fn(g), lambda added: textbook(g, added), "o c")
    expect(fn(torch.zeros_like(g)), torch.zeros_like(g), "o c", "of a zero matrix")


@law("optim.singular_values", "singular values that are not tiny all end between 0.68 and 1.21",
     cases=draw_a.cases(graded), axes=dict(g="o c"), **NS)
def singular_values(fn, g):
    """fn(g): as in optim.polynomial; here no singular value is below 1/300 of the Frobenius norm."""
    values = torch.linalg.svdvals(same_shape(fn(g), g))
    require(((BAND[0] <= values) & (values <= BAND[1])).all(),
            f"the singular values are {', '.join(f'{v:.3f}' for v in values.tolist())}")


def scaled(draw):
    return any_matrix(draw) | dict(scale=draw_a.pick(draw, (0.001, 0.5, 3.0, 1e6)))


@law("optim.scale_free", "a gradient a thousand times larger gives the same step", cases=draw_a.cases(scaled),
     axes=dict(g="o c"), **NS)
def scale_free(fn, g, scale):
    """fn(g): as in optim.polynomial. For norms above 1e-7: below, a gradient is taken for rounding noise and fades.
    A guard of 1e-7 that is added to the norm may show as much as it must: p is at most 3.4445^5 < 500 steep."""
    straight, other = same_shape(fn(g), g), same_shape(fn(scale * g), g)
    size = float(g.norm())
    room = 500 * 1e-7 * (1 / size + 1 / (scale * size)) if size else 0.0
    off = float((other - straight).abs().max())
    room += core.tolerance(g.dtype) * (1 + float(straight.abs().max()))
    require(off <= room, f"for the gradient times {scale:g} the step is off by {off:.2g}")
    moves(fn)


def turned(draw):
    m, n = sizes(draw)
    return dict(g=draw_a.tensor(draw, m, n), left=rotation(draw, m), right=rotation(draw, n))


@law("optim.rotates", "turning rows and columns of the gradient turns the step: NS(U G V) = U NS(G) V",
     cases=draw_a.cases(turned), axes=dict(g="o c"), **NS)
def rotates(fn, g, left, right):
    """fn(g): as in optim.polynomial. left, right: orthogonal (m, m) and (n, n)."""
    expect(fn(left @ g @ right), left @ same_shape(fn(g), g) @ right, "o c")
    moves(fn)


def stacks(draw):
    stack = draw_a.tensor(draw, draw_a.size(draw, 1, 4), *sizes(draw))
    idle = draw_a.size(draw, 0, len(stack) - 1) if draw_a.flag(draw) else None
    return dict(stack=stack if idle is None else stack * (torch.arange(len(stack)) != idle)[:, None, None])


@law("optim.batched", "a stack of experts is done one by one, and an expert without gradient gets zero",
     cases=draw_a.cases(stacks), axes=dict(stack="e o c"), **NS)
def batched(fn, stack):
    """fn(stack): float64 (e, m, n) -> (e, m, n)."""
    got = same_shape(fn(stack), stack)
    for e, g in enumerate(stack):
        expect_either(got[e], lambda added, g=g: textbook(g, added), "o c", f"expert {e}")


# ---- the step --------------------------------------------------------------------------------------------------------

STEP = dict(subjects={"matched": lib.matched}, guards=[lib.matched, lib.newton_schulz])


@law("optim.rms", "a step's root mean square is 0.2, within the band of the singular values, whatever the shape",
     cases=draw_a.cases(graded), axes=dict(g="o c"), **STEP)
def rms(fn, g):
    """fn(g): float64 (m, n) -> the step for a learning rate of one, (m, n): newton_schulz times 0.2 sqrt(max(m, n))."""
    got = same_shape(fn(g), g)
    size, longer = got.square().mean().sqrt(), max(g.shape)
    require(0.2 * BAND[0] <= size <= 0.2 * BAND[1], f"the root mean square is {size:.4f}")
    expect_either(got, lambda added: 0.2 * longer ** 0.5 * textbook(g, added), "o c", "the step")
    expect(fn(torch.zeros_like(g)), torch.zeros_like(g), "o c", "of a zero matrix")


def maps(draw):
    rows = tuple(draw_a.size(draw, 1, 3) for _ in range(draw_a.size(draw, 1, 4)))
    columns = draw_a.size(draw, 1, 5)
    return dict(pieces=[draw_a.tensor(draw, height, columns) for height in rows])


@law("optim.stacked_rows", "maps stored in one matrix get the steps that each would get alone",
     cases=draw_a.cases(maps), **STEP)
def stacked_rows(fn, pieces):
    """fn(g, rows): float64 (m, n); rows, the heights of the maps stacked in g, m in all -> as in optim.rms."""
    rows = tuple(len(piece) for piece in pieces)
    def alone(added):
        return torch.cat([0.2 * max(piece.shape) ** 0.5 * textbook(piece, added) for piece in pieces])

    expect_either(fn(torch.cat(pieces), rows), alone, "o c")


# ---- the optimizer ---------------------------------------------------------------------------------------------------


def run(start: Tensor, grads: Tensor, lr: float, weight_decay: float, momentum: float) -> Tensor:
    """The library's Muon on one matrix: the weights after each gradient, (steps, m, n)."""
    weight = torch.nn.Parameter(start.clone())
    optimizer = lib.Muon([dict(params=[weight], muon=True, weight_decay=weight_decay)], lr, momentum)
    after = []
    for grad in grads:
        weight.grad = grad
        optimizer.step()
        after.append(weight.detach().clone())
    return torch.stack(after)


def histories(draw):
    m, n = sizes(draw)
    return dict(start=draw_a.tensor(draw, m, n), grads=torch.stack([with_values(draw, m, n) for _ in range(3)]))


OPTIMIZER = dict(axes=dict(grads="k o c"), subjects={"Muon": run}, guards=[lib.Muon.step, lib.Muon.muon_direction],
                 examples=25)


@law("optim.momentum_free", "with momentum 0 a step depends on its own gradient alone", cases=draw_a.cases(histories),
     **OPTIMIZER)
def momentum_free(fn, start, grads):
    """fn(start, grads, lr, weight_decay, momentum): float64 (m, n), (steps, m, n) and three floats -> the weights after
    each step, float64 (steps, m, n). Here lr is 1 and nothing decays."""
    path = same_shape(fn(start, grads, 1.0, 0.0, 0.0), grads)
    for k in range(1, len(grads)):
        fresh = fn(path[k - 1], grads[k:k + 1], 1.0, 0.0, 0.0)
        expect(path[k:k + 1], fresh, "k o c", f"after step {k}")
        require((path[k] - path[k - 1]).square().mean().sqrt() > 0.1, f"step {k} does not move the weights")


def remembered(draw):
    """The first gradient may be zero: nothing has been learned yet, and the norm is zero, too."""
    case = histories(draw)
    if draw_a.flag(draw):
        case["grads"] = torch.cat([torch.zeros_like(case["grads"][:1]), case["grads"]])
    return case | dict(lr=draw_a.pick(draw, (0.125, 1.0)), weight_decay=draw_a.pick(draw, (0.0, 0.1)),
                                  momentum=draw_a.pick(draw, (0.0, 0.5, 0.95)))


def from_nothing():
    """Two gradients that point elsewhere, after none or after one of zero: the mean starts at zero, not at them."""
    grads = torch.tensor([[[1.0, 0.0], [0.0, 0.5]], [[0.0, 1.0], [0.25, 0.0]]], dtype=torch.float64)
    case = dict(start=torch.zeros(2, 2, dtype=torch.float64), lr=1.0, weight_decay=0.1, momentum=0.5)
    return [case | dict(grads=grads), case | dict(grads=torch.cat([torch.zeros_like(grads[:1]), grads]))]


@law("optim.muon", "momentum, one look ahead, orthogonalise, match the size; decay by lr times weight decay, no more",
     cases=draw_a.cases(remembered), always=from_nothing, **OPTIMIZER)
def muon(fn, start, grads, lr, weight_decay, momentum):
    """fn(start, grads, lr, weight_decay, momentum): as in optim.momentum_free."""
    def path(added):
        mean, weight, after = torch.zeros_like(start), start, []
        for g in grads:
            mean = momentum * mean + (1 - momentum) * g
            step = 0.2 * max(g.shape) ** 0.5 * textbook(momentum * mean + (1 - momentum) * g, added)
            weight = weight * (1 - lr * weight_decay) - lr * step
            after.append(weight)
        return torch.stack(after)

    expect_either(fn(start, grads, lr, weight_decay, momentum), path, "k o c", "weights")
