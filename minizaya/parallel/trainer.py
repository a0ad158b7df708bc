"""The training loop on several ranks: `train.loop`'s steps, with the same losses, whatever the layout."""

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F

from ..arch import balance
from ..arch.model import Zaya
from ..notebook import tqdm
from ..train.checkpoint import latest
from ..train.loop import Recipe, Trainer, check_targets, interrupts, last_step
from ..train.optim import decays
from ..train.run_folder import check_untouched, must_match, read_log
from ..train.run_lock import RunLock
from ..train.sources import IGNORE, Batch
from . import sharded_state
from .expert_parallel import global_load
from .grid import Grid, clip, forward, parallelize, split_batch
from .sharded_checkpoint import read_info


def adamw(model: Zaya, recipe: Recipe) -> torch.optim.AdamW:
    """`train.optim.adamw` over shards. Experts, which lie on another mesh, have groups of their own."""
    groups: dict[tuple, dict] = {}
    for name, p in model.named_parameters():
        decay = recipe.weight_decay if decays(name, p) else 0.0
        groups.setdefault((decay, ".experts." in name), dict(params=[], weight_decay=decay))["params"].append(p)
    betas = recipe.beta1, recipe.beta2
    return torch.optim.AdamW(list(groups.values()), lr=recipe.lr, betas=betas, eps=1e-8, fused=True)


class ParallelTrainer(Trainer):
    """As `train.loop.Trainer`, for one rank of a job.

    Args:
        model: a whole `Zaya`, the same on all ranks; it is cut here. grid: this rank's place.
        recipe, batches, run, keep, resume: as in `Trainer`. `batches` gives the *global* micro-batches of a step, the
            same on all ranks: the position in the data is the step, in any layout.
        compiled: layers by fused loops, as in `Trainer`; never with cp, and the loss goes the plain way.
    Raises:
        ValueError: as `Trainer`, and for Muon: its Newton-Schulz iteration needs whole matrices, a rank has rows.
    """

    def __init__(self, model: Zaya, recipe: Recipe, batches: Callable[[int], list[Batch]], grid: Grid,
                 run: str | Path | None = None, keep: dict | None = None, resume: bool = False,
                 compiled: bool | None = None):
        if recipe.optimizer != "adamw":
            raise ValueError(f"optimizer must be 'adamw' when states are sharded, got {recipe.optimizer!r}: Muon needs "
                             "whole matrices, and a rank holds rows of them")
        self.grid, self.stop = grid, False
        super().__init__(parallelize(model, grid, compiled), recipe, batches, keep=keep)
        self.optimizer = adamw(self.model, recipe)
        self.balancer.bias = self.balancer.bias.cpu()
        if run is not None:
            self.run_folder = Path(run)
            self.lock = RunLock(self.run_folder if grid.rank == 0 else None)
            self.open_run(resume)

    @torch.enable_grad()
    def train_step(self, stop: bool = False) -> dict:
        """One step, the same on all ranks. Returns the log record; `self.stop` is then set if any rank asked for it."""
        began, recipe, model, grid = time.perf_counter(), self.recipe, self.model, self.grid
        whole = self.batches(self.step)
        parts = [split_batch(batch, grid) for batch in whole]
        names, visits = sorted({batch.name for batch in whole}), 0
        losses, targets = defaultdict(float), defaultdict(int)
        # every token lies in the parts of `cp` ranks, one chunk on each: count it once
        for part in parts if grid.cp_rank == 0 else ():
            targets[part.name] += int((part.targets != IGNORE).sum())
        scored = grid.sum(torch.tensor([targets[name] for name in names], dtype=torch.float64))
        check_targets(self.step, float(scored.sum()))   # the same sum on all ranks: all refuse, or none
        tokens = 0
        model.train()
        for part in parts:
            out, mine = forward(model, part, grid)
            total = F.cross_entropy(out.logits.flatten(0, 1), mine.targets.flatten(), ignore_index=IGNORE,
                                    reduction="sum")
            (total / scored.sum()).backward()
            losses[part.name] += total.item()
            visits = visits + balance.counts(out.routes, model.config.num_experts, mine.valid)
            tokens += mine.inputs.numel() if mine.valid is None else int(mine.valid.sum())

        norm = clip(model, recipe.clip, grid)
        sums = grid.sum(torch.tensor([*(losses[name] for name in names), tokens, stop], dtype=torch.float64)).cpu()
        loss = float(sums[:-2].sum() / scored.sum())
        lr = self.move_weights(loss, norm)

        # trap: the load of the global batch. A rank's own rows are a small sample, and biases must not differ by rank
        load = global_load(grid.sum(visits)[None]).cpu()
        balance.set_biases(model, self.balancer.update(load))

        self.step, self.tokens, self.stop = self.step + 1, self.tokens + int(sums[-2]), bool(sums[-1])
        return {"step": self.step, "tokens": self.tokens, "loss": loss,
                **{f"loss_{name}": float(sums[i] / scored[i]) for i, name in enumerate(names) if scored[i]},
                "lr": lr, "grad_norm": norm, "load_entropy": float(balance.entropy(load).mean()),
                "max_violation": float(balance.max_violation(load).max()),
                "tok_per_s": float(sums[-2]) / (time.perf_counter() - began)}

    def train(self, save_every: int = 0, until: int | None = None, bar: bool = True,
              watch: Callable[[dict], None] | None = None) -> bool:
        """Trains to step `until` (None: the recipe's last; 0: none), saving every `save_every` steps and at the end.

        Ctrl-C on any rank stops all of them after the same step. Returns True when the recipe is done. Raises
        ValueError when `until` or `save_every` is negative.
        """
        last = last_step(self.recipe, until, save_every=save_every)
        line = tqdm(total=last, initial=self.step, desc="train", unit="step", disable=not bar or self.grid.rank > 0)
        with self.lock, interrupts() as asked, line:
            check_untouched(self.run_folder, self.saved_step)
            while self.step < last and not self.stop:
                record = self.train_step(bool(asked))
                self.log(record)
                if save_every and self.step % save_every == 0:
                    self.save()
                if watch:
                    watch(record)
                line.update()
                line.set_postfix(loss=f"{record['loss']:.3f}", tok_s=f"{record['tok_per_s']:.0f}", refresh=False)
            self.save()
        return self.step >= self.recipe.steps

    # ---- the run folder ----------------------------------------------------------------------------------------------

    def open_run(self, resume: bool) -> None:
        folder, length = self.run_folder, 0
        newest = latest(folder)
        if not resume and (newest or (folder / "log.jsonl").exists()):
            raise ValueError(f"{folder} holds a run already; resume it or choose another folder")
        self.lock.take()
        dist.barrier()                                # nobody looks after somebody has written
        newest = latest(folder)                       # as it is now that no other job writes
        if newest:
            info = read_info(newest)
            must_match(newest, info, {"recipe": asdict(self.recipe), **self.keep})
            sharded_state.load(newest, self.model, self.optimizer, self.balancer, self.grid)
            self.step = self.saved_step = info["step"]
            self.tokens, length = info["tokens"], info["log_bytes"]
        if self.grid.rank == 0:
            self.log_file, self.records = read_log(folder, length)

    def save(self) -> None:
        """Writes a checkpoint of the present step, all ranks together, unless it is there or the run has no folder."""
        if self.run_folder is None or self.step == self.saved_step:
            return
        info = {"recipe": asdict(self.recipe), "tokens": self.tokens, **self.keep,
                "log_bytes": self.log_file.stat().st_size if self.log_file else 0, "layout": str(self.grid.layout)}
        sharded_state.save(self.run_folder, self.step, self.model, self.optimizer, self.balancer, info, self.grid)
        self.saved_step = self.step
