"""Lesson 09: greedy decoding with fewer readings of the weights than tokens, against one reading a token.

A step reads tokens after a state and says the most likely next token after each of them. States stay as they are, so a
guess that was wrong costs only its tokens. What a step costs is counted: one for the weights, and a little for each
token that rides along.
"""

from collections.abc import Callable
from copy import deepcopy

import torch

from ...arch.model import Zaya
from ...data import tasks
from ...hub import zoo
from ...laws.core import Subject, require
from .renamed import Renamed, number

LAWS = ()
COST = "readings of the weights a token"
A_TOKEN = 1 / 16        # what a token costs beside a reading of all weights, on a device that is far from its ridge
NEW, MOST = 40, 4000    # new tokens of each answer; tokens that may be read for it
KINDS = (("chain100", 12), ("sorting", 8), ("base", 3))


class Reader:
    """The model, with what it has said and what that cost. A state is a number."""

    def __init__(self, model: Zaya, names: Renamed):
        self.model, self.names, self.cost, self.read = model, names, 0.0, 0
        self.states, self.said = {}, {}     # number -> (tokens, cache); tokens -> the next one

    @torch.no_grad()
    def step(self, tokens: list[int], state: int | None = None) -> tuple[list[int], int]:
        """Raises ValueError for tokens or a state that are none."""
        if not isinstance(tokens, list) or not tokens or not all(
                type(token) is int and 0 <= token < len(self.names.name) for token in tokens):
            raise ValueError(f"tokens must be a list of at least one token id (int), got {tokens!r}")
        if state is not None and (type(state) is not int or state not in self.states):
            raise ValueError(f"state must be None or one that step gave, got {state!r}")
        self.read += len(tokens)
        if self.read > MOST:
            raise ValueError(f"{MOST} tokens have been read; that is enough")
        before, cache = ((), self.model.new_cache(1)) if state is None else self.states[state]
        cache = deepcopy(cache)
        logits = self.model(torch.tensor([self.names.meant(tokens)]), cache=cache).logits[0]
        best = self.names.told(logits.argmax(-1).tolist())
        for i, token in enumerate(best):
            self.said[before + tuple(tokens[: i + 1])] = token
        self.cost += 1 + A_TOKEN * len(tokens)
        self.states[len(self.states)] = before + tuple(tokens), cache
        return best, len(self.states) - 1


def measured(fn: Subject, seed: str) -> float:
    """fn(step, prompt, count): `Reader.step`, a list of token ids, an int -> the `count` next tokens, each of which the
    model has said after exactly the tokens before it."""
    model, tokenizer = zoo.load("nano-reasoner")
    model, names, cost = model.double().eval(), Renamed(model.config.vocab_size, seed), 0.0
    for task, difficulty in KINDS:
        (problem,) = tasks.problems(task, "held_out", difficulty, 1, number(seed))
        prompt, reader = names.told(tokenizer.encode(problem.prompt)), Reader(model, names)
        got = fn(reader.step, list(prompt), NEW)
        require(isinstance(got, list) and len(got) == NEW and set(map(type, got)) == {int},
                f"you gave {str(got)[:80]}, the law wants a list of {NEW} token ids (int)")
        for place, token in enumerate(got):
            said = reader.said.get((*prompt, *got[:place]))
            require(said is not None, f"new token {place} is a guess: nobody has read the {len(prompt) + place} tokens "
                    "before it")
            require(said == token, f"new token {place} is {token}, the model says {said}")
        cost += reader.cost
    return cost / (NEW * len(KINDS))


def a_reading_a_token(step: Callable, prompt: list[int], count: int) -> list[int]:
    best, state = step(prompt, None)
    new = best[-1:]
    while len(new) < count:
        best, state = step(new[-1:], state)
        new += best
    return new


def baseline(seed: str) -> float:
    return measured(Subject(a_reading_a_token), seed)
