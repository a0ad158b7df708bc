"""A sheet of small searches, answered as one list: what a vote over whole answers cannot do."""

import re
from itertools import combinations
from random import Random

from .task import CUE, END, Problem, Task, label

PAIRS = 6   # of four digits
ROOM = 24   # tries that a trace has for a whole sheet
MISS, HIT, UNKNOWN = "/", "!", "?"


class Sheet(Task):
    """`difficulty` times: which two of four digits add up to a number that ends in a given digit? One list answers all.

    `Q38516a90274b?` asks for two of 3, 8, 5, 1 whose sum ends in 6 (part a: 5 and 1), and for two of 9, 0, 2, 7 whose
    sum ends in 4 (part b has none; a real part has exactly one pair). The letter stands behind its part. The reasoning
    tries pairs, in no clever order: `a381/516!` tries 3 + 8, which ends in 1, a miss, then 5 + 1, a hit. The answer is
    the list of pairs, `a51b27`, and right only if all of them are.

    The worked reasoning tries until every pair is found. What a model trains on (`practice`) has room for about 24
    tries, 2 to 6 a part. So one trace finds all of a short sheet, and of a long one a third of the parts, another third
    in each trace; its list says `b?` of what it did not find.
    """

    name = "sheet"
    max_difficulty = 24
    form = r"[a-z0-9][a-z0-9?]{0,79}"

    def make(self, rng: Random, difficulty: int) -> tuple[str, str, str]:
        parts = {label(i): drawn_part(rng) for i in range(difficulty)}
        return f"Q{''.join(digits + letter for letter, digits in parts.items())}?", *searched(parts, rng, PAIRS)

    def practice(self, problem: Problem, rng: Random) -> tuple[str, str]:
        """The reasoning and the list of one trace that has room for `ROOM` tries."""
        parts = parts_asked(problem)
        return searched(parts, rng, tries_each(len(parts)))


def drawn_part(rng: Random) -> str:
    """Four digits, and the last digit of a sum that exactly one pair of them has."""
    digits = rng.sample(range(10), 4)
    ends = [(a + b) % 10 for a, b in combinations(digits, 2)]
    return "".join(map(str, [*digits, rng.choice([end for end in ends if ends.count(end) == 1])]))


def parts_asked(problem: Problem) -> dict[str, str]:
    """The parts of a sheet's prompt by letter: four digits, and where their sum should end."""
    return {letter: digits for digits, letter in re.findall("([0-9]{5})([a-z])", problem.prompt)}


def parts_of(text: str) -> dict[str, str]:
    """The pairs in the last list of a text by letter, without those that say `?`. Reads any text."""
    return dict(re.findall("([a-z])([0-9]{2})", text.rpartition(CUE)[2]))


def tries_each(parts: int) -> int:
    """How often a trace tries each part of a sheet of `parts`: the room shared out, but 2 to 6."""
    return min(PAIRS, max(2, ROOM // parts))


def searched(parts: dict[str, str], rng: Random, tries: int,
             first: dict[str, list[str]] | None = None) -> tuple[str, str]:
    """Goes through the parts once, with up to `tries` pairs each, none twice: (reasoning, list).

    first: by letter, pairs to try before any others.
    """
    reasoning, found = "", ""
    for letter, (*digits, end) in parts.items():
        pairs = [a + b for a, b in combinations(digits, 2)]
        rng.shuffle(pairs)
        begun = [pair for pair in (first or {}).get(letter, []) if pair in pairs]
        reasoning, answer = reasoning + letter, UNKNOWN
        for pair in list(dict.fromkeys(begun + pairs))[:tries]:
            total = str(sum(map(int, pair)) % 10)
            reasoning += pair + total + (HIT if total == end else MISS)
            if total == end:
                answer = pair
                break
        found += letter + answer
    return reasoning, found


def united(problem: Problem, tails: list[str]) -> str:
    """What to write after the tails of other traces: each part once more, what they found first, and checked again.

    The pair that most tails have is tried first. A tail may be cut: its list counts, or the hits of its reasoning.
    """
    parts, first = parts_asked(problem), {}
    for tail in tails:
        reasoning, _, listed = tail.partition(CUE)
        hits = re.findall(f"([a-z])(?:[0-9]{{3}}{MISS})*([0-9]{{2}})[0-9]{HIT}", reasoning)
        for letter, pair in {**dict(hits), **dict(re.findall("([a-z])([0-9]{2})", listed))}.items():
            first.setdefault(letter, []).append(pair)
    rng = Random("|".join([problem.prompt, *tails]))
    ordered = {letter: sorted(pairs, key=pairs.count, reverse=True) for letter, pairs in first.items()}
    reasoning, found = searched(parts, rng, tries_each(len(parts)), ordered)
    return reasoning + CUE + found + END
