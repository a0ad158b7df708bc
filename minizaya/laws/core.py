"""What a law is, and the words in which its body complains; `judging.py` runs it.

A law is a statement that holds for every right implementation. It is written once: a Hypothesis strategy that draws
inputs, and a body that calls the judged function and compares. Tests judge the library with it, kernels are judged
with it, and students judge what they just wrote: `check("cca.value_shift", my_value_shift)`.

Tolerances, the same everywhere: |got - wanted| <= tol * (1 + |wanted|), with tol 1e-9 in float64 (laws draw numbers
of size one and sum a few hundred of them, which loses about 1e-13) and 1e-5 in float32 (the same sums lose about 1e-6).
In half precision, which `judge(dtype=...)` asks for, a rounding is 2^-11 (float16) or 2^-8 (bfloat16) of a number, and
a result may have been through a few of them: tol is 16 roundings, 8e-3 and 6e-2.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis.errors import HypothesisException
from hypothesis.strategies import SearchStrategy
from torch import Tensor, nn

from .words import number, where

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 8e-3, torch.bfloat16: 6e-2}
ASKED: ContextVar[float | None] = ContextVar("tolerance asked for by who judges", default=None)


@contextmanager
def allowing(tol: float | None) -> Iterator[None]:
    """While this is open, `tol` stands in place of every tolerance; None: the usual ones."""
    token = ASKED.set(tol)
    try:
        yield
    finally:
        ASKED.reset(token)


def tolerance(dtype: torch.dtype) -> float:
    """The tolerance in force for numbers of this type."""
    return TOLERANCE[dtype] if ASKED.get() is None else ASKED.get()


class Broken(AssertionError):
    """The judged function breaks the law; the message says how, in words. case: the inputs it broke with; got, wanted:
    two tensors that differ first at `at`, where that is what is wrong."""

    case: dict | None = None
    got: Tensor | None = None
    wanted: Tensor | None = None
    at: tuple[int, ...] | None = None


class NotAttempted(Exception):
    """The judged function is still a stub; or, with a message, it cannot be judged on this machine."""


class CalledFromInside(Exception):
    """The judged function called the library's own implementation."""


class Refused(ValueError):
    """The law cannot judge what it was asked to judge in this way; the message says why."""


class Rejected(AssertionError):
    """What `check` raises instead of returning False when MINIZAYA_STRICT=1."""


@dataclass(frozen=True)
class Law:
    """One law. `signature` documents the function it judges; `subjects` are the library's own implementations."""

    name: str
    statement: str
    signature: str
    body: object       # body(subject, **case) raises Broken
    cases: object      # a Hypothesis strategy of dicts
    always: Callable[[], list[dict]]   # awkward cases that no luck may leave out, tried when all drawn ones are right
    subjects: dict     # label -> function; the first is the default subject
    guards: tuple      # library functions that a student must not call while being judged
    axes: dict         # input name -> its axes, "b t c": so that a counterexample can state its sizes
    examples: int
    itself: bool = False   # may what it compares with come from the judged function's own plain answer?

    @property
    def component(self) -> str:
        """The word before the dot."""
        return self.name.split(".")[0]


@dataclass(frozen=True)
class Verdict:
    """What a law says about a function; true exactly when it passed.

    attempted: False for a stub, and for what cannot be judged on this machine. message: the smallest counterexample in
    words, "" when passed. case: the same as data, the law's inputs by name, None when passed. law: its name. tried: how
    many cases were put to it. seed: the seed they were drawn by, None for the law's usual ones. got, wanted, at: what
    came out and what should have, and the first place where they differ, if the two are tensors of one shape.
    """

    passed: bool
    attempted: bool
    message: str
    case: dict | None = field(default=None, compare=False, repr=False)
    law: str = ""
    tried: int = field(default=0, compare=False)
    seed: int | str | None = None
    got: Tensor | None = field(default=None, compare=False, repr=False)
    wanted: Tensor | None = field(default=None, compare=False, repr=False)
    at: tuple[int, ...] | None = field(default=None, compare=False, repr=False)
    told: bool = field(default=False, compare=False, repr=False)     # `check` has printed it

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        if not self.attempted:
            return f"○ {self.law}: {self.message}"
        statement = LAWS[self.law].statement if self.law in LAWS else ""
        return f"✔ {self.law}: {statement}" if self.passed else f"✘ {self.law}: {statement}\n  {self.message}"


    def _ipython_display_(self) -> None:
        """A notebook shows a verdict once: what `check` has printed is not echoed as the value of its cell."""
        if not self.told:
            print(self)


LAWS: dict[str, Law] = {}


def law(name: str, statement: str, *, cases: SearchStrategy[dict], subjects: dict, guards: Iterable[Callable],
        axes: dict | None = None, examples: int = 40, always: Callable[[], list[dict]] = list,
        itself: bool = False) -> Callable[[Callable], Callable]:
    """Decorator: registers the function below it as the body of a law. Its docstring is the judged signature."""

    def register(body: Callable):
        if name in LAWS:
            raise ValueError(f"two laws are called {name!r}")
        LAWS[name] = Law(name, statement, body.__doc__ or "", body, cases, always, subjects, tuple(guards), axes or {},
                         examples, itself)
        return body

    return register


class Subject:
    """The judged function, watched: what it throws is its own fault, and its inputs must come back unchanged.

    around: makes the context in which it runs, and only it; the law's own computations stay outside. itself: compare it
    with its own plain answer, where the law can. differentiable: an adapter of another framework carries no gradients.
    """

    def __init__(self, fn: Callable, around: Callable[[], AbstractContextManager] = nullcontext, itself: bool = False):
        self.fn, self.around, self.itself = fn, around, itself
        self.differentiable = getattr(fn, "differentiable", True)

    def __call__(self, *args, **kwargs):
        return self.run(self.fn, *args, **kwargs)

    def run(self, fn: Callable, *args, **kwargs) -> Any:
        """Calls `fn`, something that the judged function made (a model, say), under the same watch."""
        given = list(held((*args, *kwargs.values())))
        handed = [x for x in given if isinstance(x, Tensor)]
        if not self.differentiable and any(x.requires_grad for x in handed):
            raise Refused("it judges gradients, and this function carries none")
        copies = [x.detach().clone() for x in handed]
        lists = [(x, x.copy()) for x in given if isinstance(x, list)]
        try:
            with self.around():
                result = fn(*args, **kwargs)
        except NotImplementedError as error:
            raise NotAttempted from error
        except (Broken, Refused, NotAttempted, CalledFromInside, HypothesisException):
            raise
        except Exception as error:
            raise Broken(f"it raised {type(error).__name__}: {str(error).strip() or 'no message'}") from error
        if result is Ellipsis:
            raise NotAttempted
        if result is None:
            raise Broken("it returned None: is a `return` missing?")
        for x, copy in zip(handed, copies):
            if x.shape != copy.shape or not torch.equal(x.detach(), copy):
                x.data = copy     # so that the counterexample shows what was handed over
                raise Broken("it changed one of its inputs in place; make a new tensor instead")
        for x, copy in lists:
            if len(x) != len(copy) or any(now is not then for now, then in zip(x, copy)):
                x[:] = copy
                raise Broken("it changed one of its inputs in place; make a new list instead")
        return result


def held(things: Iterable) -> Iterator:
    """Things, and what the lists and tuples among them hold, at any depth."""
    for x in things:
        yield x
        if isinstance(x, (list, tuple)):
            yield from held(x)


# ---- what bodies say -------------------------------------------------------------------------------------------------


def expect(got: object, wanted: Tensor, axes: str, what: str = "", exact: bool = False) -> None:
    """Raises Broken unless `got` is `wanted`: a tensor of the same shape and type, equal within the tolerance.

    axes: the letters of the output, "b t c"; the message then says at which token and channel it differs first.
    what: names the output if there are several ("the mean key"). exact: equal to the last bit.
    """
    label = f"{what}: " if what else ""
    if not isinstance(got, Tensor):
        raise Broken(f"{label}you gave a {type(got).__name__}, the law wants a tensor")
    if got.shape != wanted.shape:
        raise Broken(f"{label}you gave shape {tuple(got.shape)}, the law wants {tuple(wanted.shape)} ({axes})")
    if got.dtype != wanted.dtype:
        raise Broken(f"{label}you gave type {got.dtype}, the law wants {wanted.dtype}")
    got, wanted = got.detach(), wanted.detach()
    if exact or not wanted.is_floating_point():
        wrong = got != wanted
    else:
        wrong = ~((got - wanted).abs() <= tolerance(wanted.dtype) * (1 + wanted.abs()))   # ~ so that NaN is wrong
        wrong &= ~(got == wanted)                                                          # equal infinities are right
    if wrong.any():
        at = tuple(int(i) for i in wrong.nonzero()[0])
        error = Broken(f"{label}at {where(axes, at, wanted.shape)} you gave {number(got[at])}, "
                       f"the law wants {number(wanted[at])}{apart(got[at], wanted[at], exact)}")
        error.got, error.wanted, error.at = got, wanted, at
        raise error


def apart(got: Tensor, wanted: Tensor, exact: bool) -> str:
    """How far apart two numbers are, and how far they may be, where their digits look alike."""
    if f"{float(got):.7g}" != f"{float(wanted):.7g}":
        return ""
    allowed = "nothing" if exact else f"{tolerance(wanted.dtype) * (1 + float(wanted.abs())):.2g}"
    return f": they differ by {abs(float(got) - float(wanted)):.2g}, allowed is {allowed}"


def expect_trainable(fn: Callable, right: Callable, axes: dict, inputs: dict, *others) -> None:
    """Raises Broken unless float32 gives float32, and gradients reach every input as they do through `right`.

    right: the definition, called like `fn`. axes: input name -> its letters. inputs: name -> float tensor, in the order
    of the arguments; others: the arguments after them. For functions of one result or of several. What an adapter made
    of a function without gradients is not asked for any.
    """
    if not getattr(fn, "differentiable", True):
        return
    narrow = [deepcopy(x).float() if isinstance(x, nn.Module) else x for x in others]
    for result in results_of(fn(*(x.float() for x in inputs.values()), *narrow)):
        require(result.dtype == torch.float32, f"for float32 inputs you gave type {result.dtype}")

    def gradients(run: Callable) -> list:
        leaves = [x.clone().requires_grad_(True) for x in inputs.values()]
        pulled = sum((x * (torch.arange(x.numel()) % 5 - 2.0).to(x).view_as(x)).sum()
                     for x in results_of(run(*leaves, *others)))
        require(pulled.requires_grad, "the result carries no gradient, so nothing below it could learn")
        got = torch.autograd.grad(pulled, leaves, allow_unused=True)
        return [torch.zeros_like(leaf) if x is None else x for leaf, x in zip(leaves, got)]

    for name, own, wanted in zip(inputs, gradients(fn), gradients(right)):
        expect(own, wanted, axes[name], f"gradient of {name}")


def results_of(result: object) -> tuple:
    return tuple(result) if isinstance(result, (tuple, list)) else (result,)


def require(condition: bool | Tensor, message: str) -> None:
    """Raises Broken(message) unless the condition holds."""
    if not bool(condition):
        raise Broken(message)


def parts(result: object, count: int, names: str) -> tuple:
    """The `count` outputs of a function that returns several; Broken if there are not that many."""
    if not isinstance(result, (tuple, list)) or len(result) != count:
        raise Broken(f"you gave one {type(result).__name__}, the law wants {count} results: {names}")
    return tuple(result)


def finite(x: object, what: str = "the result") -> Tensor:
    """x itself, if it is a tensor of finite numbers; Broken otherwise."""
    require(isinstance(x, Tensor), f"{what} is a {type(x).__name__}, the law wants a tensor")
    require(not x.is_floating_point() or x.isfinite().all(), f"{what} holds NaN or infinity")
    return x
