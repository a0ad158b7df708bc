"""Wrong functions for the laws of optim: see the head of this folder."""

import torch

from minizaya.laws import optim as law
from minizaya.train import muon


def no_guard(g):
    x = g / g.norm()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


def sized(step):
    """A step of root mean square 0.2 whose direction is another."""
    return lambda g: torch.where(g.norm() == 0, g, step(g))


def muon_step(change):
    def run(start, grads, lr, weight_decay, momentum):
        return change(law.run(start, grads, lr, weight_decay, momentum), start)
    return run


def stands_still_at_first(start, grads, lr, weight_decay, momentum):
    """The first step is not made. What follows is right."""
    return torch.cat([start[None], law.run(start, grads[1:], lr, weight_decay, momentum)]) if len(grads) > 1 else (
        law.run(start, grads, lr, weight_decay, momentum))


WRONG = {
    "optim.polynomial": [
        no_guard,
        lambda g: g,
        lambda g: 1.001 * muon.newton_schulz(g),
    ],
    "optim.singular_values": [
        lambda g: 3 * g,
        (lambda g: muon.newton_schulz(g).float(), "you gave type"),
        (lambda g: muon.newton_schulz(g)[None], "you gave shape"),
    ],
    "optim.scale_free": [
        lambda g: muon.newton_schulz(g) * g.norm(),
    ],
    "optim.rotates": [
        lambda g: muon.newton_schulz(g).sign(),
    ],
    "optim.batched": [
        lambda g: muon.newton_schulz(g) if g.dim() == 2 else muon.newton_schulz(g.flatten(0, 1)).view_as(g),
    ],
    "optim.rms": [
        sized(lambda g: torch.full_like(g, 0.2)),
        sized(lambda g: 0.2 * g.sign()),
        sized(lambda g: 0.2 * g / g.square().mean().sqrt()),
        lambda g: muon.matched(g) + (g == 0).all() * 1.0,
        (lambda g: 2 * muon.matched(g), "the root mean square is"),
    ],
    "optim.stacked_rows": [
        lambda g, rows: muon.matched(g),
    ],
    "optim.momentum_free": [
        lambda start, grads, lr, decay, momentum: law.run(start, grads, lr, decay, 0.9),
        muon_step(lambda path, start: start.expand_as(path)),
    ],
    "optim.muon": [
        lambda start, grads, lr, decay, momentum: law.run(start, grads, lr, 0.0, momentum),
    ],
}
