"""Checkpoints that every rank writes its part of, and that any other layout can read.

    checkpoint-00000500/
        part-00000-of-00004.safetensors   rank 0's rows of weights ("model/NAME") and moments ("optimizer/NAME/exp_avg")
        ...
        run.json                          the step, the config, and for each tensor its shape and who holds which rows

All cuts of all layouts are along axis 0, so a piece is a range of rows, and to reshape is to read other ranges: a rank
opens the files that overlap its own rows, memory-mapped, and reads these rows only. Routing biases, step counts and the
balancer's memory are small and the same everywhere: rank 0 writes them.

Written into a folder with another name, which is renamed when all ranks are done: a kill at any moment leaves the last
good checkpoint. No pickle (torch.distributed.checkpoint's own index is one).
"""

import errno
import json
import os
import shutil
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from ..arch.model import Zaya
from ..config import ZayaConfig
from ..train import checkpoint as one_process
from ..train.checkpoint import KEPT, latest, safetensors, tokenizer_of, write
from ..train.checkpoint import SHARDED as FORMAT
from .grid import Grid
from .layout import rows_of


def sharded(model, optimizer) -> dict[str, Tensor]:
    """Everything that is cut, by name: weights, and moments once there are any. DTensors."""
    state = {f"model/{name}": p for name, p in model.named_parameters()}
    return state | {name: value for name, value in moments(model, optimizer).items() if value.dim()}


def moments(model, optimizer) -> dict[str, Tensor]:
    """The optimizer's memory by name: "optimizer/norm.weight/exp_avg". Empty before the first step."""
    return {f"optimizer/{name}/{key}": value for name, p in model.named_parameters()
            for key, value in optimizer.state.get(p, {}).items()}


def replicated(model, optimizer, balancer) -> dict[str, Tensor]:
    """Everything that is the same on all ranks, by name."""
    state = {f"model/{name}": buffer for name, buffer in model.named_buffers()}
    state |= {name: value for name, value in moments(model, optimizer).items() if not value.dim()}
    return state | {f"balancer/{name}": value for name, value in balancer.state_dict().items()}


def save(run: str | Path, step: int, model, optimizer, balancer, info: dict, grid: Grid) -> Path:
    """Called by all ranks. Writes the state after `step` steps, removes older checkpoints, returns the new folder.

    Raises ValueError when this step is there already, OSError on every rank when any of them cannot write.
    """
    run, layout = Path(run), grid.layout
    final, aside = run / f"checkpoint-{step:08d}", run / f"writing-{step:08d}"
    if final.exists():
        raise ValueError(f"{final} is already there; resume it or choose another folder")

    def prepare() -> None:
        for left in run.glob("writing-*"):  # what a killed run may have left
            shutil.rmtree(left, ignore_errors=True)
        aside.mkdir(parents=True)

    together(grid, lambda: grid.rank == 0 and prepare(), run)
    cut, whole = sharded(model, optimizer), replicated(model, optimizer, balancer)
    mine = {name: value.to_local() for name, value in cut.items()}
    held = {name: value for name, value in mine.items() if len(value)} | (whole if grid.rank == 0 else {})

    def write_part() -> None:
        content = {name: value.detach().contiguous().cpu() for name, value in held.items()}
        write(aside / part_name(grid.rank, layout.ranks), safetensors().save(content))

    together(grid, write_part, run)

    def finish() -> None:
        tensors = {}
        for name, value in cut.items():
            count = len(value) * (layout.ep if ".experts." in name else 1)
            pieces = [[rank, *rows_of(name, count, layout, rank)] for rank in range(layout.ranks)]
            tensors[name] = {"shape": [count, *value.shape[1:]], "dtype": str(value.dtype),
                             "pieces": [piece for piece in pieces if piece[1] < piece[2]]}
        tensors |= {name: {"shape": list(value.shape), "dtype": str(value.dtype), "pieces": [[0, 0, value.numel()]]}
                    for name, value in whole.items()}
        document = {"format": FORMAT, "step": step, "config": model.config.to_dict(), "parts": layout.ranks, **info,
                    "tensors": tensors}
        write(aside / "run.json", json.dumps(document).encode())
        os.replace(aside, final)
        for old in run.glob("checkpoint-*"):
            if KEPT.fullmatch(old.name) and old != final:
                shutil.rmtree(old, ignore_errors=True)

    together(grid, lambda: grid.rank == 0 and finish(), run)
    return final


def together(grid: Grid, work, run: Path) -> None:
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


def part_name(rank: int, ranks: int) -> str:
    return f"part-{rank:05d}-of-{ranks:05d}.safetensors"


# ---- reading ---------------------------------------------------------------------------------------------------------


def read_info(checkpoint: str | Path) -> dict:
    """`run.json` of one checkpoint folder. Raises FileNotFoundError, or ValueError when it is not ours or damaged."""
    return one_process.read_info(checkpoint, FORMAT)


class Parts:
    """The files of one checkpoint, opened when first needed."""

    def __init__(self, checkpoint: str | Path):
        self.folder, self.info, self.files = Path(checkpoint), read_info(checkpoint), {}

    def expect(self, names: dict[str, tuple[torch.Size | tuple, torch.dtype]]) -> None:
        """Raises ValueError unless the checkpoint holds exactly these tensors, with these whole shapes and types."""
        tensors = self.info["tensors"]
        if tensors.keys() != names.keys():
            odd = sorted(tensors.keys() ^ names.keys())
            raise ValueError(f"{self.folder} does not fit the model: {len(odd)} names differ, the first is {odd[0]!r}")
        for name, (shape, dtype) in names.items():
            given = tensors[name]
            if given["shape"] != list(shape) or given["dtype"] != str(dtype):
                raise ValueError(f"{self.folder} does not fit the model: {name!r} is {given['dtype']} "
                                 f"{given['shape']}, the model wants {dtype} {list(shape)}")

    def whole(self, name: str) -> Tensor:
        """A replicated tensor, or a cut one put together again."""
        entry = self.info["tensors"][name]
        if len(entry["pieces"]) == 1:
            return self.open(entry["pieces"][0][0]).get_tensor(name)
        return self.rows(name, 0, entry["shape"][0])

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Rows start..stop - 1 of a tensor. Raises ValueError when the pieces do not hold each of them once."""
        found, at = [], start
        for part, first, last in sorted(self.info["tensors"][name]["pieces"], key=lambda piece: piece[1]):
            if first <= at < min(last, stop):
                until = min(last, stop)
                found.append(self.open(part).get_slice(name)[at - first: until - first])
                at = until
        if at < stop:
            raise ValueError(f"{self.folder} is damaged: row {at} of {name!r} is in no part")
        return torch.cat(found)

    def open(self, part: int):
        opener = safetensors().safe_open
        if part not in self.files:
            path = self.folder / part_name(part, self.info["parts"])
            if not path.is_file():
                raise FileNotFoundError(f"the checkpoint is not whole: {path} is missing")
            try:
                self.files[part] = opener(path, "pt")
            except Exception as error:  # safetensors raises its own type, and others for a bad header
                raise ValueError(f"{path} is damaged: {error}") from error
        return self.files[part]


@torch.no_grad()
def load(checkpoint: str | Path, model, optimizer, balancer, grid: Grid) -> dict:
    """Called by all ranks of any layout: puts model, optimizer and balancer back to where `save` saw them.

    Returns `run.json`. Raises FileNotFoundError or ValueError; the model may then be half loaded.
    """
    parts, layout = Parts(checkpoint), grid.layout
    if parts.info.get("config") != model.config.to_dict():
        raise ValueError(f"{checkpoint} was made with another model config")
    if any(name.startswith("optimizer/") for name in parts.info["tensors"]):
        for p in model.parameters():
            zero = torch.zeros_like
            optimizer.state[p] = {"step": torch.zeros(()), "exp_avg": zero(p), "exp_avg_sq": zero(p)}
    cut, whole = sharded(model, optimizer), replicated(model, optimizer, balancer)
    counts = {name: len(value) * (layout.ep if ".experts." in name else 1) for name, value in cut.items()}
    parts.expect({name: ((counts[name], *value.shape[1:]), value.dtype) for name, value in cut.items()}
                 | {name: (value.shape, value.dtype) for name, value in whole.items()})
    for name, value in cut.items():
        start, stop = rows_of(name, counts[name], layout, grid.rank)
        if start < stop:
            value.to_local().copy_(parts.rows(name, start, stop))
    for name, value in whole.items():
        if not name.startswith("balancer/"):
            value.copy_(parts.whole(name))
    balancer.load_state_dict({name: parts.whole(f"balancer/{name}") for name in balancer.state_dict()})
    return parts.info


def load_model(folder: str | Path):
    """(model, tokenizer) of a run's newest checkpoint, or of one checkpoint's folder, whichever command made it.

    Raises FileNotFoundError or ValueError as `train.checkpoint.load_model`.
    """
    newest = latest(folder) or Path(folder)
    try:
        info = read_info(newest)
    except (FileNotFoundError, ValueError):
        return one_process.load_model(folder)   # also for a better error
    tokenizer = tokenizer_of(newest, info)
    return read_model(newest), tokenizer


@torch.no_grad()
def read_model(folder: str | Path) -> Zaya:
    """The whole model of a run's newest checkpoint, or of one checkpoint's folder, in this one process."""
    parts = Parts(latest(folder) or folder)
    model = Zaya(ZayaConfig(**parts.info["config"]))
    model.to(getattr(torch, parts.info["tensors"]["model/embed.weight"]["dtype"].removeprefix("torch.")))
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        value.copy_(parts.whole(f"model/{name}"))
    return model
