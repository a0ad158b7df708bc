"""Invert: find an input for which a tiny program gives the wanted output. The report's code input prediction."""

import re
from random import Random

from .chain import run, trace
from .task import Problem, Task, label

FORM = re.compile(r"I((?:[a-z][-+*][1-9])+)=([0-9])\?")


class Invert(Task):
    """Give a digit x that the program turns into the wanted digit.

    The program is `difficulty` statements on one variable, all modulo 10: `Ia*4b+3=1?` asks for an x with 4x + 3 = 1,
    such as 2 or 7. The reasoning tries inputs in a random order, without repeating one, and runs the program on each:
    every statement beside the value it starts from, then the result, and "x" for a miss or "!" for a hit:
    `a5*4b0+3c3xa7*4b8+3c1!`. Several inputs may be right.

    Running a program forwards is easy, backwards is not: a * by 4 cannot be undone. So one searches.
    """

    name = "invert"
    max_difficulty = 8
    form = r"[0-9]{1,9}"

    def make(self, rng: Random, difficulty: int) -> tuple[str, str, str]:
        program = "".join(f"{label(i)}{rng.choice('+-*')}{rng.randint(2, 9)}" for i in range(difficulty))
        wanted = run(program, rng.randrange(10), 10)[-1]
        reasoning, inputs = "", rng.sample(range(10), 10)
        for x in inputs:
            hit = run(program, x, 10)[-1] == wanted
            reasoning += trace(program, x, 10) + ("!" if hit else "x")
            if hit:
                return f"I{program}={wanted}?", reasoning, str(x)

    def check(self, problem: Problem, answer: str) -> bool:
        program, wanted = FORM.fullmatch(problem.prompt).groups()
        return int(answer) < 10 and run(program, int(answer), 10)[-1] == int(wanted)
