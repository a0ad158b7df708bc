"""Laws of the experts: who works on which token, and what the skip route leaves behind."""

import torch

from ..arch import experts as lib
from . import strategies as draw_a
from . import textbook
from .core import expect, expect_trainable, finite, law, require


def single(draw):
    n, d, f = draw_a.size(draw, 1, 5), draw_a.size(draw, 1, 5), draw_a.size(draw, 1, 4)
    return dict(x=draw_a.tensor(draw, n, d), gate_up=draw_a.tensor(draw, 2 * f, d), down=draw_a.tensor(draw, d, f))


@law("experts.swiglu", "one expert is down @ (silu(gate @ x) * (up @ x)), the gate rows above the up rows",
     cases=draw_a.cases(single), axes=dict(x="n c", gate_up="o c"), subjects={"swiglu": lib.swiglu},
     guards=[lib.swiglu])
def swiglu(fn, x, gate_up, down):
    """fn(x, gate_up, down): float (n, D), (2F, D), (D, F) -> (n, D)."""
    expect(fn(x, gate_up, down), textbook.swiglu(x, gate_up, down), "n c")
    expect_trainable(fn, textbook.swiglu, dict(x="n c", gate_up="o c", down="o c"),
                     dict(x=x, gate_up=gate_up, down=down))


def loads(draw):
    n, experts, d, f = (draw_a.size(draw, low, high) for low, high in ((1, 7), (1, 4), (1, 4), (1, 3)))
    return dict(x=draw_a.tensor(draw, n, d), routes=draw_a.integers(draw, n, low=0, high=experts),
                gates=draw_a.tensor(draw, n, zero=False).abs() / 8, gate_up=draw_a.tensor(draw, experts, 2 * f, d),
                down=draw_a.tensor(draw, experts, d, f))


DISPATCH = dict(cases=draw_a.cases(loads), axes=dict(x="n c", gate_up="e o c"),
                subjects={"experts_loop": lib.experts_loop, "experts_grouped": lib.experts_grouped},
                guards=[lib.experts_loop, lib.experts_grouped])


@law("experts.dispatch", "each token passes through its own expert, times its gate, under any load", **DISPATCH)
def dispatch(fn, x, routes, gates, gate_up, down):
    """fn(x, routes, gates, gate_up, down): x float (n, D); routes int64 (n,), E means skip; gates (n,);
    gate_up (E, 2F, D); down (E, D, F) -> (n, D), in the order of x."""
    expect(fn(x, routes, gates, gate_up, down), textbook.dispatched(x, routes, gates, gate_up, down), "n c")


@law("experts.skip_zero", "a skipped token gets exactly zero, and its batch mates do not notice", **DISPATCH)
def skip_zero(fn, x, routes, gates, gate_up, down):
    """fn(x, routes, gates, gate_up, down): as in experts.dispatch. The first token, then all, are sent to skip."""
    first = routes.clone()
    first[0] = len(gate_up)
    for sent, who in ((first, "the first"), (torch.full_like(routes, len(gate_up)), "all")):
        out = fn(x, sent, gates, gate_up, down)
        expect(out, textbook.dispatched(x, sent, gates, gate_up, down), "n c", f"with {who} skipped")
        require((out[sent == len(gate_up)] == 0).all(), f"with {who} skipped: a skipped token got almost zero")


@law("experts.crowded", "it does not matter how full an expert is: all tokens in one, or none", **DISPATCH)
def crowded(fn, x, routes, gates, gate_up, down):
    """fn(x, routes, gates, gate_up, down): as in experts.dispatch. Every token is sent to one expert, each in turn."""
    for expert in range(len(gate_up)):
        wanted = textbook.swiglu(x, gate_up[expert], down[expert]) * gates[:, None]
        expect(fn(x, torch.full_like(routes, expert), gates, gate_up, down), wanted, "n c", f"all in expert {expert}")


@law("experts.token_order", "tokens in another order give the same outputs in that order", **DISPATCH)
def token_order(fn, x, routes, gates, gate_up, down):
    """fn(x, routes, gates, gate_up, down): as in experts.dispatch."""
    order = torch.arange(len(x)).flip(0)
    straight = finite(fn(x, routes, gates, gate_up, down))
    turned = finite(fn(x[order], routes[order], gates[order], gate_up, down))
    require(straight.shape == x.shape, f"you gave shape {tuple(straight.shape)}, the law wants {tuple(x.shape)}")
    expect(turned, straight[order].detach(), "n c", "tokens in reverse")
    expect(straight.abs().sum(-1) > 0, textbook.dispatched(x, routes, gates, gate_up, down).abs().sum(-1) > 0, "n",
           "whether the token got anything")


@law("experts.expert_order", "experts in another order, their routes renamed with them, change nothing", **DISPATCH)
def expert_order(fn, x, routes, gates, gate_up, down):
    """fn(x, routes, gates, gate_up, down): as in experts.dispatch."""
    experts = len(gate_up)
    order = torch.arange(experts).roll(1)
    renamed = torch.cat([order.argsort(), torch.tensor([experts])])[routes]     # the skip route keeps its number
    wanted = textbook.dispatched(x, routes, gates, gate_up, down)
    expect(fn(x, renamed, gates, gate_up[order], down[order]), wanted, "n c")


@law("experts.gradients", "gradients of tokens, gates and weights are the definition's; an idle expert gets zero",
     **DISPATCH)
def gradients(fn, x, routes, gates, gate_up, down):
    """fn(x, routes, gates, gate_up, down): as in experts.dispatch; everything but routes asks for gradients."""
    inputs = [tensor.requires_grad_(True) for tensor in (x, gates, gate_up, down)]
    pull = (torch.arange(x.numel()) % 5 - 2.0).double().view_as(x)
    out = finite(fn(x, routes, gates, gate_up, down))
    busy = bool((routes < len(gate_up)).any())
    require(out.requires_grad or not busy, "the output carries no gradient")
    right = torch.autograd.grad((textbook.dispatched(x, routes, gates, gate_up, down) * pull).sum(), inputs,
                                allow_unused=True) if busy else [None] * 4
    got = torch.autograd.grad((out * pull).sum(), inputs, allow_unused=True) if out.requires_grad else [None] * 4
    for name, value, own, wanted in zip(("x", "gates", "gate_up", "down"), inputs, got, right):
        own = torch.zeros_like(value) if own is None else own
        wanted = torch.zeros_like(value) if wanted is None else wanted
        letters = {1: "n", 2: "n c", 3: "e o c"}[value.dim()]
        expect(own, wanted.detach(), letters, f"gradient of {name}")
    expect(out, textbook.dispatched(x, routes, gates, gate_up, down).detach(), "n c")
