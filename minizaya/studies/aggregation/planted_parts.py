"""What the aggregator does with lists: four right lists of a sheet, in which one part is made wrong in some of them.

    consistent   the wrong tails all show the same wrong pair, as a misunderstanding would
    scattered    each shows another one, as slips do

A model that takes the majority follows three wrong tails that agree, and sees through three that do not. One that
copies a tail is wrong as often as it is misled. One that checks each pair is right while a single tail has it.
"""

import random
from collections.abc import Sequence
from itertools import combinations

from ...arch.model import Zaya
from ...data.aggregation import GO, SEPARATOR
from ...data.tasks import CUE, END, Problem
from ...data.tasks.sheet import parts_asked, parts_of
from ...data.tokenizer import Tokenizer
from ...infer.generate import generate
from ...infer.rsa import delimited

TAILS = 4


def lists(problem: Problem, wrong: int, consistent: bool, rng: random.Random) -> tuple[list[str], str]:
    """Four tails of a `sheet` in a random order, and the letter of the part that `wrong` of them have wrong.

    A wrong pair stands in the part, but adds up to something else. Raises ValueError unless wrong lies in 0..4.
    """
    if not 0 <= wrong <= TAILS:
        raise ValueError(f"wrong must lie in 0..{TAILS}, got {wrong}")
    right = parts_of(CUE + problem.answer)
    letter = rng.choice(list(right))
    pairs = [a + b for a, b in combinations(parts_asked(problem)[letter][:-1], 2) if a + b != right[letter]]
    bad = rng.sample(pairs, TAILS)
    shown = [bad[0] if consistent else bad[i] for i in range(wrong)] + [right[letter]] * (TAILS - wrong)
    rng.shuffle(shown)
    return [CUE + "".join(f"{a}{pair if a == letter else b}" for a, b in right.items()) + END for pair in shown], letter


def outcomes(model: Zaya, tokenizer: Tokenizer, problems: Sequence[Problem], wrong: int, consistent: bool,
             seed: int = 0) -> dict:
    """{"right", "wrong", "missing", "others"}: shares of the traces whose list has the planted part right, has another
    pair for it, or none; and the share of all other parts that are right. One trace a problem, at temperature 1."""
    rng, aggregate = random.Random(f"planted/{seed}"), delimited(tokenizer.encode(SEPARATOR), tokenizer.encode(GO))
    asked = [lists(problem, wrong, consistent, rng) for problem in problems]
    prompts = [aggregate(tokenizer.encode(problem.prompt), [tokenizer.encode(tail) for tail in tails])
               for problem, (tails, _) in zip(problems, asked)]
    room = max(len(problem.completion) for problem in problems)
    found, n = {"right": 0.0, "wrong": 0.0, "missing": 0.0, "others": 0.0}, len(problems)
    written = generate(model, prompts, room, stop=tokenizer.encode(END), seed=seed)
    for problem, (_, letter), trace in zip(problems, asked, written):
        told, truth = parts_of(tokenizer.decode(trace)), parts_of(CUE + problem.answer)
        found["missing" if letter not in told else "right" if told[letter] == truth[letter] else "wrong"] += 1 / n
        rest = [told.get(a) == b for a, b in truth.items() if a != letter]
        found["others"] += sum(rest) / max(1, len(rest)) / n
    return found
