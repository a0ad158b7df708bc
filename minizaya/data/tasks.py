"""Small problems whose answers a program can check: what a reasoning model practises on.

A task makes problems (`generate`) and judges texts (`verify`). A problem is three strings, written one
after the other:

    prompt        reasoning        answer
    47+85?        a0752b1483c1#    132       then the end mark $

Formats are made to be learned: one character per idea, and what a step needs stands next to it, because
CCA's convolutions look two tokens back and no further. A letter counts the steps. Numbers keep a fixed width.

A new task is one small class: say `name`, `max_difficulty` and `form` (what an answer looks like), and write
`make`. Then add it to TASKS.
"""

import hashlib
import random
import re
from dataclasses import dataclass

CUE = "#"  # ends the reasoning: the answer follows
END = "$"  # ends the answer, and with it the problem
HELD_OUT_ONE_IN = 10
SEARCH_LIMIT = 1000


@dataclass(frozen=True)
class Problem:
    """One problem and one right way to answer it. `reasoning` ends with the cue "#"."""

    prompt: str
    reasoning: str
    answer: str
    task: str
    difficulty: int

    @property
    def completion(self) -> str:
        """What a model should write after the prompt."""
        return self.reasoning + self.answer + END

    @property
    def text(self) -> str:
        """The whole problem as a model is trained on it."""
        return self.prompt + self.completion


class Task:
    """The interface of every task. Subclasses set the three fields and write `make`."""

    name = ""
    max_difficulty = 0
    form = ""  # regular expression of a well-formed answer; keep it bounded

    def make(self, rng: random.Random, difficulty: int) -> tuple[str, str, str]:
        """(prompt, reasoning without the cue, answer); all chance comes from `rng`."""
        raise NotImplementedError

    def check(self, problem: Problem, answer: str) -> bool:
        """Is this well-formed answer right? Override where a problem has many right answers."""
        return answer == problem.answer

    def generate(self, seed: int, difficulty: int) -> Problem:
        """The problem number `seed`: the same on every machine, whatever was generated before.

        Raises ValueError unless difficulty is an int in 1 .. max_difficulty.
        """
        if not isinstance(difficulty, int) or not 1 <= difficulty <= self.max_difficulty:
            allowed = f"an int in 1 to {self.max_difficulty}"
            raise ValueError(f"difficulty of {self.name} must be {allowed}, got {difficulty!r}")
        # A text seed is hashed with SHA-512. trap: Python's own hash() of a str changes with every process,
        # and the global generator is shared with whoever else draws from it.
        rng = random.Random(f"{self.name}/{difficulty}/{seed}")
        prompt, reasoning, answer = self.make(rng, difficulty)
        return Problem(prompt, reasoning + CUE, answer, self.name, difficulty)

    def verify(self, problem: Problem, text: str) -> int:
        """1 if the last well-formed answer in `text` is right, else 0. Never raises on any text.

        An answer stands after "#", or after "</think>", or at the very beginning; it runs to "$", to a
        special token such as <|im_end|>, or to the end of the text. So a bare answer, a completion and a
        whole `problem.text` can all be judged. Nothing is executed.

        Raises ValueError for a problem of another task.
        """
        if problem.task != self.name:
            raise ValueError(f"problem must be of task {self.name!r}, got one of {problem.task!r}")
        found = re.findall(rf"(?:\A|#|</think>)\s*({self.form})\s*(?=\$|<\||\Z)", text)
        return int(bool(found) and self.check(problem, found[-1]))


class Addition(Task):
    """Add two numbers of `difficulty` digits, column by column from the right, as on paper.

    `47+85?`: column a is carry 0, digits 7 and 5, sum digit 2 -> `a0752`; column b is carry 1, digits 4 and
    8, sum digit 3 -> `b1483`; then the last carry -> `c1`. The answer reads the sum digits backwards.
    Both numbers are written with leading zeros (`007+120?`); the answer is not, and may be read either way.
    """

    name = "addition"
    max_difficulty = 20
    form = r"[0-9]{1,40}"

    def make(self, rng, difficulty):
        x, y = ("".join(rng.choices("0123456789", k=difficulty)) for _ in range(2))
        steps, carry = [], 0
        for i, (p, q) in enumerate(zip(reversed(x), reversed(y))):
            total = int(p) + int(q) + carry
            steps.append(f"{_label(i)}{carry}{p}{q}{total % 10}")
            carry = total // 10
        steps.append(f"{_label(difficulty)}{carry}")
        return f"{x}+{y}?", "".join(steps), str(int(x) + int(y))

    def check(self, problem, answer):
        return int(answer) == int(problem.answer)


class ModChain(Task):
    """Follow `difficulty` operations modulo `modulus`.

    `7a+3b*3c-2?`: start at 7; operation a is "plus 3", b is "times 3", c is "minus 2". The reasoning takes
    the operations one by one, each with the value it starts from: `a7+3b0*3c0-2d8`. So copying an operation
    (find the same letter in the prompt) and working it out (all it needs stands side by side) are two
    separate, easy steps. Values have a fixed width: two digits for a modulus of 11 to 100.

    The factors 3, 7 and 9 have inverses modulo 10 and 100: a wrong value stays wrong to the end, and no
    answer is much likelier than another.
    """

    name = "modchain"
    max_difficulty = 25
    form = r"[0-9]{1,9}"

    def __init__(self, modulus: int = 10):
        if not 2 <= modulus <= 100:
            raise ValueError(f"modulus must be in 2 to 100, got {modulus}")
        self.modulus = modulus
        self.width = len(str(modulus - 1))

    def make(self, rng, difficulty):
        value = rng.randrange(self.modulus)
        prompt, reasoning = f"{value:0{self.width}d}", ""
        for i in range(difficulty):
            sign = rng.choice("+-*")
            number = rng.choice((3, 7, 9)) if sign == "*" else rng.randint(1, 9)
            prompt += f"{_label(i)}{sign}{number}"
            reasoning += f"{_label(i)}{value:0{self.width}d}{sign}{number}"
            value = {"+": value + number, "-": value - number, "*": value * number}[sign] % self.modulus
        answer = f"{value:0{self.width}d}"
        return prompt + "?", f"{reasoning}{_label(difficulty)}{answer}", answer

    def check(self, problem, answer):
        return int(answer) == int(problem.answer)


TASKS = {task.name: task for task in (Addition(), ModChain())}


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


def _label(i: int) -> str:
    return "abcdefghijklmnopqrstuvwxyz"[i]
