"""The way back from `pack.py`. Of what a student sends the judge can only ever build plain data, whatever it says."""

import math
from collections.abc import Callable
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from .wire import DEPTH, DTYPES, NUMPY, Lost


class Plain(SimpleNamespace):
    """An object of the student's, as the judge sees it: the name of its type, and its attributes."""


class Unpacker:
    """The way back. trusted: at the student's end, where classes, callbacks and handles may arrive, too.

    Raises Lost for what `Packer` does not make. `tensors` are those that came, in their order.
    """

    def __init__(self, data: bytearray, remote: Any = None):
        self.data, self.at, self.remote, self.tensors, self.shared = data, 0, remote, [], {}

    def __call__(self, packed: Any, depth: int = 0) -> Any:
        if isinstance(packed, list):
            if depth > DEPTH + 2:
                raise Lost("it sends lists in lists in lists")
            return [self(x, depth + 1) for x in packed]
        if not isinstance(packed, dict):
            return packed
        kind = packed.get("~")
        make = getattr(self, f"plain_{kind}", None) or (getattr(self, f"ours_{kind}", None) if self.remote else None)
        if not isinstance(kind, str) or make is None or depth > DEPTH + 2:
            raise Lost(f"it sends what is no message: {str(packed)[:100]}")
        try:
            return make(packed, depth + 1)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
            raise Lost(f"it sends what is no message: {error}") from None

    def some(self, size: int) -> bytearray:
        if not 0 <= size <= len(self.data) - self.at:
            raise Lost("it sends a message that is cut off")
        self.at += size
        return self.data[self.at - size: self.at]

    def plain_ellipsis(self, packed: dict, depth: int):
        return ...

    def plain_bytes(self, packed: dict, depth: int) -> bytes:
        return bytes(self.some(packed["size"]))

    def plain_tuple(self, packed: dict, depth: int) -> tuple:
        return tuple(self(list(packed["of"]), depth))

    def plain_dict(self, packed: dict, depth: int) -> dict:
        return {self(k, depth): self(v, depth) for k, v in packed["of"]}

    def plain_numpy(self, packed: dict, depth: int):
        import numpy
        if packed["type"] not in NUMPY or not isinstance(packed["of"], (bool, int, float)):
            raise Lost("it sends a number that is none")
        return getattr(numpy, packed["type"] if packed["type"] != "bool" else "bool_")(packed["of"])

    def plain_object(self, packed: dict, depth: int) -> Plain:
        return type(str(packed["type"]), (Plain,), {})(**{str(k): self(v, depth) for k, v in packed["of"]})

    def plain_tensor(self, packed: dict, depth: int) -> Tensor:
        kind, shape = DTYPES[packed["type"]], [int(n) for n in packed["shape"]]
        if packed.get("meta"):
            return torch.empty(shape, dtype=kind, device="meta").requires_grad_(packed["grad"])
        count = math.prod(shape)
        if len(shape) > 32 or any(n < 0 for n in shape):
            raise Lost("it sends a tensor without a shape")
        raw = self.some(count * kind.itemsize)
        if kind is torch.bool and raw.translate(None, b"\0\1"):
            raise Lost("it sends flags that are neither")
        x = torch.frombuffer(raw, dtype=kind).view(shape) if count else torch.empty(shape, dtype=kind)
        self.tensors.append(x)
        if self.remote is not None and packed["grad"]:
            x.requires_grad_(True)
        x.learns = bool(packed["grad"])
        return x

    # ---- only what the judge sends

    def ours_dtype(self, packed: dict, depth: int) -> torch.dtype:
        return getattr(torch, packed["name"])

    def ours_function(self, packed: dict, depth: int) -> Callable:
        return found(packed["name"])

    def ours_dataclass(self, packed: dict, depth: int) -> Any:
        return found(packed["class"])(**{name: self(value, depth) for name, value in packed["of"].items()})

    def ours_tokenizer(self, packed: dict, depth: int) -> Any:
        return found("minizaya.data.tokenizer:from_dict")(packed["of"])

    def ours_callback(self, packed: dict, depth: int) -> Callable:
        return self.remote.function(packed["id"])

    def ours_handle(self, packed: dict, depth: int) -> Any:
        return self.remote.handle(packed["id"])

    def ours_again(self, packed: dict, depth: int) -> Any:
        return self.shared[packed["id"]]

    def ours_module(self, packed: dict, depth: int) -> nn.Module:
        module = nn.Module.__new__(found(packed["class"]))
        nn.Module.__init__(module)
        self.shared[packed["id"]] = module
        for name, value in packed["own"].items():
            module.__dict__[name] = self(value, depth)
        for name, child in packed["modules"].items():
            module.add_module(name, self(child, depth))
        for kind, add in (("parameters", module.register_parameter), ("buffers", module.register_buffer)):
            for name, value in packed[kind].items():
                x = self(value, depth)
                if x is not None and value["~"] == "tensor":
                    if kind == "parameters":
                        x = nn.Parameter(x.detach(), value["grad"])
                        self.tensors[-1:] = [x] if x.device.type != "meta" else self.tensors[-1:]
                    self.shared[value["id"]] = x
                add(name, x)
        for name, number in packed.get("watched", {}).items():
            module.__dict__[name] = self.remote.function(number)
        return module


def found(name: str) -> Any:
    module, _, inside = name.partition(":")
    thing = import_module(module)
    for part in inside.split("."):
        thing = getattr(thing, part)
    return thing
