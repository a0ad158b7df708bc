"""Program: say what a tiny program computes. The report's code output prediction, in a language of its own."""

import re
from collections.abc import Iterator
from random import Random

from .task import Task, label

STEP_LIMIT = 1000
# A statement (its letter, variable, sign, operand), the head of a loop (its number of rounds), or the end of one.
TOKEN = re.compile(r"([a-z])([xy])([-+*])([xy0-9])|\[([0-9])|\]")


class Program(Task):
    """Run a program of `difficulty` statements and say the last value of x.

    The language has two variables, x and y, each one digit: all arithmetic is modulo 10. Every statement has a letter.

        ax+3   bx-y   cy*7     the variable changes: x becomes x + 3, x becomes x - y, y becomes y times 7
        [2 ... ]               what is inside, twice; a loop may stand inside a loop

    `Xx3y5,ax+y[2by*3cx-y]?` starts with x = 3 and y = 5. The reasoning is the run: each statement with the values of
    x and y before it, `a35x+y`. A loop says how many rounds are left when it begins and after every round: `[2`, `[1`,
    `[0`. Last comes the next free letter with the last values:
    `a35x+y[2b85y*3c85x-y[1b35y*3c35x-y[0d85`.

    Every statement here can be undone (* is by 3, 7 or 9, and no variable meets itself), so that all ten answers
    are equally likely.
    """

    name = "program"
    max_difficulty = 12
    form = r"[0-9]{1,9}"

    def make(self, rng: Random, difficulty: int) -> tuple[str, str, str]:
        pieces, written = [], 0
        while written < difficulty:
            if difficulty - written >= 2 and rng.random() < 1 / 3:
                pieces.append(f"[{rng.randint(2, 3)}{_statement(rng, written)}{_statement(rng, written + 1)}]")
                written += 2
            else:
                pieces.append(_statement(rng, written))
                written += 1
        program, x, y = "".join(pieces), rng.randrange(10), rng.randrange(10)
        *steps, (_, x_end, y_end) = run(program, x, y)
        reasoning = "".join(step for step, _, _ in steps)
        return f"Xx{x}y{y},{program}?", f"{reasoning}{label(difficulty)}{x_end}{y_end}", str(x_end)


def run(program: str, x: int, y: int, limit: int = STEP_LIMIT) -> Iterator[tuple[str, int, int]]:
    """Runs `program` from the digits x and y.

    Yields (the step as the reasoning writes it, x before it, y before it), and at the end ("", x, y).
    Raises ValueError for text that is not a program, and when more than `limit` steps would be needed: loops in
    loops of nine rounds each could otherwise run for years.
    """
    tokens, partner = _parse(program)
    values, left = {"x": x, "y": y}, {}  # left: for each loop, how many rounds
    at = 0
    for _ in range(limit + 1):
        if at == len(tokens):
            yield "", values["x"], values["y"]
            return
        letter, target, sign, operand, rounds = tokens[at].groups()
        before = values["x"], values["y"]
        at += 1
        if target:
            yield f"{letter}{before[0]}{before[1]}{target}{sign}{operand}", *before
            own, other = values[target], values[operand] if operand in values else int(operand)
            values[target] = {"+": own + other, "-": own - other, "*": own * other}[sign] % 10
            continue
        head = at - 1 if rounds else partner[at - 1]
        left[head] = int(rounds) if rounds else left[head] - 1
        yield f"[{left[head]}", *before
        at = head + 1 if left[head] else partner[head] + 1
    raise ValueError(f"program must end within {limit} steps")


def _parse(program: str) -> tuple[list[re.Match], dict[int, int]]:
    """(the tokens, for each loop's first and last token the position of the other)."""
    tokens = list(TOKEN.finditer(program))
    if "".join(token[0] for token in tokens) != program:
        raise ValueError(f"program must be statements like ax+3 and loops like [2...], got {program!r}")
    opened, partner = [], {}
    for i, token in enumerate(tokens):
        if token[0][0] == "[":
            opened.append(i)
        elif token[0] == "]":
            if not opened:
                raise ValueError(f"program must open every loop that it closes, got {program!r}")
            partner[i] = opened.pop()
            partner[partner[i]] = i
    if opened:
        raise ValueError(f"program must close every loop that it opens, got {program!r}")
    return tokens, partner


def _statement(rng: Random, i: int) -> str:
    target, sign = rng.choice("xy"), rng.choice("+-*")
    other = "y" if target == "x" else "x"
    operand = rng.choice("379") if sign == "*" else rng.choice("123456789" + 9 * other)
    return f"{label(i)}{target}{sign}{operand}"
