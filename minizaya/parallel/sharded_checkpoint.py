"""Checkpoints in parts, one a rank, that any layout can read; here by one process, without a process group.

    checkpoint-00000500/
        part-00000-of-00004.safetensors   rank 0's rows of weights ("model/NAME") and moments ("optimizer/NAME/exp_avg")
        ...
        run.json                          the step, the config, and for each tensor its shape and who holds which rows

All cuts of all layouts are along axis 0, so a piece is a range of rows, and to reshape is to read other ranges: a
reader opens the files that overlap the rows it wants, memory-mapped, and reads these rows only. `sharded_state` writes
them. No pickle.

Ours and not torch.distributed.checkpoint's safetensors storage, which was tried (torch 2.13): under ep2 it kept two of
four experts, taking other rows of one name for copies, and with a part gone it gave 12 rows of 23, and no error.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..arch.model import Zaya
from ..config import ZayaConfig
from ..data.tokenizer import Tokenizer
from ..train import checkpoint as one_process
from ..train.checkpoint import SHARDED as FORMAT
from ..train.checkpoint import latest, safetensors, tokenizer_of


def part_name(rank: int, ranks: int) -> str:
    return f"part-{rank:05d}-of-{ranks:05d}.safetensors"


def read_info(checkpoint: str | Path) -> dict:
    """`run.json` of one checkpoint folder. Raises FileNotFoundError, or ValueError when it is not ours or damaged."""
    return one_process.read_info(checkpoint, FORMAT)


class Parts:
    """The files of one checkpoint, opened when first needed."""

    def __init__(self, checkpoint: str | Path):
        self.folder, self.info, self.files = Path(checkpoint), read_info(checkpoint), {}

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

    def open(self, part: int) -> Any:
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


def load_model(folder: str | Path) -> tuple[Zaya, Tokenizer]:
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
    with torch.device("cpu"):
        model = Zaya(ZayaConfig(**parts.info["config"])).float()
    model.to(getattr(torch, parts.info["tensors"]["model/embed.weight"]["dtype"].removeprefix("torch.")))
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        value.copy_(parts.whole(f"model/{name}"))
    return model
