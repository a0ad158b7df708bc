"""Generator and trainer at work together: in one process, turn by turn, or in two, each at its own pace.

    generator: answers problems with the newest published weights  ->  shelf  ->  trainer: two updates, checkpoint, publish

Weights are published every `SYNC` = 2 updates. An answer is at most 2 updates behind the weights that it trains: it says
for each token which weights sampled it, and older batches are thrown away unread. In two processes new weights are loaded
while answers are being written ("in flight"): such an answer spans versions, and the oldest counts.

Either process may be killed at any moment. The trainer's checkpoint (weights, optimizer, log, what it has trained on) is
one rename; batches taken after it wait again. The generator starts a half-made batch anew, with the same number and the
same chances, so nothing is lost and nothing is trained on twice.

Sources: PipelineRL (arXiv 2509.19128); ZAYA1-8B report, section IV-B.
"""

import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from ..arch.model import Zaya
from ..train import checkpoint
from ..train.loop import interrupts
from .buffer import Shelf
from .generator import Generator, draw_aggregation, draw_problem, verified
from .learner import Learner, LearnerConfig
from .mismatch import low_precision

SYNC = 2       # updates between two publications of the weights
STALENESS = 2  # updates that an answer may be behind


@dataclass
class Job:
    """One stage of RL, as both sides need to know it. Plain values: it crosses to another process.

    updates: to make. groups, group: problems a batch, answers a problem. scheduler: chooses tasks and difficulties
    (`curriculum.Scheduler`). aggregation: share of the problems asked as aggregation prompts, made from `records`.
    learner: a `LearnerConfig`. judge, min_p, threshold: see `Generator`; judge must be a function of a module. precision:
    None, or (kind, float32_ops) of `mismatch.low_precision` for the generator. seed: of everything.
    """

    updates: int
    scheduler: object
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


class GeneratorSide:
    """Makes batches and puts them on the shelf. On a restart it goes on after the newest batch that is there."""

    def __init__(self, job: Job, model: Zaya, tokenizer, shelf: Shelf):
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
            state = self.shelf.read_weights(version)
        except FileNotFoundError:
            return  # replaced by newer ones just now
        checkpoint_into(self.model, state)
        job, engine_model = self.job, self.model
        if job.precision:
            engine_model = low_precision(self.model, *job.precision)
        if self.generator is None:
            self.generator = Generator(engine_model, self.tokenizer, job.group, job.slots, job.size, job.min_p, job.judge,
                                       job.threshold)
        self.generator.load(engine_model.state_dict(), version)
        self.version = version

    def make(self, in_flight: bool = False) -> dict:
        """One batch. Returns its facts: number, pass rate by task and difficulty, tokens."""
        job = self.job
        rng = random.Random(f"batch/{job.seed}/{self.number}")
        asked = []
        for name, difficulty in job.scheduler.draw(job.groups):
            if rng.random() < job.aggregation:
                asked.append(draw_aggregation(job.records, rng))
            else:
                asked.append(draw_problem(name, difficulty, rng))
        # kinder to the other process: look for new weights now and then, not at every token
        steps = iter(range(10**9))
        refresh = (lambda: self.refresh() if next(steps) % 16 == 0 else None) if in_flight else None
        rollouts = self.generator.answer(asked, seed=job.seed * 1_000_003 + self.number, refresh=refresh)
        rates = []
        for i, problem in enumerate(asked):
            rewards = [r.reward for r in rollouts[i * job.group: (i + 1) * job.group]]
            if problem["kind"] == "problem":
                job.scheduler.update(problem["task"], problem["difficulty"], rewards)
            rates.append([problem["task"], problem["difficulty"], problem["kind"], round(sum(rewards) / len(rewards), 4)])
        info = {"number": self.number, "rates": rates, "levels": dict(job.scheduler.levels),
                "scheduler": job.scheduler.state(), "flags": sum(bool(r.flags) for r in rollouts), "tokens": sum(len(r.tokens) for r in rollouts)}
        self.shelf.put(self.number, rollouts, self.model.config.num_experts, info)
        self.number += 1
        return info


class TrainerSide:
    """Takes batches and updates the weights. `folder` holds its log and its checkpoint."""

    def __init__(self, job: Job, model: Zaya, shelf: Shelf, folder: Path, keep: dict):
        self.job, self.model, self.shelf, self.folder, self.keep = job, model, shelf, Path(folder), keep
        self.learner = Learner(model, job.learner)
        self.updates, self.done, self.records, length, self.before = 0, set(), [], 0, time.monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)
        newest = checkpoint.latest(self.folder)
        if newest:
            info = checkpoint.load(newest, model, self.learner.optimizer, NoBalancer())
            self.updates, self.done, length = info["step"], set(info["done"]), info["log_bytes"]
            self.learner.best_rate = info["best_rate"]
        self.log_file = open(self.folder / "log.jsonl", "ab")
        self.log_file.truncate(length)  # lines after the checkpoint belong to updates that will be made again
        self.log_file.seek(0, 2)
        self.records = [json.loads(line) for line in (self.folder / "log.jsonl").read_text().splitlines()]
        shelf.untake(self.done)
        shelf.publish(self.updates, checkpoint.model_state(model))

    def ready(self) -> bool:
        """Are there two whole batches, or the one that completes a pair?"""
        return len(self.shelf.numbers("batch")) >= SYNC - self.updates % SYNC

    def step(self) -> dict | None:
        """One update, or None when no batch is fresh enough. Checkpoint and publication every SYNC updates."""
        taken = self.shelf.take(self.updates - STALENESS)
        if taken is None:
            return None
        number, rollouts, stale = taken
        for old in stale:
            self.done.add(old)
            self.log({"stale": old})
        if not rollouts:
            return None
        lags = [self.updates - version for rollout in rollouts for version in rollout.versions]
        figures = self.learner.update(rollouts, self.job.group)
        self.updates += 1
        self.done.add(number)
        now = time.monotonic()
        record = {"update": self.updates, "batch": number, "staleness": max(lags), "mean_staleness": sum(lags) / len(lags),
                  "seconds": round(now - self.before, 2), **figures}
        self.before = now
        self.log(record)
        if self.updates % SYNC == 0 or self.updates == self.job.updates:
            self.save()
        return record

    def log(self, record: dict) -> None:
        self.records.append(record)
        self.log_file.write(json.dumps(record).encode() + b"\n")
        self.log_file.flush()

    def save(self) -> None:
        """Checkpoint first, then the weights: the generator never sees weights that a restart would take back."""
        info = {"done": sorted(self.done), "log_bytes": self.log_file.tell(), "best_rate": self.learner.best_rate, **self.keep}
        checkpoint.save(self.folder, self.updates, self.model, self.learner.optimizer, NoBalancer(), info)
        self.shelf.publish(self.updates, checkpoint.model_state(self.model))
        self.shelf.forget(self.done)


class NoBalancer:
    """The balancing biases stay as they are during RL: the loads that the trainer sees are the generator's."""

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        pass


def checkpoint_into(model: Zaya, state: dict) -> None:
    """Copies published weights into a model. Raises ValueError when they are of another one."""
    wanted = checkpoint.model_state(model)
    if state.keys() != wanted.keys():
        raise ValueError(f"the weights do not fit the model: {sorted(state.keys() ^ wanted.keys())[:3]}")
    with torch.no_grad():
        for name, tensor in state.items():
            wanted[name].copy_(tensor)


def run(job: Job, model: Zaya, tokenizer, folder: str | Path, keep: dict | None = None, processes: int = 1,
        watch: Callable[[dict], None] | None = None, bar: bool = True) -> bool:
    """Trains `model` in place for `job.updates` updates, or goes on where a run in `folder` was stopped.

    Args:
        folder: for the shelf, the log and the checkpoint. keep: plain JSON values for the checkpoint (tokenizer, ...).
        processes: 1: two batches, two updates, and so on, each run the same to the last digit. 2: the generator in a
            process of its own, started again if it dies.
        watch: called with the log record of every update.
    Returns True when all updates are made, False when Ctrl-C stopped it (the last checkpoint stays). Raises ValueError when
    another process trains in `folder`.
    """
    if processes not in (1, 2):
        raise ValueError(f"processes must be 1 or 2, got {processes!r}")
    folder = Path(folder)
    shelf, trainer, helper = Shelf(folder / "shelf"), None, None
    try:
        if not shelf.lock("trainer"):
            raise ValueError(f"folder: another process trains in {folder}; wait for it, or choose another folder")
        trainer = TrainerSide(job, model, shelf, folder / "trainer", keep or {})
        if processes == 1:
            while not shelf.lock("generator"):  # one that has lost its trainer is still finishing its batch
                time.sleep(0.05)
            generator = GeneratorSide(job, Zaya(model.config), tokenizer, shelf)
        else:
            from .processes import Helper
            generator, helper = None, Helper(job, model.config, tokenizer, folder / "shelf")
        with interrupts() as stop, tqdm(total=job.updates, initial=trainer.updates, desc="rl", unit="update",
                                        disable=not bar) as line:
            while trainer.updates < job.updates and not stop:
                if not trainer.ready():
                    if generator:
                        generator.refresh()
                        generator.make()
                    else:
                        helper.watch()
                        time.sleep(0.02)
                    continue
                record = trainer.step()
                if record:
                    line.update()
                    line.set_postfix(reward=f"{record['reward']:.2f}", refresh=False)
                    if watch:
                        watch(record)
    finally:
        if helper:
            helper.stop()
        if trainer:
            trainer.log_file.close()
        shelf.unlock()
    return trainer.updates >= job.updates
