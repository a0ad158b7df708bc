"""Pictures of lesson 13: engine against trainer, two by two (after the report's Fig. 6); replay in training."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from ..studies import recorded
from .style import BLUE, ORANGE, RED, WIDTH, styled

PANELS = {"bare": "bfloat16 engine", "replay": "routes replayed", "float32 operations": "a few operations in float32",
          "both": "float32 operations, routes replayed"}


@styled
def two_by_two(record: dict | None = None) -> Figure:
    """How far each sampled token's probability is off, with and without float32 operations and replay.

    Red: tokens that visited another expert in some layer. All four batches are of the same problems.
    """
    record = record or recorded("router_replay")
    runs = {run["variant"]: run for run in record["runs"] if run["study"] == "panels"}
    figure, axes = plt.subplots(2, 2, figsize=(WIDTH, 5.0), sharex=True, sharey=True)
    for axis, (name, title) in zip(axes.flat, PANELS.items()):
        run = runs[name]
        for routed, color, size in ((0, BLUE, 2.5), (1, RED, 5)):
            points = [(p, max(off, 1e-7)) for p, off, other in run["points"] if other == routed]
            if points:
                axis.plot(*zip(*points), ".", color=color, markersize=size, alpha=0.5 if routed == 0 else 0.9)
        axis.set(title=title, xlim=(0, 1), xticks=(0.1, 0.5, 0.9), yscale="log", ylim=(1e-6, 2))
        axis.text(0.03, 1.2, f"k3 {run['k3']:.1e}, tokens routed otherwise {run['tokens_routed']:.1%}", va="top",
                  fontsize=8.5)
    for axis in axes[1]:
        axis.set_xlabel("engine's probability")
    for axis in axes[:, 0]:
        axis.set_ylabel("|log ratio|")
        axis.set_yticks((1e-6, 1e-4, 1e-2, 1), ("0.000001", "0.0001", "0.01", "1"))
    return figure


@styled
def off_and_on(record: dict | None = None) -> Figure:
    """Training with a bfloat16 engine: reward and k3 by update, with and without replay; thin lines are seeds.

    Every second update is trained on answers of older weights; their k3 is drawn dashed, beside that of fresh answers.
    """
    record = record or recorded("router_replay")
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.1))
    for variant, color in (("off", ORANGE), ("on", BLUE)):
        runs = [run for run in record["runs"] if run["study"] == "training" and run["variant"] == variant]
        for axis, key, first, every in ((left, "reward", 0, 1), (right, "k3", 0, 2), (right, "k3", 1, 2)):
            curves = [run[key][first::every] for run in runs]
            at, dashes = range(first + 1, len(runs[0][key]) + 1, every), "--" if first else "-"
            for curve in curves:
                axis.plot(at, curve, color=color, linewidth=0.6, alpha=0.5, linestyle=dashes)
            axis.plot(at, [sum(points) / len(points) for points in zip(*curves)], color=color, linestyle=dashes,
                      label=f"replay {variant}" + (", older weights" if first else ""))
    left.set(title="reward", xlabel="update", ylim=(0, 1))
    right.set(title="k3", xlabel="update", yscale="log")
    figure.legend(*right.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure
