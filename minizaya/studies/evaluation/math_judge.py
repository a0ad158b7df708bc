"""Compares answers in mathematics, in a process of its own: run by `answers.Judge`, which ends it when it takes long.

    a line in      ["\\\\frac{1}{2}", "0.5"]       the known answer and the other, in JSON
    a line out     yes                          or no

What is compared comes from a model. math-verify reads LaTeX with a grammar, but turns numerals into numbers by sympy's
`sympify`, which hands "Integer (2 )" to Python's `eval`. Here that word builds such numbers itself, and refuses all
else. math-verify's other way to read, plain expressions without LaTeX, is sympy's `parse_expr`, Python as it stands: it
is left out.
"""

import builtins
import json
import logging
import re
import sys

MEMORY = 2 * 2**30  # bytes of address space


def numeral(code: object, *scopes: object) -> object:
    """In `eval`'s place: "Integer (2 )" or "Float ('0.5' )" as sympy's number. Raises ValueError for anything else."""
    import sympy

    found = re.fullmatch(r"(Integer|Float) \('?(\d*\.?\d+|\d+\.)'? ?\)", code) if isinstance(code, str) else None
    if found is None:
        raise ValueError("nothing but a numeral is evaluated here")
    return getattr(sympy, found[1])(found[2])


def main() -> None:
    from math_verify import LatexExtractionConfig, parse, verify

    logging.disable()
    latex = [LatexExtractionConfig()]

    def read(answer: str) -> list:
        return parse(f"\\boxed{{{answer}}}", latex, parsing_timeout=None)

    for gold, answer in (("\\frac{1}{2}", "0.5"), ("x^2-1", "(x-1)(x+1)"), ("-4<x<2", "(-4,2)")):
        verify(read(gold), read(answer), timeout_seconds=None)  # trap: sympy imports late, and evaluates names of units
    builtins.eval = numeral
    try:
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    except (ImportError, ValueError, OSError):  # Windows has none; a smaller limit may be set already
        pass
    print("ready", flush=True)
    for line in sys.stdin:
        gold, answer = json.loads(line)
        print("yes" if verify(read(gold), read(answer), timeout_seconds=None) else "no", flush=True)


if __name__ == "__main__":
    main()
