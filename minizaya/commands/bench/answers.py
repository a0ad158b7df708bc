"""Rows of `bench` about answering at length: Markovian RSA from end to end, and an update of reinforcement learning.

Their peer is our own plain path (`compiled=False`): transformers has neither.
"""

import copy
import random
from collections.abc import Callable
from functools import partial

from ...data import tasks
from ...data.aggregation import GO, SEPARATOR
from ...hub import zoo
from ...infer.generate import generate
from ...infer.rsa import delimited, markovian_rsa_many
from ...rl.generator import Generator, draw_problem
from ...rl.learner import Learner, LearnerConfig
from ...studies.compare import ROWS, SETTINGS
from .timing import compare

QUESTIONS, GROUPS, GROUP = 4, 4, 16


def rsa_row(pairs: int, seed: int, name: str = "nano-reasoner") -> dict:
    """Four questions, N = 16, C = 4, T = 2, in the setting "tight" of `solve --compare`."""
    (model, tokenizer), setting = zoo.open_model(name), SETTINGS["tight"]
    asked = tasks.problems(setting.task, "held_out", setting.difficulty, QUESTIONS, seed)
    questions = [tokenizer.encode(problem.prompt) for problem in asked]
    layout = delimited(tokenizer.encode(SEPARATOR), tokenizer.encode(GO))

    def solver(compiled: bool | None) -> Callable[[], object]:
        write = partial(generate, model, stop=tokenizer.encode(tasks.END), seed=seed, rows=ROWS, compiled=compiled)
        return partial(markovian_rsa_many, write, questions, setting.rsa, layout, seed)

    row = compare("rsa_16_4_2", QUESTIONS, solver(None), {"plain": solver(False)}, pairs)
    return row | {"unit": "problems/s", "limit_share": None}


def update_row(pairs: int, seed: int, name: str = "nano-reasoner") -> dict:
    """One update of the cascade's kind: four problems, sixteen answers to each, judged and learned from."""
    whole, tokenizer = zoo.open_model(name)
    asked = [draw_problem("chain100", 4, random.Random(f"bench/{seed}/{i}")) for i in range(GROUPS)]

    def updater(compiled: bool | None) -> Callable[[], object]:
        model = copy.deepcopy(whole)   # the two learn apart
        generator = Generator(model, tokenizer, GROUP, slots=GROUPS * GROUP, compiled=compiled)
        learner = Learner(model, LearnerConfig(lr=1e-6), compiled)
        return lambda: learner.update(generator.answer(asked, seed), GROUP)

    row = compare("cascade_update", GROUPS * GROUP, updater(None), {"plain": updater(False)}, pairs)
    return row | {"unit": "answers/s", "limit_share": None}


def rows(pairs: int, seed: int = 0) -> list[dict]:
    """Both, on the CPU."""
    return [rsa_row(pairs, seed), update_row(pairs, seed)]
