"""Where somebody looks: in a cell of a notebook, or at a terminal. Bars, verdicts and Ctrl-C differ between the two."""

import re
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
    """Python `source` with its long lines broken: prose between words, code inside of brackets, a string into two, a
    comment at the end of a line put above it. The code stays the same, but for words of docstrings; what cannot be
    broken stays long."""
    lines, prose, places, strings, out, rest = source.splitlines(), set(), {}, {}, [], ""
    inner = {}            # row -> the indentation of what its open bracket holds, where the next row shows it
    depth = inside = start = 0    # open brackets; f-strings, which Python 3.12 takes apart, and where one began
    for kind, text, (row, column), (end, stop), _ in generate_tokens(StringIO(source).readline):
        if tok_name[kind].endswith("FSTRING_START"):
            inside, start = inside + 1, column if not inside else start
        depth -= (text in (")", "}")) + 2 * (text == "]")   # rather between arguments than inside of an index
        if kind == STRING and text.startswith('"""') or kind == COMMENT and not lines[row - 1][:column].strip():
            prose.update(range(row, end + 1))
        elif kind == COMMENT or depth and not inside and lines[row - 1][column - 1:column] == " ":
            comma = lines[row - 1][:column].rstrip().endswith(",")
            places.setdefault(row, []).append((kind, column, (-depth, comma)))
        depth += (text in ("(", "{")) + 2 * (text == "[")
        if tok_name[kind] == "NL" and depth and row < len(lines):
            inner[row] = lines[row][:len(lines[row]) - len(lines[row].lstrip())]
        inside -= tok_name[kind].endswith("FSTRING_END")
        if depth and not inside and row == end and (kind == STRING or tok_name[kind].endswith("FSTRING_END")):
            strings.setdefault(row, []).append((column if kind == STRING else start, stop))
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
        found, own = places.get(row, []), indent if row - 1 in inner else indent + " " * 8
        hang = max(own, inner.get(row, ""), key=len)
        if len(line) > width and found and found[-1][0] == COMMENT:
            column = found.pop()[1]
            out += wrap(line[column:], width, initial_indent=indent, subsequent_indent=indent + "# ", **WORDS)
            line = line[:column].rstrip()
        while len(line) > width:
            fits = [(rank, column) for _, column, rank in found if len(hang) < column <= width + 1]
            if fits:
                column, mark = max(fits)[1], ""   # the fewest open brackets, then after a comma, then as late as fits
                out.append(line[:column].rstrip())
            elif halves := [half for a, b in strings.get(row, []) if a < width < b for half in halved(line, a, width)]:
                column, mark = halves[-1]
                out.append(line[:column] + mark[-1])
            else:
                break
            line, shift = hang + mark + line[column:], column - len(hang + mark)
            found = [(kind, at - shift, rank) for kind, at, rank in found if at > column]
            strings[row] = [(max(a - shift, len(hang)), b - shift) for a, b in strings.get(row, []) if b > column]
        out.append(line)
    return "\n".join(out) + "\n"


def halved(line: str, start: int, width: int) -> list[tuple[int, str]]:
    """Where the string that begins at `start` can be taken apart within `width`: places after a space that is in no
    braces, each with how a string of its kind begins."""
    mark = re.match(r"""[a-zA-Z]*["']""", line[start:]).group()
    return [(at, mark) for at in range(start + len(mark) + 1, width)
            if line[at - 1] == " " and line[start:at].count("{") == line[start:at].count("}")]
