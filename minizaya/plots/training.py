"""Pictures of lesson 08: Muon against AdamW, and reasoning data early or late."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from ..studies import recorded
from ..studies.training import ORDERS
from ..train.stages import rows
from .style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY, WIDTH, YELLOW, styled

ORDER_COLORS = dict(zip(ORDERS, (BLUE, RED, ORANGE)))
RATES = (YELLOW, SKY, BLUE, PURPLE, BLACK)


@styled
def two_optimizers(record: dict | None = None) -> Figure:
    """Loss over tokens for AdamW and for Muon at each learning rate. record: of the study "training"."""
    record = record or recorded("training")
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.0), sharey=True)
    for axis, name in zip(axes, ("adamw", "muon")):
        runs = sorted((run for run in record["runs"] if run["variant"] == name), key=lambda run: run["lr"])
        for run, color in zip(runs, RATES):
            step = run["tokens"] / len(run["loss"])
            axis.plot([step * (i + 1) / 1e3 for i in range(len(run["loss"]))], run["loss"], color=color,
                      label=f"{run['lr']:g}")
        axis.set(title={"adamw": "AdamW", "muon": "Muon"}[name], xlabel="tokens (thousands)", yscale="log")
        axis.legend(title="learning rate")
    axes[0].set_ylabel("loss (nats a token)")
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
    table = rows()
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
