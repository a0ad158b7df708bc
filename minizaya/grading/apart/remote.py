"""The judge's side of the pipe: a function in a student's process, called as if it were here.

    with Student(lesson, cells, limits) as student:
        judge("cca.value_shift", student.function("late_values"))

What comes back is built anew from plain data, so nothing of the student's is ever run here. What the function changed
in place is changed here, too. Gradients: the judge's autograd asks the student's for its vector-Jacobian product.
Functions, watched modules and caches that the law hands over stay here, and their calls come back over the pipe.
"""

import os
import signal
import socket
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ...laws.core import CalledFromInside
from . import process
from .pack import Packer
from .unpack import Unpacker
from .wire import Lost, receive, send

READ_OF_HANDLES = ("length", "bytes_per_token")     # what a student may read of an object that stays here


class Gone(BaseException):
    """The student's process is gone, or out of time. No Exception: it ends the judging, and is no counterexample."""


class Student:
    """The process of one exercise.

    start: given the student's end of the pipe, it runs there until the end. seconds: for one call, and for all of its
    cells; whole: for all that it does.
    """

    def __init__(self, start: Callable[[socket.socket], None], seconds: float, whole: float):
        self.seconds, self.whole, self.last, self.calls = seconds, whole, time.monotonic() + whole, 0
        self.known: dict[int, Any] = {}         # what the law handed over, and is called back
        self.pipe, other = socket.socketpair()
        self.pid = process.fork(lambda: start(other), keep=other.fileno())
        other.close()

    def __enter__(self) -> "Student":
        return self

    def __exit__(self, *error) -> None:
        self.end()

    def end(self) -> int | None:
        """Kills it, and everything in its group. Returns how it ended: an exit code, minus the signal, or None."""
        if self.pid is None:
            return None
        pid, self.pid = self.pid, None
        self.pipe.close()
        for _ in range(20):                     # it may be about to end by itself; then its own reason is worth more
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.005)
        process.kill(pid)
        os.waitpid(pid, 0)
        return None

    # ---- messages

    def receive(self, until: float) -> tuple[dict, bytearray]:
        """The next message. Raises Gone, with the reason in words."""
        try:
            return receive(self.pipe, min(until, self.last))
        except TimeoutError:
            late = time.monotonic() >= self.last
            reason = f"took longer than {self.whole:g} seconds in all" if late else \
                f"took longer than {self.seconds:g} seconds for one call"
            self.pipe.close()
        except Lost as error:
            reason = str(error)
        code = self.end()
        if code == -signal.SIGXCPU or (code == -signal.SIGKILL and "ended" in reason):
            reason = "its process was killed: out of memory, or of its CPU time"
        elif code and "ended" in reason:
            how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
            reason = f"its process ended {how}"
        elif "ended" in reason:
            reason = "its process ended; an exit is no answer"
        raise Gone(reason)

    def send(self, message: dict, data: bytes = b"") -> None:
        try:
            self.pipe.settimeout(self.seconds)
            send(self.pipe, message, data)
        except OSError:
            self.receive(time.monotonic() + 0.1)
            raise Gone("its process has ended") from None

    def ready(self) -> dict:
        """What running its cells came to: walls, what stands; broke, [cell, line, what] of those that broke; kind, what
        the exercise's name is then: "function", "missing", or a type. Raises Gone."""
        until = time.monotonic() + self.seconds
        said = self.receive(until)[0] | self.receive(until)[0]
        try:
            return {"walls": [str(wall) for wall in said["walls"]], "kind": str(said["kind"]),
                    "broke": [[int(number), line if isinstance(line, int) else None, str(what)]
                              for number, line, what in said["broke"]]}
        except (KeyError, TypeError, ValueError) as error:
            self.end()
            raise Gone(f"it sends what is no message: {error}") from None

    # ---- calls

    def function(self, name: str) -> Callable:
        def call(*args, **kwargs):
            return self.call(name, args, kwargs)

        call.__name__ = name
        return call

    def call(self, name: str, args: tuple, kwargs: dict) -> Any:
        self.known.clear()
        pack, failed = Packer(self.keep), None
        self.calls += 1
        packed = [pack(x) for x in args], {key: pack(x) for key, x in kwargs.items()}
        # the law's own random numbers decide the student's, so a verdict repeats
        seed = int(torch.randint(2**31, ()))
        learns = torch.is_grad_enabled()
        self.send({"call": name, "id": self.calls, "args": packed[0], "kwargs": packed[1], "seed": seed,
                   "learns": learns}, pack.data)
        until = time.monotonic() + self.seconds
        while True:
            message, data = self.receive(until)
            if "callback" not in message:
                break
            failed = self.answer(message, data) or failed
        if message.get("inside"):
            raise CalledFromInside
        if "error" in message:
            if failed is not None:
                raise failed
            if message["error"] == "NotImplementedError":
                raise NotImplementedError
            raise named(str(message["error"])[:100])(str(message.get("text", "")))
        try:
            unpack = Unpacker(data)
            result = unpack(message["result"])
            mine = [x for x in unpack.tensors if x.learns]
            changes = [(int(i), unpack(x)) for i, x in message.get("changed", [])]
            lists = [(int(i), unpack(x)) for i, x in message.get("lists", [])]
            for index, value in changes:
                self.change(pack.tensors[index], value)
            for index, value in lists:
                args[index][:] = value
        except (Lost, KeyError, IndexError, TypeError, ValueError) as error:
            self.end()
            raise Gone(str(error)) from None
        inputs = [x for x in pack.tensors if x.requires_grad]
        if learns and inputs and mine:
            linked = Crossing.apply(self, self.calls, [i for i, x in enumerate(pack.tensors) if x.requires_grad],
                                    mine, *inputs)
            result = swapped(result, {id(old): new for old, new in zip(mine, linked)})
        return result

    @staticmethod
    def change(tensor: Tensor, value: Tensor) -> None:
        """In place, as the student did. Of another shape, it can only be said."""
        with torch.no_grad():
            if tensor.shape == value.shape:
                tensor.copy_(value)
            else:
                tensor.data = value

    def answer(self, message: dict, data: bytearray) -> Exception | None:
        """Calls one of the law's own functions. Returns what it raised; the student's process is told, too."""
        pack = Packer(self.keep)
        try:
            thing, unpack = self.known[message["callback"]], Unpacker(data)
            if "read" in message:
                if message["read"] not in READ_OF_HANDLES:
                    raise AttributeError(f"{message['read']!r} cannot be read here")
                result = getattr(thing, message["read"])
            else:
                args = [self.mine(unpack(x)) for x in message["args"]]
                result = thing(*args, **{str(k): self.mine(unpack(x)) for k, x in message["kwargs"].items()})
            self.send({"answer": pack(result)}, pack.data)
        except Exception as error:      # the law's complaint, or wrong arguments: `call` raises it if the student does
            self.send({"raised": type(error).__name__, "text": str(error)})
            return error
        return None

    def keep(self, thing: Any) -> int:
        self.known[len(self.known)] = thing
        return len(self.known) - 1

    def mine(self, value: Any) -> Any:
        """A handle that comes home is the object again."""
        return self.known[value.handle] if type(value).__name__ == "Handle" and hasattr(value, "handle") else value

    def pulled(self, call: int, grads: list) -> list[Tensor | None]:
        """The student's gradients of the inputs that want one, for gradients of the results that have one."""
        pack = Packer()
        self.send({"pull": call, "grads": [pack(x) for x in grads]}, pack.data)
        message, data = self.receive(time.monotonic() + self.seconds)
        if "error" in message:
            raise RuntimeError(str(message.get("text", "")))
        unpack = Unpacker(data)
        try:
            return [unpack(x) for x in message["grads"]]
        except (Lost, KeyError) as error:
            raise RuntimeError(str(error)) from None


class Crossing(torch.autograd.Function):
    """Results that came over the pipe, tied to the inputs that went."""

    @staticmethod
    def forward(ctx, student, call, places, results, *inputs):
        ctx.student, ctx.call = student, call
        ctx.shapes = [(x.shape, x.dtype) for x in inputs]
        ctx.set_materialize_grads(False)
        return tuple(x.detach().clone() for x in results)

    @staticmethod
    def backward(ctx, *grads):
        found = ctx.student.pulled(ctx.call, list(grads))
        if len(found) != len(ctx.shapes) or any(
                x is not None and (not isinstance(x, Tensor) or (x.shape, x.dtype) != like)
                for x, like in zip(found, ctx.shapes)):
            raise RuntimeError("its gradients are not shaped as its inputs")
        return None, None, None, None, *found


@lru_cache(maxsize=1000)
def named(name: str) -> type[Exception]:
    """An exception that is called so. trap: the same class each time, or Hypothesis takes it for another failure."""
    return type(name, (Exception,), {})


def swapped(value: Any, new: dict) -> Any:
    """The value with some of its tensors exchanged."""
    if isinstance(value, Tensor):
        return new.get(id(value), value)
    if isinstance(value, (list, tuple)):
        return type(value)(swapped(x, new) for x in value)
    if isinstance(value, dict):
        return {key: swapped(x, new) for key, x in value.items()}
    return value
