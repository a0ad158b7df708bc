"""An open exercise, judged: its laws, then the cost of the answer and that of the baseline."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from ... import laws
from ...hip import KernelError
from ...laws.core import Broken, NotAttempted, Subject
from . import balancer, reads, tail, traffic

# name -> its module: LAWS, those of `minizaya.laws` that come first; COST, what is counted; `measured(fn, seed)`, which
# raises Broken; `baseline(seed)`
EXERCISES = {"late_balancer": balancer, "fewer_reads": reads, "one_tail": tail, "less_traffic": traffic}
LESSON = "lesson"       # the seed of what a lesson draws; a leader board has its own


@dataclass(frozen=True)
class Result:
    """verdict: false if a law is broken, and then there is no cost. cost and baseline: less is better; None where they
    were not measured."""

    exercise: str
    verdict: laws.Verdict
    cost: float | None = None
    baseline: float | None = None

    @property
    def score(self) -> float | None:
        """How many times cheaper than the baseline; None without a cost."""
        return None if self.cost is None else self.baseline / self.cost

    def __bool__(self) -> bool:
        """Whether it beats the baseline."""
        return self.score is not None and self.score > 1

    def __str__(self) -> str:
        if not self.verdict.attempted:
            return f"{self.exercise}: not attempted yet"
        if self.cost is None:
            return f"✘ {self.exercise}, {self.verdict.law}: {self.verdict.message}"
        mark, what = "✔" if self else "–", EXERCISES[self.exercise].COST
        return (f"{mark} {self.exercise}: {self.cost:.4g} {what}, the baseline {self.baseline:.4g}: "
                f"{self.score:.3f} times as good")


def judge(name: str, fn: Callable, seed: str = LESSON, guard: bool = True) -> Result:
    """What the open exercise `name` says of `fn`. seed: draws the inputs that are measured. guard: forbid what the laws
    guard in this process, as `laws.check` does. Raises ValueError for another name."""
    module = get(name)
    for law in module.LAWS:
        verdict = laws.judge(law, fn, guard=guard)
        if not verdict:
            return Result(name, verdict)
    try:
        cost = module.measured(Subject(fn), seed)
        if not (math.isfinite(cost) and cost > 0):
            raise Broken(f"it costs {cost}, which is no cost")
    except NotAttempted:
        return Result(name, laws.Verdict(False, False, "not attempted yet", law=name))
    except Broken as error:
        return Result(name, laws.Verdict(False, True, str(error), law=name))
    return Result(name, laws.Verdict(True, True, "", law=name), cost, module.baseline(seed))


def check(name: str, fn: Callable) -> Result:
    """`judge`, with the result shown: for lessons."""
    if not callable(fn):
        raise ValueError(f"give the function itself, not a {type(fn).__name__}")
    result = judge(name, fn)
    print(result)
    return result


def baseline(name: str, seed: str = LESSON) -> float:
    """What the baseline costs on these draws. Raises ValueError for another name, and where it cannot be told."""
    try:
        return get(name).baseline(seed)
    except (Broken, KernelError) as error:      # no compiler, say
        raise ValueError(f"{name} cannot be measured here: {error}") from error


def get(name: str):
    if name not in EXERCISES:
        raise ValueError(f"an open exercise is one of {', '.join(EXERCISES)}, got {name!r}")
    return EXERCISES[name]
