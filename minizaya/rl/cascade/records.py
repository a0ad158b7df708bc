"""What the aggregation prompts of sheets are made of: traces of Markovian RSA, from its first round and its last one.

A later round meets other tails than the first: they were written after tails themselves, some of them after the same
ones. Single rollouts, of which the SFT made its examples, do not show that.
"""

import itertools
import json
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ...arch.model import Zaya
from ...data import tasks
from ...data.aggregation import GO, SEPARATOR
from ...data.tokenizer import Tokenizer
from ...infer.generate import generate
from ...infer.rsa import RSAConfig, delimited, markovian_rsa_many
from ...notebook import tqdm
from ...train import checkpoint
from ...train.sources import seed_of, training_problem

PARTS = (6, 12, 18, 24, 24, 24)   # of the sheets, equally often: half of them are as long as the exam's long ones
TOGETHER = 48                     # problems asked at a time


def handed_on(path: Path, model: Zaya, tokenizer: Tokenizer, rsa: RSAConfig, problems: int, seed: int) -> list[dict]:
    """Records for `generator.draw_aggregation` from `problems` training sheets: each once with the traces of round 0
    and twice with those of round T, and with the numbers by which they are to be handed on.

    They are kept in the file `path`, one record a line, written aside and renamed: a second call reads them.
    """
    if path.exists():
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    rng, layout = random.Random(f"handed on/{seed}"), delimited(tokenizer.encode(SEPARATOR), tokenizer.encode(GO))
    stop, drawn, records = tokenizer.encode(tasks.END), [], []
    for _ in range(problems):
        parts = rng.choice(PARTS)
        drawn.append((parts, *training_problem("sheet", parts, rng)))
    drawn.sort(key=lambda each: each[0])   # batch mates of one length leave no row idle
    for first in tqdm(range(0, problems, TOGETHER), desc="traces", unit="batch"):
        group, seeds = drawn[first: first + TOGETHER], (seed_of("handed on", seed, first, t) for t in itertools.count())
        questions = [tokenizer.encode(problem.prompt) for _, _, problem in group]
        results = markovian_rsa_many(partial(written, model, stop, seeds), questions, rsa, layout,
                                     seed_of("handed on", seed, first))
        records += [{"task": "sheet", "difficulty": parts, "number": number, "C": rsa.C, "tau": rsa.tau,
                     "room": rsa.beta, "rollouts": [tokenizer.decode(trace) for trace in result.rounds[t]]}
                    for (parts, number, _), result in zip(group, results) for t in (0, rsa.T, rsa.T)]
    checkpoint.replace_file(path, "".join(json.dumps(record) + "\n" for record in records).encode())
    return records


def written(model: Zaya, stop: list[int], seeds: Iterator[int], prompts: list[list[int]], most: int) -> list[list[int]]:
    """One round's traces, at temperature 1."""
    return generate(model, prompts, most, stop=stop, seed=next(seeds), rows=256)
