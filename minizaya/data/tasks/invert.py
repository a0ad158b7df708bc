"""Invert: find an input for which a tiny program gives the wanted output. The report's code input prediction."""

import re

from .task import Task, label

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

    def make(self, rng, difficulty):
        program = "".join(f"{label(i)}{rng.choice('+-*')}{rng.randint(2, 9)}" for i in range(difficulty))
        wanted = run(program, rng.randrange(10))[-1]
        reasoning, inputs = "", rng.sample(range(10), 10)
        for x in inputs:
            hit = run(program, x)[-1] == wanted
            reasoning += trace(program, x) + ("!" if hit else "x")
            if hit:
                return f"I{program}={wanted}?", reasoning, str(x)

    def check(self, problem, answer):
        program, wanted = FORM.fullmatch(problem.prompt).groups()
        return int(answer) < 10 and run(program, int(answer))[-1] == int(wanted)


def run(program: str, x: int) -> list[int]:
    """x and what each statement of `program` makes of it."""
    values = [x]
    for sign, digit in zip(program[1::3], program[2::3]):
        value, number = values[-1], int(digit)
        values.append({"+": value + number, "-": value - number, "*": value * number}[sign] % 10)
    return values


def trace(program: str, x: int) -> str:
    """The run of `program` on x as the reasoning writes it: `a5*4b0+3c3`."""
    statements = [*re.findall("...", program), label(len(program) // 3)]
    return "".join(f"{statement[0]}{value}{statement[1:]}" for statement, value in zip(statements, run(program, x)))
