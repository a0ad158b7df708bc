"""Countdown: reach a number with the given ones. Many right answers, easy to check, hard to find."""

import ast
import operator
import re
from random import Random

from .task import Problem, Task

MAX_VALUE = 99  # of everything a shown try computes
MAX_LENGTH = 80  # characters of an answer: bounds the depth of its parentheses, and so of the recursion
OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}


class Countdown(Task):
    """Reach the target with all of `difficulty` + 1 digits, each once, with + - * and parentheses.

    `N375=26?` has the answers `3*7+5`, `5+7*3` and more. The reasoning tries: each try takes the digits in some order
    and works from left to right, `03+7=10*5=50`, and what misses the target is marked "x". The last try hits it, and
    the answer is that try, with parentheses where * follows + or -. Values in a try are two digits, 1 to 99; an
    answer may pass through any value. There are 0 to `difficulty` wrong tries.

    A model that has learned to try, compare and try again needs no luck at its first try, only tokens.
    """

    name = "countdown"
    max_difficulty = 6
    form = rf"[0-9+*/()-]{{1,{MAX_LENGTH}}}"

    def make(self, rng: Random, difficulty: int) -> tuple[str, str, str]:
        digits = [rng.randint(1, 9) for _ in range(difficulty + 1)]
        good, answer, target = _try(rng, digits)
        tries = [_try(rng, digits) for _ in range(rng.randint(0, difficulty))]
        wrong = [f"{steps}x" for steps, _, value in tries if value != target]
        rng.shuffle(digits)
        return f"N{''.join(map(str, digits))}={target:02d}?", "".join(wrong) + good, answer

    def check(self, problem: Problem, answer: str) -> bool:
        given, target = problem.prompt.removeprefix("N").removesuffix("?").split("=")
        used = [char for char in answer if char.isdigit()]
        # First the digits, then the value: few digits, each used once, cannot make a huge number.
        return sorted(used) == sorted(given) and evaluate(answer) == int(target)


def evaluate(expression: str) -> int | None:
    """The value of an expression of single digits, + - * and parentheses; None if it is not one.

    Nothing is executed: Python's own parser reads it, and what is no sum, difference, product or digit is refused.
    """
    if len(expression) > MAX_LENGTH or not re.fullmatch(r"[0-9+*()-]*", expression):
        return None
    try:
        return _value(ast.parse(expression, mode="eval").body)
    except (SyntaxError, ValueError):
        return None


def _value(node: ast.expr) -> int:
    """Raises ValueError for anything but a digit and the three operations: signs, powers, calls, longer numbers."""
    if isinstance(node, ast.Constant) and node.end_col_offset - node.col_offset == 1:
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATIONS:
        return OPERATIONS[type(node.op)](_value(node.left), _value(node.right))
    raise ValueError("no countdown expression")


def _try(rng: Random, digits: list[int]) -> tuple[str, str, int]:
    """A random way through the digits: (its steps, the expression, its value)."""
    first, *others = rng.sample(digits, len(digits))
    value, steps, expression, loose = first, f"{first:02d}", str(first), False
    for digit in others:
        results = {"+": value + digit, "-": value - digit, "*": value * digit}
        # At least one is left: below 91 every sum, from 91 on every difference.
        sign = rng.choice([sign for sign, result in results.items() if 1 <= result <= MAX_VALUE])
        value = results[sign]
        steps += f"{sign}{digit}={value:02d}"
        expression = f"({expression})" if sign == "*" and loose else expression
        expression += f"{sign}{digit}"
        loose = sign != "*"
    return steps, expression, value
