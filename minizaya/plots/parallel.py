"""Pictures of lesson 15: who sends how many bytes to whom, and what a chunk needs from the one before."""

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..parallel.context_parallel import chunk_lengths, halo_plan
from ..studies import recorded
from .style import BLACK, COLOR, EXPERTS, GREY, ORANGE, WIDTH, styled


def matrix(axis: Axes, table: list[list[float]], title: str, largest: float) -> None:
    """Bytes from rank (row) to rank (column) as shaded squares with the number in KiB; a rank sends itself nothing."""
    axis.imshow(table, cmap="Oranges", vmin=0, vmax=1.4 * largest)
    for source, row in enumerate(table):
        for target, value in enumerate(row):
            text = "at home" if source == target else f"{value / 1024:.0f}"
            axis.text(target, source, text, ha="center", va="center", fontsize=7.5 if source == target else 9.5,
                      color=GREY if source == target else BLACK)
    ranks = range(len(table))
    axis.set(title=title, xlabel="to rank", xticks=ranks, yticks=ranks)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)


def halo_arrows(axis: Axes, tokens: int, ranks: int, lag: int) -> None:
    """The chunks of a row as boxes of tokens, one line a rank, and an arrow for each piece of a halo."""
    lengths = chunk_lengths(tokens, ranks)
    starts = [sum(lengths[:rank]) for rank in range(ranks)]
    for rank, (start, length) in enumerate(zip(starts, lengths)):
        color = EXPERTS[rank]
        for place in range(start, start + length):
            axis.add_patch(plt.Rectangle((place - 0.45, rank - 0.3), 0.9, 0.6, color=color, alpha=0.75, linewidth=0))
    for source, target, first, stop in halo_plan(lengths, lag):
        for place in range(first, stop):
            axis.add_patch(plt.Rectangle((place - 0.45, target - 0.3), 0.9, 0.6, fill=False, edgecolor=EXPERTS[source],
                                         linestyle=":", linewidth=1.2))
        axis.annotate("", xy=((first + stop - 1) / 2, target - 0.32), xytext=((first + stop - 1) / 2, source + 0.32),
                      arrowprops=dict(arrowstyle="->", color=BLACK, linewidth=1.1))
    axis.set(title="the halo of each chunk", xlabel="token", ylabel="rank", xlim=(-0.7, tokens - 0.3),
             ylim=(ranks - 0.4, -0.6), yticks=range(ranks))
    axis.tick_params(axis="y", length=0)


@styled
def who_sends(record: dict | None = None) -> Figure:
    """Expert parallelism at two loads, as matrices of KiB."""
    record = record or recorded("parallel")
    tables = {run["load"]: run["sent"]["experts, all-to-all"] for run in record["runs"]
              if run["what"] == "sent" and run["layout"] == "ep4"}
    largest = max(max(map(max, table)) for table in tables.values())
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.2))
    matrix(left, tables["balanced"], "even load, KiB", largest)
    matrix(right, tables["skewed"], "70% to expert 0, KiB", largest)
    left.set_ylabel("from rank")
    return figure


@styled
def halos(tokens: int = 14, ranks: int = 4, lag: int = 2) -> Figure:
    """Context parallelism: each rank's chunk of a row, and the tokens that it gets from the ranks before."""
    figure, axis = plt.subplots(figsize=(WIDTH, 2.4))
    halo_arrows(axis, tokens, ranks, lag)
    return figure


@styled
def borders(record: dict | None = None) -> Figure:
    """Errors by token without the halo: of the first layer's keys and values, and of the logits."""
    record = record or recorded("parallel")
    (broken,) = [run for run in record["runs"] if run["what"] == "halo" and not run["halo"]]
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 2.5), sharey=True)
    titles = {"keys": "keys and values, layer 0", "logits": "logits"}
    lengths = chunk_lengths(len(broken["keys"]), 4)
    starts = torch.tensor(lengths).cumsum(0)[:-1]
    for axis, (name, title) in zip(axes, titles.items()):
        axis.bar(range(len(broken[name])), broken[name], color=COLOR["broken"])
        for start in starts.tolist():
            axis.axvline(start - 0.5, color=ORANGE, linewidth=1, linestyle="--")
        axis.set(title=title, xlabel="token")
    axes[0].set_ylabel("error without the halo")
    return figure
