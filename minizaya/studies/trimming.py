"""What to do with a reasoning trace that is too long: trim it, cut it off, or drop it? Three small models answer.

All three read chains of 1 to 16 operations in rows of 64 tokens, half of which are too long for that (a chain of k
operations has 7k + 7 tokens), and differ only in what happens to these:

    trimmed     answer-preserving trimming: the reasoning loses its end, the answer stays
    truncated   the first 64 tokens: the answer is gone, and the end of the reasoning too
    dropped     not read at all

Then comes the same short context extension for all of them: rows of 128, where every chain fits.
"""

import random
from collections.abc import Callable

import torch

from ..arch.model import Zaya
from ..config import ZayaConfig
from ..data import tasks, text
from ..data.aggregation import problem_chat
from ..data.chat import Chat
from ..data.tokenizer import CharTokenizer, Tokenizer
from ..infer.generate import generate
from ..train.loop import Recipe, Trainer
from ..train.sources import mixture, packed_source, training_problem

SETTING = {"task": "modchain", "longest": 16, "budget": 64, "context": 128, "tokens_a_step": 2048, "steps": 250,
           "extension_steps": 60, "lr": 5e-3, "extension_lr": 2e-3, "problems": 50, "seeds": 2}
VARIANTS = ("trimmed", "truncated", "dropped")


def runs() -> list[dict]:
    return [{"variant": variant, "seed": seed} for seed in range(SETTING["seeds"]) for variant in VARIANTS]


def one(variant: str, seed: int) -> dict:
    """Accuracy by number of operations, before and after the extension; the loss of every tenth step."""
    tokenizer = CharTokenizer(text.ALPHABET, unknown="unk")
    torch.manual_seed(seed)
    model = Zaya(ZayaConfig.preset("nano"))
    found = {}
    for name, steps, lr, context in (("before", SETTING["steps"], SETTING["lr"], SETTING["budget"]),
                                     ("after", SETTING["extension_steps"], SETTING["extension_lr"],
                                      SETTING["context"])):
        draw = documents(variant, context, tokenizer)
        source = packed_source(name, draw, SETTING["tokens_a_step"] // context, context, tokenizer.pad_id, seed)
        trainer = Trainer(model, Recipe(steps=steps, lr=lr, warmup=20, optimizer="muon", seed=seed), mixture(source))
        trainer.train(bar=False)
        found[name] = accuracy(model, tokenizer, seed)
        found[f"loss_{name}"] = [round(record["loss"], 4) for record in trainer.records[::10]]
    return found


def documents(variant: str, budget: int, tokenizer: Tokenizer) -> Callable[[random.Random], Chat]:
    """Draws chains as `variant` makes them ready for rows of `budget` tokens."""

    def draw(rng: random.Random) -> Chat:
        _, problem = training_problem(SETTING["task"], rng.randint(1, SETTING["longest"]), rng)
        chat = problem_chat(problem, tokenizer)
        if len(chat.tokens) <= budget or variant == "trimmed":  # the source trims what it gets
            return chat
        return draw(rng) if variant == "dropped" else Chat(chat.tokens[:budget], chat.loss_mask[:budget], ())

    return draw


def accuracy(model: Zaya, tokenizer: Tokenizer, seed: int) -> list[float]:
    """Share of held-out chains solved at temperature 0, for 1, 2, ... operations."""
    task, stop, shares = tasks.get(SETTING["task"]), tokenizer.encode(tasks.END), []
    for difficulty in range(1, SETTING["longest"] + 1):
        asked = tasks.problems(task.name, "held_out", difficulty, SETTING["problems"], seed)
        answers = generate(model, [tokenizer.encode(problem.prompt) for problem in asked],
                           len(asked[0].completion) + 4, temperature=0.0, stop=stop)
        right = [task.verify(problem, tokenizer.decode(answer)) for problem, answer in zip(asked, answers)]
        shares.append(sum(right) / len(right))
    return shares


def fits(difficulty: int) -> bool:
    """Does a chain of this many operations fit into the budget?"""
    return len(tasks.get(SETTING["task"]).generate(0, difficulty).text) <= SETTING["budget"]
