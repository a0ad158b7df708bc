"""Rule: find a program from examples of what it does. Many programs may do it, so a vote over strings means little."""

import re
from random import Random

from .chain import run, trace
from .task import Problem, Task, label

EXAMPLES = 3
FORM = re.compile(r"E((?:[0-9]:[0-9],)+)([1-9])\?")


class Rule(Task):
    """Give operations, at most `difficulty`, that turn every example's input into its output, modulo 10.

    `E3:7,8:2,5:3,2?` shows three inputs with their outputs, and asks for at most two operations, such as `*3-2`: 3
    becomes 9, and 9 becomes 7. An operation is a sign and a digit from 1 to 9. The reasoning tries rules that fit the
    first example, and runs each on the examples in turn, every operation beside the value it starts from, up to a miss,
    "x", or past the last, "!": `a3+4b7a8+4b2a5+4b9x...`. Any rule that fits is right; it is run, not compared.
    """

    name = "rule"
    max_difficulty = 3
    form = r"[0-9+*-]{1,40}"

    def make(self, rng: Random, difficulty: int) -> tuple[str, str, str]:
        inputs, good = rng.sample(range(10), EXAMPLES), drawn(rng, difficulty)
        examples = [(x, value(good, x)) for x in inputs]
        tries = [rule for rule in (drawn(rng, difficulty) for _ in range(30)) if fits(rule, examples[:1])]
        wrong = [rule for rule in dict.fromkeys(tries) if not fits(rule, examples)][: rng.randint(0, difficulty)]
        reasoning = "".join(attempt(rule, examples) for rule in [*wrong, good])
        return f"E{''.join(f'{x}:{y},' for x, y in examples)}{difficulty}?", reasoning, "".join(good)

    def check(self, problem: Problem, answer: str) -> bool:
        shown, most = FORM.fullmatch(problem.prompt).groups()
        examples = [(int(x), int(y)) for x, y in re.findall("([0-9]):([0-9])", shown)]
        rule = tuple(re.findall("[+*-][1-9]", answer))
        return "".join(rule) == answer and len(rule) <= int(most) and fits(rule, examples)


def drawn(rng: Random, length: int) -> tuple[str, ...]:
    return tuple(f"{rng.choice('+*-')}{rng.randint(1, 9)}" for _ in range(length))


def lettered(rule: tuple[str, ...]) -> str:
    """The rule as a chain of operations, each with its letter."""
    return "".join(f"{label(i)}{operation}" for i, operation in enumerate(rule))


def value(rule: tuple[str, ...], x: int) -> int:
    return run(lettered(rule), x, 10)[-1]


def fits(rule: tuple[str, ...], examples: list[tuple[int, int]]) -> bool:
    return all(value(rule, x) == y for x, y in examples)


def attempt(rule: tuple[str, ...], examples: list[tuple[int, int]]) -> str:
    """The runs of one rule, up to the first example that it misses."""
    shown = ""
    for x, y in examples:
        shown += trace(lettered(rule), x, 10)
        if value(rule, x) != y:
            return shown + "x"
    return shown + "!"
