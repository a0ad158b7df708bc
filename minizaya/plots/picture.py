"""The loss picture: what was learned so far, beside the lines to beat. Saved as PNG; in a notebook also shown, live."""

import os
import sys
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# as in plots/style.py, which must not be imported from here: pictures of lessons import the training
COLOURS = {"text": "#0072B2", "task": "#D55E00", "held out": "#000000", "baseline": "#8C8C8C"}


def smooth(values: list[float], keep: float = 0.9) -> list[float]:
    """Running mean with exponential memory, corrected for its start."""
    mean, weight, result = 0.0, 0.0, []
    for value in values:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        result.append(mean / weight)
    return result


def loss_figure(records: list[dict], baselines: dict[str, float] | None = None) -> Figure:
    """Loss of each source over the steps (raw, and smoothed), held-out loss as dots, `baselines` as dashed lines.

    records: log records. baselines: label -> loss in nats a character. Needs no display and no pyplot state.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    figure.alt = "Loss over the steps, in training and held out; dashed lines are what n-grams reach"
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    steps = [r["step"] for r in records]
    for name in sorted({key for r in records for key in r if key.startswith("loss_")}):
        short = name.removeprefix("loss_")
        colour = COLOURS.get(short, "#009E73")
        values = [r[name] for r in records]
        axes.plot(steps, values, color=colour, alpha=0.2, linewidth=0.8)
        axes.plot(steps, smooth(values), color=colour, linewidth=2, label=f"{short}, training")
    dots = [(r["step"], r["eval"]["text"]) for r in records if "text" in r.get("eval", {})]
    if dots:
        axes.plot(*zip(*dots), color=COLOURS["held out"], marker="o", markersize=4, linewidth=1, clip_on=False,
                  label="text, held out")
    free = -1.0  # labels stand above each other: one that would touch the label below it is left out
    for label, loss in sorted((baselines or {}).items(), key=lambda item: item[1]):
        axes.axhline(loss, color=COLOURS["baseline"], linestyle="--", linewidth=0.8)
        if loss > free:
            axes.annotate(label, (1.005, loss), xycoords=("axes fraction", "data"), va="center", fontsize=8)
            free = loss + 0.1
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss, nats a character")
    axes.set_ylim(0, 3.6)
    axes.set_xlim(0, max(steps, default=1))
    axes.legend(loc="upper center", ncols=3, frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


class LivePicture:
    """watch(records) for `Trainer.train`: writes `path` anew and, in a notebook, updates one inline picture."""

    def __init__(self, path: str | Path | None = None, baselines: dict[str, float] | None = None):
        self.path, self.baselines = None if path is None else Path(path), baselines
        self.handle = None

    def __call__(self, records: list[dict]) -> None:
        figure = loss_figure(records, self.baselines)
        if self.path is not None:
            aside = self.path.with_name("writing-" + self.path.name)
            figure.savefig(aside, dpi=120, format="png")
            os.replace(aside, self.path)
        if "ipykernel" in sys.modules:
            from IPython.display import display

            if self.handle is None:
                self.handle = display(figure, display_id=True)
            else:
                self.handle.update(figure)
