"""Where somebody looks: in a cell of a notebook, or at a terminal. Bars, verdicts and Ctrl-C differ between the two."""

import sys
from ast import parse
from importlib.util import find_spec
from inspect import getsource
from io import StringIO
from textwrap import dedent, wrap
from token import COMMENT, STRING, tok_name
from tokenize import generate_tokens

from tqdm import tqdm as text_bar

WORDS = dict(break_long_words=False, break_on_hyphens=False)   # where `broken` breaks prose


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


def listing(*objects: object, doc: bool = True) -> None:
    """Shows the source of functions, methods or classes, without the indentation of their class: coloured in a
    notebook, printed elsewhere. Lines over 88 columns are broken. doc: whether with a function's docstring."""
    sources = []
    for thing in objects:
        source = dedent(getsource(thing))
        if not doc and thing.__doc__:
            body = parse(source).body[0].body[0]
            lines = source.splitlines(True)
            source = "".join(lines[:body.lineno - 1] + lines[body.end_lineno:])
        sources.append(broken(source))
    text = "\n".join(sources)
    if not in_notebook():
        print(text)
        return
    from IPython.display import display  # late: only a notebook surely has it
    display({"text/markdown": f"```python\n{text}```", "text/plain": text}, raw=True)


def broken(source: str, width: int = 88) -> str:
    """Python `source` with its long lines broken: prose between words, code inside of brackets, a comment at the end of
    a line put above it. The code stays the same, but for words of docstrings; what cannot be broken stays long."""
    lines, prose, places, out, rest = source.splitlines(), set(), {}, [], ""
    inner = {}            # row -> the indentation of what its open bracket holds, where the next row shows it
    depth = inside = 0    # open brackets; f-strings, which Python 3.12 takes apart
    for kind, text, (row, column), (end, _), _ in generate_tokens(StringIO(source).readline):
        inside += tok_name[kind].endswith("FSTRING_START")
        depth -= text in (")", "]", "}")
        if kind == STRING and text.startswith('"""') or kind == COMMENT and not lines[row - 1][:column].strip():
            prose.update(range(row, end + 1))
        elif kind == COMMENT or depth and not inside and lines[row - 1][column - 1:column] == " ":
            comma = lines[row - 1][:column].rstrip().endswith(",")
            places.setdefault(row, []).append((kind, column, (-depth, comma)))
        depth += text in ("(", "[", "{")
        if tok_name[kind] == "NL" and depth and row < len(lines):
            inner[row] = lines[row][:len(lines[row]) - len(lines[row].lstrip())]
        inside -= tok_name[kind].endswith("FSTRING_END")
    for row, line in enumerate(lines, 1):
        indent = line[:len(line) - len(line.lstrip())]
        if row in prose:
            mark, long = "# " if line.lstrip().startswith("#") else "", len(line) > 108
            line = indent + (mark + rest + line.lstrip().removeprefix(mark) if rest else line.lstrip())
            *full, last = wrap(line, width, subsequent_indent=indent + mark, **WORDS) or [""]
            following = lines[row] if row + 1 in prose else ""
            # the rest of a sentence that its author broke, too, goes on in the next line
            goes_on = full and long and line[-1] not in ".:" and following.startswith(indent) and following.strip()
            rest = last.strip().removeprefix(mark) + " " if goes_on else ""
            out += full if goes_on else [*full, last]
            continue
        found, hang = places.get(row, []), max(indent + " " * 8, inner.get(row, ""), key=len)
        if len(line) > width and found and found[-1][0] == COMMENT:
            column = found.pop()[1]
            out += wrap(line[column:], width, initial_indent=indent, subsequent_indent=indent + "# ", **WORDS)
            line = line[:column].rstrip()
        while len(line) > width:
            fits = [(rank, column) for _, column, rank in found if len(hang) < column <= width + 1]
            if not fits:
                break
            column = max(fits)[1]   # the fewest open brackets, then after a comma, then as late as it fits
            out.append(line[:column].rstrip())
            line, shift = hang + line[column:], column - len(hang)
            found = [(kind, at - shift, rank) for kind, at, rank in found if at > column]
        out.append(line)
    return "\n".join(out) + "\n"
