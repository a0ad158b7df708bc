"""Functions that laws must reject, by component: each module's WRONG is law -> a list of rows.

A row is a wrong function, or a pair of one and words that the verdict must say: for an assertion which another always
implies, and which is there because it says better what is wrong. `test_assertions.py` asks that no assertion of a law
is idle: that some row here passes, or loses its words, once the assertion is deleted.
"""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor, nn

from minizaya import laws
from minizaya.laws.lm import PARTS


def rows(law: str) -> list[tuple[Callable, str]]:
    """(function, words) of every row of a law, and what is wrong in the same way for every law; words may be ""."""
    own = TABLE.get(law, [])
    first = next(iter(laws.get(law).subjects.values()))
    return [row if isinstance(row, tuple) else (row, "") for row in [*own, *(spoiled(first, f) for f in EVERYWHERE)]]


def spoiled(fn, spoil):
    """`fn` with every tensor of its result spoiled; if it makes a model, then the model's logits and routes."""
    def mapped(x):
        if isinstance(x, torch.Tensor):
            return spoil(x)
        if isinstance(x, nn.Module):
            forward = x.forward

            def wrong(*args, **kwargs):
                out = forward(*args, **kwargs)
                out.logits, out.routes = spoil(out.logits), spoil(out.routes)
                return out

            x.forward = wrong
            return x
        if isinstance(x, laws.BlackBox):
            parts = {name: getattr(x, name) for name in ("forward", *PARTS)}
            return replace(x, **{name: part and spoiled(part, spoil) for name, part in parts.items()})
        if hasattr(x, "_fields"):   # a named tuple
            return type(x)(*map(mapped, x))
        if isinstance(x, (tuple, list)):
            return type(x)(mapped(y) for y in x)
        if isinstance(x, dict):
            return {key: mapped(y) for key, y in x.items()}
        if is_dataclass(x):
            return type(x)(**{field.name: mapped(getattr(x, field.name)) for field in fields(x)})
        if isinstance(x, str):
            return ""
        if isinstance(x, float):
            return float(spoil(torch.tensor(x)))
        return 0 if isinstance(x, int) else x

    return lambda *args, **kwargs: mapped(fn(*args, **kwargs))


def not_a_number(x: Tensor) -> Tensor:
    """Floats become NaN, whole numbers and flags (routes, masks, tokens) are all one too high, or inverted."""
    if x.is_floating_point():
        return x * float("nan")
    return ~x if x.dtype == torch.bool else x + 1


EVERYWHERE = (torch.zeros_like,)
MODULES = [import_module(f"{__name__}.{path.stem}") for path in sorted(Path(__file__).parent.glob("[a-z]*.py"))]
TABLE = {law: rows for module in MODULES for law, rows in module.WRONG.items()}
