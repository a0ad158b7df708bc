"""The generator's half of the pipeline, in this process or in one of its own.

`Job` tells both halves what to do; the shelf is all that they share.
"""

import itertools
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.multiprocessing as mp

from ..arch.model import Zaya
from ..config import ZayaConfig, check_settings
from ..data.tokenizer import Tokenizer
from ..train import checkpoint
from .buffer import Shelf
from .curriculum import Scheduler
from .generator import Generator, draw_aggregation, draw_problem, verified
from .learner import LearnerConfig
from .mismatch import low_precision

STALENESS = 2  # updates that an answer may be behind


@dataclass
class Job:
    """One stage of RL, as both sides need to know it. Plain values: it crosses to another process.

    updates: to make. scheduler: chooses tasks and difficulties. groups, group: problems a batch, answers a problem.
    aggregation: share of the problems asked as aggregation prompts, made from `records`. judge, min_p, threshold,
    slots, size: see `Generator`; judge must be a function of a module. precision: None, or (kind, float32_ops) of
    `mismatch.low_precision` for the generator. seed: of everything.
    """

    updates: int
    scheduler: Scheduler
    learner: LearnerConfig
    groups: int = 12
    group: int = 16
    aggregation: float = 0.0
    records: list | None = None
    judge: Callable[[dict, str], float] = verified
    min_p: float = 0.0
    threshold: float = 0.02
    slots: int = 256
    size: int = 768
    precision: tuple | None = None
    seed: int = 0

    def __post_init__(self):
        check_settings(vars(self), updates=0, groups=1, group=1, aggregation="[0, 1]", min_p="[0, 1]",
                       threshold="[0, inf)", slots=1, size=1, seed=int)


class GeneratorSide:
    """Makes batches and puts them on the shelf. On a restart it goes on after the newest batch that is there."""

    def __init__(self, job: Job, model: Zaya, tokenizer: Tokenizer, shelf: Shelf):
        self.job, self.tokenizer, self.shelf, self.model = job, tokenizer, shelf, model
        info = shelf.newest_info()
        self.number = 0 if info is None else info["number"] + 1
        if info is not None:
            job.scheduler.load_state(info["scheduler"])
        self.generator, self.version = None, None
        self.refresh()

    def refresh(self) -> None:
        """Loads the newest weights, if there are newer ones."""
        version = self.shelf.weights()
        if version is None or version == self.version:
            return
        try:
            checkpoint.load_weights(self.shelf.path("weights", version), self.model)
        except FileNotFoundError:
            return  # replaced by newer ones just now
        job = self.job
        engine_model = low_precision(self.model, *job.precision) if job.precision else self.model
        if self.generator is None:
            self.generator = Generator(engine_model, self.tokenizer, job.group, job.slots, job.size, job.min_p,
                                       job.judge, job.threshold)
        self.generator.load(engine_model.state_dict(), version)
        self.version = version

    def work(self) -> None:
        """What to do while the trainer waits: one batch by the newest weights."""
        self.refresh()
        self.make()

    def make(self, in_flight: bool = False) -> dict:
        """One batch. Returns its facts: number, pass rate by task and difficulty, tokens.

        in_flight: look for new weights while answers are being written.
        """
        job = self.job
        rng = random.Random(f"batch/{job.seed}/{self.number}")
        asked = [draw_aggregation(job.records, rng) if rng.random() < job.aggregation
                 else draw_problem(name, difficulty, rng) for name, difficulty in job.scheduler.draw(job.groups)]
        steps = itertools.count()

        def now_and_then() -> None:  # kinder to the other process than to look at every token
            if next(steps) % 16 == 0:
                self.refresh()

        rollouts = self.generator.answer(asked, job.seed * 1_000_003 + self.number, now_and_then if in_flight else None)
        rates = []
        for i, problem in enumerate(asked):
            rewards = [r.reward for r in rollouts[i * job.group: (i + 1) * job.group]]
            if problem["kind"] == "problem":
                job.scheduler.update(problem["task"], problem["difficulty"], rewards)
            rate = round(sum(rewards) / len(rewards), 4)
            rates.append([problem["task"], problem["difficulty"], problem["kind"], rate])
        info = {"number": self.number, "rates": rates, "levels": dict(job.scheduler.levels),
                "scheduler": job.scheduler.state(), "flags": sum(bool(r.flags) for r in rollouts),
                "tokens": sum(len(r.tokens) for r in rollouts)}
        self.shelf.put(self.number, rollouts, self.model.config.num_experts, info)
        self.number += 1
        return info


def generate_for_ever(job: Job, config: ZayaConfig, tokenizer: Tokenizer, folder: str | Path, device: str,
                      parent: int) -> None:
    """What the generator's process does: batches on `device`, until its parent (a process number) is gone or ends it.

    trap: the parent must say who it is. Asked for here, it may be dead already, and the one asked about would be init.
    """
    torch.set_num_threads(1)
    shelf = Shelf(folder)
    while not shelf.lock("generator"):  # one that has lost its trainer is still finishing its batch
        if os.getppid() != parent:
            return
        time.sleep(0.05)
    side = GeneratorSide(job, Zaya(config).to(device), tokenizer, shelf)
    while os.getppid() == parent:
        side.refresh()
        if wanted(shelf):
            side.make(in_flight=True)
        else:
            time.sleep(0.02)
    shelf.unlock()


def wanted(shelf: Shelf) -> bool:
    """Would a batch that is begun now be fresh enough when its turn comes?

    As many updates as batches wait are made before it, and those that were made since the newest weights count, too:
    their batches are taken, and no checkpoint covers them yet.
    """
    waiting = len(shelf.numbers("batch"))
    return waiting == 0 or waiting + len(shelf.numbers("taken")) <= STALENESS


class GeneratorProcess:
    """Starts the generator's process, and starts it again when it dies."""

    def __init__(self, job: Job, config: ZayaConfig, tokenizer: Tokenizer, folder: Path, device: str = "cpu"):
        self.arguments = job, config, tokenizer, folder, device
        self.shelf, self.seen, self.deaths = Shelf(folder), None, 0
        self.start()

    def start(self) -> None:
        # trap: fork copies a process whose torch threads are already running; they do not come along
        spawn = mp.get_context("spawn").Process
        self.process = spawn(target=generate_for_ever, args=(*self.arguments, os.getpid()), daemon=True)
        self.process.start()

    def work(self) -> None:
        """What to do while the trainer waits: see that somebody works."""
        self.watch()
        time.sleep(0.02)

    def watch(self) -> None:
        """A new process where the old one died. Raises RuntimeError after five deaths in a row without a batch."""
        if self.process.is_alive():
            return
        made = (self.shelf.newest_info() or {}).get("number")
        self.deaths = self.deaths + 1 if made == self.seen else 1
        self.seen = made
        if self.deaths >= 5:
            raise RuntimeError(f"the generator died {self.deaths} times without making a batch; "
                               f"the last exit code was {self.process.exitcode}")
        print(f"the generator died (exit code {self.process.exitcode}); starting it again", file=sys.stderr)
        self.start()

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
