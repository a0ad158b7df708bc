"""Falsification: find an input on which two small functions differ. Like finding the test that exposes a bug."""

import re
from random import Random

from .chain import OPERATIONS, run, trace
from .task import Problem, Task, label

INPUTS = range(100)
FORM = re.compile(r"F((?:[a-z][-+*/%][1-9])+);((?:[a-z][-+*/%][1-9])+)\?")


class Falsify(Task):
    """Two functions look alike; give a number from 0 to 99 on which they differ.

    A function is a chain of operations on its input, all modulo 100: + - * and / (whole quotient) and % (remainder)
    with a digit from 1 to 9. `Fa+3b/7;a+4b/7?` asks for an x with (x + 3)//7 unlike (x + 4)//7, such as 3. The second
    function is the first with one number changed, as in a bug.

    The reasoning tries inputs. A try runs both chains, each operation beside the value it starts from, as in
    modchain: `a12+3b15/7c02;a12+4b16/7c02=`. The mark "=" means equal, so try again; "!" means that they differ, and
    the answer is this input: `a03+3b06/7c00;a03+4b07/7c01!#3`. There are 0 to `difficulty` equal tries.

    A guess is right with probability at most 1 / (difficulty + 1), so difficulty is rarity. Chains have 2 to 4
    operations, one more for every two steps of difficulty.
    """

    name = "falsify"
    max_difficulty = 6
    form = r"[0-9]{1,9}"

    def make(self, rng: Random, difficulty: int) -> tuple[str, str, str]:
        differ = []
        while not differ or len(differ) * (difficulty + 1) > len(INPUTS):
            signs = [*rng.choices("+-*/%", k=1 + (difficulty - 1) // 2), "/"]  # ends coarse: a change may not show
            first = [f"{sign}{rng.randint(2, 9)}" for sign in signs]
            second, place = list(first), rng.randrange(len(first))
            second[place] = f"{first[place][0]}{rng.randint(2, 9)}"
            f, g = ("".join(f"{label(i)}{step}" for i, step in enumerate(steps)) for steps in (first, second))
            differ = [x for x, (left, right) in enumerate(zip(outputs(f), outputs(g))) if left != right]
        found = rng.choice(differ)
        equal = rng.choices([x for x in INPUTS if x not in differ], k=rng.randint(0, difficulty))
        tries = [f"{trace(f, x, 100)};{trace(g, x, 100)}" for x in (*equal, found)]
        return f"F{f};{g}?", "=".join(tries) + "!", str(found)

    def check(self, problem: Problem, answer: str) -> bool:
        f, g = FORM.fullmatch(problem.prompt).groups()
        return int(answer) in INPUTS and run(f, int(answer), 100)[-1] != run(g, int(answer), 100)[-1]


def outputs(function: str) -> list[int]:
    """The value of `function` at each of the 100 inputs: `run` on all at once, since `make` tries many functions."""
    found = list(INPUTS)
    for sign, digit in zip(function[1::3], function[2::3]):
        operation, number = OPERATIONS[sign], int(digit)
        found = [operation(value, number) % len(INPUTS) for value in found]
    return found
