"""Pictures of lesson 11: which problems count, which tokens are dropped, and what a signed KL in the reward pays
for."""

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

from ..rl.loss import dppo_mask
from .style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY, WIDTH, styled


@styled
def what_counts(delta: float = 0.1, clip: float = 0.2) -> Figure:
    """Left: a problem's weight by its pass rate. Right: the moves of a probability that DPPO and PPO drop, in a good
    answer."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.2))
    p = torch.linspace(0.01, 0.99, 99)
    for order, color in ((1, GREY), (3, SKY), (15, BLUE)):
        weight = sum((1 - p) ** k for k in range(order))
        left.plot(p, weight, color=color, label=f"MaxRL, {order + 1} answers")
    left.plot(p, 1 / p, color=BLACK, linestyle="--", linewidth=1, label="1 / p")
    left.plot(p, (p * (1 - p)) ** -0.5, color=ORANGE, label="GRPO")
    left.set(title="how much a problem counts", xlabel="pass rate p", ylabel="weight of its gradient", yscale="log",
             ylim=(0.8, 100), yticks=(1, 3, 10, 30, 100), yticklabels=("1", "3", "10", "30", "100"))
    left.minorticks_off()
    left.legend(fontsize=8.5)
    steps = 400
    old = torch.linspace(0.0025, 0.9975, steps)[None].expand(steps, steps)
    new = old.T
    kept = dppo_mask(new.log(), old.log(), torch.ones(()), delta)
    right.contourf(old, new, (~kept).float(), levels=[0.5, 1.5], colors=[BLUE], alpha=0.35)
    right.contourf(old, new, (new / old > 1 + clip).float(), levels=[0.5, 1.5], colors=["none"], hatches=["////"])
    right.plot([0, 1], [0, 1], color=BLACK, linewidth=1)
    right.plot([], [], color=BLUE, linewidth=8, alpha=0.35, label=f"DPPO drops (delta {delta})")
    right.fill_between([], [], [], hatch="////", facecolor="none", edgecolor=BLACK,
                       label=f"PPO clips (ratio {1 + clip})")
    right.set(title="a token whose answer was good", xlabel="probability when sampled", ylabel="probability now",
              xlim=(0, 1), ylim=(0, 1))
    right.legend(loc="lower right", fontsize=8.5)
    return figure


@styled
def paid_for_length(lengths: list[int], gifts: list[float], fresh: list[float]) -> Figure:
    """The signed-KL term of each answer by its length: under stale weights, and under the weights that sampled it."""
    figure, axis = plt.subplots(figsize=(WIDTH, 2.9))
    axis.plot(lengths, gifts, ".", color=RED, alpha=0.6, label="weights have moved since")
    axis.plot(lengths, fresh, ".", color=GREEN, alpha=0.6, label="the weights that sampled it")
    slope = sum(x * y for x, y in zip(lengths, gifts)) / sum(x * x for x in lengths)
    axis.plot([0, max(lengths)], [0, slope * max(lengths)], color=BLACK, linewidth=1)
    axis.axhline(0, color=GREY, linewidth=0.8)
    axis.set(xlabel="tokens of the answer", ylabel="what the term adds\nto the reward")
    axis.legend(loc="upper left")
    return figure


@styled
def chunks(ratios: dict[str, list[float]], threshold: float) -> Figure:
    """Compression by chunk of some answers; below the line the canary calls a loop."""
    figure, axis = plt.subplots(figsize=(WIDTH, 2.6))
    for (name, values), color in zip(ratios.items(), (BLUE, SKY, ORANGE, PURPLE, RED)):
        axis.plot(range(1, len(values) + 1), values, "o-", color=color, label=name)
    axis.axhline(threshold, color=BLACK, linestyle="--", linewidth=1)
    longest = max(map(len, ratios.values()))
    axis.set(xlabel="chunk of 64 tokens", ylabel="compressed size / size", yscale="log", xticks=range(1, longest + 1),
             yticks=(0.02, 0.05, 0.1, 0.2, 0.4), yticklabels=("2%", "5%", "10%", "20%", "40%"))
    axis.minorticks_off()
    axis.legend()
    return figure
