"""Chains of operations on one number, such as `a+3b*7`: a letter, a sign and a digit each. Three tasks run them."""

import operator
import re

from .task import label

OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv, "%": operator.mod}


def run(chain: str, x: int, modulus: int) -> list[int]:
    """x and what each operation makes of it, all in 0 .. modulus - 1."""
    values = [x]
    for sign, digit in zip(chain[1::3], chain[2::3]):
        values.append(OPERATIONS[sign](values[-1], int(digit)) % modulus)
    return values


def trace(chain: str, x: int, modulus: int) -> str:
    """The run as a reasoning writes it, each operation beside the value it starts from: `a12+3b15/7c02`."""
    width, operations = len(str(modulus - 1)), [*re.findall("...", chain), label(len(chain) // 3)]
    return "".join(f"{operation[0]}{value:0{width}d}{operation[1:]}"
                   for operation, value in zip(operations, run(chain, x, modulus)))
