"""A checkpoint folder, mapped into memory: opening it reads headers only, and a weight is read when it is touched.

The operating system does the paging. What has been read stays in memory as long as there is room, and is dropped, not
written, when there is none: the file still has it. So a process may map more than the machine's memory. Ours and not
`safetensors.safe_open`: it does not say where a tensor lies, so no expert could be read ahead or given back.
"""

import mmap
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .contents import Entry, check_sums, read_contents


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
        """Gives its pages back: the system keeps them while there is room, but they are not this process' any more."""
        start = -(-self.first // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (self.first + self.view.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
        if end > start:
            self.whole.madvise(mmap.MADV_DONTNEED, start, end - start)


class Mapped:
    """The tensors of a folder in any of the three layouts, under our names, as views of the files.

    Attributes: config; layout; shapes, by name; bytes, of all tensors together.
    Raises FileNotFoundError, or ValueError naming what is wrong: a damaged file, a tensor missing, unknown, or of
    another shape or type. Sums are not checked: that would read everything (`verify` does).
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        found = read_contents(self.folder)
        self.config, self.layout, self.sums = found.config, found.layout, found.sums
        self.shapes, self.parts, self.entries = found.shapes, found.parts, found.entries
        self.maps = {file: map_file(file) for file in {entry.file for entry in self.entries.values()}}
        self.views = {name: view_of(self.maps[entry.file], entry) for name, entry in self.entries.items()}
        self.bytes = sum(entry.end - entry.start for entry in self.entries.values())

    def rows(self, name: str) -> list[tuple[int, int, Tensor]]:
        """(first row, end, view) of each piece of one of our tensors."""
        return [(piece.start, piece.stop, self.views[piece.name]) for piece in self.parts[name]]

    def tensor(self, name: str, dtype: torch.dtype) -> Tensor:
        """A copy of one of our tensors, put together and converted."""
        out = torch.empty(self.shapes[name], dtype=dtype, device="cpu")
        for piece in self.parts[name]:
            piece.of(out).copy_(self.views[piece.name])
        return out

    def expert(self, name: str, expert: int) -> Page:
        """One expert's matrix in a stack."""
        piece = self.parts[name][expert if len(self.parts[name]) > 1 else 0]
        entry, view = self.entries[piece.name], self.views[piece.name]
        if piece.expert:
            return Page(view, self.maps[entry.file], entry.start)
        return Page(view[expert], self.maps[entry.file], entry.start + expert * view[expert].nbytes)

    def dtype(self, name: str) -> torch.dtype:
        return self.views[self.parts[name][0].name].dtype

    def verify(self) -> list[str]:
        """Checks each shard's SHA-256 where the index has them, and returns the files that had one. Reads everything.

        Raises ValueError naming the damaged file.
        """
        check_sums(self.folder, self.sums)
        return sorted(self.sums)


def map_file(file: Path) -> mmap.mmap:
    with open(file, "rb") as opened:
        return mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)


def view_of(whole: mmap.mmap, entry: Entry) -> Tensor:
    """A tensor over the bytes of a mapped file: nothing is read."""
    if entry.start == entry.end:  # trap: torch has no view of no bytes
        return torch.empty(entry.shape, dtype=entry.dtype, device="cpu")
    with warnings.catch_warnings():  # torch warns that the memory is read-only; nothing here writes
        warnings.simplefilter("ignore", UserWarning)
        count = (entry.end - entry.start) // entry.dtype.itemsize
        return torch.frombuffer(whole, dtype=entry.dtype, offset=entry.start, count=count).view(entry.shape)
