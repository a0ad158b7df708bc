"""Laws of the router: who is chosen, how much it counts, what replay changes."""

import torch

from ..arch import router as lib
from . import strategies as draw_a
from . import textbook
from .core import expect, finite, law, parts, require

# ---- the choice ------------------------------------------------------------------------------------------------------


def dyadic(draw, *shape: int):
    """Probabilities that are whole 64ths, so that sums with a bias are exact in every float type and ties happen."""
    experts, seed = shape[-1], draw_a.size(draw, 0, 9999)
    cuts = torch.randint(0, 65, (*shape[:-1], experts - 1), generator=torch.Generator().manual_seed(seed))
    edges = torch.cat([cuts.new_zeros(*shape[:-1], 1), cuts, cuts.new_full((*shape[:-1], 1), 64)], -1).sort(-1).values
    return edges.diff(dim=-1).double() / 64


def choices(draw):
    b, t, experts = draw_a.size(draw, 1, 2), draw_a.size(draw, 1, 5), draw_a.size(draw, 1, 4)
    bias = draw_a.integers(draw, experts + 1, low=-32, high=32).float() / 64
    return dict(probs=dyadic(draw, b, t, experts + 1), bias=bias)


CHOOSE = dict(axes=dict(probs="b t e", bias="e"), subjects={"choose": lib.choose}, guards=[lib.choose])
PAIR = "routes and gates"


@law("router.biased_choice", "the route is where probability plus bias is largest; a tie goes to the lower number",
     cases=draw_a.cases(choices), **CHOOSE)
def biased_choice(fn, probs, bias):
    """fn(probs, bias): probs float (b, t, E + 1), the skip route last; bias float32 (E + 1,) -> routes int64 (b, t)
    and gates (b, t)."""
    routes, gates = parts(fn(probs, bias), 2, PAIR)
    expect(routes, textbook.chosen(probs, bias), "b t", "route")


@law("router.unbiased_gate", "the gate is the chosen expert's own probability, whatever the bias",
     cases=draw_a.cases(choices), **CHOOSE)
def unbiased_gate(fn, probs, bias):
    """fn(probs, bias): as in router.biased_choice."""
    for push in (bias, 0 * bias, bias + 3.0):     # the same push for everyone must change nothing at all
        routes, gates = parts(fn(probs, push), 2, PAIR)
        right = textbook.chosen(probs, push)
        expect(gates, probs.gather(-1, right[..., None])[..., 0], "b t", "gate")
        expect(routes, right, "b t", "route")


@law("router.bias_no_gradient", "gradients reach only the chosen probability, and never the bias",
     cases=draw_a.cases(choices), **CHOOSE)
def bias_no_gradient(fn, probs, bias):
    """fn(probs, bias): as in router.biased_choice; here both ask for gradients."""
    probs.requires_grad_(True)
    bias.requires_grad_(True)
    routes, gates = parts(fn(probs, bias), 2, PAIR)
    require(finite(gates).requires_grad, "the gate carries no gradient back to the probabilities")
    to_probs, to_bias = torch.autograd.grad(gates.sum(), (probs, bias), allow_unused=True)
    require(to_bias is None or not to_bias.any(), "the bias received a gradient; only the balancer may move it")
    right = textbook.chosen(probs, bias)
    require(to_probs is not None, "the probabilities received no gradient")
    expect(to_probs, torch.nn.functional.one_hot(right, probs.shape[-1]).to(probs), "b t e", "gradient of probs")


def confident(draw):
    b, t, experts = draw_a.size(draw, 1, 2), draw_a.size(draw, 1, 4), draw_a.size(draw, 1, 4)
    logits = draw_a.tensor(draw, b, t, experts + 1) * draw_a.pick(draw, (1.0, 10.0, 1000.0))
    bias = draw_a.integers(draw, experts + 1, low=0, high=2).float() / 64
    bias[-1] = -1.0
    return dict(logits=logits, bias=bias)


@law("router.skip_unreachable", "with its bias at -1 the skip route is never taken, even at probability one",
     cases=draw_a.cases(confident), axes=dict(logits="b t e"), subjects={"choose": lib.choose}, guards=[lib.choose])
def skip_unreachable(fn, logits, bias):
    """fn(probs, bias): as in router.biased_choice, with probs = softmax(logits); the experts' biases are >= 0."""
    probs = textbook.softmax(logits)
    routes, gates = parts(fn(probs, bias), 2, PAIR)
    require((finite(routes) != probs.shape[-1] - 1).all(), "a token was skipped although the skip bias is -1")
    scores = probs.float() + bias
    best = scores[..., :-1].amax(-1)
    expect(scores.gather(-1, routes[..., None])[..., 0], best, "b t", "score of the chosen expert")
    expect(gates, probs.gather(-1, routes[..., None])[..., 0], "b t", "gate")


@law("router.skip_threshold", "skipping starts exactly where p_skip + bias passes the best expert's score; a tie stays",
     cases=draw_a.cases(choices), **CHOOSE)
def skip_threshold(fn, probs, bias):
    """fn(probs, bias): as in router.biased_choice; all numbers are whole 64ths, so scores are exact."""
    probs, bias = probs[:1, :1], bias.clone()
    limit = (probs + bias)[0, 0, :-1].max() - probs[0, 0, -1]
    skip = probs.shape[-1] - 1
    for step, wanted in ((0, False), (1, True), (-1, False)):
        bias[-1] = limit + step / 64
        routes, _ = parts(fn(probs, bias), 2, PAIR)
        require(finite(routes).shape == (1, 1), f"you gave routes of shape {tuple(routes.shape)}, the law wants (1, 1)")
        require((routes == skip).all() == wanted,
                f"with the skip bias at {bias[-1]:.6g} and the threshold at {limit:.6g} the token was "
                f"{'not ' if wanted else ''}skipped")
        expect(routes, textbook.chosen(probs, bias), "b t", "route")


# ---- replay ----------------------------------------------------------------------------------------------------------


def replays(draw):
    case = choices(draw)
    b, t, routes = case["probs"].shape
    return case | dict(pinned=draw_a.integers(draw, b, t, low=-1, high=routes - 1))


@law("router.replay", "a recorded route is taken as it is, with today's gate; -1 means choose yourself",
     cases=draw_a.cases(replays), **CHOOSE)
def replay(fn, probs, bias, pinned):
    """fn(probs, bias, pinned): pinned int64 (b, t), -1 where nothing was recorded -> routes int64 and gates, (b, t).
    Scores are compared in float32, whatever the type of the probabilities: what differs by less is a tie."""
    routes, gates = parts(fn(probs, bias, pinned), 2, PAIR)
    wanted = torch.where(pinned >= 0, pinned, textbook.chosen(probs, bias))
    expect(routes, wanted, "b t", "route")
    expect(gates, probs.gather(-1, wanted[..., None])[..., 0], "b t", "gate")
    alike = torch.full_like(probs, 0.25) + 1e-13 * torch.arange(len(bias))
    routes, _ = parts(fn(alike, torch.zeros_like(bias), torch.full_like(pinned, -1)), 2, PAIR)
    expect(routes, torch.zeros_like(pinned), "b t", "route where all probabilities are one number in float32")


def replayed_logits(draw):
    b, t, experts = draw_a.size(draw, 1, 2), draw_a.size(draw, 1, 4), draw_a.size(draw, 1, 4)
    return dict(logits=draw_a.tensor(draw, b, t, experts + 1), bias=torch.zeros(experts + 1),
                pinned=draw_a.integers(draw, b, t, low=-1, high=experts))


@law("router.replay_gradient",
     "replaying a route, or choosing one, still teaches every router logit: the gate is a full softmax",
     cases=draw_a.cases(replayed_logits), axes=dict(logits="b t e", pinned="b t"), subjects={"choose": lib.choose},
     always=lambda: [dict(logits=torch.tensor([[[1.0, 2.0]]]), bias=torch.zeros(2), pinned=torch.tensor([[-1]]))],
     guards=[lib.choose])
def replay_gradient(fn, logits, bias, pinned):
    """fn(probs, bias, pinned): as in router.replay, with probs = softmax(logits). The derivative of gate p_i with
    respect to logit j is p_i (1[i = j] - p_j), which is never zero."""
    logits.requires_grad_(True)
    probs = logits.softmax(-1)
    routes, gates = parts(fn(probs, bias, pinned), 2, PAIR)
    require(finite(gates).requires_grad, "the gate carries no gradient back to the router")
    (slope,) = torch.autograd.grad(gates.sum(), logits)
    p = textbook.softmax(logits.detach())
    wanted = torch.where(pinned >= 0, pinned, textbook.chosen(p, bias))
    own = torch.nn.functional.one_hot(wanted, p.shape[-1])
    gate = p.gather(-1, wanted[..., None])
    expect(slope, gate * (own - p), "b t e", "gradient of the logits")


# ---- the router's own state ------------------------------------------------------------------------------------------


def states(draw):
    b, t, r = draw_a.size(draw, 1, 2), draw_a.size(draw, 1, 5), draw_a.size(draw, 1, 4)
    below = None if draw_a.flag(draw) else draw_a.tensor(draw, b, t, r)
    return dict(state=draw_a.tensor(draw, b, t, r), below=below, scale=draw_a.tensor(draw, r))


@law("router.depth_average", "a router adds the state of the router below, each channel by its own scale",
     cases=draw_a.cases(states), axes=dict(state="b t r", below="b t r", scale="r"),
     subjects={"depth_average": lib.depth_average}, guards=[lib.depth_average])
def depth_average(fn, state, below, scale):
    """fn(state, below, scale): float (b, t, R), (b, t, R) or None in the first layer, and (R,) -> (b, t, R)."""
    expect(fn(state, below, scale), state if below is None else state + scale * below, "b t r")


def routers(draw):
    kind = "linear" if draw_a.size(draw, 0, 4) == 4 else "mlp"
    cfg = draw_a.config(draw, num_hidden_layers=2, router=kind, eda=not draw_a.flag(draw))
    b, t = draw_a.size(draw, 1, 2), draw_a.size(draw, 1, 4)
    below = None if kind == "linear" else draw_a.tensor(draw, b, t, cfg.router_hidden_size)
    return dict(config=cfg, seed=draw_a.size(draw, 0, 9999), layer=draw_a.size(draw, 0, 1),
                x=draw_a.tensor(draw, b, t, cfg.hidden_size), below=below, small=draw_a.flag(draw))


@law("router.scores", "down-projection, depth average, norm, three layers with exact GELU, softmax over all routes",
     cases=draw_a.cases(routers), axes=dict(x="b t c"),
     subjects={"scores": lambda router, x, below: router.scores(x, below)},
     guards=[lib.Router.scores, lib.Router.forward])
def scores(fn, config, seed, layer, x, below, small):
    """fn(router, x, below): a `minizaya.arch.router.Router` for its weights; x float (b, t, D); below (b, t, R) or
    None -> probs (b, t, E + 1) and the state (b, t, R) for the layer above (None for a linear router).
    `small`: the down-projection is a thousand times smaller, so that the norm's epsilon counts."""
    module = draw_a.randomise(lib.Router(config, layer), seed)
    if layer == 0:
        below = None
    if small and not module.linear:
        module.down_proj.weight.data *= 1e-3
        module.down_proj.bias.data *= 1e-3
        below = None if below is None else below * 1e-3
    probs, state = parts(fn(module, x, below), 2, "probs and state")
    right, wanted = textbook.router(module, x, below)
    expect(probs, right.detach(), "b t e", "probs")
    if wanted is not None:
        expect(state, wanted.detach(), "b t r", "state")
