"""Pictures of lesson 13: engine against trainer, three panels (the report's Fig. 6);
training with replay off and on."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from ..studies import recorded
from .style import BLACK, BLUE, ORANGE, WIDTH, styled

PANELS = {"bare": "bfloat16 engine", "float32 operations": "+ float32 operations", "replay": "+ router replay"}


@styled
def three_panels(record: dict | None = None) -> Figure:
    """Each sampled token's probability by the engine and by the trainer, in three settings."""
    record = record or recorded("router_replay")
    runs = {run["variant"]: run for run in record["runs"] if run["study"] == "panels"}
    figure, axes = plt.subplots(1, 3, figsize=(WIDTH, 2.9), sharey=True)
    for axis, (name, title) in zip(axes, PANELS.items()):
        run = runs[name]
        axis.plot([0, 1], [0, 1], color=BLACK, linewidth=0.8)
        axis.plot(*zip(*run["points"]), ".", color=BLUE, markersize=2.5, alpha=0.4)
        axis.set(title=title, xlabel="engine's probability", xlim=(0, 1), ylim=(0, 1))
        axis.text(0.04, 0.96, f"k3 {run['k3']:.1e}\nrouted otherwise {run['routed']:.2%}", va="top", fontsize=8.5)
    axes[0].set_ylabel("trainer's probability")
    return figure


@styled
def off_and_on(record: dict | None = None) -> Figure:
    """Training with a bfloat16 engine: reward, and k3, by update, with and without replay; thin lines are seeds.

    k3 of every second update: the others are trained on answers of older weights, whose k3 is a hundred times larger.
    """
    record = record or recorded("router_replay")
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 2.9))
    for variant, color in (("off", ORANGE), ("on", BLUE)):
        runs = [run for run in record["runs"] if run["study"] == "training" and run["variant"] == variant]
        for axis, key, every in ((left, "reward", 1), (right, "k3", 2)):
            curves = [run[key][::every] for run in runs]
            at = range(1, len(runs[0][key]) + 1, every)
            for curve in curves:
                axis.plot(at, curve, color=color, linewidth=0.6, alpha=0.5)
            axis.plot(at, [sum(points) / len(points) for points in zip(*curves)], color=color,
                      label=f"replay {variant}")
    left.set(title="reward", xlabel="update", ylim=(0, 1))
    right.set(title="k3, fresh answers", xlabel="update", yscale="log")
    left.legend(loc="lower right")
    return figure
