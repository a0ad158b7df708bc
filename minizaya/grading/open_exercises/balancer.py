"""Lesson 06: a balancer that sees the load four steps late, against the best PI controller of a grid."""

import torch
from torch import Tensor

from ...arch.balance import PIDBalancer, max_violation
from ...laws.core import Subject, finite, require
from ...plots import balance as lab
from .renamed import number

LAWS = ("balance.uniform_fixed", "balance.against_error", "balance.permutes", "balance.sums_to_zero")
COST = "MaxVio, the mean over all steps"
EXPERTS, DELAY, STEPS, TOKENS, DRAWS = 16, 4, 120, 2048, 2
GRID = [(kp, ki) for kp in (0.05, 0.1, 0.2) for ki in (0.08, 0.12, 0.16)]


class Asked:
    """The judged function as a balancer: it gets all loads that have arrived, and its last row is the bias."""

    def __init__(self, fn: Subject):
        self.fn, self.loads, self.bias = fn, [], torch.zeros(EXPERTS)

    def update(self, load: Tensor) -> None:
        self.loads.append(load)
        got = finite(self.fn(torch.stack(self.loads)), "the biases")
        require(got.shape == (len(self.loads), EXPERTS) and got.dtype == torch.float32,
                f"you gave {got.dtype} {tuple(got.shape)}, the law wants torch.float32 {(len(self.loads), EXPERTS)}")
        self.bias = got[-1].detach().clone()


def driven(balancers: dict, seed: str, draw: int) -> dict[str, float]:
    """The mean MaxVio of each; in the middle the router's preferences change."""
    loads = lab.simulate(balancers, steps=STEPS, shift=STEPS // 2, seed=number(seed, draw), delay=DELAY, tokens=TOKENS,
                         bar=False)
    return {name: float(max_violation(series).mean()) for name, series in loads.items()}


def measured(fn: Subject, seed: str) -> float:
    """fn(loads): float32 (steps, E), the loads that have arrived, oldest first -> the biases after each, (steps, E)."""
    return sum(driven({"": Asked(fn)}, seed, draw)[""] for draw in range(DRAWS)) / DRAWS


def baseline(seed: str) -> float:
    """The best of the grid on these very draws."""
    costs = [driven({gains: PIDBalancer(EXPERTS, *gains) for gains in GRID}, seed, draw) for draw in range(DRAWS)]
    return min(sum(cost[gains] for cost in costs) / DRAWS for gains in GRID)
