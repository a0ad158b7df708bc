"""What the aggregator does with its tails: four tails of a chain, in some of which a slip was made.

A tail holds the last steps of a calculation that was cut off in the middle, `c40-9d31*2e62`. Three kinds of slip:

    consistent   the wrong tails all go on from one and the same wrong number, as a misunderstanding would
    scattered    each goes on from a wrong number of its own, as slips do
    last         only the last number of a tail is wrong, in each its own; the step that leads to it can be checked

A model that takes the majority follows three tails that agree, and sees through three that do not; one that copies a
tail is wrong as often as it is misled; one that checks the last step is right whatever the last number says.
"""

import random
from collections.abc import Sequence

from ...arch.model import Zaya
from ...data.aggregation import GO, SEPARATOR
from ...data.tasks import END, Problem
from ...data.tasks import get as task
from ...data.tasks.chain import trace
from ...data.tokenizer import Tokenizer
from ...infer.generate import generate
from ...infer.rsa import delimited

TAILS, MODULUS = 4, 100
KINDS = ("consistent", "scattered", "last")


def tails(problem: Problem, wrong: int, kind: str, tau: int, rng: random.Random) -> list[str]:
    """Four tails of a `chain100` problem that all end with the number before the same step, `wrong` of them wrong.

    Raises ValueError unless wrong lies in 0..4 and kind is one of KINDS, and for a chain that leads nearly every number
    to one end: then there are no four wrong ones.
    """
    if not 0 <= wrong <= TAILS:
        raise ValueError(f"wrong must lie in 0..{TAILS}, got {wrong}")
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}, got {kind!r}")
    start, chain = int(problem.prompt[1:3]), problem.prompt[3:-1]
    steps = rng.randint(len(chain) // 6, len(chain) // 3 - 2)   # not near the beginning, and not at the end
    right = trace(chain, start, MODULUS)[: 5 * steps + 3]
    slips: dict[str, str] = {}    # by their last number: no two end alike, none as the right one
    for x in rng.sample(range(MODULUS), MODULUS):
        if len(slips) == TAILS:
            break
        text = trace(chain, x, MODULUS)[: 5 * steps + 3]   # a wrong number at the start: wrong up to the last one
        if text[-2:] != right[-2:]:  # trap: * 2 and * 5 may take it back to the right one
            slips[text[-2:]] = right[:-2] + text[-2:] if kind == "last" else text
    ends = list(slips.values())
    if len(ends) < TAILS:
        raise ValueError(f"problem must have {TAILS} wrong numbers before step {steps}, got {problem.prompt!r}")
    shown = [ends[0 if kind == "consistent" else i] for i in range(wrong)] + [right] * (TAILS - wrong)
    rng.shuffle(shown)
    return [text[-tau:] for text in shown]


def planted(model: Zaya, tokenizer: Tokenizer, problems: Sequence[Problem], wrong: int, kind: str, tau: int = 24,
            seed: int = 0) -> float:
    """The share of right answers after such tails: one trace a problem, at temperature 1, with room to finish."""
    rng, aggregate = random.Random(f"planted/{seed}"), delimited(tokenizer.encode(SEPARATOR), tokenizer.encode(GO))
    prompts = [aggregate(tokenizer.encode(problem.prompt),
                         [tokenizer.encode(tail) for tail in tails(problem, wrong, kind, tau, rng)])
               for problem in problems]
    room = max(len(problem.completion) for problem in problems)
    written = generate(model, prompts, room, stop=tokenizer.encode(END), seed=seed)
    return sum(task(problem.task).verify(problem, tokenizer.decode(ids))
               for problem, ids in zip(problems, written)) / len(problems)
