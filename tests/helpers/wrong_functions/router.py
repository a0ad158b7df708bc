"""Wrong functions for the laws of router: see the head of this folder."""

import torch

from minizaya.arch import router
from minizaya.laws.lesson_router import climb
from wrong_ways import doubled, raised


def gate_of(change):
    def choose(probs, bias, pinned=None):
        routes = (probs.float() + bias).argmax(-1)
        return routes, change(probs, bias).gather(-1, routes[..., None])[..., 0]
    return choose

def other_route(p, b, r=None):
    routes, gates = router.choose(p, b, r)
    return (routes + 1) % p.shape[-1], gates


def other_record(p, b, r):
    """The recorded route's gate beside another route."""
    routes, gates = router.choose(p, b, r)
    return torch.where(r < 0, routes, (routes + 1) % p.shape[-1]), gates


def in_their_own_type(p, b, r):
    """Compares scores in float64."""
    routes = torch.where(r < 0, (p + b).argmax(-1), r)
    return routes, p.gather(-1, routes[..., None])[..., 0]


def half_gate(p, b, r=None):
    routes, gates = router.choose(p, b, r)
    return routes, gates / 2


def constant_gate(p, b, r=None):
    routes, gates = router.choose(p, b, r)
    return routes, gates.detach()


def worst(p, b):
    routes = (p.float() + b)[..., :-1].argmin(-1)
    return routes, p.gather(-1, routes[..., None])[..., 0]


def expert_zero(p, b):
    routes, gates = router.choose(p, b)
    return torch.where(routes == p.shape[-1] - 1, routes, 0), gates


WRONG = {
    "router.biased_choice": [lambda p, b: router.choose(p, 0 * b), lambda p, b: router.choose(p, -b),
                             lambda p, b: ((p + b).argmax(1), p[..., 0])],
    "router.unbiased_gate": [
        other_route,
        gate_of(lambda p, b: p + b), gate_of(lambda p, b: torch.ones_like(p)),
                             gate_of(lambda p, b: (p + b).softmax(-1))],
    "router.bias_no_gradient": [
        (constant_gate, "the gate carries no gradient"),
        (gate_of(lambda p, b: p.detach() + 0 * b), "the probabilities received no gradient"),
        gate_of(lambda p, b: 2 * p - p.detach()),
        gate_of(lambda p, b: p + b - b.detach()), gate_of(lambda p, b: p.detach())],
    "router.skip_unreachable": [
        (lambda p, b: router.choose(p, 0 * b), "a token was skipped"),
        worst,
        half_gate,
        lambda p, b: router.choose(p, 0 * b), lambda p, b: router.choose(p, b / 2)],
    "router.skip_threshold": [
        (lambda p, b: tuple(x[0] for x in router.choose(p, b)), "you gave routes of shape"),
        (lambda p, b: router.choose(p, b + 1 / 128 * (torch.arange(len(b)) == len(b) - 1)), "the token was skipped"),
        expert_zero,
        lambda p, b: router.choose(p, b + 1 / 128 * (torch.arange(len(b)) == len(b) - 1)),
                              lambda p, b: router.choose(p[..., :-1], b[:-1])],
    "router.replay": [
        other_record, in_their_own_type,
        other_route,
        half_gate,
        lambda p, b, r: router.choose(p, b), lambda p, b, r: router.choose(p, b, r.clamp_min(0))],
    "router.replay_gradient": [
        (constant_gate, "the gate carries no gradient"),
        lambda p, b, r: (r, p.gather(-1, r[..., None])[..., 0].detach()),
                               lambda p, b, r: (r, p.amax(-1))],
    "router.depth_average": [lambda s, b, c: s, lambda s, b, c: s if b is None else c * s + (1 - c) * b,
                             lambda s, b, c: s if b is None else s + c.mean() * b],
    "router.scores": [
        lambda m, x, below: (m.scores(x, below)[0].flip(-1), m.scores(x, below)[1]),
        lambda m, x, below: (m.scores(x, below)[0], m.scores(x, below)[1] if m.linear else m.scores(x, below)[1] + 1),
    ],
    "router.depth_memory": [
        raised(climb),
        doubled(climb),
    ],
    "router.skip_limit": [
        lambda p, b: p[..., :-1].amax(-1) - p[..., -1],
    ],
}
