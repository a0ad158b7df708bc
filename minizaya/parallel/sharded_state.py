"""Model, optimizer and balancer of a job, into a checkpoint in parts and back: every rank its own rows, in any layout.

Routing biases, step counts and the balancer's memory are small and the same everywhere: rank 0 writes them.

Written into a folder with another name, which is renamed when all ranks are done: a kill at any moment leaves the last
good checkpoint.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from ..arch.balance import SignBalancer
from ..arch.model import Zaya
from ..train.checkpoint import KEPT, latest, safetensors, write
from .grid import Grid
from .layout import Layout, rows_of
from .sharded_checkpoint import FORMAT, Parts, part_name


def sharded(model: Zaya, optimizer: Optimizer) -> dict[str, Tensor]:
    """Everything that is cut, by name: weights, and moments once there are any. DTensors."""
    state = {f"model/{name}": p for name, p in model.named_parameters()}
    return state | {name: value for name, value in moments(model, optimizer).items() if value.dim()}


def replicated(model: Zaya, optimizer: Optimizer, balancer: SignBalancer) -> dict[str, Tensor]:
    """Everything that is the same on all ranks, by name."""
    state = {f"model/{name}": buffer for name, buffer in model.named_buffers()}
    state |= {name: value for name, value in moments(model, optimizer).items() if not value.dim()}
    return state | {f"balancer/{name}": value for name, value in balancer.state_dict().items()}


def moments(model: Zaya, optimizer: Optimizer) -> dict[str, Tensor]:
    """The optimizer's memory by name: "optimizer/norm.weight/exp_avg". Empty before the first step."""
    return {f"optimizer/{name}/{key}": value for name, p in model.named_parameters()
            for key, value in optimizer.state.get(p, {}).items()}


def described(cut: dict[str, Tensor], whole: dict[str, Tensor], layout: Layout) -> dict[str, dict]:
    """What `run.json` says of each tensor: its whole "shape", "dtype", "pieces" of [part, first row, last row + 1]."""
    found = {}
    for name, value in cut.items():
        count = len(value) * (layout.ep if ".experts." in name else 1)
        pieces = [[rank, *rows_of(name, count, layout, rank)] for rank in range(layout.ranks)]
        found[name] = {"shape": [count, *value.shape[1:]], "dtype": str(value.dtype),
                       "pieces": [piece for piece in pieces if piece[1] < piece[2]]}
    return found | {name: {"shape": list(value.shape), "dtype": str(value.dtype), "pieces": [[0, 0, value.numel()]]}
                    for name, value in whole.items()}


def save(run: str | Path, step: int, model: Zaya, optimizer: Optimizer, balancer: SignBalancer, info: dict,
         grid: Grid) -> Path:
    """Called by all ranks. Writes the state after `step` steps, removes older checkpoints, returns the new folder.

    Raises ValueError when this step is there already, OSError on every rank when any of them cannot write.
    """
    run, ranks = Path(run), grid.layout.ranks
    final, aside = run / f"checkpoint-{step:08d}", run / f"writing-{step:08d}"
    if final.exists():
        raise ValueError(f"{final} is already there; resume it or choose another folder")
    cut, whole = sharded(model, optimizer), replicated(model, optimizer, balancer)

    def prepare() -> None:
        for left in run.glob("writing-*"):  # what a killed run may have left
            shutil.rmtree(left, ignore_errors=True)
        aside.mkdir(parents=True)

    def write_part() -> None:
        mine = {name: value.to_local() for name, value in cut.items()}
        held = {name: value for name, value in mine.items() if len(value)} | (whole if grid.rank == 0 else {})
        content = {name: value.detach().contiguous().cpu() for name, value in held.items()}
        write(aside / part_name(grid.rank, ranks), safetensors().save(content))

    def finish() -> None:
        document = {"format": FORMAT, "step": step, "config": model.config.to_dict(), "parts": ranks, **info,
                    "tensors": described(cut, whole, grid.layout)}
        write(aside / "run.json", json.dumps(document).encode())
        os.replace(aside, final)
        for old in run.glob("checkpoint-*"):
            if KEPT.fullmatch(old.name) and old != final:
                shutil.rmtree(old, ignore_errors=True)

    together(grid, lambda: grid.rank == 0 and prepare(), run)
    together(grid, write_part, run)
    together(grid, lambda: grid.rank == 0 and finish(), run)
    return final


def together(grid: Grid, work: Callable[[], object], run: Path) -> None:
    """Runs `work()` on every rank and waits for all. An OSError of one is one of all: they would wait for ever."""
    error = None
    try:
        work()
    except OSError as caught:
        error = caught
    number = torch.tensor([0 if error is None else error.errno or errno.EIO]).to(grid.device)
    dist.all_reduce(number, dist.ReduceOp.MAX)   # so all know why
    if int(number):
        kept = latest(run)
        raise OSError(int(number), f"cannot write a checkpoint into {run} ({os.strerror(int(number))}); "
                      + (f"the last good one is {kept}" if kept else "there is no earlier one")) from error


@torch.no_grad()
def load(checkpoint: str | Path, model: Zaya, optimizer: Optimizer, balancer: SignBalancer, grid: Grid) -> dict:
    """Called by all ranks of any layout: puts model, optimizer and balancer back to where `save` saw them.

    Returns `run.json`. Raises FileNotFoundError or ValueError; the model may then be half loaded.
    """
    parts = Parts(checkpoint)
    given = parts.info["tensors"]
    if parts.info.get("config") != model.config.to_dict():
        raise ValueError(f"{checkpoint} was made with another model config")
    for name, p in model.named_parameters():
        if f"optimizer/{name}/step" in given:   # else it has had no gradient yet, and has no memory again
            step = torch.zeros((), dtype=torch.float32, device=p.device)
            optimizer.state[p] = {"step": step, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
    cut, whole = sharded(model, optimizer), replicated(model, optimizer, balancer)
    wanted = described(cut, whole, grid.layout)
    if given.keys() != wanted.keys():
        odd = sorted(given.keys() ^ wanted.keys())
        raise ValueError(f"{checkpoint} does not fit the model: {len(odd)} names differ, the first is {odd[0]!r}")
    for name, want in wanted.items():
        has = given[name]
        if has["shape"] != want["shape"] or has["dtype"] != want["dtype"]:
            raise ValueError(f"{checkpoint} does not fit the model: {name!r} is {has['dtype']} {has['shape']}, "
                             f"the model wants {want['dtype']} {want['shape']}")
    for name, value in cut.items():
        for part, start, stop in wanted[name]["pieces"]:
            if part == grid.rank:
                value.to_local().copy_(parts.rows(name, start, stop))
    for name, value in whole.items():
        if not name.startswith("balancer/"):
            value.copy_(parts.whole(name))
    balancer.load_state_dict({name: parts.whole(f"balancer/{name}") for name in balancer.state_dict()})
    return parts.info
