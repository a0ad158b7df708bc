"""A verdict as a card, for a notebook: what was judged, and the smallest counterexample laid out as small matrices."""

import re
from html import escape
from itertools import product

from torch import Tensor

from .core import Law, Verdict
from .words import describe, number, show, sizes

COLOR = {"✔": "#009E73", "✘": "#D55E00", "○": "#8C8C8C"}    # as in the lessons' pictures
ROWS, COLUMNS = 8, 12    # of a matrix that is laid out; a larger one is named by its shape
CELL = "padding:1px 7px;text-align:right;border:1px solid var(--jp-border-color2,#ddd)"


def html(verdict: Verdict, the_law: Law, axes: dict[str, str], name: str = "the function") -> str:
    """The card. axes: input name -> its letters, in the spelling of the exercise; name: of the judged function."""
    mark = "✔" if verdict.passed else "✘" if verdict.attempted else "○"
    head = f"<b>{mark} {escape(the_law.name)}</b>: {prose(the_law.statement)}"
    if mark == "○":
        body = (f"Not attempted yet: write <code>{escape(name)}</code> above, run its cell, then this one again."
                if verdict.message == "not attempted yet" else prose(verdict.message))
    else:
        body = counterexample(verdict, axes) if mark == "✘" else ""
    return (f'<div style="border-left:5px solid {COLOR[mark]};padding:4px 12px;margin:2px 0;overflow-wrap:anywhere;'
            f'max-width:60em;overflow-x:auto;color:var(--jp-content-font-color1,inherit)"><div>{head}</div>{body}</div>')


def prose(text: str) -> str:
    """A sentence, its `names` as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def counterexample(verdict: Verdict, axes: dict[str, str]) -> str:
    """The inputs side by side, what is wrong in words, and what came out beside what should have."""
    case = verdict.case or {}
    said = verdict.message.removeprefix(f"with {describe(case, axes)}: ")
    known = sizes(case, axes)
    inputs = [laid_out(f"{name} ({', '.join(f'{a}={known[a]}' for a in axes[name].split())})" if name in axes else name,
                       value) for name, value in case.items()]
    results = [laid_out("you gave", verdict.got, verdict.at), laid_out("the law wants", verdict.wanted, verdict.at)
               ] if verdict.got is not None else []
    told = f'<div style="margin:4px 0"><b>{prose(said[:1].upper() + said[1:])}</b></div>'
    return row(inputs) + told + row(results)


def row(blocks: list[str]) -> str:
    style = "display:flex;flex-wrap:wrap;gap:6px 22px;margin:4px 0"
    return f'<div style="{style}">{"".join(blocks)}</div>' if blocks else ""


def laid_out(label: str, value: object, at: tuple[int, ...] | None = None) -> str:
    """One value under its name: a tensor of few numbers as its matrices, the entry `at` in red; the rest in words."""
    small = isinstance(value, Tensor) and value.dim() > 0 and 0 < value.numel() <= ROWS * COLUMNS
    if small and value.shape[-1] <= COLUMNS and value.shape[-2:-1].numel() <= ROWS:
        body = matrices(value.detach().cpu(), at)
    else:
        body = f'<code style="white-space:pre-wrap">{escape(show(value))}</code>'
    return f'<div><div style="opacity:.75;font-size:90%">{escape(label)}</div>{body}</div>'


def matrices(x: Tensor, at: tuple[int, ...] | None) -> str:
    """The matrices of the last two axes, each under its place in the others."""
    places = list(product(*map(range, x.shape[:-2])))
    return row([("" if len(places) == 1 else f'<div style="opacity:.75">[{", ".join(map(str, place))}]</div>')
                + matrix(x[place].view(-1, x.shape[-1]), at[-2:] if at and tuple(at[:-2]) == place else None)
                for place in places])


def matrix(x: Tensor, at: tuple[int, ...] | None) -> str:
    wrong = None if at is None else (0, *at)[-2:]
    lines = ["".join(f'<td style="{CELL}{";background:#D55E0055;font-weight:bold" if (i, j) == wrong else ""}">'
                     f"{escape(number(y))}</td>" for j, y in enumerate(line)) for i, line in enumerate(x)]
    return f'<table style="border-collapse:collapse;margin:0"><tr>{"</tr><tr>".join(lines)}</tr></table>'
