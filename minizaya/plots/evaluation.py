"""The picture of `minizaya evaluate --figure`: the report's printed figures, and ours beside them."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ..studies.evaluation import published
from .style import BLACK, BLUE, GREY, ORANGE, WIDTH, styled

SHOWN = ("AIME'25", "HMMT'25", "LiveCodeBench-v6", "IFEval", "tau2", "BFCL-v4")
METHODS = {"single": GREY, "markovian_rsa": ORANGE}


@styled
def beside_the_report(found: dict | None = None, benchmark: str | None = None) -> Figure:
    """One group of bars a benchmark: the report's figure for one answer and with Markovian RSA, and in outline ours
    with its standard error.

    The report's figure is the first row of `published` that names it, not of the SFT checkpoint. found: what `evaluate`
    found. benchmark: which of the report's it is; None: a group of its own, under its file's name.
    """
    rows = [row for row in published.rows() if row["checkpoint"] != "SFT" and "report" in row["source"]]
    own_group = None if found is None else benchmark or found["questions"][-24:]
    groups = list(dict.fromkeys(filter(None, [*SHOWN, own_group])))
    figure, axis = plt.subplots(figsize=(WIDTH, 3.4))
    for x, name in enumerate(groups):
        for i, (method, color) in enumerate(METHODS.items()):
            printed = [row["accuracy"] for row in rows if (row["benchmark"], row["method"]) == (name, method)]
            left = x - 0.3 + 0.3 * i
            if printed:
                axis.bar(left, printed[0], width=0.14, color=color)
                axis.text(left, printed[0] + 1, f"{printed[0]:g}", ha="center", fontsize=7)
            own = ours(found, method) if name == own_group else None
            if own:
                axis.bar(left + 0.14, 100 * own["accuracy"], width=0.14, color="white", edgecolor=BLUE,
                         yerr=None if own["stderr"] is None else 100 * own["stderr"], ecolor=BLACK)
    axis.set_xticks(range(len(groups)), groups, fontsize=8)
    axis.set(ylabel="right, %", ylim=(0, 105))
    labels = [Patch(color=GREY, label="report, one answer"), Patch(color=ORANGE, label="report, Markovian RSA"),
              Patch(facecolor="white", edgecolor=BLUE, label="ours")]
    figure.legend(handles=labels, ncols=3, loc="outside upper center", fontsize=8.5)
    return figure


def ours(found: dict, method: str) -> dict | None:
    """Our figure that means what the report's does: the mean over answers."""
    cells = found.get(method, {})
    return next((cell for name, cell in cells.items() if name == "mean" or name.startswith("avg@")), None)
