"""Countdown: reach a number with the given ones. Many right answers, easy to check, hard to find."""

from .task import Task

MAX_VALUE = 99  # of everything a shown try computes
MAX_LENGTH = 80  # characters of an answer: bounds the depth of its parentheses, and so of the recursion


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

    def make(self, rng, difficulty):
        digits = [rng.randint(1, 9) for _ in range(difficulty + 1)]
        good, answer, target = _try(rng, digits)
        tries = [_try(rng, digits) for _ in range(rng.randint(0, difficulty))]
        wrong = [f"{steps}x" for steps, _, value in tries if value != target]
        rng.shuffle(digits)
        return f"N{''.join(map(str, digits))}={target:02d}?", "".join(wrong) + good, answer

    def check(self, problem, answer):
        given, target = problem.prompt.removeprefix("N").removesuffix("?").split("=")
        used = [char for char in answer if char.isdigit()]
        # First the digits, then the value: few digits, each used once, cannot make a huge number.
        return sorted(used) == sorted(given) and evaluate(answer) == int(target)


def evaluate(expression: str) -> int | None:
    """The value of an expression, or None if it is not one. Nothing is executed: this reads it itself.

        sum     = product, then any number of ("+" or "-", product)
        product = item, then any number of ("*", item)
        item    = one digit, or "(" sum ")"

    So there are no longer numbers (two digits side by side are an error), no signs and no powers.
    """
    if len(expression) > MAX_LENGTH:
        return None
    value, rest = _sum(expression)
    return value if rest == "" else None


def _sum(text: str) -> tuple[int | None, str]:
    """(value of the sum that `text` begins with, what follows it); the value is None if there is no such sum."""
    value, text = _product(text)
    while value is not None and text[:1] in ("+", "-"):
        sign = text[0]
        other, text = _product(text[1:])
        if other is None:
            return None, text
        value = value + other if sign == "+" else value - other
    return value, text


def _product(text: str) -> tuple[int | None, str]:
    value, text = _item(text)
    while value is not None and text[:1] == "*":
        other, text = _item(text[1:])
        if other is None:
            return None, text
        value *= other
    return value, text


def _item(text: str) -> tuple[int | None, str]:
    if text[:1] and text[0] in "0123456789":
        return int(text[0]), text[1:]
    if text[:1] == "(":
        value, text = _sum(text[1:])
        return (value, text[1:]) if text[:1] == ")" else (None, text)
    return None, text


def _try(rng, digits: list[int]) -> tuple[str, str, int]:
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
