"""How every picture of the course looks: one width, one font size, and one colour for one thing.

The colours are Okabe and Ito's, which readers with any common colour blindness can tell apart.
"""

from collections.abc import Callable
from functools import wraps

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from .screen import show_as_html

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, RED, PURPLE, GREY = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#8C8C8C")

# By meaning. A picture takes its colours from here, so that a thing keeps its colour from lesson to lesson.
COLOR = {
    "embedding": SKY, "attention": BLUE, "router": PURPLE, "experts": ORANGE, "residual": GREEN,  # parts of the model
    "ours": BLACK, "baseline": GREY, "broken": RED, "right": GREEN,     # roles in a comparison
}
EXPERTS = (ORANGE, SKY, GREEN, YELLOW, BLUE, RED, PURPLE, GREY)   # expert e is EXPERTS[e % 8]; the skip route is white

show_as_html()

WIDTH = 7.0   # inches: a notebook column
STYLE = {
    "figure.dpi": 110, "savefig.dpi": 150, "figure.constrained_layout.use": True, "figure.facecolor": "white",
    "font.size": 10, "axes.titlesize": 11, "axes.labelsize": 10, "xtick.labelsize": 9.5, "ytick.labelsize": 9.5,
    "legend.fontsize": 9.5, "legend.frameon": False, "axes.spines.top": False, "axes.spines.right": False,
    "axes.titlelocation": "left", "lines.linewidth": 1.8,
}


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Decorator: `draw` makes a Figure in the course's style. It is closed, so a notebook shows it once, not twice.

    The first paragraph of its docstring says what is seen, for those who cannot see it."""

    @wraps(draw)
    def drawn(*args, **kwargs):
        with plt.rc_context(STYLE):
            figure = draw(*args, **kwargs)
        plt.close(figure)
        figure.alt = " ".join((draw.__doc__ or "").split("\n\n")[0].split())
        return figure

    return drawn
