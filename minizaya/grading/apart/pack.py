"""Values as JSON and bytes. A list is a list; what is neither that nor plain is an object with the key "~", its kind.

From the student comes plain data alone: numbers, texts, lists, tensors, and of any other object the name of its type
and its attributes. What goes to the student may be more: a module, a config, a tokenizer go as their class, by its name
in minizaya or torch, and their contents; a function goes as a number, and calling it is a message back.
"""

import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .wire import DEPTH, DTYPES, NUMPY

OF_EVERY_MODULE = frozenset(vars(nn.Module()))


class Packer:
    """Makes JSON of values; the bytes of their tensors gather in `data`, the tensors themselves in `tensors`.

    call_me: gives a function its number, for what goes to the student. Without it a value that is not plain is packed
    as the name of its type and its attributes, as what comes from the student is.
    """

    def __init__(self, call_me: Callable[[Callable], int] | None = None):
        self.call_me, self.data, self.tensors, self.shared = call_me, bytearray(), [], {}

    def __call__(self, value: Any, depth: int = 0) -> Any:
        kind = type(value)
        if value is None or kind is bool or kind is int or kind is float or kind is str:
            return value
        if depth > DEPTH:
            return {"~": "object", "type": kind.__name__, "of": []}
        if kind is list:
            return [self(x, depth + 1) for x in value]
        if isinstance(value, Tensor):
            return self.tensor(value)
        if value is Ellipsis:
            return {"~": "ellipsis"}
        if isinstance(value, (bytes, bytearray)):
            self.data += value
            return {"~": "bytes", "size": len(value)}
        if self.call_me is not None:
            return self.ours(value, depth + 1)
        return self.theirs(value, depth + 1)

    def tensor(self, x: Tensor) -> dict:
        name = str(x.dtype).removeprefix("torch.")
        if name not in DTYPES or x.layout != torch.strided or x.device.type not in ("cpu", "meta"):
            return {"~": "object", "type": f"{name} tensor ({x.layout}, {x.device.type})", "of": []}
        packed = {"~": "tensor", "type": name, "shape": list(x.shape), "grad": x.requires_grad}
        if x.device.type == "meta":
            return packed | {"meta": True}
        self.tensors.append(x)
        plain = x.detach().reshape(-1).clone(memory_format=torch.contiguous_format)   # strides of one number may lie
        if plain.numel():
            self.data += memoryview(plain.view(torch.uint8).numpy())
        return packed

    def ours(self, value: Any, depth: int) -> Any:
        """The judge's own things, for the student."""
        if isinstance(value, torch.dtype):
            return {"~": "dtype", "name": str(value).removeprefix("torch.")}
        if is_dataclass(value) and not isinstance(value, type):
            return {"~": "dataclass", "class": named(type(value)),
                    "of": {f.name: self(getattr(value, f.name), depth) for f in fields(value)}}
        if isinstance(value, nn.Module):
            return self.module(value, depth)
        if hasattr(value, "to_dict") and type(value).__module__ == "minizaya.data.tokenizer":
            return {"~": "tokenizer", "of": value.to_dict()}
        if inspect.isfunction(value) and value.__module__.split(".")[:2] in (["minizaya", "arch"], ["torch", "nn"]) \
                and "<" not in value.__qualname__:
            return {"~": "function", "name": named(value)}
        if callable(value):
            return {"~": "callback", "id": self.call_me(value)}
        if isinstance(value, tuple):
            return {"~": "tuple", "of": [self(x, depth) for x in value]}
        if isinstance(value, dict):
            return {"~": "dict", "of": [[self(k, depth), self(v, depth)] for k, v in value.items()]}
        for plain in (bool, int, float, str):
            if isinstance(value, plain):
                return plain(value)
        return {"~": "handle", "id": self.call_me(value)}

    def module(self, module: nn.Module, depth: int) -> dict:
        """Its class and contents. One with hooks is watched by the law: its calls come back to the judge's own."""
        if id(module) in self.shared:
            return {"~": "again", "id": self.shared[id(module)]}
        number = self.shared[id(module)] = len(self.shared)
        own = {name: self(value, depth) for name, value in vars(module).items()
               if name not in OF_EVERY_MODULE or name == "training"}
        packed = {"~": "module", "id": number, "class": named(type(module)), "own": own, "parameters": {},
                  "buffers": {},
                  "modules": {name: self(child, depth) for name, child in module._modules.items()}}
        for kind, values in (("parameters", module._parameters), ("buffers", module._buffers)):
            for name, value in values.items():
                if value is not None and id(value) in self.shared:      # tied weights are one tensor
                    packed[kind][name] = {"~": "again", "id": self.shared[id(value)]}
                else:
                    packed[kind][name] = self(value, depth)
                    if value is not None:
                        packed[kind][name]["id"] = self.shared[id(value)] = len(self.shared)
        if module._forward_pre_hooks or module._forward_hooks:
            packed["watched"] = {"forward": self.call_me(module), "new_cache": self.call_me(module.new_cache)}
        return packed

    def theirs(self, value: Any, depth: int) -> Any:
        """Whatever a student's function may return, as plain data: a subclass loses what it pretends to be."""
        for plain in (bool, int, float, str):
            if isinstance(value, plain):
                module = type(value).__module__
                if module != "numpy":
                    return plain.__new__(plain, value) if plain is not bool else value is True
        if isinstance(value, list):
            return [self(x, depth) for x in list.__iter__(value)]
        if isinstance(value, tuple):
            return {"~": "tuple", "of": [self(x, depth) for x in tuple.__iter__(value)]}
        if isinstance(value, dict):
            return {"~": "dict", "of": [[self(k, depth), self(v, depth)] for k, v in dict.items(value)]}
        if type(value).__module__ == "numpy" and type(value).__name__.rstrip("_") in NUMPY and value.ndim == 0:
            return {"~": "numpy", "type": type(value).__name__.rstrip("_"), "of": value.item()}
        own = getattr(value, "__dict__", {})
        if isinstance(value, (type, nn.Module)) or callable(value) or not isinstance(own, dict):
            own = {}
        return {"~": "object", "type": type(value).__name__,
                "of": [[str(k), self(v, depth)] for k, v in own.items() if not str(k).startswith("_")]}


def named(thing: type | Callable) -> str:
    return f"{thing.__module__}:{thing.__qualname__}"
