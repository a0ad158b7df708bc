"""Laws of load balancing: the controllers that move the biases, and the measures of a load."""

import math

import torch
from torch import Tensor

from ..arch import balance as lib
from . import strategies as draw_a
from .core import expect, finite, law, require

# ---- controllers -----------------------------------------------------------------------------------------------------


def shares(draw, *shape: int, skipped: bool = False) -> Tensor:
    """Loads: float32 fractions of a whole that is a power of two, so that no fraction is rounded; sometimes with an
    idle expert. They sum to one over the last axis, or to less when `skipped`."""
    tokens = draw_a.integers(draw, *shape, low=0, high=9)
    whole = 2 ** torch.log2(tokens.sum(-1, keepdim=True).clamp_min(1)).ceil()
    if not skipped:
        tokens[..., :1] += (whole - tokens.sum(-1, keepdim=True)).long()
    return tokens / whole


def histories(draw):
    """In half of the cases some tokens are skipped, in some of them all."""
    steps, experts = draw_a.size(draw, 1, 5), draw_a.size(draw, 1, 5)
    return dict(loads=shares(draw, steps, experts, skipped=draw_a.flag(draw)))


def off(load: Tensor) -> Tensor:
    """The error: load - mean load."""
    return load - load.mean(-1, keepdim=True)


def apart(bias: Tensor) -> Tensor:
    """Biases without what all experts share, which moves no choice between them."""
    return finite(bias) - bias.mean(-1, keepdim=True)


def over_time(make):
    """From a maker of balancers to fn(loads, ...): the biases after each update, (steps, E)."""
    def run(loads: Tensor, *gains) -> Tensor:
        balancer = make(loads.shape[-1], *gains)
        return torch.stack([balancer.update(load) for load in loads])
    return run


ANY = dict(axes=dict(loads="k e"), guards=[lib.Balancer.update, lib.SignBalancer.move, lib.PIDBalancer.move,
                                           lib.AdamWBalancer.move])
KINDS = {"SignBalancer": over_time(lib.SignBalancer), "PIDBalancer": over_time(lib.PIDBalancer),
         "PIDBalancer, P alone": over_time(lambda e: lib.PIDBalancer(e, 0.5, 0.0, 0.0)),
         "PIDBalancer, with D": over_time(lambda e: lib.PIDBalancer(e, 0.5, 0.1, 0.2)),
         "AdamWBalancer": over_time(lib.AdamWBalancer)}


def shaped(got: Tensor, like: Tensor) -> None:
    require(got.shape == like.shape, f"you gave shape {tuple(got.shape)}, the law wants {tuple(like.shape)}")


def sizes(draw):
    return dict(experts=2 ** draw_a.size(draw, 0, 4), steps=draw_a.size(draw, 1, 4))


def moves(fn, experts: int) -> None:
    """A balancer that never moves satisfies many laws; this asks for one move."""
    load = torch.zeros(1, max(experts, 2))
    load[0, 0] = 1.0
    require(finite(fn(load)).abs().sum() > 0, "the bias never moves, not even when one expert gets everything")


@law("balance.uniform_fixed", "a uniform load is a fixed point: no bias moves", cases=draw_a.cases(sizes),
     subjects=KINDS, **ANY)
def uniform_fixed(fn, experts, steps):
    """fn(loads): float32 (steps, E), a history of loads -> biases float32 (steps, E) after each, starting from zero.
    E is a power of two here, so that 1 / E is exact."""
    loads = torch.full((steps, experts), 1 / experts)
    expect(fn(loads), torch.zeros_like(loads), "k e", "bias", exact=True)
    moves(fn, experts)


def lopsided(draw):
    case = histories(draw)
    return dict(load=case["loads"][0])


@law("balance.against_error", "an expert with too many tokens loses bias, one with too few gains",
     cases=draw_a.cases(lopsided), subjects=KINDS, axes=dict(load="e"), guards=ANY["guards"])
def against_error(fn, load):
    """fn(loads): as in balance.uniform_fixed, with a history of one step."""
    bias, error = finite(fn(load[None])), off(load)
    clear = error.abs() > 1e-4
    shaped(bias, load[None])
    expect(bias[0, clear].sign(), -error[clear].sign(), "e", "direction of the bias of a clearly wrong load")


@law("balance.permutes", "renaming the experts renames the biases", cases=draw_a.cases(histories), subjects=KINDS,
     **ANY)
def permutes(fn, loads):
    """fn(loads): as in balance.uniform_fixed."""
    straight = finite(fn(loads))
    shaped(straight, loads)
    expect(fn(loads.flip(-1)), straight.flip(-1), "k e", "experts in reverse")
    moves(fn, loads.shape[-1])


def stepped(draw):
    case = histories(draw)
    experts = case["loads"].shape[-1]
    return dict(bias=draw_a.tensor(draw, experts, dtype=torch.float32), load=case["loads"][0],
                lr=draw_a.pick(draw, (0.001, 0.5)))


def sign_step(bias: Tensor, load: Tensor, lr: float) -> Tensor:
    balancer = lib.SignBalancer(len(bias), lr)
    balancer.bias = bias.clone()
    return balancer.update(load)


@law("balance.sign",
     "the sign rule moves every bias by lr against its error, load - mean load, however large; "
     "what all share does not count",
     cases=draw_a.cases(stepped), axes=dict(bias="e", load="e"), subjects={"SignBalancer": sign_step},
     guards=ANY["guards"])
def sign(fn, bias, load, lr):
    """fn(bias, load, lr): float32 (E,), (E,) and a float -> the new bias, float32 (E,),
    up to what all experts share."""
    expect(apart(fn(bias, load, lr)), apart(bias - lr * off(load).sign()), "e", "bias less the mean bias")


def controlled(draw):
    gains = {name: draw_a.size(draw, 0, 4) / 4 for name in ("kp", "ki", "kd")}
    return histories(draw) | gains


@law("balance.pid", "bias = -(kp * error + ki * sum of errors + kd * change of error)",
     cases=draw_a.cases(controlled), subjects={"PIDBalancer": over_time(lib.PIDBalancer)}, **ANY)
def pid(fn, loads, kp, ki, kd):
    """fn(loads, kp, ki, kd): float32 (steps, E) and three floats -> biases float32 (steps, E) after each step. The
    error before the first step counts as zero; an error is load - mean load, and skipped tokens are in no load."""
    error = off(loads)
    change = error - torch.cat([torch.zeros_like(error[:1]), error[:-1]])
    expect(fn(loads, kp, ki, kd), -(kp * error + ki * error.cumsum(0) + kd * change), "k e", "bias")


def adamw(e, lr, beta1, beta2):
    return lib.AdamWBalancer(e, lr, (beta1, beta2))


def optimised(draw):
    return histories(draw) | dict(lr=draw_a.pick(draw, (0.001, 0.125)), beta1=draw_a.pick(draw, (0.0, 0.5, 0.9)),
                                  beta2=draw_a.pick(draw, (0.0, 0.9, 0.999)))


@law("balance.adamw",
     "the report's balancer is torch.optim.AdamW with the error as the gradient, and no decay; "
     "what all biases share does not count",
     cases=draw_a.cases(optimised), subjects={"AdamWBalancer": over_time(adamw)}, **ANY)
def adamw_is_adamw(fn, loads, lr, beta1, beta2):
    """fn(loads, lr, beta1, beta2): float32 (steps, E) and three floats -> biases float32 (steps, E), up to what
    all experts share; eps is 1e-8, an error is load - mean load."""
    bias = torch.nn.Parameter(torch.zeros(loads.shape[-1]))
    optimizer = torch.optim.AdamW([bias], lr=lr, betas=(beta1, beta2), eps=1e-8, weight_decay=0.0)
    wanted = []
    for load in loads:
        bias.grad = off(load)
        optimizer.step()
        wanted.append(bias.detach().clone())
    expect(apart(fn(loads, lr, beta1, beta2)), apart(torch.stack(wanted)), "k e", "bias less the mean bias")


@law("balance.adamw_is_sign", "without memory, betas (0, 0), AdamW on the load error is the sign rule",
     cases=draw_a.cases(histories), subjects={"AdamWBalancer": over_time(adamw)}, **ANY)
def adamw_is_sign(fn, loads):
    """fn(loads, lr, beta1, beta2): as in balance.adamw, here with lr 0.125 and both betas zero. An error is either zero
    or so large that eps = 1e-8 does not show."""
    got = apart(fn(loads, 0.125, 0.0, 0.0))
    moved = torch.diff(got, dim=0, prepend=torch.zeros_like(got[:1]))
    expect(moved, apart(-0.125 * off(loads).sign()), "k e", "move of the bias less the mean move")


@law("balance.sums_to_zero",
     "what all experts share never moves: biases sum to zero after every update, skipped tokens or not",
     cases=draw_a.cases(histories), subjects=KINDS, **ANY)
def sums_to_zero(fn, loads):
    """fn(loads): as in balance.uniform_fixed."""
    got = finite(fn(loads))
    shaped(got, loads)
    expect(got.sum(-1), torch.zeros(len(loads)), "k", "sum of the biases")
    moves(fn, loads.shape[-1])


# ---- measures --------------------------------------------------------------------------------------------------------


def measured(draw):
    """Always with a uniform row and a collapsed one."""
    load = shares(draw, draw_a.size(draw, 1, 3), draw_a.size(draw, 2, 6))
    experts = load.shape[-1]
    return dict(load=torch.cat([load, torch.full((1, experts), 1 / experts), torch.eye(experts)[-1:]]))


@law("balance.entropy", "-sum p ln p / ln E: one when the load is uniform and only then, zero when one expert has all",
     cases=draw_a.cases(measured), axes=dict(load="l e"), subjects={"entropy": lib.entropy}, guards=[lib.entropy])
def entropy(fn, load):
    """fn(load): float32 (layers, E), E >= 2, each row summing to one -> float32 (layers,)."""
    experts = load.shape[-1]
    rows = [-sum(p * math.log(p) for p in row if p > 0) / math.log(experts) for row in load.tolist()]
    expect(fn(load), torch.tensor(rows), "l", "entropy")
    expect(fn(load / 2), torch.tensor(rows), "l", "entropy when half the tokens are skipped")


@law("balance.max_violation", "the largest load over the mean, minus one: 0 is perfect, E - 1 is collapse",
     cases=draw_a.cases(measured), axes=dict(load="l e"), subjects={"max_violation": lib.max_violation},
     guards=[lib.max_violation])
def max_violation(fn, load):
    """fn(load): float32 (layers, E) -> float32 (layers,)."""
    experts = load.shape[-1]
    rows = [max(row) / (sum(row) / experts) - 1 for row in load.tolist()]
    expect(fn(load), torch.tensor(rows), "l")


def routed(draw):
    b, t, layers, experts = (draw_a.size(draw, 1, high) for high in (2, 5, 3, 4))
    mask = draw_a.integers(draw, b, t, low=0, high=1).bool() if draw_a.flag(draw) else None
    return dict(routes=draw_a.integers(draw, b, t, layers, low=0, high=experts), experts=experts, mask=mask)


def hardly_routed():
    """All of it padding; one token alone; every token skipped."""
    routes = torch.tensor([[[0, 2], [1, 2]]])
    return [dict(routes=routes, experts=2, mask=torch.zeros(1, 2, dtype=torch.bool)),
            dict(routes=routes[:, :1], experts=2, mask=None),
            dict(routes=torch.full_like(routes, 2), experts=2, mask=None)]


ROUTES = dict(cases=draw_a.cases(routed), always=hardly_routed, axes=dict(routes="b t l"))


@law("balance.counts", "the counts of all routes sum to the tokens that are not padding",
     subjects={"counts": lib.counts}, guards=[lib.counts], **ROUTES)
def counts(fn, routes, experts, mask):
    """fn(routes, E, mask): int64 (b, t, layers); E; bool (b, t), False is padding, or None -> int64 (layers, E + 1),
    the skip route last."""
    real = torch.ones(routes.shape[:2], dtype=torch.bool) if mask is None else mask
    wanted = torch.tensor([[sum(int(real[b, t]) for b, t in (routes[..., layer] == e).nonzero().tolist())
                            for e in range(experts + 1)] for layer in range(routes.shape[-1])])
    expect(fn(routes, experts, mask), wanted, "l e", "count")


@law("balance.load", "the load is each expert's fraction of all real tokens, skipped ones included in the whole",
     subjects={"load": lib.load}, guards=[lib.load, lib.counts], **ROUTES)
def load(fn, routes, experts, mask):
    """fn(routes, E, mask): as in balance.counts -> float32 (layers, E). No tokens at all: zeros."""
    real = torch.ones(routes.shape[:2], dtype=torch.bool) if mask is None else mask
    mine = torch.stack([((routes == e) & real[..., None]).sum((0, 1)) for e in range(experts)], -1)
    expect(fn(routes, experts, mask), mine / max(int(real.sum()), 1), "l e", "load")
