"""Laws of CCA's own parts: convolutions, mean path, value shift and norm."""

import torch

from ..arch import cca as lib
from . import strategies as draw_a
from . import textbook
from .core import expect, expect_trainable, finite, law, parts, require, tolerance

# ---- value shift -----------------------------------------------------------------------------------------------------


def values(draw):
    b, t, c = draw_a.size(draw, 1, 3), draw_a.size(draw, 1, 7), draw_a.size(draw, 1, 3)
    return dict(now=draw_a.tensor(draw, b, t, c), then=draw_a.tensor(draw, b, t, c))


VALUES = dict(now="b t c", then="b t c")


@law("cca.value_shift", "half of the value channels come from the token before; the first token gets zeros there",
     cases=draw_a.cases(values), axes=VALUES, subjects={"value_shift": lib.value_shift}, guards=[lib.value_shift])
def value_shift(fn, now, then):
    """fn(now, then): two float (b, t, c) -> (b, t, 2c), [now_t ; then_{t-1}]."""
    expect(fn(now, then), textbook.shifted(now, then), "b t c")
    expect_trainable(fn, textbook.shifted, VALUES, dict(now=now, then=then))


def split_values(draw):
    case = values(draw)
    return case | dict(cut=draw_a.size(draw, 0, case["now"].shape[1] - 1))


@law("cca.value_shift_resumes", "a sequence handed over in two pieces gets the same values as in one",
     cases=draw_a.cases(split_values), axes=VALUES, subjects={"value_shift": lib.value_shift},
     guards=[lib.value_shift])
def value_shift_resumes(fn, now, then, cut):
    """fn(now, then, before): now, then float (b, t, c); before (b, c), `then` of the token before the first, or None.

    Returns (b, t, 2c). `cut` is the length of the first piece.
    """
    whole = textbook.shifted(now, then)
    before = then[:, cut - 1] if cut else None
    expect(fn(now[:, cut:], then[:, cut:], before), whole[:, cut:], "b t c", "second piece")


def packed_values(draw):
    case = values(draw)
    b, t, _ = case["now"].shape
    return case | dict(position=draw_a.positions(draw_a.lengths(draw, t), b))


@law("cca.value_shift_documents", "the first token of a packed document gets nothing from the document before it",
     cases=draw_a.cases(packed_values), axes=VALUES, subjects={"value_shift": lib.value_shift},
     guards=[lib.value_shift])
def value_shift_documents(fn, now, then, position):
    """fn(now, then, before, position): now, then as in cca.value_shift; before is None; position int (b, t), the place
    of each token in its own document -> (b, t, 2c)."""
    expect(fn(now, then, None, position), textbook.shifted(now, then, None, position), "b t c")


# ---- convolutions ----------------------------------------------------------------------------------------------------


def convolutions(draw, past: bool = True):
    groups = draw_a.size(draw, 1, 3)
    channels = groups * draw_a.size(draw, 1, 2)
    convs = [draw_a.convolution(draw, channels, draw_a.size(draw, 1, 3), channels),
             draw_a.convolution(draw, channels, draw_a.size(draw, 1, 3), groups)]
    if past and draw_a.size(draw, 0, 5) == 5:     # the ablations: one convolution or none
        convs[1] = None
        if draw_a.flag(draw):
            convs[0] = None
    b, t = draw_a.size(draw, 1, 2), draw_a.size(draw, 1, 6)
    z = draw_a.tensor(draw, b, t + (textbook.lag(convs) if past else 0), channels)
    return dict(z=z, depthwise=convs[0], grouped=convs[1])


CONVOLVE = {"convolve": lib.convolve, "convolve_taps": lib.convolve_taps}
BOTH = [lib.convolve, lib.convolve_taps]


@law("cca.convolve", "a channel-wise, then a head-wise causal convolution, with no activation between",
     cases=draw_a.cases(convolutions), axes=dict(z="b t c"), subjects=CONVOLVE, guards=BOTH)
def convolve(fn, z, depthwise, grouped):
    """fn(z, depthwise, grouped): z float (b, lag + t, c), whose first `lag` columns are the past; two nn.Conv1d
    without padding (either may be None), whose taps reach back `lag` tokens in all -> (b, t, c)."""
    expect(fn(z, depthwise, grouped), textbook.convolved(z, [depthwise, grouped]), "b t c")


def pads_once(convolve):
    def padded(z, depthwise, grouped):
        return convolve(textbook.pad(z, textbook.lag([depthwise, grouped])), depthwise, grouped)
    return padded


@law("cca.padding", "padding is put in front once, before the first convolution, so the second sees the first's bias",
     cases=draw_a.cases(lambda draw: convolutions(draw, past=False)), axes=dict(z="b t c"),
     subjects={name: pads_once(fn) for name, fn in CONVOLVE.items()}, guards=BOTH)
def padding(fn, z, depthwise, grouped):
    """fn(z, depthwise, grouped): z float (b, t, c), the start of a sequence, no past in it: fn pads -> (b, t, c)."""
    def right(z, *convs):
        return textbook.convolved(textbook.pad(z, textbook.lag(convs)), convs)

    expect(fn(z, depthwise, grouped), right(z, depthwise, grouped), "b t c")
    expect_trainable(fn, right, dict(z="b t c"), dict(z=z), depthwise, grouped)


def later(draw):
    case = convolutions(draw, past=False)
    return case | dict(at=draw_a.size(draw, 0, case["z"].shape[1] - 1))


@law("cca.causal", "a later token never changes an earlier output, and every token changes its own",
     cases=draw_a.cases(later), axes=dict(z="b t c"), guards=BOTH,
     subjects={name: pads_once(fn) for name, fn in CONVOLVE.items()})
def causal(fn, z, depthwise, grouped, at):
    """fn(z, depthwise, grouped): as in cca.padding. Token `at` and all after it are replaced."""
    depthwise.weight.data[..., -1] = 1.0                              # so that the newest tap counts for something
    grouped.weight.data[..., -1] = torch.eye(z.shape[2] // grouped.groups).repeat(grouped.groups, 1)
    other = z.clone()
    other[:, at:] += 5.0
    first, second = finite(fn(z, depthwise, grouped)), finite(fn(other, depthwise, grouped))
    require(first.shape == z.shape, f"you gave shape {tuple(first.shape)}, the law wants {tuple(z.shape)} (b t c)")
    expect(second[:, :at], first[:, :at].detach(), "b t c", "after a change of later tokens")
    moved = second[:, at] - first[:, at]
    expect(moved, torch.full_like(moved, 5.0).detach(), "b c", "change at the token itself")


def packed_convolutions(draw):
    case = convolutions(draw, past=False)
    b, t, _ = case["z"].shape
    return case | dict(documents=draw_a.lengths(draw, t))


def taps_of_documents(z, depthwise, grouped, position):
    return lib.convolve_taps(textbook.pad(z, textbook.lag([depthwise, grouped])), depthwise, grouped, position)


@law("cca.convolve_documents", "a convolution gives a packed document the values and gradients it would have alone",
     cases=draw_a.cases(packed_convolutions), axes=dict(z="b t c"), subjects={"convolve_taps": taps_of_documents},
     guards=BOTH)
def convolve_documents(fn, z, depthwise, grouped, documents):
    """fn(z, depthwise, grouped, position): z float (b, t, c) without past; position int (b, t), the place of each
    token in its own document -> (b, t, c). `documents` are the lengths of the documents."""
    position = draw_a.positions(documents, len(z))
    convs = [depthwise, grouped]
    z.requires_grad_(True)
    alone = torch.cat([textbook.convolved(textbook.pad(d, textbook.lag(convs)), convs)
                       for d in z.split(documents, dim=1)], dim=1)
    together = fn(z, depthwise, grouped, position)
    expect(together, alone.detach(), "b t c")
    pull = (torch.arange(alone.numel()) % 5 - 2.0).double().view_as(alone)
    inputs = [z, *depthwise.parameters(), *grouped.parameters()]
    require(together.requires_grad, "the output carries no gradient back to z")
    for name, own, right in zip(("z", "depthwise weight", "depthwise bias", "grouped weight", "grouped bias"),
                                torch.autograd.grad((together * pull).sum(), inputs, allow_unused=True),
                                torch.autograd.grad((alone * pull).sum(), inputs)):
        require(own is not None, f"the output does not depend on {name}")
        expect(own, right, "b t c" if name == "z" else "c d t"[: 2 * right.dim() - 1], f"gradient of {name}")


# ---- mean path and norm ----------------------------------------------------------------------------------------------


def queries_and_keys(draw):
    h, j, d = draw_a.heads(draw)
    b, t = draw_a.size(draw, 1, 2), draw_a.size(draw, 1, 5)
    return dict(q=draw_a.tensor(draw, b, t, h, d), k=draw_a.tensor(draw, b, t, j, d))


QK = dict(q="b t h d", k="b t j d")


@law("cca.qk_mean", "each query is averaged with its own key, each key with the mean of its queries",
     cases=draw_a.cases(queries_and_keys), axes=QK, subjects={"qk_mean": lib.qk_mean}, guards=[lib.qk_mean])
def qk_mean(fn, q, k):
    """fn(q, k): float (b, t, h, d) and (b, t, j, d) -> m_q (b, t, h, d), m_k (b, t, j, d)."""
    mean_q, mean_k = parts(fn(q, k), 2, "m_q and m_k")
    wanted_q, wanted_k = textbook.means(q, k)
    expect(mean_q, wanted_q, "b t h d", "m_q")
    expect(mean_k, wanted_k, "b t j d", "m_k")
    expect_trainable(fn, textbook.means, QK, dict(q=q, k=k))


def warm(draw):
    case = queries_and_keys(draw)
    return case | dict(temperature=draw_a.tensor(draw, case["k"].shape[2], zero=False))


NORM = dict(cases=draw_a.cases(warm), axes=QK | dict(temperature="j"), subjects={"qk_norm": lib.qk_norm},
            guards=[lib.qk_norm])


@law("cca.qk_norm", "every query has length sqrt(d), every key |temperature| times that, and directions stay", **NORM)
def qk_norm(fn, q, k, temperature):
    """fn(q, k, temperature): float (b, t, h, d), (b, t, j, d), (j,) -> q and k of the same shapes."""
    new_q, new_k = parts(fn(q, k, temperature), 2, "q and k")
    expect(new_q, textbook.normed(q), "b t h d", "q")
    expect(new_k, textbook.normed(k, temperature), "b t j d", "k")
    # a length has no derivative at zero
    some_q, some_k = (torch.where((x == 0).all(-1, keepdim=True), 1.0, x) for x in (q, k))
    expect_trainable(fn, lambda q, k, temperature: (textbook.normed(q), textbook.normed(k, temperature)),
                     NORM["axes"], dict(q=some_q, k=some_k, temperature=temperature))


@law("cca.qk_norm_tiny", "the norm does not care how long a vector was; a zero vector stays zero, never NaN", **NORM)
def qk_norm_tiny(fn, q, k, temperature):
    """fn(q, k, temperature): as in cca.qk_norm; q is a million times smaller here, the first key is zero, and its
    gradient is finite."""
    small, empty = q * 1e-6, k.clone()
    empty[:, 0] = 0.0
    new_q, new_k = parts(fn(small, empty, temperature), 2, "q and k")
    expect(new_q, textbook.normed(q), "b t h d", "q")
    expect(new_k, textbook.normed(empty, temperature), "b t j d", "k")
    # trap: where NaN is replaced after the division, the gradient is NaN all the same
    leaf = empty.requires_grad_(getattr(fn, "differentiable", True))
    _, new_k = parts(fn(small, leaf, temperature), 2, "q and k")
    slope = torch.autograd.grad(new_k.sum(), leaf)[0] if new_k.requires_grad else torch.zeros(())
    require(slope.isfinite().all(), "a zero key stays zero, but its gradient is NaN or infinite, and after one step "
                                    "so is every weight below it")


@law("cca.temperature_linear", "twice the temperature is twice the key; queries do not feel it", **NORM)
def temperature_linear(fn, q, k, temperature):
    """fn(q, k, temperature): as in cca.qk_norm."""
    once_q, once_k = parts(fn(q, k, temperature), 2, "q and k")
    more_q, more_k = parts(fn(q, k, -2 * temperature), 2, "q and k")
    expect(more_k, -2 * finite(once_k).detach(), "b t j d", "k at -2 times the temperature")
    expect(more_q, finite(once_q).detach(), "b t h d", "q at another temperature")
    expect(once_k.norm(dim=-1).amax(), temperature[(k != 0).any(-1).any(1).any(0)].abs().max() * k.shape[-1] ** 0.5
           if (k != 0).any() else torch.zeros((), dtype=k.dtype), "", "longest key")


@law("cca.score_bound", "no score exceeds |temperature| * sqrt(head dim), and parallel vectors reach it", **NORM)
def score_bound(fn, q, k, temperature):
    """fn(q, k, temperature): as in cca.qk_norm; scores are then q . k / sqrt(d)."""
    group, d = q.shape[2] // k.shape[2], q.shape[3]
    bound = temperature.abs() * d ** 0.5
    new_q, new_k = parts(fn(q, k, temperature), 2, "q and k")
    score = torch.einsum("bthd,bshd->bhts", finite(new_q), finite(new_k).repeat_interleave(group, 2)) / d ** 0.5
    limit = bound.repeat_interleave(group)[:, None, None]
    over = (score.abs() / limit).amax(dim=(0, 2, 3))
    head = int(over.argmax())
    require((over <= 1 + tolerance(q.dtype)).all(), f"query head {head} (counting from 0) has a score of "
            f"{score[:, head].abs().max():.6g}, over its bound {float(limit[head]):.6g}")
    ones = torch.ones_like(q), torch.ones_like(k)
    new_q, new_k = parts(fn(*ones, temperature), 2, "q and k")
    reached = (new_q * new_k.repeat_interleave(group, 2)).sum(-1) / d ** 0.5
    expect(reached, (temperature * d ** 0.5).repeat_interleave(group).expand(reached.shape), "b t h",
           "score of parallel vectors")
