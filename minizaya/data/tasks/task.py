"""What a task is: it makes problems (`generate`) and judges texts (`verify`).

A problem is three strings, written one after the other:

    prompt        reasoning        answer
    47+85?        a0752b1483c1#    132       then the end mark $

Formats are made to be learned: one character per idea, and what a step needs stands next to it, because
CCA's convolutions look two tokens back and no further. A letter counts the steps, or names an item so that it can be
found again. Numbers keep a fixed width. A capital letter at the start says which task it is, so that one model can
learn them all; addition and modchain, which start with a digit, are told by what follows.

A new task is one small class: say `name`, `max_difficulty` and `form` (what an answer looks like), and write
`make`. Then add it to TASKS in `__init__.py`.
"""

import random
import re
from dataclasses import dataclass

CUE = "#"  # ends the reasoning: the answer follows
END = "$"  # ends the answer, and with it the problem


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
    """The interface of every task. Subclasses set the three fields and write `make`.

    trap: keep `form` wider than the right answers. A text that is not of this form is passed over, so with a form
    as narrow as [01] the text "#0$#7$" would still count as the answer 0.
    """

    name = ""
    max_difficulty = 0
    form = ""  # regular expression of a well-formed answer; keep it bounded

    def make(self, rng: random.Random, difficulty: int) -> tuple[str, str, str]:
        """(prompt, reasoning without the cue, answer); all chance comes from `rng`."""
        raise NotImplementedError

    def practice(self, problem: Problem, rng: random.Random) -> tuple[str, str]:
        """(reasoning without the cue, answer) as a model trains on them. Override where one trace may fall short."""
        return problem.reasoning.removesuffix(CUE), problem.answer

    def check(self, problem: Problem, answer: str) -> bool:
        """Is this well-formed answer right? Override where a problem has many right answers."""
        return answer == problem.answer

    def generate(self, seed: int, difficulty: int) -> Problem:
        """The problem number `seed`: the same on every machine, whatever was generated before.

        Raises ValueError unless difficulty is an int in 1 .. max_difficulty.
        """
        check_difficulty(self, difficulty)
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
        check_task(self, problem)
        found = re.findall(rf"(?:\A|#|</think>)\s*({self.form})\s*(?=\$|<\||\Z)", text)
        return int(bool(found) and self.check(problem, found[-1]))


def check_difficulty(task: Task, difficulty: int) -> None:
    """Raises ValueError unless `difficulty` is an int in 1 .. task.max_difficulty."""
    if not isinstance(difficulty, int) or not 1 <= difficulty <= task.max_difficulty:
        allowed = f"an int in 1 to {task.max_difficulty}"
        raise ValueError(f"difficulty of {task.name} must be {allowed}, got {difficulty!r}")


def check_task(task: Task, problem: Problem) -> None:
    """Raises ValueError unless `problem` is one of this task's."""
    if problem.task != task.name:
        raise ValueError(f"problem must be of task {task.name!r}, got one of {problem.task!r}")


def label(i: int) -> str:
    """The letter of step or item `i`, in 0 .. 25."""
    return "abcdefghijklmnopqrstuvwxyz"[i]
