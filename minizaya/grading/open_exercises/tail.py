"""Lesson 12: Markovian RSA where only one of four tails fits into the next prompt. Which, and how much of it?"""

from contextlib import suppress

import torch

from ...data import tasks
from ...data.aggregation import GO, SEPARATOR
from ...hub import zoo
from ...infer.generate import generate
from ...infer.rsa import RSAConfig, delimited, markovian_rsa_many
from ...laws.core import Broken, Subject, require
from .renamed import Renamed, number

LAWS = ()
COST = "generated tokens for each right answer"
TASK, DIFFICULTY, PROBLEMS, TEMPERATURE = "chain100", 20, 10, 1.2
SETTING = RSAConfig(N=6, C=4, T=2, beta=56, tau=24)


def measured(fn: Subject, seed: str) -> float:
    """fn(question, tails): a list of token ids, and four lists, the last tau tokens of four attempts -> what of one of
    them the next attempt reads: an unbroken run of it, a list of token ids.

    Nobody says which token is which: ids are renamed. A tail begins with what is oldest in it.
    """
    with suppress(Broken):
        fn([0], [[0], [0], [0], [0]])       # a stub says so before anything is generated
    model, tokenizer = zoo.load("nano-reasoner")
    names = Renamed(model.config.vocab_size, seed)
    layout, task = delimited(tokenizer.encode(SEPARATOR), tokenizer.encode(GO)), tasks.get(TASK)
    asked = tasks.problems(TASK, "held_out", DIFFICULTY, PROBLEMS, number(seed))

    def aggregate(question: list[int], tails: list[list[int]]) -> list[int]:
        told = [names.told(tail) for tail in tails]
        got = fn(names.told(question), [list(tail) for tail in told])
        if not isinstance(got, list) or not all(type(token) is int for token in got):
            raise Broken(f"you gave {str(got)[:80]}, the law wants a list of token ids (int)")
        require(any(got == tail[i: i + len(got)] for tail in told for i in range(len(tail) - len(got) + 1)),
                f"you gave {got}, which is no unbroken run of one of the tails")
        return layout(question, [names.meant(got)])

    calls, stop = iter(range(10**6)), tokenizer.encode(tasks.END)

    def write(prompts: list[list[int]], most: int) -> list[list[int]]:
        chance = number(seed, next(calls)) % 2**31
        return generate(model, prompts, most, temperature=TEMPERATURE, stop=stop, seed=chance)

    with torch.random.fork_rng(devices=()):
        results = markovian_rsa_many(write, [tokenizer.encode(problem.prompt) for problem in asked], SETTING, aggregate,
                                     seed=number(seed) % 2**31)
    right = sum(task.verify(problem, tokenizer.decode(trace)) for problem, result in zip(asked, results)
                for trace in result.rounds[-1])
    require(right > 0, "not one attempt of the last round is right")
    return sum(result.generated_tokens for result in results) / right


def baseline(seed: str) -> float:
    """The first of the four, whole: each attempt goes on from one other."""
    return measured(Subject(lambda question, tails: tails[0]), seed)
