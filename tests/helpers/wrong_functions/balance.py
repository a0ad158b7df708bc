"""Wrong functions for the laws of balance: see the head of this folder."""

import math

import torch

from minizaya.arch import balance
from minizaya.laws.balance import over_time
from minizaya.laws.balance_memory import kept_biases, sign_after

sign = over_time(balance.SignBalancer)
keeps = kept_biases(balance.SignBalancer)


def latest(loads):
    """What was handed out moves on with the balancer, and so does the state."""
    last = sign(loads)[-1]
    return last, last


def none_alike(load):
    """Right but where all experts have the same load."""
    return torch.ones_like(load) if (load == load[0]).all() else sign_after(load)


WRONG = {
    "balance.sign": [lambda b, load, lr: b + lr * (load - load.mean()).sign(), lambda b, load, lr: b - lr * load.sign(),
                     lambda b, load, lr: b - lr * (load - load.mean()),
                     lambda b, load, lr: b - lr * (load - 1 / len(b)).sign()],
    "balance.uniform_fixed": [lambda loads: -loads.cumsum(0), lambda loads: loads * 0],
    "balance.sums_to_zero": [
        lambda loads: torch.cat([loads, -loads], -1),
        lambda loads: -0.1 * (loads - loads.mean(-1, keepdim=True)).sign().cumsum(0),
                             lambda loads: loads * 0],
    "balance.skipped": [
        none_alike,
        lambda load: -0.25 * (load - 1 / len(load)).sign(),
                        lambda load: 0.25 * (load - load.mean()).sign()],
    "balance.layers": [lambda loads: -(loads - loads.mean(1, keepdim=True)).cumsum(0), lambda loads: loads * 0],
    "balance.against_error": [
        lambda loads: torch.cat([sign(loads)] * 2),
        lambda loads: -sign(loads),
        lambda loads: loads - 1 / loads.shape[-1], lambda loads: -loads],
    "balance.entropy": [
        lambda p: -torch.xlogy(p, p).sum(-1) / math.log(p.shape[-1]), lambda p: balance.entropy(p) + (p.sum(-1) == 1),
        lambda p: -(p * p.log()).sum(-1), lambda p: 1 - p.amax(-1),
                        lambda p: -torch.xlogy(p, p).sum(0) / p.shape[-1]],
    "balance.max_violation": [lambda p: p.amax(-1) / p.mean(-1), lambda p: p.amax(-1) - p.mean(-1)],
    "balance.counts": [lambda r, e, m: balance.counts(r, e)[:, :-1], lambda r, e, m: balance.counts(r.flip(-1), e, m)],
    "balance.load": [lambda r, e, m: balance.load(r, e), lambda r, e, m: balance.counts(r, e, m)[:, :-1] / r.shape[1]],
    "balance.permutes": [
        lambda loads: sign(loads)[None],
        lambda loads: sign(loads) * torch.arange(1, 1 + loads.shape[-1]),
    ],
    "balance.keeps_still": [
        (lambda loads: keeps(loads)[:1], "two biases are wanted"),
        lambda loads: (keeps(loads)[0], keeps(loads)[1] + 1),
        latest,
    ],
    "balance.decay": [
        lambda b, load, lr, decay: b * (1 - decay),
    ],
    "balance.pid": [
        lambda loads, p, i, d: -p * (loads - loads.mean(-1, keepdim=True)),
    ],
    "balance.adamw": [
        lambda loads, lr, *betas: over_time(balance.SignBalancer)(loads, lr),
    ],
    "balance.adamw_is_sign": [
        lambda loads, lr, *betas: over_time(balance.PIDBalancer)(loads),
    ],
}
