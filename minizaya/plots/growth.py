"""The picture of `minizaya bench --growth`: a decoded token's cost as one thing grows, beside the plan."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from .style import COLOR, WIDTH, styled


@styled
def beside_the_plan(found: dict) -> Figure:
    """One panel for each thing that grows; a line by threads, the plan's in grey. found: what `bench --growth` saw."""
    rows = found["rows"]
    figure, axes = plt.subplots(1, len(rows), figsize=(WIDTH, 2.8), sharey=True)
    for axis, (what, points) in zip(axes, rows.items()):
        for threads in sorted({point["threads"] for point in points}):
            own = [point for point in points if point["threads"] == threads]
            for key, role in (("planned_ms", "baseline"), ("ms", "ours")):
                name = "plan" if role == "baseline" else "measured"
                axis.plot([point[what] for point in own], [point[key] for point in own],
                          "o-" if threads == 1 else "s--", color=COLOR[role], markersize=3,
                          label=f"{name}, {threads} thread{'s' * (threads > 1)}")
        axis.set(xscale="log", yscale="log", xlabel=what)
        sizes = sorted({point[what] for point in points})
        axis.set_xticks(sizes, [f"{size // 1024}k" if size >= 1024 else str(size) for size in sizes], fontsize=7.5)
        axis.minorticks_off()
    axes[0].set_ylabel("ms a token")
    figure.legend(*axes[0].get_legend_handles_labels(), ncols=4, loc="outside upper center", fontsize=8)
    return figure
