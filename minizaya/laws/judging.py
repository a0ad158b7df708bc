"""Judging a function by a law: for tests (`judge`) and for students (`check`)."""

import difflib
import inspect
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from unittest import mock

import torch
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis.errors import Flaky, HypothesisException
from hypothesis.internal.conjecture import providers

from . import textbook
from .core import LAWS, Broken, CalledFromInside, Law, NotAttempted, Rejected, Subject, Verdict
from .words import describe


def _refuse(*args, **kwargs):
    # runs with the globals of the function whose code it replaces, so it must import what it needs
    from minizaya.laws import judging
    judging.INSIDE_CALLS.append(True)
    raise judging.CalledFromInside


TEXTBOOK = [f for f in vars(textbook).values() if inspect.isfunction(f) and f.__module__ == textbook.__name__]
INSIDE_CALLS: list[bool] = []   # a call counts even if the student's code swallows the exception


@contextmanager
def guarded(functions: Iterable[Callable]) -> Iterator[None]:
    """While this is open, calling any of the library's `functions` raises CalledFromInside.

    The trick: a function's code object is swapped, not its name in a module. So it does not matter whether the student
    wrote `mz.arch.cca.value_shift` or did `from ... import value_shift` an hour ago: both names lead to this one
    function object. The laws compute what they expect in `textbook.py`, which calls none of the guarded functions; its
    own functions are guarded while the student's code runs, and only then.
    """
    functions = [inspect.unwrap(f) for f in functions]   # under a decorator such as torch.no_grad
    saved = [(f, f.__code__) for f in functions]
    try:
        for function, _ in saved:
            function.__code__ = _refuse.__code__
        yield
    finally:
        for function, code in saved:
            function.__code__ = code


def judge(name: str, fn: Callable | None = None, *, label: str | None = None, guard: bool = False, shrink: bool = True,
          examples: int | None = None) -> Verdict:
    """Runs the law on `fn` without printing; on the library's own subject when `fn` is None.

    label: which of the library's subjects. guard: forbid calls to the library's implementation, as `check` does.
    shrink: look for the smallest counterexample (slower). examples: how many inputs to draw.
    Always draws the same inputs, on any machine and whatever has been imported, so a verdict can be repeated.
    """
    the_law = get(name)
    if fn is None:
        fn = the_law.subjects[label or next(iter(the_law.subjects))]
    subject = Subject(fn, (lambda: guarded(TEXTBOOK)) if guard else nullcontext)
    INSIDE_CALLS.clear()

    def attempt(case: dict) -> None:
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

    def once(phases: Iterable[Phase]) -> Verdict:
        @settings(derandomize=True, database=None, deadline=None, max_examples=examples or the_law.examples,
                  phases=phases, report_multiple_bugs=False, verbosity=Verbosity.quiet, print_blob=False,
                  suppress_health_check=list(HealthCheck))
        @given(the_law.cases)
        def trial(case: dict):
            attempt(case)

        try:
            if Phase.explicit in phases:
                for case in the_law.always():
                    attempt(case)
            else:
                with steady_draws():
                    trial()
        except NotAttempted:
            return Verdict(False, False, "not attempted yet")
        except CalledFromInside:
            return Verdict(False, True, INSIDE)
        except Flaky:
            return Verdict(False, True, UNSTEADY)
        except Broken as error:
            return Verdict(False, True, str(error))
        return Verdict(True, True, "")

    def unless_inside(verdict: Verdict) -> Verdict:
        return Verdict(False, True, INSIDE) if guard and INSIDE_CALLS and verdict.attempted else verdict

    with guarded(the_law.guards) if guard else nullcontext():
        verdict = once((Phase.generate,))
        if verdict.passed:
            return unless_inside(once((Phase.explicit,)))
        broken = verdict.attempted and not verdict.passed and verdict.message not in (INSIDE, UNSTEADY)
        if shrink and broken:   # only now: there is nothing to shrink in a stub
            smallest = once((Phase.generate, Phase.shrink))
            verdict = Verdict(False, True, UNSTEADY) if smallest.passed else smallest
    return unless_inside(verdict)


@contextmanager
def steady_draws() -> Iterator[None]:
    """While this is open, what Hypothesis draws depends on its seed alone.

    trap: now and then newer versions draw a number that stands in the source of some loaded module, so that one more
    import changed the cases, and with them a verdict. The name is a private one; where it is missing, nothing is lost.
    """
    provider = getattr(providers, "HypothesisProvider", None)
    if not hasattr(provider, "_maybe_draw_constant"):
        yield
        return
    with mock.patch.object(provider, "_maybe_draw_constant", lambda *args, **kwargs: None):
        yield


UNSTEADY = "the same input gives different answers each time; a law cannot hold"
INSIDE = "the library's own version was called from inside; write it yourself"


def check(name: str, fn: Callable) -> bool:
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
