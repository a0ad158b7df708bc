"""A checkpoint folder, mapped into memory: opening it reads headers only, and a weight is read when it is touched.

The operating system does the paging. What has been read stays in memory as long as there is room, and is dropped, not
written, when there is none: the file still has it. So a process may map more than the machine's memory.
"""

import json
import mmap
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..arch.model import Zaya
from ..train.checkpoint import model_state
from . import shards

DTYPES = {text: dtype for dtype, text in shards.TYPES.items()}


@dataclass(frozen=True)
class Page:
    """A matrix in a mapped file. view: the matrix. whole, first: the map, and where in it the matrix begins."""

    view: Tensor
    whole: mmap.mmap
    first: int

    def soon(self) -> None:
        """Asks the system to read all of it, in the background: page faults would fetch a few kilobytes at a time."""
        start = self.first - self.first % mmap.PAGESIZE
        self.whole.madvise(mmap.MADV_WILLNEED, start, self.first + self.view.nbytes - start)


    def leave(self) -> None:
        """Gives its pages back: they stay in the system's cache as long as there is room, but are not this process' any more."""
        start = -(-self.first // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (self.first + self.view.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
        if end > start:
            self.whole.madvise(mmap.MADV_DONTNEED, start, end - start)


class Mapped:
    """The tensors of a folder in any of the three layouts, under our names, as views of the files.

    Attributes: config; layout; shapes, by name; bytes, of all tensors together.
    Raises FileNotFoundError, or ValueError naming what is wrong: a damaged file, a tensor missing, unknown, or of another
    shape or type. Sums are not checked: that would read everything (`verify` does).
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.config = shards.read_config(self.folder)
        where, self.sums = shards.read_index(self.folder)
        self.views: dict[str, Tensor] = {}
        self.spans: dict[str, tuple[mmap.mmap, int, int]] = {}  # name -> map, first byte, end
        found = {name: file for file in sorted(set(where.values())) for name in self.open(file)}
        with torch.device("meta"):
            state = model_state(Zaya(self.config))
        self.shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
        self.layout = shards.check_names(self.folder, self.config, where, found, self.shapes)
        self.parts = {name: shards.pieces(name, shape, self.config, self.layout) for name, shape in self.shapes.items()}
        for name, pieces in self.parts.items():
            for piece in pieces:
                wanted, got = tuple(piece.of(state[name]).shape), tuple(self.views[piece.name].shape)
                if got != wanted:
                    raise ValueError(f"{self.folder}: {piece.name!r} is of shape {got}, the model wants {wanted}")
        self.bytes = sum(end - start for _, start, end in self.spans.values())

    def open(self, file: str) -> list[str]:
        """Maps one shard; returns the names in it."""
        path = self.folder / file
        shards.open_shard(path)  # the library's own checks: header, offsets, length
        with open(path, "rb") as opened:
            whole = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        first = 8 + int.from_bytes(whole[:8], "little")
        header = json.loads(whole[8:first])
        header.pop("__metadata__", None)
        for name, entry in header.items():
            if entry["dtype"] not in DTYPES:
                raise ValueError(f"{path}: {name!r} is of type {entry['dtype']}, the model wants one of {sorted(DTYPES)}")
            start, end = (first + offset for offset in entry["data_offsets"])
            with warnings.catch_warnings():  # torch warns that the memory is read-only; nothing here writes
                warnings.simplefilter("ignore", UserWarning)
                flat = torch.frombuffer(whole, dtype=DTYPES[entry["dtype"]], offset=start,
                                        count=(end - start) // DTYPES[entry["dtype"]].itemsize)
            self.views[name], self.spans[name] = flat.view(entry["shape"]), (whole, start, end)
        return list(header)

    def rows(self, name: str) -> list[tuple[int, int, Tensor]]:
        """(first row, end, view) of each piece of one of our tensors."""
        return [(piece.start, piece.stop, self.views[piece.name]) for piece in self.parts[name]]

    def tensor(self, name: str, dtype: torch.dtype) -> Tensor:
        """A copy of one of our tensors, put together and converted."""
        out = torch.empty(self.shapes[name], dtype=dtype)
        for piece in self.parts[name]:
            piece.of(out).copy_(self.views[piece.name])
        return out

    def expert(self, name: str, expert: int) -> "Page":
        """One expert's matrix in a stack."""
        piece = self.parts[name][expert if len(self.parts[name]) > 1 else 0]
        whole, first, _ = self.spans[piece.name]
        view = self.views[piece.name]
        if not piece.expert:
            view = view[expert]
            first += expert * view.nbytes
        return Page(view, whole, first)

    def dtype(self, name: str) -> torch.dtype:
        return self.views[self.parts[name][0].name].dtype

    def verify(self) -> list[str]:
        """Checks each shard's SHA-256 where the index has them, and returns the files that had one. Reads everything.

        Raises ValueError naming the damaged file.
        """
        for file, wanted in self.sums.items():
            shards.check_sum(self.folder / file, wanted)
        return sorted(self.sums)
