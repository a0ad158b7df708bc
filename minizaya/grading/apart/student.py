"""A student's process, from its first line to its last. Whatever the code in it does, it can only answer.

It begins as a copy of the judge's (a fork: no imports to wait for). Before the first line of the student's runs, the
laws are taken out of it, the implementations that the exercise asks for, too, and the walls of `fence.py` go up. Then
it runs the notebook's cells, and answers calls until the judge hangs up.
"""

import json
import os
import random
import socket
import sys
import types
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import fence
from .pack import Packer
from .unpack import Unpacker
from .wire import Lost, receive, send

INSIDE: list[bool] = []         # the library was called from inside; it counts even if that was swallowed
JUDGES = ("minizaya.laws", "minizaya.grading.open_exercises")     # what judges, and is not here
RECENT = 8                      # graphs of the last calls, for the gradients that the law may ask for


class CalledFromInside(Exception):
    """The library's own version was called."""


def _refuse(*args, **kwargs):
    # runs with the globals of the function whose code it replaces
    import sys
    student = sys.modules["minizaya.grading.apart.student"]
    student.INSIDE.append(True)
    raise student.CalledFromInside("the library's own version was called from inside; write it yourself")


def take_away(functions: Iterable[types.FunctionType]) -> None:
    """Replaces the code of functions for good, so that no name, alias or attribute leads to it any more."""
    for function in functions:
        function.__code__ = _refuse.__code__.replace(co_freevars=function.__code__.co_freevars)


class NoLaws(types.ModuleType):
    """What `minizaya.laws` and the open exercises are here: a check in a helper's cell judges nothing."""

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: False


def start(pipe: socket.socket, function: str, cells: Sequence[tuple[int, str]], away: Iterable[types.FunctionType],
          scratch: Path, memory: int, seconds: int) -> None:
    """The whole life of the process, until the judge hangs up. cells: (number, source); away: what to take away."""
    take_away(away)
    for name in [name for name in sys.modules if name.startswith(JUDGES)]:
        del sys.modules[name]
    for name in JUDGES:
        sys.modules[name] = NoLaws(name)
        setattr(sys.modules[name.rpartition(".")[0]], name.rpartition(".")[2], sys.modules[name])
    os.chdir(scratch)
    sys.path.insert(0, str(scratch))        # helpers that lay beside the notebook
    os.environ |= {"HOME": str(scratch), "TMPDIR": str(scratch), "MPLCONFIGDIR": str(scratch)}
    walls = fence.raise_walls(scratch, memory, seconds)
    send(pipe, {"walls": walls})
    space, broke = run(cells)
    value = space.get(function)
    kind = "function" if callable(value) else "missing" if function not in space else type(value).__name__
    send(pipe, {"broke": broke, "kind": kind})
    INSIDE.clear()
    try:
        serve(pipe, space)
    except Lost:
        return


def run(cells: Sequence[tuple[int, str]]) -> tuple[dict, list]:
    """Runs the cells in a new __main__. Returns its names, and (cell, line, what) of those that broke."""
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    broke = []
    for number, source in cells:
        name = f"cell {number}"
        try:
            exec(compile(source, name, "exec"), main.__dict__)
        except BaseException as error:          # SystemExit, too: a cell that ends does not end the notebook
            broke.append([number, line_of(error, name), said(error)])
    return main.__dict__, broke


def line_of(error: BaseException, name: str) -> int | None:
    """The last line of the cell on the way to the error."""
    line, trace = getattr(error, "lineno", None), error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == name:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line if isinstance(line, int) else None


def said(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:2000]
    except Exception:
        return type(error).__name__


# ---- answering -------------------------------------------------------------------------------------------------------


def serve(pipe: socket.socket, space: dict) -> None:
    """Answers the judge's calls and requests for gradients. Raises Lost when the pipe is closed."""
    graphs: dict[int, tuple[list[Tensor], list[Tensor]]] = {}
    while True:
        message, data = receive(pipe)
        pack = Packer()
        try:
            if "pull" in message:
                reply = {"grads": [pack(x) for x in pulled(*graphs[message["pull"]], message["grads"], data)]}
            else:
                reply = called(Remote(pipe), space, message, data, pack, graphs)
                for old in [number for number in graphs if number <= message["id"] - RECENT]:
                    del graphs[old]
        except Lost:
            raise
        except BaseException as error:
            reply, pack = {"error": type(error).__name__, "text": said(error).partition(": ")[2]}, Packer()
        reply["inside"] = bool(INSIDE)
        INSIDE.clear()
        try:
            send(pipe, reply, pack.data)
        except (ValueError, RecursionError) as error:       # a number of 5,000 digits
            send(pipe, {"error": type(error).__name__, "text": str(error)})


def called(remote: "Remote", space: dict, message: dict, data: bytearray, pack: Packer, graphs: dict) -> dict:
    unpack = Unpacker(data, remote)
    args = [unpack(x) for x in message["args"]]
    kwargs = {key: unpack(x) for key, x in message["kwargs"].items()}
    handed = [(i, x, x.detach().clone()) for i, x in enumerate(unpack.tensors) if not isinstance(x, nn.Parameter)]
    texts = {i: text_of(x) for i, x in enumerate(args) if isinstance(x, list)}
    torch.manual_seed(message["seed"])
    random.seed(message["seed"])
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(message["seed"])
    with torch.set_grad_enabled(message["learns"]):
        result = space[message["call"]](*args, **kwargs)
    packed = pack(result)
    if message["learns"]:
        inputs = [x for x in unpack.tensors if x.requires_grad]
        graphs[message["id"]] = inputs, [x for x in pack.tensors if x.requires_grad]
    changed = [[i, pack(x)] for i, x, copy in handed if x.shape != copy.shape or not torch.equal(x.detach(), copy)]
    lists = [[i, pack(args[i])] for i, text in texts.items() if text is not None and text_of(args[i]) != text]
    return {"result": packed, "changed": changed, "lists": lists}


def text_of(value: list) -> str | None:
    """For comparing; None where tensors are in it, which are compared by themselves."""
    try:
        return json.dumps(value)
    except (TypeError, ValueError):
        return None


def pulled(inputs: list[Tensor], results: list[Tensor], packed: list, data: bytearray) -> list[Tensor | None]:
    """Gradients of the inputs, given those of the results (None: zero)."""
    unpack = Unpacker(data)
    pairs = [(x, unpack(grad)) for x, grad in zip(results, packed)]
    pairs = [(x, grad) for x, grad in pairs if grad is not None]
    if not pairs:
        return [None] * len(inputs)
    return list(torch.autograd.grad([x for x, _ in pairs], inputs, [grad for _, grad in pairs], retain_graph=True,
                                    allow_unused=True))


class Handle:
    """Something that stays with the judge, a cache for example: it can be handed back, and a little of it be read."""

    def __init__(self, remote: "Remote", number: int):
        self.__dict__["handle"], self.__dict__["_remote"] = number, remote

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self._remote.ask({"callback": self.handle, "read": name}, Packer())


class Remote:
    """The judge's functions, called from here. What they return carries no gradient."""

    def __init__(self, pipe: socket.socket):
        self.pipe = pipe

    def function(self, number: int) -> Callable:
        def call(*args, **kwargs):
            pack = Packer()
            message = {"callback": number, "args": [pack(x) for x in args],
                       "kwargs": {key: pack(x) for key, x in kwargs.items()}}
            return self.ask(message, pack)

        return call

    def handle(self, number: int) -> Handle:
        return Handle(self, number)

    def ask(self, message: dict, pack: Packer) -> Any:
        send(self.pipe, message, pack.data)
        answer, data = receive(self.pipe)
        if "raised" in answer:
            raise (AttributeError if answer["raised"] == "AttributeError" else RuntimeError)(
                f"{answer['raised']}: {answer['text']}")
        return Unpacker(data, self)(answer["answer"])
