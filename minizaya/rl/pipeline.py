"""Generator and trainer at work together: in one process, turn by turn, or in two, each at its own pace.

    generator: answers problems with the newest weights  ->  shelf  ->  trainer: two updates, checkpoint, publish

The generator's half is `processes.GeneratorSide`; here are the trainer's, and `run`, which sets both to work. Weights
are published every `SYNC` = 2 updates. An answer is at most 2 updates behind the weights that it trains: it says for
each token which weights sampled it. Older batches are thrown away unread, and none is begun that would be too old when
its turn comes (`processes.wanted`). In two processes new weights are loaded while answers are being written ("in
flight"): such an answer spans versions, and the oldest counts.

Either process may be killed at any moment. The trainer's checkpoint (weights, optimizer, log, what it has trained on)
is one rename; batches taken after it wait again. The generator starts a half-made batch anew, with the same number and
the same chances, so nothing is lost and nothing is trained on twice.

Sources: PipelineRL (arXiv 2509.19128); ZAYA1-8B report, section IV-B.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import torch

from ..arch.model import Zaya
from ..data.tokenizer import Tokenizer
from ..notebook import tqdm
from ..train import checkpoint
from ..train.loop import interrupts
from ..train.run_folder import append, read_log
from .buffer import Shelf
from .learner import Learner
from .processes import STALENESS, GeneratorProcess, GeneratorSide, Job

SYNC = 2   # updates between two publications of the weights
TOO_OLD = 8   # batches in a row; a shelf holds three, so a kill at a bad moment leaves fewer behind


class TrainerSide:
    """Takes batches and updates the weights. `folder` holds its log and its checkpoint.

    The balancing biases stay as they are during RL: the loads that the trainer sees are the generator's.
    """

    stale_in_a_row = 0   # batches that were too old

    def __init__(self, job: Job, model: Zaya, shelf: Shelf, folder: Path, keep: dict):
        self.job, self.model, self.shelf, self.folder, self.keep = job, model, shelf, Path(folder), keep
        self.learner = Learner(model, job.learner)
        self.updates, self.done, length, self.before = 0, set(), 0, time.monotonic()
        newest = checkpoint.latest(self.folder)
        if newest:
            info = checkpoint.load(newest, model, self.learner.optimizer, None)
            self.updates, self.done, length = info["step"], set(info["done"]), info["log_bytes"]
            self.learner.best_rate = info["best_rate"]
        self.log_file, self.records = read_log(self.folder, length)
        shelf.untake(self.done)
        shelf.publish(self.updates, checkpoint.model_state(model))

    def ready(self) -> bool:
        """Does a batch wait? ZAYA1's trainer pulls two at a time; its generators are two to five times as many."""
        return bool(self.shelf.numbers("batch"))

    def step(self) -> dict | None:
        """One update, or None when no batch is fresh enough. Checkpoint and publication every SYNC updates.

        Raises RuntimeError after TOO_OLD stale batches in a row: nothing would ever be learned from.
        """
        taken = self.shelf.take(self.updates - STALENESS)
        if taken is None:
            return None
        number, rollouts, stale = taken
        for old in stale:
            self.done.add(old)
            self.log({"stale": old})
        self.stale_in_a_row = 0 if rollouts else self.stale_in_a_row + len(stale)
        if self.stale_in_a_row >= TOO_OLD:
            raise RuntimeError(f"the last {self.stale_in_a_row} batches were too old to train update "
                               f"{self.updates + 1} on; does the generator load the weights that are published?")
        if not rollouts:
            return None
        lags = [self.updates - version for rollout in rollouts for version in rollout.versions]
        figures = self.learner.update(rollouts, self.job.group)
        self.updates += 1
        self.done.add(number)
        now = time.monotonic()
        record = {"update": self.updates, "batch": number, "staleness": max(lags),
                  "mean_staleness": sum(lags) / len(lags), "seconds": round(now - self.before, 2), **figures}
        self.before = now
        self.log(record)
        if self.updates % SYNC == 0 or self.updates == self.job.updates:
            self.save()
        return record

    def log(self, record: dict) -> None:
        self.records.append(record)
        append(self.log_file, record)

    def save(self) -> None:
        """Checkpoint first, then the weights: the generator never sees weights that a restart would take back."""
        info = {"done": sorted(self.done), "log_bytes": self.log_file.stat().st_size,
                "best_rate": self.learner.best_rate}
        checkpoint.save(self.folder, self.updates, self.model, self.learner.optimizer, None, info | self.keep)
        self.shelf.publish(self.updates, checkpoint.model_state(self.model))
        self.shelf.forget(self.done)


def run(job: Job, model: Zaya, tokenizer: Tokenizer, folder: str | Path, keep: dict | None = None, processes: int = 1,
        watch: Callable[[dict], None] | None = None, bar: bool = True) -> bool:
    """Trains `model` in place for `job.updates` updates, or goes on where a run in `folder` was stopped.

    Args:
        folder: for the shelf, the log and the checkpoint. keep: plain JSON values for the checkpoint (tokenizer, ...).
        processes: 1: two batches, two updates, and so on, each run the same to the last digit. 2: the generator in a
            process of its own, started again if it dies.
        watch: called with the log record of every update.
    Returns True when all updates are made, False when Ctrl-C stopped it (the last checkpoint stays). Raises ValueError
    when another process trains in `folder`, RuntimeError when batch after batch is too old (`TrainerSide.step`).
    """
    if processes not in (1, 2):
        raise ValueError(f"processes must be 1 or 2, got {processes!r}")
    if job.aggregation and not job.records:
        raise ValueError(f"job: aggregation of {job.aggregation} needs records to make prompts from, got none")
    folder, device = Path(folder), model.embed.weight.device   # both sides compute where the model is
    shelf = Shelf(folder / "shelf")
    with ExitStack() as ends:
        ends.callback(shelf.unlock)
        if not shelf.lock("trainer"):
            raise ValueError(f"folder: another process trains in {folder}; wait for it, or choose another folder")
        trainer = TrainerSide(job, model, shelf, folder / "trainer", keep or {})
        if processes == 1:
            while not shelf.lock("generator"):  # one that has lost its trainer is still finishing its batch
                time.sleep(0.05)
            with device:
                own = Zaya(model.config).to(model.embed.weight)
            generator = GeneratorSide(job, own, tokenizer, shelf)
        else:
            ends.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(1)   # the generator has a core of its own
            generator = GeneratorProcess(job, model.config, tokenizer, shelf.folder, str(device))
            ends.callback(generator.stop)
        stop = ends.enter_context(interrupts())
        line = ends.enter_context(tqdm(total=job.updates, initial=trainer.updates, desc="rl", unit="update",
                                       disable=not bar))
        while trainer.updates < job.updates and not stop:
            if not trainer.ready():
                generator.work()
            elif record := trainer.step():
                line.update()
                line.set_postfix(reward=f"{record['reward']:.2f}", refresh=False)
                if watch:
                    watch(record)
    return trainer.updates >= job.updates
