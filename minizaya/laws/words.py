"""Counterexamples in words: inputs as short lists, places as "token 1, channel 0"."""

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

import torch
from torch import Tensor, nn

from ..config import ZayaConfig

WORDS = {"b": "sequence", "t": "token", "s": "key", "h": "head", "j": "KV head", "d": "channel", "c": "channel",
         "e": "expert", "n": "token", "l": "layer", "v": "vocabulary entry", "r": "router channel", "k": "step",
         "o": "row", "p": "pick", "g": "group", "a": "answer", "m": "guess", "w": "rank", "x": "lane", "y": "row",
         "i": "place", "z": "column"}
LONGEST = 24   # numbers; a longer tensor is named by its shape


def number(x: object) -> str:
    """One number as a student would write it: 2.0, 0.333333, 1e+31, nan."""
    x = x.item() if isinstance(x, Tensor) else x
    if not isinstance(x, float):
        return str(x)
    digits = f"{x + 0.0:.7g}"                       # + 0.0: minus zero is zero
    return digits + ".0" * digits.removeprefix("-").isdigit()


def where(axes: str, at: tuple[int, ...], shape: Sequence[int]) -> str:
    """"token 1, channel 0 (counting from 0)"; the batch is named only if there are several sequences."""
    named = [f"{WORDS[a]} {i}" for a, i, n in zip(axes.split(), at, shape) if not (a == "b" and n == 1)]
    return ", ".join(named) + " (counting from 0)" if named else "its only number"


def show(x: object) -> str:
    """A value in one line."""
    if isinstance(x, Tensor):
        if x.numel() <= LONGEST:
            return nested(x.detach().tolist())
        if x.dtype == torch.int64 and x.dim() == 1:      # ids, lengths, addresses: the first ones tell most of it
            first = ", ".join(map(str, x[:8].tolist()))
            return f"[{first}, ...] ({len(x)} numbers from {int(x.min())} to {int(x.max())})"
        return f"a tensor of shape {tuple(x.shape)}"
    if isinstance(x, nn.Conv1d):
        kind = "depthwise" if x.groups == x.in_channels else f"{x.groups} groups"
        return f"Conv1d({kind}, {x.kernel_size[0]} taps, weight = {show(x.weight)}, bias = {show(x.bias)})"
    if isinstance(x, nn.Module):
        return f"a {type(x).__name__} with {sum(p.numel() for p in x.parameters())} parameters"
    if isinstance(x, ZayaConfig):
        changed = [f"{f.name}={getattr(x, f.name)!r}" for f in fields(x) if getattr(x, f.name) != f.default]
        return f"ZayaConfig({', '.join(changed)})"
    if isinstance(x, float):
        return number(x)
    return str(x)


def nested(x: object) -> str:
    return f"[{', '.join(nested(y) for y in x)}]" if isinstance(x, list) else number(x)


def describe(case: dict, axes: dict[str, str]) -> str:
    """"now = [[[1.0]]], then = [[[2.0]]] (b=1, t=1, c=1)"."""
    known = sizes(case, axes)
    given = ", ".join(f"{name} = {show(value)}" for name, value in case.items())
    return f"{given} ({', '.join(f'{a}={n}' for a, n in known.items())})" if known else given


def sizes(case: dict, axes: dict[str, str]) -> dict[str, int]:
    """How long each axis is: {"b": 1, "t": 2}."""
    known = {}
    for name, letters in axes.items():
        if isinstance(case.get(name), Tensor):
            known.update(zip(letters.split(), case[name].shape))
    return known


def spelled(axes: dict[str, str], docstring: str | None) -> dict[str, str]:
    """The axes in the letters of a function's own docstring: where that says "x: (n, D)", "n c" becomes "n D"."""
    found = {}
    for name, letters in axes.items():
        own = re.search(rf"\b{name}\b[^()]*\(([^()]+)\)", docstring or "")
        named = [part.replace(" ", "") for part in own[1].split(",") if part.strip()] if own else []
        same = len(named) == len(letters.split()) and all(part[-1:].isalnum() for part in named)
        found[name] = " ".join(named) if same else letters
    return found


def data(x: Any) -> Any:
    """A value of a case as JSON can hold it: a tensor with its type and shape, what JSON cannot say in words."""
    if isinstance(x, Tensor):
        return {"dtype": str(x.dtype).removeprefix("torch."), "shape": list(x.shape), "values": data(x.tolist())}
    if isinstance(x, ZayaConfig):
        return asdict(x)
    if isinstance(x, dict):
        return {str(key): data(y) for key, y in x.items()}
    if isinstance(x, (list, tuple)):
        return [data(y) for y in x]
    if isinstance(x, float) and not math.isfinite(x):
        return str(x)
    return x if isinstance(x, (bool, int, float, str, type(None))) else show(x)
