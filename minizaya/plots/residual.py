"""Pictures of lesson 05: the residual stream through depth, the four vectors, and what half precision loses."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from .. import studies
from ..studies.residual_depth import VECTORS
from .style import BLACK, COLOR, GREY, WIDTH, styled

KINDS = {"at the start": (BLACK, ":"), "trained, plain": (GREY, "-"), "trained, scaled": (COLOR["residual"], "-")}


def mean(rows: list[list[float]]) -> list[float]:
    """Place by place over several lists of equal length."""
    return [sum(column) / len(column) for column in zip(*rows)]


def by_kind(runs: list[dict]) -> dict[str, list[dict]]:
    """The profiles of a record under the names of KINDS. At the start plain and scaled are the same model."""
    plain, scaled = ([run for run in runs if run["variant"] == name] for name in ("plain", "scaled"))
    profiles = [run["before"] for run in plain], [run["after"] for run in plain], [run["after"] for run in scaled]
    return dict(zip(KINDS, profiles))


@styled
def through_depth(runs: list[dict] | None = None) -> Figure:
    """The stream, the part that each write adds, and the gradient, merge by merge: a thin line a seed, a thick mean.

    runs: of the record of the study `residual_depth`; default: the one that is kept.
    """
    kinds = by_kind(runs or studies.recorded("residual_depth")["runs"])
    figure, axes = plt.subplots(1, 3, figsize=(WIDTH, 2.9), sharex=True)
    for name, profiles in kinds.items():
        color, line = KINDS[name]
        curves = [
            [list(enumerate(p["stream"])) for p in profiles],
            # attention only: between its writes stand those of the experts, which are far smaller at the start
            [[(k + 1, p["write"][k] / p["stream"][k + 1]) for k in range(0, len(p["write"]), 2)] for p in profiles],
            [list(enumerate(p["grad"])) for p in profiles],
        ]
        for axis, rows in zip(axes, curves):
            for row in rows:
                axis.plot(*zip(*row), color=color, linestyle=line, linewidth=0.7, alpha=0.4)
            places, middle = [place for place, _ in rows[0]], mean([[value for _, value in row] for row in rows])
            axis.plot(places, middle, color=color, linestyle=line, linewidth=2.0, label=name)
    start = mean([p["stream"] for p in kinds["at the start"]])
    end = len(start) - 1
    axes[0].plot(range(1, end + 1), [start[end] * (k / end) ** 0.5 for k in range(1, end + 1)], color=COLOR["broken"],
                 linewidth=0.9, linestyle="--")
    axes[0].text(end * 0.42, start[-1] * 0.42, "square root\nof depth", color=COLOR["broken"], fontsize=9.5, va="top")
    for axis, title in zip(axes, ("RMS of the stream", "attention write, share", "gradient at stream")):
        axis.set(title=title, xlabel="merge", yscale="log", xlim=(0, end))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


@styled
def learned_vectors(runs: list[dict]) -> Figure:
    """Mean over channels (line) and one standard deviation (band) of the four learned vectors, merge by merge.

    runs: of the record of the study `residual_depth`; one line a seed.
    """
    figure, axes = plt.subplots(2, 2, figsize=(WIDTH, 3.8), sharex=True)
    for axis, name in zip(axes.T.flat, VECTORS):
        for vectors in (run["vectors"][name] for run in runs if run["vectors"]):
            low, high = ([m + sign * s for m, s in zip(vectors["mean"], vectors["std"])] for sign in (-1, 1))
            places = range(1, len(low) + 1)
            axis.fill_between(places, low, high, color=COLOR["residual"], alpha=0.15, linewidth=0)
            axis.plot(places, vectors["mean"], color=COLOR["residual"], linewidth=1.2)
        axis.axhline(1.0 if name.endswith("scale") else 0.0, color=BLACK, linewidth=0.8, linestyle=":")
        axis.set(title=name, xlim=(0, len(low)))
    for axis in axes[1]:
        axis.set_xlabel("merge")
    return figure


@styled
def depth_curves(curves: dict[str, list[float]], ylabel: str, title: str = "",
                 colors: dict[str, str] | None = None) -> Figure:
    """One line a setting over the 80 merges of the model.

    curves: name -> one value a merge.
    """
    figure, axis = plt.subplots(figsize=(WIDTH, 2.7))
    for name, values in curves.items():
        axis.plot(range(len(values)), values, label=name, color=(colors or {}).get(name))
    axis.set(xlabel="merge", ylabel=ylabel, title=title, yscale="log", xlim=(0, None))
    axis.legend(loc="best")
    return figure


@styled
def lost_writes(sizes: list[float], errors: dict[str, list[float]], colors: dict[str, str]) -> Figure:
    """How much of what was written is lost, against the size of one write: a line a type of the stream.

    errors: name -> one value a size.
    """
    figure, axis = plt.subplots(figsize=(WIDTH, 2.9))
    for name, values in errors.items():
        axis.plot(sizes, values, "o-", color=colors[name], markersize=4, label=name)
    axis.set_xscale("log", base=2)
    axis.set(xlabel="size of one write, with a stream of size 1", ylabel="error / all that was written", yscale="log")
    axis.legend(loc="center right")
    return figure
