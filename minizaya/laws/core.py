"""What a law is, and how a function is judged by it.

A law is a statement that holds for every right implementation. It is written once: a Hypothesis strategy that draws
inputs, and a body that calls the judged function and compares. Tests judge the library with it, kernels are judged
with it, and students judge what they just wrote: `check("cca.value_shift", my_value_shift)`.

Tolerances, the same everywhere: |got - wanted| <= tol * (1 + |wanted|), with tol 1e-9 in float64 (laws draw numbers
of size one and sum a few hundred of them, which loses about 1e-13) and 1e-5 in float32 (the same sums lose about 1e-6).
"""

import difflib
import os
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis.errors import Flaky, HypothesisException
from torch import Tensor

from .words import describe, number, where

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}


class Broken(AssertionError):
    """The judged function breaks the law; the message says how, in words."""


class NotAttempted(Exception):
    """The judged function is still a stub."""


class CalledFromInside(Exception):
    """The judged function called the library's own implementation."""


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
    subjects: dict     # label -> function; the first is the default subject
    guards: tuple      # library functions that a student must not call while being judged
    axes: dict         # input name -> its axes, "b t c": so that a counterexample can state its sizes
    examples: int


@dataclass(frozen=True)
class Verdict:
    """passed; attempted (False for a stub); message: the smallest counterexample in words, "" when passed."""

    passed: bool
    attempted: bool
    message: str


LAWS: dict[str, Law] = {}


def law(name: str, statement: str, *, cases, subjects: dict, guards, axes: dict | None = None, examples: int = 40):
    """Decorator: registers the function below it as the body of a law. Its docstring is the judged signature."""

    def register(body):
        if name in LAWS:
            raise ValueError(f"two laws are called {name!r}")
        LAWS[name] = Law(name, statement, body.__doc__, body, cases, subjects, tuple(guards), axes or {}, examples)
        return body

    return register


class Subject:
    """The judged function, watched: what it throws is its own fault, and its inputs must come back unchanged."""

    def __init__(self, fn):
        self.fn = fn

    def __call__(self, *args, **kwargs):
        return self.run(self.fn, *args, **kwargs)

    def run(self, fn, *args, **kwargs):
        """Calls `fn`, something that the judged function made (a model, say), under the same watch."""
        handed = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
        copies = [x.detach().clone() for x in handed]
        try:
            result = fn(*args, **kwargs)
        except NotImplementedError as error:
            raise NotAttempted from error
        except (Broken, NotAttempted, CalledFromInside, HypothesisException):
            raise
        except Exception as error:
            raise Broken(f"it raised {type(error).__name__}: {str(error).strip() or 'no message'}") from error
        if result is None or result is Ellipsis:
            raise NotAttempted
        for x, copy in zip(handed, copies):
            if x.shape != copy.shape or not torch.equal(x.detach(), copy):
                raise Broken("it changed one of its inputs in place; make a new tensor instead")
        return result


# ---- what bodies say -------------------------------------------------------------------------------------------------


def expect(got, wanted: Tensor, axes: str, what: str = "", exact: bool = False) -> None:
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
        wrong = ~((got - wanted).abs() <= TOLERANCE[wanted.dtype] * (1 + wanted.abs()))   # ~ so that NaN is wrong
        wrong &= ~(got == wanted)                                                          # equal infinities are right
    if wrong.any():
        at = tuple(int(i) for i in wrong.nonzero()[0])
        raise Broken(f"{label}at {where(axes, at, wanted.shape)} you gave {number(got[at])}, "
                     f"the law wants {number(wanted[at])}")


def require(condition, message: str) -> None:
    """Raises Broken(message) unless the condition holds."""
    if not bool(condition):
        raise Broken(message)


def parts(result, count: int, names: str) -> tuple:
    """The `count` outputs of a function that returns several; Broken if there are not that many."""
    if not isinstance(result, (tuple, list)) or len(result) != count:
        raise Broken(f"you gave one {type(result).__name__}, the law wants {count} results: {names}")
    return tuple(result)


def finite(x, what: str = "the result") -> Tensor:
    """x itself, if it is a tensor of finite numbers; Broken otherwise."""
    require(isinstance(x, Tensor), f"{what} is a {type(x).__name__}, the law wants a tensor")
    require(not x.is_floating_point() or x.isfinite().all(), f"{what} holds NaN or infinity")
    return x


# ---- judging ---------------------------------------------------------------------------------------------------------


def _refuse(*args, **kwargs):
    # runs with the globals of the function whose code it replaces, so it must import what it needs
    from minizaya.laws import core
    core.INSIDE_CALLS.append(True)
    raise core.CalledFromInside


INSIDE_CALLS: list[bool] = []   # a call counts even if the student's code swallows the exception


@contextmanager
def guarded(functions):
    """While this is open, calling any of the library's `functions` raises CalledFromInside.

    The trick: a function's code object is swapped, not its name in a module. So it does not matter whether the student
    wrote `mz.arch.cca.value_shift` or did `from ... import value_shift` an hour ago: both names lead to this one
    function object. The laws compute what they expect in `textbook.py`, which calls none of the guarded functions.
    """
    saved = [(f, f.__code__) for f in functions]
    INSIDE_CALLS.clear()
    try:
        for function, _ in saved:
            function.__code__ = _refuse.__code__
        yield
    finally:
        for function, code in saved:
            function.__code__ = code


def judge(name: str, fn=None, *, label: str | None = None, guard: bool = False, shrink: bool = True,
          examples: int | None = None) -> Verdict:
    """Runs the law on `fn` without printing; on the library's own subject when `fn` is None.

    label: which of the library's subjects. guard: forbid calls to the library's implementation, as `check` does.
    shrink: look for the smallest counterexample (slower). examples: how many inputs to draw.
    Always draws the same inputs, so a verdict can be repeated.
    """
    the_law = get(name)
    if fn is None:
        fn = the_law.subjects[label or next(iter(the_law.subjects))]
    subject = Subject(fn)

    @settings(derandomize=True, database=None, deadline=None, max_examples=examples or the_law.examples,
              phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,), report_multiple_bugs=False,
              verbosity=Verbosity.quiet, suppress_health_check=list(HealthCheck), print_blob=False)
    @given(the_law.cases)
    def trial(case):
        try:
            with torch.random.fork_rng(devices=()):
                torch.manual_seed(0)
                the_law.body(subject, **case)
        except (HypothesisException, NotAttempted, CalledFromInside):
            raise
        except Broken as error:
            raise Broken(f"with {describe(case, the_law.axes)}: {error}") from None
        except Exception as error:
            raise Broken(f"with {describe(case, the_law.axes)}: its result is of no use to the law "
                         f"({type(error).__name__}: {error})") from error

    with guarded(the_law.guards) if guard else nullcontext():
        try:
            trial()
            verdict = Verdict(True, True, "")
        except NotAttempted:
            verdict = Verdict(False, False, "not attempted yet")
        except CalledFromInside:
            verdict = Verdict(False, True, INSIDE)
        except Broken as error:
            verdict = Verdict(False, True, str(error))
        except Flaky:
            verdict = Verdict(False, True, "the same input gives different answers each time; a law cannot hold")
    if guard and INSIDE_CALLS and verdict.attempted:
        verdict = Verdict(False, True, INSIDE)
    return verdict


INSIDE = "the library's own version was called from inside; write it yourself"


def check(name: str, fn) -> bool:
    """Judges a student's function by the law `name`, prints the verdict, returns True only if it passed.

    Prints one of
        ✔ name: statement
        ✘ name: statement, then the smallest counterexample
        ○ name: not attempted yet      (fn is a stub: it raises NotImplementedError or returns None or ...)
    While it runs, the library's own implementation cannot be called. With the environment variable MINIZAYA_STRICT=1,
    ○ and ✘ raise `Rejected`, so that a notebook run in CI stops there. Raises ValueError for an unknown law.
    """
    the_law = get(name)
    if fn is None or fn is Ellipsis:
        verdict = Verdict(False, False, "not attempted yet")
    elif not callable(fn):
        verdict = Verdict(False, True, f"give the function itself, not a {type(fn).__name__}")
    else:
        verdict = judge(name, fn, guard=True)
    if verdict.passed:
        text = f"✔ {name}: {the_law.statement}"
    elif not verdict.attempted:
        text = f"○ {name}: not attempted yet"
    else:
        text = f"✘ {name}: {the_law.statement}\n  {verdict.message}"
    print(text)
    if not verdict.passed and os.environ.get("MINIZAYA_STRICT") == "1":
        raise Rejected(text)
    return verdict.passed


def get(name: str) -> Law:
    """The law called `name`. Raises ValueError, with the nearest names, if there is none."""
    if name not in LAWS:
        near = difflib.get_close_matches(str(name), LAWS, n=3) or sorted(LAWS)
        raise ValueError(f"no law is called {name!r}; did you mean {', '.join(near)}?")
    return LAWS[name]


def all() -> list[Law]:
    """Every law, component by component."""
    return list(LAWS.values())
