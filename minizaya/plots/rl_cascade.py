"""Pictures of lesson 12: what the calibration believes, how difficulty follows the model, and what the cascade gained."""

import matplotlib.pyplot as plt

from ..rl.curriculum import Calibrator, pass_rate
from ..studies import recorded
from .style import BLACK, BLUE, GREEN, GREY, ORANGE, WIDTH, styled


@styled
def beliefs(believed: dict[str, Calibrator], asked: dict[str, list[tuple[int, float]]]):
    """For each task a few of the curves it believes in, by weight, what it asked, and where it would start."""
    columns = 4
    lines = -(-len(believed) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(WIDTH, 1.7 * lines), sharey=True, squeeze=False)
    for axis, (name, belief) in zip(axes.flat, sorted(believed.items())):
        at = [1 + i * (belief.highest - 1) / 60 for i in range(61)] if belief.highest > 1 else [1]
        for (mu, s), weight in sorted(zip(belief.particles, belief.weights), key=lambda pair: -pair[1])[:25]:
            axis.plot(at, [pass_rate(d, mu, s) for d in at], color=BLUE, linewidth=0.7, alpha=0.25)
        axis.plot(*zip(*asked[name]), "o", color=ORANGE, markersize=4)
        axis.axvline(belief.best(), color=BLACK, linestyle="--", linewidth=1)
        axis.set(title=name, ylim=(-0.05, 1.05))
    for axis in axes.flat[len(believed):]:
        axis.axis("off")
    for row in axes:
        row[0].set_ylabel("pass rate")
    for axis in axes[-1]:
        axis.set_xlabel("difficulty")
    return figure


@styled
def gain(record: dict | None = None):
    """Held-out accuracy before and after, by task; a dot a seed."""
    record = record or recorded("cascade")
    names = sorted(record["runs"][0]["levels"])
    figure, axis = plt.subplots(figsize=(WIDTH, 3.0))
    for i, name in enumerate([*names, "mean"]):
        for shift, key, color in ((-0.17, "before", GREY), (0.17, "after", GREEN)):
            values = [sum(run[key].values()) / len(run[key]) if name == "mean" else run[key][name] for run in record["runs"]]
            axis.bar(i + shift, sum(values) / len(values), width=0.32, color=color, alpha=0.5, label=key if i == 0 else None)
            axis.plot([i + shift] * len(values), values, "o", color=color, markersize=4)
    axis.set(ylabel="held-out problems solved", ylim=(0, 1), xticks=range(len(names) + 1))
    levels = record["runs"][0]["levels"]
    axis.set_xticklabels([*(f"{name}\n{levels[name]}" for name in names), "mean"], fontsize=8.5)
    axis.legend(loc="upper right", ncols=2)
    return figure


@styled
def followed(record: dict | None = None):
    """The difficulty of every task, batch by batch, over the stages of one run; and the mean reward of each update."""
    record = record or recorded("cascade")
    run = next(run for run in record["runs"] if run["difficulty"])
    names = sorted(run["difficulty"][0]["levels"])
    figure, axes = plt.subplots(2, 4, figsize=(WIDTH, 3.4), sharex=True)
    for axis, name in zip(axes.flat, names):
        axis.step(range(len(run["difficulty"])), [batch["levels"].get(name) for batch in run["difficulty"]], color=BLUE, where="post")
        axis.set(title=name)
        axis.yaxis.get_major_locator().set_params(integer=True)
    axes.flat[len(names)].plot([update["reward"] for update in run["curve"]], color=GREEN, linewidth=1)
    axes.flat[len(names)].set(title="mean reward", ylim=(0, 1))
    for axis in axes[-1]:
        axis.set_xlabel("batch")
    return figure
