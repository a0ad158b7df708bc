"""Small problems whose answers a program can check: what a reasoning model practises on.

`task.py` says what a task is; each other module holds a few. Every one is a dial: `generate(seed, difficulty)` for
a difficulty from 1 to `max_difficulty`, and the reasoning gets longer as it turns. In `countdown`, `invert`,
`falsify` and `rule` a problem has many right answers, and checking one is easier than finding it. The answer of a
`sheet` has many parts, and is right if all of them are.
"""

import hashlib
import random

from .arithmetic import Addition, BaseConversion, Chain100, ModChain
from .countdown import Countdown
from .falsify import Falsify
from .invert import Invert
from .lists import Copy, Parity, Reverse, Sorting
from .program import Program
from .rule import Rule
from .sheet import Sheet
from .task import CUE, END, Problem, Task

HELD_OUT_ONE_IN = 10
SEARCH_LIMIT = 1000

TASKS = {task.name: task for task in (
    Addition(), ModChain(), Chain100(), BaseConversion(), Parity(), Copy(), Reverse(), Sorting(),
    Countdown(), Program(), Invert(), Falsify(), Rule(), Sheet())}


def names() -> list[str]:
    """The names that `get` knows, sorted."""
    return sorted(TASKS)


def get(name: str) -> Task:
    """The task of that name. Raises ValueError for an unknown name."""
    if name not in TASKS:
        raise ValueError(f"name must be one of {names()}, got {name!r}")
    return TASKS[name]


def split(problem: Problem) -> str:
    """"held_out" for about one prompt in ten, else "train".

    The prompt decides, not the seed: two seeds can make the same prompt, and a model that trained on one
    would have seen the other.
    """
    digest = hashlib.sha256(f"{problem.task}/{problem.prompt}".encode()).digest()
    return "held_out" if int.from_bytes(digest[:8], "big") % HELD_OUT_ONE_IN == 0 else "train"


def problems(name: str, part: str, difficulty: int, n: int, seed: int) -> list[Problem]:
    """`n` problems of one part, "train" or "held_out"; the first m of them are problems(..., m, seed).

    Drawn with replacement: at a small difficulty there are few distinct problems (100 one-digit additions,
    of which about ten are held out), so a long list repeats some. Raises ValueError if `part` is unknown, n
    is negative, or no problem of that part turns up in a long search.
    """
    task = get(name)
    if part not in ("train", "held_out"):
        raise ValueError(f"part must be 'train' or 'held_out', got {part!r}")
    if n < 0:
        raise ValueError(f"n must be at least 0, got {n}")
    rng = random.Random(f"problems/{name}/{part}/{difficulty}/{seed}")
    found, misses = [], 0
    while len(found) < n:
        problem = task.generate(rng.getrandbits(63), difficulty)
        if split(problem) == part:
            found.append(problem)
            misses = 0
        elif (misses := misses + 1) == SEARCH_LIMIT:
            raise ValueError(f"part: {name} at difficulty {difficulty} has no {part} problem in {SEARCH_LIMIT} draws")
    return found
