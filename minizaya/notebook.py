"""Where somebody looks: in a cell of a notebook, or at a terminal. Bars, verdicts and Ctrl-C differ between the two."""

import sys
from importlib.util import find_spec

from tqdm import tqdm as text_bar


def in_notebook() -> bool:
    """Whether this runs in the kernel of a notebook. IPython in a terminal is none."""
    ipython = sys.modules.get("IPython")   # nobody has imported it: nobody runs it
    shell = ipython and ipython.get_ipython()
    return type(shell).__name__ == "ZMQInteractiveShell"


def has_widgets() -> bool:
    """Whether ipywidgets can be drawn: it is installed, and this is a notebook."""
    return in_notebook() and find_spec("ipywidgets") is not None


def tqdm(*args, **kwargs) -> text_bar:
    """A progress bar, with tqdm's arguments: a widget in a notebook, a line on standard error elsewhere.

    trap: JupyterLab draws standard error on red, so without ipywidgets a notebook's bar is text on standard output.
    """
    if has_widgets() and not kwargs.get("disable"):
        from tqdm.notebook import tqdm as widget_bar
        return widget_bar(*args, **kwargs)
    return text_bar(*args, **{"file": sys.stdout if in_notebook() else sys.stderr} | kwargs)
