"""The training loop: small, seeded, resumable to the last digit.

    one step = for each micro-batch: forward, cross entropy, backward
               clip the gradients; move the weights (AdamW or Muon) and the routing biases (balancer); write a log line

The data of step s is a function of (seed, s) alone, and nothing else in a step is random. So weights, moments, biases
and the step number are the whole state, and a resumed run repeats the uninterrupted one bit for bit (on the same
machine with the same number of threads: another order of additions rounds differently). A step is computed where the
model is: its batches are moved there.

Micro-batches weigh by their targets. One without any moves no weight and has no loss in the log; a step without any is
refused before anything has moved.
"""

import math
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

import torch

from ..arch import balance
from ..arch.model import Zaya
from ..config import check_settings
from ..native.fused.model import summed_loss
from ..notebook import in_notebook, tqdm
from . import checkpoint
from .optim import adamw, learning_rate, muon
from .run_folder import append, check_untouched, must_match, read_log
from .run_lock import RunLock
from .sources import IGNORE, Batch


@dataclass(frozen=True)
class Recipe:
    """How to train; everything but the data and the model."""

    steps: int
    lr: float = 5e-3              # peak learning rate
    warmup: int = 50              # steps of the climb
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    clip: float = 1.0             # largest norm of all gradients together
    balance_lr: float = 4e-3      # step of the sign balancer, in probability
    seed: int = 0                 # of the data, which the sources have taken: kept, so that a resumed run has the same
    optimizer: str = "adamw"      # or "muon": Muon on matrices, AdamW on the rest
    momentum: float = 0.95        # of Muon
    final_share: float = 0.0      # of the peak rate, where the cosine ends

    def __post_init__(self):
        if self.optimizer not in ("adamw", "muon"):
            raise ValueError(f"optimizer must be 'adamw' or 'muon', got {self.optimizer!r}")
        if self.optimizer == "adamw" and self.momentum != Recipe.momentum:
            raise ValueError(f"momentum is of Muon and would have no effect with 'adamw', got {self.momentum!r}")
        check_settings(vars(self), steps=1, lr="(0, inf)", warmup=0, weight_decay="[0, inf)", beta1="[0, 1)",
                       beta2="[0, 1)", clip="(0, inf)", balance_lr="[0, inf)", seed=int, momentum="[0, 1)",
                       final_share="[0, inf)")


class Trainer:
    """Model, optimizer, balancer and log of one run.

    Args:
        batches: step (from 0) -> list of `Batch`, the micro-batches of that step; a pure function.
        run: the folder of log and checkpoints, or None to keep everything in memory.
        keep: plain JSON values to write beside each checkpoint, such as the tokenizer and the choice of data.
        resume: go on from the newest checkpoint in `run`; if there is none, start at the beginning.
        compiled: train by the fused loops of `native/fused` (True), the plain way (False), or by loops where that
            can be (None): equal within rounding.
    Raises:
        ValueError: `run` holds a run already and `resume` is False; recipe or `keep` are not those of the checkpoint;
            another process trains in `run`. The folder is this process's until `train` has ended.
    """

    def __init__(self, model: Zaya, recipe: Recipe, batches: Callable[[int], list[Batch]],
                 run: str | Path | None = None, keep: dict | None = None, resume: bool = False,
                 compiled: bool | None = None):
        self.model, self.recipe, self.batches, self.compiled = model, recipe, batches, compiled
        self.run_folder = None if run is None else Path(run)
        self.lock = RunLock(self.run_folder)
        self.keep = keep or {}
        settings = model, recipe.lr, recipe.weight_decay, (recipe.beta1, recipe.beta2)
        self.optimizer = adamw(*settings) if recipe.optimizer == "adamw" else muon(*settings, recipe.momentum)
        cfg = model.config
        self.balancer = balance.SignBalancer(cfg.num_experts, recipe.balance_lr, cfg.num_hidden_layers)
        self.balancer.bias = balance.get_biases(model)
        self.step, self.tokens, self.saved_step = 0, 0, -1
        self.records: list[dict] = []
        self.log_file: Path | None = None
        if self.run_folder is not None:
            self.open_run(resume)

    # ---- one step ----------------------------------------------------------------------------------------------------

    @torch.enable_grad()      # wherever it is called: a step without gradients is none
    def train_step(self) -> dict:
        """One optimizer step over all micro-batches. Returns the log record.

        Raises ValueError, before any weight has moved, when there is no target, or loss or gradients are not finite.
        """
        start, tokens = time.perf_counter(), 0
        recipe, model, device = self.recipe, self.model, self.model.embed.weight.device
        batches = self.batches(self.step)
        losses, targets, visits = Counter(), Counter(), 0   # by source: nats, scored tokens; tokens by layer and route
        for batch in batches:
            targets[batch.name] += int((batch.targets != IGNORE).sum())
        check_targets(self.step, targets.total())
        model.train()
        for batch in batches:
            batch = batch.to(device)
            total, routes = summed_loss(model, batch.inputs, batch.targets, batch.doc_ids, self.compiled)
            (total / targets.total()).backward()  # gradients add up: micro-batches together weigh as one batch
            losses[batch.name] += total.item()
            visits = visits + balance.counts(routes, model.config.num_experts, batch.valid)
            tokens += batch.inputs.numel() if batch.valid is None else int(batch.valid.sum())

        norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip))
        loss = losses.total() / targets.total()
        lr = self.move_weights(loss, norm)

        # trap: balance on the load of the whole batch. One micro-batch is a small sample, often of one kind of text,
        # and a router that must be even on each of them cannot specialise
        load = balance.fractions(visits)
        balance.set_biases(model, self.balancer.update(load))

        self.step, self.tokens = self.step + 1, self.tokens + tokens
        return {
            "step": self.step, "tokens": self.tokens, "loss": loss,
            **{f"loss_{name}": losses[name] / targets[name] for name in losses if targets[name]},
            "lr": lr, "grad_norm": norm,
            "load_entropy": float(balance.entropy(load).mean()),        # mean over layers
            "max_violation": float(balance.max_violation(load).max()),  # worst layer
            "tok_per_s": tokens / (time.perf_counter() - start),
        }

    def move_weights(self, loss: float, norm: float) -> float:
        """The optimizer's step, at the rate of this step, and no gradients after it. Returns the rate.

        Raises ValueError, before any weight has moved, when loss or norm is not finite.
        """
        recipe = self.recipe
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self.optimizer.zero_grad(set_to_none=True)
            raise ValueError(f"training diverged at step {self.step}: loss {loss}, gradient norm {norm}; lr may be too "
                             f"large, got {recipe.lr}")
        lr = learning_rate(self.step, recipe.steps, recipe.lr, recipe.warmup, recipe.final_share)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return lr

    # ---- many steps --------------------------------------------------------------------------------------------------

    def train(self, evaluate: Callable[[], dict] | None = None, eval_every: int = 0, save_every: int = 0,
              until: int | None = None, watch: Callable[[list[dict]], None] | None = None, bar: bool = True) -> bool:
        """Trains to step `until` (None: the recipe's last; 0: none). Returns True when the recipe is done.

        evaluate() is called every `eval_every` steps and at the end; its figures join the log record under "eval".
        A checkpoint is written every `save_every` steps and at the end (0: at the end only), if the run has a folder.
        watch(records) is called after each evaluation. Ctrl-C finishes the step and saves; then this returns False, and
        in a notebook raises KeyboardInterrupt. ValueError when `until`, `eval_every` or `save_every` is negative, or
        somebody else has the run.
        """
        last = last_step(self.recipe, until, eval_every=eval_every, save_every=save_every)
        with (self.lock, interrupts() as stop,
              tqdm(total=last, initial=self.step, desc="train", unit="step", disable=not bar) as line):
            check_untouched(self.run_folder, self.saved_step)
            while self.step < last and not stop:
                record = self.train_step()
                if evaluate and (self.step == last or eval_every and self.step % eval_every == 0):
                    record["eval"] = evaluate()
                self.log(record)
                if watch and "eval" in record:
                    watch(self.records)
                if save_every and self.step % save_every == 0:
                    self.save()
                line.update()
                line.set_postfix(loss=f"{record['loss']:.3f}", tok_s=f"{record['tok_per_s']:.0f}", refresh=False)
            self.save()
        if stop:
            where = f"; go on with --out {self.run_folder} --resume" if self.run_folder else ""
            print(f"stopped after step {self.step} of {self.recipe.steps}{where}", file=sys.stderr)
        return self.step >= self.recipe.steps

    # ---- the run folder ----------------------------------------------------------------------------------------------

    def open_run(self, resume: bool) -> None:
        folder, length = self.run_folder, 0
        newest = checkpoint.latest(folder)
        if not resume and (newest or (folder / "log.jsonl").exists()):
            raise ValueError(f"{folder} holds a run already; resume it or choose another folder")
        checkpoint.safetensors()  # fail now, not at the first save
        self.lock.take()
        newest = checkpoint.latest(folder)  # as it is now that nobody else writes
        if newest:
            info = checkpoint.read_info(newest)
            must_match(newest, info, {"recipe": asdict(self.recipe), **self.keep})
            checkpoint.load(newest, self.model, self.optimizer, self.balancer)
            self.step = self.saved_step = info["step"]
            self.tokens, length = info["tokens"], info["log_bytes"]
        self.log_file, self.records = read_log(folder, length)

    def log(self, record: dict) -> None:
        """Keeps the record, and appends it to the log as one line of JSON."""
        self.records.append(record)
        if self.log_file is not None:
            append(self.log_file, record)

    def save(self) -> None:
        """Writes a checkpoint of the present step, unless it is there already or the run has no folder."""
        if self.run_folder is None or self.step == self.saved_step:
            return
        info = {"recipe": asdict(self.recipe), "tokens": self.tokens, "log_bytes": self.log_file.stat().st_size,
                **self.keep}
        checkpoint.save(self.run_folder, self.step, self.model, self.optimizer, self.balancer, info)
        self.saved_step = self.step


# ---- what several ranks and the RL trainer need, too -----------------------------------------------------------------


def check_targets(step: int, targets: float) -> None:
    """Raises ValueError unless a step has something to score: the mean over nothing has no gradient."""
    if not targets:
        raise ValueError(f"batches must hold at least one target a step, got none at step {step}")


def last_step(recipe: Recipe, until: int | None, **every: int) -> int:
    """Where `train` stops: `until`, but not after the recipe's end. ValueError for what is no number of steps."""
    given = {"until": 0 if until is None else until, **every}
    check_settings(given, **dict.fromkeys(given, 0))
    return recipe.steps if until is None else min(recipe.steps, until)


@contextmanager
def interrupts() -> Iterator[list[bool]]:
    """Within it Ctrl-C does not raise: it adds an entry to the yielded list. A second Ctrl-C raises as usual.

    In a notebook KeyboardInterrupt is raised at its end, or "Run All" would go on with a model that is half trained.
    """
    stop: list[bool] = []
    pressed = False
    if threading.current_thread() is not threading.main_thread():  # signals belong to the main thread
        yield stop
        return

    def note(signum: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True
        stop.append(True)   # the caller may clear it
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed and in_notebook():
        raise KeyboardInterrupt("stopped after a whole step")
