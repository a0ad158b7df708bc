"""Judging a function by a law: for tests (`judge`) and for students (`check`)."""

import difflib
import inspect
import os
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from unittest import mock

import torch
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import seed as seeded
from hypothesis.errors import Flaky, HypothesisException
from hypothesis.internal.conjecture import providers
from torch import nn

from ..notebook import in_notebook
from . import adapt, card, textbook
from .core import (
    LAWS,
    TOLERANCE,
    Broken,
    CalledFromInside,
    Law,
    NotAttempted,
    Refused,
    Rejected,
    Subject,
    Verdict,
    allowing,
)
from .words import describe, spelled


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
          examples: int | str | None = None, seed: int | str | None = None, tol: float | None = None,
          dtype: torch.dtype | None = None, where: torch.device | str | None = None,
          against: str = "definition") -> Verdict:
    """Runs the law on `fn` without printing; on the library's own subject when `fn` is None. A torch.nn.Module is
    judged by its forward, with its own weights.

    label: which of the library's subjects. guard: forbid calls to the library's implementation, as `check` does.
    shrink: look for the smallest counterexample (slower). Without a seed always draws the same inputs, on any machine
    and whatever has been imported, so a verdict can be repeated.

    examples: how many inputs to draw; None is the law's own number, "profile" that of Hypothesis' loaded profile, which
    then also says whether to draw other inputs each time (`derandomize`); the verdict's `seed` repeats those.
    seed: draws other inputs, the same for the same seed.
    tol: allows |got - wanted| <= tol * (1 + |wanted|), in place of the tolerances of `laws.core`. What a law wants bit
    for bit, and whole numbers such as routes, must still be equal.
    dtype: `fn` gets floating tensors in this type, and its results are widened again (`adapt.moved`); the tolerance is
    that of the type. where: `fn` gets tensors on this device.
    against: "definition", or "itself": where a law compares with its own model, it takes the judged model's plain
    uncached answer instead; for models of another make. Only some laws of whole models can.

    Raises ValueError for an unknown name, label or value, and `Refused`, a ValueError, for what the law cannot judge in
    the way asked: gradients of a NumPy function, another type where a law makes its own model, itself against itself.
    """
    the_law = get(name)
    if fn is None:
        fn = the_law.subjects[choose(label, the_law)]
    if not callable(fn):
        raise ValueError(f"fn must be a function, got {fn!r}")
    fn = adapt.module(fn) if isinstance(fn, nn.Module) else fn
    if where is not None or dtype is not None:
        fn = adapt.moved(fn, here(where), floating(dtype))
    if tol is None:
        tol = TOLERANCE.get(getattr(fn, "computes_in", None))
    elif not isinstance(tol, int | float) or not tol >= 0:
        raise ValueError(f"tol must be a number from 0 on, got {tol!r}")
    if against not in ("definition", "itself"):
        raise ValueError(f"against must be 'definition' or 'itself', got {against!r}")
    if against == "itself" and not the_law.itself:
        raise Refused(f"{name} cannot be judged against itself; these can: "
                      f"{', '.join(law.name for law in all() if law.itself)}")
    examples, seed = numbers(the_law, examples, seed)
    if callable(the_law.cases):    # what is drawn depends on what is judged: a model's vocabulary
        the_law = replace(the_law, cases=the_law.cases(fn))
    subject = Subject(fn, (lambda: guarded(TEXTBOOK)) if guard else nullcontext, against == "itself")
    axes = spelled(the_law.axes, getattr(fn, "__doc__", None))
    INSIDE_CALLS.clear()
    tried = 0

    def attempt(case: dict) -> None:
        nonlocal tried
        tried += 1
        try:
            with torch.random.fork_rng(devices=()):
                torch.manual_seed(0)
                the_law.body(subject, **case)
        except (HypothesisException, NotAttempted, CalledFromInside):
            raise
        except Refused as error:
            raise Refused(f"{name}: {error}") from None
        except Broken as error:
            raise broken(case, str(error), error) from None
        except Exception as error:
            if "modified by an inplace operation" in str(error):   # torch's own words speak of versions and anomalies
                raise broken(case, "no gradient comes back: a tensor was written into, as in out[i] = ..., that an "
                                   "earlier step still needs; make a new one for each step, and stack them") from error
            raise broken(case, f"its result is of no use to the law ({type(error).__name__}: {error})") from error

    def broken(case: dict, message: str, cause: Broken | None = None) -> Broken:
        error = Broken(f"with {describe(case, axes)}: {message}")
        if cause is not None:
            error.got, error.wanted, error.at = cause.got, cause.wanted, cause.at
        error.case = {key: x.detach() if isinstance(x, torch.Tensor) else x for key, x in case.items()}
        return error

    def say(passed: bool, attempted: bool, message: str, error: Broken | None = None) -> Verdict:
        found = () if error is None else (error.got, error.wanted, error.at)
        return Verdict(passed, attempted, message, error and error.case, name, tried, seed, *found)

    def once(phases: Iterable[Phase]) -> Verdict:
        @settings(derandomize=True, database=None, deadline=None, max_examples=examples or the_law.examples,
                  phases=phases, report_multiple_bugs=False, verbosity=Verbosity.quiet, print_blob=False,
                  suppress_health_check=list(HealthCheck))
        @given(the_law.cases)
        def trial(case: dict):
            attempt(case)

        trial = seeded(USUAL if seed is None else seed)(trial)      # it goes before `derandomize`
        try:
            if Phase.explicit in phases:
                for case in the_law.always():
                    attempt(case)
            else:
                with steady_draws():
                    trial()
        except NotAttempted as still:
            return say(False, False, str(still) or "not attempted yet")
        except CalledFromInside:
            return say(False, True, INSIDE)
        except Flaky:
            return say(False, True, UNSTEADY)
        except Broken as error:
            return say(False, True, str(error), error)
        return say(True, True, "")

    def unless_inside(verdict: Verdict) -> Verdict:
        return say(False, True, INSIDE) if guard and INSIDE_CALLS and verdict.attempted else verdict

    with guarded(the_law.guards) if guard else nullcontext(), allowing(tol):
        verdict = once((Phase.generate,))
        if verdict.passed:
            return unless_inside(once((Phase.explicit,)))
        failed = verdict.attempted and not verdict.passed and verdict.message not in (INSIDE, UNSTEADY)
        if shrink and failed:   # only now: there is nothing to shrink in a stub
            smallest = once((Phase.generate, Phase.shrink))
            verdict = say(False, True, UNSTEADY) if smallest.passed else smallest
    return unless_inside(verdict)


def choose(label: str | None, the_law: Law) -> str:
    """The label asked for, or the first. Raises ValueError for one that the law has not."""
    if label is not None and label not in the_law.subjects:
        raise ValueError(f"label must be one of {', '.join(the_law.subjects)}, got {label!r}")
    return next(iter(the_law.subjects)) if label is None else label


def here(where: torch.device | str | None) -> torch.device | str | None:
    """`where`, if this machine has that device. trap: otherwise the judged function would be blamed for it."""
    try:
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError, TypeError) as error:
        why = str(error).splitlines()[0]
        raise ValueError(f"where must be a device of this machine, got {where!r}: {why}") from None
    return where


def floating(dtype: torch.dtype | None) -> torch.dtype | None:
    if dtype is not None and dtype not in TOLERANCE:
        raise ValueError(f"dtype must be one of {', '.join(map(str, TOLERANCE))}, got {dtype!r}")
    return dtype


def numbers(the_law: Law, examples: int | str | None, seed: int | str | None) -> tuple[int, int | str | None]:
    """How many inputs to draw, and by which seed (None: the usual ones)."""
    if examples == "profile":
        profile = settings.default
        if seed is None and not profile.derandomize:
            seed = random.SystemRandom().randrange(2**32)
        return profile.max_examples, seed
    if examples is None:
        return the_law.examples, seed
    if not isinstance(examples, int) or examples < 1:
        raise ValueError(f"examples must be a whole number from 1 on, or 'profile', got {examples!r}")
    return examples, seed


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


# trap: without a seed of ours Hypothesis takes one from the text of `trial`: a comment there would change every draw.
# This is the one that it took when the wrong functions of the tests and lessons were tried.
USUAL = 0xa3574108b8592518d1640169bbbb742087547a49cd3166ba6e600e690a9b8835227d33faf904a1565acc607c9303c665
UNSTEADY = "the same input gives different answers each time; a law cannot hold"
INSIDE = "the library's own version was called from inside; write it yourself"


def check(name: str, fn: Callable) -> Verdict:
    """Judges a student's function by the law `name` and shows the verdict. Returns it: true only if it passed.

    In a notebook it is a card, with the counterexample laid out; elsewhere one of
        ✔ name: statement
        ✘ name: statement, then the smallest counterexample
        ○ name: not attempted yet      (fn is a stub: it raises NotImplementedError or returns ...)
    While it runs, the library's own implementation cannot be called. With the environment variable MINIZAYA_STRICT=1,
    ○ and ✘ raise `Rejected`, so that a notebook run in CI stops there. Raises ValueError for an unknown law.
    """
    get(name)
    if fn is Ellipsis:
        verdict = Verdict(False, False, "not attempted yet", law=name)
    elif not callable(fn):
        verdict = Verdict(False, True, f"give the function itself, not a {type(fn).__name__}", law=name)
    else:
        verdict = judge(name, fn, guard=True)
    tell(verdict, fn)
    if not verdict and os.environ.get("MINIZAYA_STRICT") == "1":
        raise Rejected(str(verdict))
    return replace(verdict, told=True)


def tell(verdict: Verdict, fn: Callable) -> None:
    """Shows a verdict where somebody looks."""
    if not in_notebook():
        print(verdict)
        return
    from IPython.display import display
    the_law, name = get(verdict.law), getattr(fn, "__name__", "the function")
    axes = spelled(the_law.axes, getattr(fn, "__doc__", None))
    display({"text/html": card.html(verdict, the_law, axes, name), "text/plain": str(verdict)}, raw=True)


def get(name: str) -> Law:
    """The law called `name`. Raises ValueError, with the nearest names, if there is none."""
    if name not in LAWS:
        near = difflib.get_close_matches(str(name), LAWS, n=3) or sorted(LAWS)
        raise ValueError(f"no law is called {name!r}; did you mean {', '.join(near)}?")
    return LAWS[name]


def all(component: str | None = None) -> list[Law]:
    """Every law, component by component; or those of one, which is the word before the dot: all("router").

    Raises ValueError for a component that is not there, and names those that are.
    """
    components = list(dict.fromkeys(name.split(".")[0] for name in LAWS))
    if component is not None and component not in components:
        raise ValueError(f"component must be one of {', '.join(components)}, got {component!r}")
    return [law for law in LAWS.values() if component in (None, law.component)]
