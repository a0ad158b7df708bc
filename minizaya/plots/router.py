"""Pictures of lesson 03: which characters go to which expert, what choosing buys, and how much experts overlap."""

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ..studies import recorded
from ..studies.router_nano import CLASSES, figure_of
from .style import BLUE, COLOR, EXPERTS, GREEN, ORANGE, PURPLE, SKY, WIDTH, styled

ROUTERS = {"linear": ORANGE, "MLP": SKY, "MLP + EDA": PURPLE, "random routes": COLOR["broken"]}
NAMED = {"held_out": "held-out loss\n(nats)", "gate": "mean gate", "skip": "mean p_skip",
         "doubt_experts": "doubt among experts\n(1 = no preference)",
         "by_character": "decided by\nthe character", "load_entropy": "load entropy\n(1 = balanced)"}


@styled
def where_characters_go(record: dict | None = None, layer: int = 2, seed: int = 0) -> Figure:
    """Held-out text on the colour of the expert that each character visited, and a map of classes of characters
    against experts for three routers and for a die.

    record: of the study "router_nano" (None: the one in the repository). layer: from 0.
    """
    record = record or recorded("router_nano")
    runs = {run["variant"]: run for run in record["runs"] if run["seed"] == seed}
    shown = list(ROUTERS)
    experts = len(runs[shown[0]]["visits"][0][0]) - 1
    figure = plt.figure(figsize=(WIDTH, 5.2))
    grid = figure.add_gridspec(2, len(shown), height_ratios=(1, 1.6))
    painted = figure.add_subplot(grid[0, :])
    paint_text(painted, runs[shown[2]]["passage"], runs[shown[2]]["routes"][layer], experts)
    painted.set_title(f"{shown[2]}, layer {layer}")
    for column, name in enumerate(shown):
        axis = figure.add_subplot(grid[1, column])
        visits = torch.tensor(runs[name]["visits"][layer], dtype=torch.float64)[:, :-1]
        share = visits / visits.sum(1, keepdim=True)
        image = axis.imshow(share, cmap="Oranges", vmin=0, vmax=1, aspect="auto")
        for row, expert in torch.cartesian_prod(*map(torch.arange, share.shape)).tolist():
            value = float(share[row, expert])
            axis.text(expert, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=8,
                      color="white" if value > 0.6 else "black")
        axis.set(title=name.replace(", ", ",\n"), xlabel="expert", xticks=range(experts), yticks=range(len(share)))
        axis.set_yticklabels(CLASSES if column == 0 else [])
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
    figure.colorbar(image, ax=figure.axes[1:], label="share of the class", fraction=0.03, pad=0.02)
    figure.legend(handles=[Patch(color=EXPERTS[e], alpha=0.55, label=f"expert {e}") for e in range(experts)],
                  loc="outside upper center", ncols=experts)
    return figure


def paint_text(axis: Axes, text: str, routes: str, experts: int, columns: int = 76) -> None:
    """Each character on its expert's colour; routes: one digit a character, `experts` (skipped) is white."""
    x = y = 0
    for char, route in zip(text, routes, strict=True):
        color = EXPERTS[int(route)] if int(route) < experts else "white"
        axis.add_patch(plt.Rectangle((x, -y), 1, 1, color=color, alpha=0.55, linewidth=0))
        axis.text(x + 0.5, 0.45 - y, "⏎" if char == "\n" else char, ha="center", va="center", family="monospace",
                  fontsize=7.5)
        x, y = (0, y + 1) if char == "\n" or x == columns - 1 else (x + 1, y)
    axis.set(xlim=(0, columns), ylim=(-y, 1))
    axis.set_axis_off()


@styled
def contest(results: list[dict], names: tuple[str, ...] = tuple(NAMED)) -> Figure:
    """One panel a figure, one row a variant, one dot a seed, a line at the mean.

    results: the study's runs. names: figures of a run, see `studies.router_nano.watch`.
    """
    figure, axes = plt.subplots(2, len(names) // 2, figsize=(WIDTH, 4.2), sharey=True)
    for axis, name in zip(axes.flat, names):
        for y, (variant, color) in enumerate(reversed(ROUTERS.items())):
            values = [figure_of(run, name) for run in results if run["variant"] == variant]
            axis.plot(values, [y] * len(values), "o", color=color, markersize=5, alpha=0.8)
            axis.plot([sum(values) / len(values)] * 2, [y - 0.3, y + 0.3], color=color)
        axis.set(title=NAMED[name], ylim=(-0.6, len(ROUTERS) - 0.4))
        axis.title.set_fontsize(9.5)
    axes[0, 0].set_yticks(range(len(ROUTERS)), list(reversed(ROUTERS)))
    return figure


@styled
def overlap_by_layer(results: list[dict], floor: float,
                     shown: tuple[str, ...] = ("MLP + EDA", "random routes")) -> Figure:
    """Mean overlap of two experts in each layer, input and output side: trained (a dot a seed),
    at the start, by chance.
    """
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 2.6), sharey=True)
    for axis, side in zip(axes, ("input", "output")):
        for variant in shown:
            values = torch.tensor([run["overlap"][side] for run in results if run["variant"] == variant])
            axis.plot(values.mean(0), color=ROUTERS[variant], label=f"trained, {variant}")
            axis.plot(values.T, "o", color=ROUTERS[variant], markersize=4, alpha=0.6)
        start = torch.tensor([run["overlap_at_start"][side] for run in results if run["variant"] == shown[0]])
        axis.plot(start.mean(0), color=BLUE, label="random weights")
        axis.axhline(floor, color=GREEN, linestyle="--", linewidth=1, label="d / D")
        axis.set(title=f"{side} side", xlabel="layer", xticks=range(start.shape[1]), ylim=(0, None))
    axes[0].set_ylabel("overlap of two experts")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, columnspacing=1)
    return figure
