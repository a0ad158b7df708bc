"""The generator: draws problems, lets the engine answer each of them G times, and judges the answers."""

import random
from collections.abc import Callable
from functools import cache, lru_cache

from torch import Tensor

from ..arch.model import Zaya
from ..data import tasks
from ..data.aggregation import LENGTHS, TAU, aggregation_text, spoiled_tails
from ..data.tokenizer import Tokenizer
from ..infer.engine import Engine
from ..train.sources import training_problem
from .canary import rare_share, repeats
from .reward import behaviour_reward
from .rollout import Rollout


class Generator:
    """Answers batches of problems with one model.

    Args:
        model: the one that answers; `load(state, version)` changes its weights. tokenizer: of the model.
        group: G, answers a problem. slots: answers written at a time. size: longest prompt and answer together.
        min_p: filter of the sampling; what it kept goes with the answer.
        judge: (what was asked, text) -> reward in 0..1, `verified` or `styled`, or a function of your own.
        threshold: of the repetition canary; 0 switches it off. compiled: see `Engine`.
    """

    def __init__(self, model: Zaya, tokenizer: Tokenizer, group: int = 16, slots: int = 256, size: int = 512,
                 min_p: float = 0.0, judge: Callable[[dict, str], float] | None = None, threshold: float = 0.02,
                 compiled: bool | None = None):
        self.model, self.tokenizer, self.group, self.min_p = model, tokenizer, group, min_p
        self.judge, self.threshold, self.version = judge or verified, threshold, 0
        self.engine = Engine(model, slots=slots, size=size, joining=min(64, slots), compiled=compiled)
        self.stop = tokenizer.encode(tasks.END)

    def load(self, state: dict[str, Tensor], version: int) -> None:
        """New weights. Answers under way go on with them, from the cache that the old ones have written."""
        self.model.load_state_dict(state, strict=False)  # a tied head is not in the file twice
        self.version = version

    def answer(self, asked: list[dict], seed: int, refresh: Callable[[], None] | None = None) -> list[Rollout]:
        """`group` answers to each of `asked` (from `draw_problem`), in order. refresh is called between the engine's
        steps; it may call `load`. Raises RuntimeError where the model fails at one: its weights are broken, or there is
        no memory, and so it would be at others."""
        numbers, versions = [], {}
        for i, problem in enumerate(asked):
            prompt = self.tokenizer.encode(problem["prompt"])
            for g in range(self.group):
                numbers.append(self.engine.submit(prompt, problem["room"], min_p=self.min_p, stop=self.stop,
                                                  seed=(seed * 1000 + i) * 1000 + g, record=True))
        while self.engine.busy:
            if refresh:
                refresh()
            for number, _ in self.engine.step():
                versions.setdefault(number, []).append(self.version)
        return [self.judged(number, asked[i // self.group], versions.get(number, []))
                for i, number in enumerate(numbers)]

    def judged(self, number: int, asked: dict, versions: list[int]) -> Rollout:
        done = self.engine.take(number)
        if done.finish == "error":
            raise RuntimeError(f"no answer to {asked['prompt']!r}: {done.error}, after {len(done.tokens)} new tokens")
        text = self.tokenizer.decode(done.tokens)
        reward, flags = float(self.judge(asked, text)), ()
        if self.threshold and repeats(done.tokens, self.threshold):
            reward, flags = 0.0, ("repeats", )  # before any advantage is computed
        if rare_share(done.tokens, self.model.config.vocab_size):
            flags += ("rare", )
        return Rollout(self.tokenizer.encode(asked["prompt"]), done.tokens, done.logprobs, versions, done.routes, asked,
                       reward, done.kept, flags)


def verified(asked: dict, text: str) -> float:
    """1 for a right answer, else 0."""
    task = tasks.get(asked["task"])
    return float(task.verify(problem_of(task, asked["number"], asked["difficulty"]), text))


@lru_cache(maxsize=64)
def problem_of(task: tasks.Task, number: int, difficulty: int) -> tasks.Problem:
    """Kept for a while, since a group's answers are all to the same one."""
    return task.generate(number, difficulty)


def styled(asked: dict, text: str) -> float:
    """The behavioural stage: style, where the answer is right."""
    return behaviour_reward(text, bool(verified(asked, text)))


@cache
def room(name: str, difficulty: int) -> int:
    """Tokens that an answer may take: half as long again as the longest worked solution of 100 problems.

    trap: not the problem's own solution. A search that was lucky when its solution was written would leave no room to
    search, and the model would be judged by that luck.
    """
    solutions = [problem.completion for problem in tasks.problems(name, "train", difficulty, 100, seed=0)]
    return max(map(len, solutions)) * 3 // 2


def draw_problem(name: str, difficulty: int, rng: random.Random) -> dict:
    """A training problem, as plain JSON values: task, difficulty, number, prompt, and room for an answer in tokens."""
    number, problem = training_problem(name, difficulty, rng)
    return {"task": name, "difficulty": difficulty, "number": number, "prompt": problem.prompt,
            "room": room(name, difficulty), "kind": "problem"}


def draw_aggregation(records: list[dict], rng: random.Random) -> dict:
    """A test-time-compute prompt: a problem and the tails of earlier attempts, as Markovian RSA's first round asks it.

    Half of the time the attempts are the model's own (`records` of `train.stages.rollouts`); else an expert's: the
    worked solution, cut off at different places and sometimes spoiled. Records of `cascade.records` come with the
    numbers of a Markovian RSA, which hands their tails on, but for three in ten, which are cut and spoiled as well.
    """
    record = rng.choice(records)
    problem = tasks.get(record["task"]).generate(record["number"], record["difficulty"])
    if "tau" in record:
        attempts, tau = rng.sample(record["rollouts"], record["C"]), record["tau"]
        tails = (spoiled_tails(attempts, rng, (tau - tau // 5, tau + tau // 5)) if rng.random() < 0.3
                 else [attempt[-tau:] for attempt in attempts])
        return asked_for(record, problem, tails, record["room"], "own tails")
    count, own = rng.randint(1, 4), rng.random() < 0.5
    attempts = rng.sample(record["rollouts"], count) if own else [problem.completion] * count
    tails = spoiled_tails(attempts, rng, LENGTHS.get(problem.task, TAU))
    return asked_for(record, problem, tails, room(record["task"], record["difficulty"]),
                     "own tails" if own else "expert tails")


def asked_for(record: dict, problem: tasks.Problem, tails: list[str], most: int, kind: str) -> dict:
    """The prompt as plain JSON values, as `draw_problem` gives them."""
    return {"task": record["task"], "difficulty": record["difficulty"], "number": record["number"],
            "prompt": aggregation_text(problem.prompt, tails), "room": most, "kind": kind}
