"""How a figure reaches a screen: sharp, with a text for those who cannot see it, and with dials."""

import base64
import io
from collections.abc import Callable, Sequence
from html import escape

from matplotlib.figure import Figure, FigureBase

from ..notebook import has_widgets, in_notebook

DENSE = 2       # pixels of the file for one of the page: what a phone or a laptop's screen has


def alt(figure: Figure) -> str:
    """What the figure shows, in words: `figure.alt`, then its titles and the names of its axes."""
    told = getattr(figure, "alt", "").rstrip(".") or "Figure"
    words = [axis.get_title(loc) for axis in figure.axes for loc in ("left", "center")]
    words += [text for axis in figure.axes for text in (axis.get_xlabel(), axis.get_ylabel())]
    words = [" ".join(text.split()) for text in dict.fromkeys(filter(None, words))]
    return f"{told}: {'; '.join(words)}" if words else told


def png(figure: Figure) -> bytes:
    """The figure as a file, cut to what is drawn."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DENSE * figure.dpi, facecolor="white",
                   bbox_inches=None if figure.get_layout_engine() else "tight")     # it has been fitted already
    return file.getvalue()


def html(figure: Figure) -> str:
    """The figure as an image of a page: never wider than its column, at its natural size where there is room."""
    data = png(figure)
    width = int.from_bytes(data[16:20], "big") // DENSE      # a PNG says its width there
    return (f'<img alt="{escape(alt(figure))}" style="width:{width}px;max-width:100%;height:auto" '
            f'src="data:image/png;base64,{base64.b64encode(data).decode()}">')


def show_as_html() -> None:
    """From now on a notebook shows figures by `html`: matplotlib's own way knows no text for an image."""
    if in_notebook():
        from IPython import get_ipython
        from matplotlib_inline.config import InlineBackend
        shell = get_ipython()
        InlineBackend.instance(parent=shell).figure_formats = set()      # or each figure would be kept twice
        # trap: matplotlib, when it first draws, takes away what was set for Figure itself
        shell.display_formatter.formatters["text/html"].for_type(FigureBase, html)


# ---- dials -----------------------------------------------------------------------------------------------------------


def dial(draw: Callable[..., Figure], **settings: tuple | Sequence[str]) -> object:
    """A picture with dials: `draw(name=value, ...)` again whenever one is turned. Without widgets, the still picture.

    settings: name -> (from, to, step, start), numbers, all whole or none; or a list of choices, which starts with the
    first.
    """
    start = {name: value[3] if isinstance(value, tuple) else value[0] for name, value in settings.items()}
    if not has_widgets():
        return draw(**start)
    import ipywidgets
    controls = {name: control(ipywidgets, name, value) for name, value in settings.items()}
    picture = ipywidgets.HTML(html(draw(**start)))

    def turned(change: object) -> None:
        picture.value = html(draw(**{name: widget.value for name, widget in controls.items()}))

    for widget in controls.values():
        widget.observe(turned, "value")
    return ipywidgets.VBox([*controls.values(), picture])


def control(ipywidgets, name: str, value: tuple | Sequence[str]) -> object:
    """One dial: a slider for a range, a list for choices. While a picture is drawn, the steps of a slider are skipped.

    trap: with `continuous_update=False` a slider would hear the mouse, and not the arrow keys.
    """
    look = dict(description=name.replace("_", " "), style={"description_width": "9em"}, layout={"width": "36em"})
    if not isinstance(value, tuple):
        return ipywidgets.Dropdown(options=list(value), **look)
    low, high, step, start = value
    slider = ipywidgets.IntSlider if all(isinstance(x, int) for x in value) else ipywidgets.FloatSlider
    exact = {} if slider is ipywidgets.IntSlider else {"readout_format": ".3g"}
    return slider(min=low, max=high, step=step, value=start, **exact, **look)
