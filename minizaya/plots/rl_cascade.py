"""Pictures of lesson 12: what the calibration believes, how difficulty follows the model,
and what the cascade gained."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from ..rl.curriculum import Calibrator, pass_rate
from ..studies import recorded
from .style import BLACK, BLUE, GREEN, GREY, ORANGE, WIDTH, styled


@styled
def beliefs(believed: dict[str, Calibrator], asked: dict[str, list[tuple[int, float]]]) -> Figure:
    """For each task a few of the curves it believes in, by weight, what it asked, and where it would start."""
    columns = 4
    lines = -(-len(believed) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(WIDTH, 1.7 * lines), sharey=True, squeeze=False)
    for axis, (name, belief) in zip(axes.flat, sorted(believed.items())):
        at = [1 + i * (belief.highest - 1) / 60 for i in range(61)] if belief.highest > 1 else [1]
        for (mu, s), _ in sorted(zip(belief.particles, belief.weights), key=lambda pair: -pair[1])[:25]:
            axis.plot(at, [pass_rate(d, mu, s) for d in at], color=BLUE, linewidth=0.7, alpha=0.25)
        axis.plot(*zip(*asked[name]), "o", color=ORANGE, markersize=4)
        axis.axvline(belief.best(), color=BLACK, linestyle="--", linewidth=1)
        axis.set(title=name, ylim=(-0.05, 1.05))
        axis.xaxis.get_major_locator().set_params(integer=True)
    for axis in axes.flat[len(believed):]:
        axis.axis("off")
    for row in axes:
        row[0].set_ylabel("pass rate")
    for axis in axes[-1]:
        axis.set_xlabel("difficulty")
    return figure


@styled
def gain(record: dict | None = None) -> Figure:
    """Held-out accuracy of each task from before to after, a line a seed, with the difficulty at which it was asked."""
    record = record or recorded("cascade")
    names = sorted(record["runs"][0]["levels"])
    figure, axis = plt.subplots(figsize=(WIDTH, 3.2))
    for i, name in enumerate([*names, "mean"]):
        for seed, run in enumerate(record["runs"]):
            at = i + 0.24 * (seed - (len(record["runs"]) - 1) / 2)
            start, end = (sum(run[key].values()) / len(run[key]) if name == "mean" else run[key][name]
                          for key in ("before", "after"))
            axis.plot([at, at], [start, end], color=GREY, linewidth=1.2)
            axis.plot(at, start, "o", color=GREY, markersize=5, label="before" if i == seed == 0 else None)
            axis.plot(at, end, "o", color=GREEN, markersize=5, label="after" if i == seed == 0 else None)
            if name != "mean":
                axis.text(at, min(start, end) - 0.035, run["levels"][name], ha="center", va="top", fontsize=7.5)
    axis.set(ylabel="held-out problems solved", ylim=(-0.12, 1.02), xticks=range(len(names) + 1))
    axis.set_xticklabels([*names, "mean"], fontsize=9)
    axis.axvline(len(names) - 0.5, color=GREY, linewidth=0.6, linestyle=":")
    axis.legend(loc="upper center", ncols=2, bbox_to_anchor=(0.5, 1.14))
    return figure


@styled
def followed(record: dict | None = None) -> Figure:
    """The difficulty of every task, batch by batch, over the stages of one run; and the mean reward of each update."""
    record = record or recorded("cascade")
    run = max(record["runs"], key=lambda run: len(run["difficulty"]))  # the first seed kept only half of it
    names = sorted(run["difficulty"][0]["levels"])
    figure, axes = plt.subplots(2, 4, figsize=(WIDTH, 3.6))
    for axis, name in zip(axes.flat, names):
        # dots: where a level goes up and down with every batch, a line would be a block
        axis.plot([batch["levels"].get(name) for batch in run["difficulty"]], ".", color=BLUE, markersize=2.5)
        axis.set(title=name, xlabel="batch", ylabel="level")
        axis.yaxis.get_major_locator().set_params(integer=True)
    axes.flat[len(names)].plot([update["reward"] for update in run["curve"]], color=GREEN, linewidth=1)
    axes.flat[len(names)].set(title="mean reward", ylim=(0, 1), xlabel="update")
    return figure
