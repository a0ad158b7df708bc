"""Pictures of lesson 08: Muon against AdamW, and reasoning data early or late."""

import math

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..studies import recorded
from ..studies.training import ORDERS
from ..train.muon import COEFFICIENTS, newton_schulz
from ..train.stages import rows
from .style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY, WIDTH, YELLOW, styled

ORDER_COLORS = dict(zip(ORDERS, (BLUE, RED, ORANGE)))
RATES = (ORANGE, SKY, GREEN, BLUE, PURPLE, BLACK)


@styled
def ellipses(gradient: Tensor) -> Figure:
    """What a step does to a circle of inputs: the gradient's own, AdamW's first and Muon's.

    Each is drawn at the size at which its longest axis is one. The arrows are the images of the gradient's two singular
    directions, the strong one orange, the weak one blue. gradient: (2, 2).
    """
    angle = torch.linspace(0, 2 * math.pi, 200, dtype=gradient.dtype)
    circle = torch.stack([angle.cos(), angle.sin()])
    directions = torch.linalg.svd(gradient)[2].mT                      # columns, the strong one first
    steps = {"the gradient itself": gradient, "AdamW: all numbers alike": gradient.sign(),
             "Muon: all directions alike": newton_schulz(gradient)}
    figure, axes = plt.subplots(1, 3, figsize=(WIDTH, 2.6), sharex=True, sharey=True)
    for axis, (name, step) in zip(axes, steps.items()):
        step = step / torch.linalg.matrix_norm(step, 2)
        axis.plot(*circle, color=GREY, linewidth=1, linestyle=":")
        axis.plot(*(step @ circle), color=BLACK)
        for (x, y), color in zip((step @ directions).T, (ORANGE, BLUE)):
            axis.annotate("", (x, y), (0, 0), arrowprops=dict(arrowstyle="-|>", color=color, linewidth=2, shrinkA=0,
                                                              shrinkB=0))
        axis.set(title=name, aspect="equal", xticks=(), yticks=())
        axis.title.set_fontsize(10)
        axis.spines[:].set_visible(False)
    return figure


def polynomial(s: Tensor, steps: int) -> Tensor:
    """Singular values after so many steps of Newton-Schulz; the shape of `s`."""
    a, b, c = COEFFICIENTS
    for _ in range(steps):
        s = a * s + b * s**3 + c * s**5
    return s


@styled
def five_steps(gradients: dict[str, Tensor]) -> Figure:
    """Newton-Schulz on one singular value, after 1 to 5 steps; and on all of those of some matrices, before and after.

    gradients: name -> (m, n). Singular values are shares of the Frobenius norm, as the iteration starts from them.
    """
    figure, axes = plt.subplots(1, 1 + len(gradients), figsize=(WIDTH, 3.0))
    s = torch.logspace(-5, 0, 400, dtype=torch.float64)
    axes[0].plot(s, s, color=GREY, linestyle=":", linewidth=1, label="0 steps")
    for steps, color in zip(range(1, 6), (YELLOW, SKY, GREEN, ORANGE, BLACK)):
        axes[0].plot(s, polynomial(s, steps), color=color, label=f"{steps}", linewidth=1.4)
    axes[0].set(title="one singular value", xscale="log", yscale="log", xlabel="before", ylabel="after", ylim=(1e-5, 3))
    axes[0].legend(fontsize=8, loc="lower right", handlelength=1.2, labelspacing=0.2)
    for axis, (name, gradient) in zip(axes[1:], gradients.items()):
        before = torch.linalg.svdvals(gradient.double() / gradient.double().norm())
        axis.plot(before, color=GREY, label="before")
        axis.plot(polynomial(before, 5).sort(descending=True).values, color=BLACK, label="after 5 steps")
        axis.set(title=name, yscale="log", ylim=(1e-5, 3), xlabel="direction, strongest first")
        axis.title.set_fontsize(9.5)
        axis.legend(fontsize=8, loc="lower left")
    for axis in axes:
        axis.set_yticks((1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1), ("0.00001", "0.0001", "0.001", "0.01", "0.1", "1"))
        axis.tick_params(labelsize=8)
        axis.minorticks_off()
    axes[0].set_xticks((1e-5, 1e-3, 0.1), ("0.00001", "0.001", "0.1"))
    return figure


@styled
def two_optimizers(record: dict | None = None) -> Figure:
    """Loss over tokens for AdamW and for Muon, a line a learning rate.

    record: of the study "training".
    """
    record = record or recorded("training")
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.0), sharey=True)
    for axis, name in zip(axes, ("adamw", "muon")):
        runs = sorted((run for run in record["runs"] if run["variant"] == name), key=lambda run: run["lr"])
        for run, color in zip(runs, RATES):
            step = run["tokens"] / len(run["loss"])
            axis.plot([step * (i + 1) / 1e3 for i in range(len(run["loss"]))], run["loss"], color=color,
                      label=f"{run['lr']:g}")
        axis.set(title={"adamw": "AdamW", "muon": "Muon"}[name], xlabel="tokens (thousands)", yscale="log")
        axis.set_yticks((0.3, 0.5, 1, 2, 4), ("0.3", "0.5", "1", "2", "4"))
        axis.minorticks_off()
    axes[0].set_ylabel("loss (nats a token)")
    figure.legend(*axes[0].get_legend_handles_labels(), title="learning rate", loc="outside right upper")
    return figure


@styled
def early_or_late(record: dict | None = None) -> Figure:
    """Accuracy by task, and loss on English, for three orders of the data; a dot a seed, a bar at the mean."""
    record = record or recorded("training")
    runs = [run for run in record["runs"] if run["study"] == "order"]
    names = sorted(runs[0]["accuracy"])
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.0), width_ratios=(3, 1))
    for i, (order, color) in enumerate(ORDER_COLORS.items()):
        own = [run for run in runs if run["variant"] == order]
        for x, name in enumerate(names):
            values = [run["accuracy"][name] for run in own]
            left.bar(x + 0.27 * (i - 1), sum(values) / len(values), 0.25, color=color, alpha=0.45,
                     label=order if x == 0 else None)
            left.plot([x + 0.27 * (i - 1)] * len(values), values, "o", color=color, markersize=4)
        values = [run["text"] for run in own]
        right.bar(i, sum(values) / len(values), 0.8, color=color, alpha=0.45)
        right.plot([i] * len(values), values, "o", color=color, markersize=4)
    left.set(title="problems", ylabel="held-out problems solved", ylim=(0, 1.03), xticks=range(len(names)))
    left.set_xticklabels(names)
    left.legend(ncols=3, loc="upper center", fontsize=8.5)
    right.set(title="English", ylabel="held-out loss (nats)", xticks=range(len(ORDERS)))
    right.set_xticklabels(list(ORDERS), rotation=35, ha="right")
    return figure


@styled
def the_stages() -> Figure:
    """Ours and ZAYA1-8B's stages: tokens, context and RoPE base, on logarithmic axes."""
    table = [row for row in rows() if row["real"]]
    figure, axes = plt.subplots(1, 3, figsize=(WIDTH, 2.8))
    columns = (("tokens", "tokens"), ("context", "tokens in a row"), ("rope_theta", "RoPE base"))
    for axis, (key, label) in zip(axes, columns):
        for label_, color, values in (("ZAYA1-8B", GREY, [row["real"][key] for row in table]),
                                      ("ours", GREEN, [row[key] for row in table])):
            axis.plot(range(len(table)), values, "o-", color=color, label=label_)
        axis.set(yscale="log", title=label, xticks=range(len(table)))
        axis.set_xticklabels([row["stage"] for row in table], rotation=35, ha="right")
    axes[0].legend()
    return figure
