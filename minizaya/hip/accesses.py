"""The accesses of a launch, and what they cost.

Four measures of a launch on global memory, all in bytes:

    asked    what its lanes asked for
    moved    what travels: whole 64-byte pieces, for each wave instruction those that its lanes touch. No cache is
             assumed between instructions, so reading a thing twice costs twice
    cached   what is left of `moved` behind a small cache, and so comes from memory or goes there. The cache is as large
             as a compute unit's share of MI300X's L2, 4 MiB for 38 of them; it forgets what was not used for longest,
             is empty when a launch begins, and keeps what is written until it must go. Blocks run one after another,
             the waves of a block in step
    least    what any kernel would have to move: every byte that was touched, once

rocprof and compute-sanitizer count as much, on a GPU; this runs on a laptop.

LDS has 32 banks of 4 bytes. A wave instruction runs over the lanes in groups (32 lanes for 4 bytes a lane, 16 for 8, 8
for 16); a group takes as many cycles as the fullest bank has different words to serve.
"""

from collections import Counter, OrderedDict
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

CACHE = 2**22 // 38
PIECE, BANKS, LDS_WORDS = 64, 32, 2**20     # LDS_WORDS: more than all kernels of a source declare, a multiple of BANKS
STATIC, DYNAMIC = 65535, 65534
READ, WRITE, ATOMIC = range(3)


@dataclass
class Trace:
    """All accesses of the launches inside one `traced()`.

    events: int64 (n, 10): launch, block, thread, epoch (barriers passed), tensor (or STATIC, DYNAMIC), offset, bytes,
    kind, instruction, turn (how often this thread has run the instruction before). shapes: (launch, tensor) -> (dtype,
    shape). lines: instruction -> "file:line" where the debugger's tool `addr2line` is there.
    """

    wave: int = 64
    events: Tensor = field(default_factory=lambda: torch.empty(0, 10, dtype=torch.int64))
    shapes: dict = field(default_factory=dict)
    kernels: list = field(default_factory=list)
    lines: dict = field(default_factory=dict)

    COLUMNS = ("launch", "block", "thread", "epoch", "tensor", "offset", "bytes", "kind", "instruction", "turn")

    def column(self, name: str) -> Tensor:
        return self.events[:, self.COLUMNS.index(name)]

    def part(self, keep: Tensor) -> "Trace":
        """The accesses where bool `keep` (n,) is True."""
        return replace(self, events=self.events[keep])

    def where(self, **wanted: int) -> "Trace":
        """The part whose columns have these values, e.g. `where(launch=0, tensor=1)`."""
        keep = torch.ones(len(self.events), dtype=torch.bool)
        for name, value in wanted.items():
            keep &= self.column(name) == value
        return self.part(keep)

    @property
    def globals(self) -> "Trace":
        return self.part(self.column("tensor") < DYNAMIC)

    @property
    def lds(self) -> "Trace":
        return self.part(self.column("tensor") >= DYNAMIC)

    def instructions(self) -> Tensor:
        """int64 (n,): a number for each access, the same for all lanes of one wave instruction."""
        wave = self.column("thread") // self.wave
        place = self.column("launch"), self.column("block"), wave, self.column("instruction"), self.column("turn")
        return torch.unique(together(*place), return_inverse=True)[1]

    @property
    def asked(self) -> int:
        return int(self.globals.column("bytes").sum())

    @property
    def moved(self) -> int:
        found = self.globals
        if not len(found.events):
            return 0
        first, last = found.column("offset") // PIECE, (found.column("offset") + found.column("bytes") - 1) // PIECE
        crossing = last > first
        piece = torch.cat([first, last[crossing]])
        owner = together(found.instructions(), found.column("tensor"))
        return PIECE * len(torch.unique(together(torch.cat([owner, owner[crossing]]), piece)))

    @property
    def cached(self) -> int:
        return sum(self.behind_cache().values())

    def behind_cache(self, size: int = CACHE) -> Counter[tuple[int, int]]:
        """(launch, tensor) -> the bytes that pass a cache of `size` bytes, from memory and to it."""
        found, passed, held = self.globals, Counter(), OrderedDict()           # held: piece -> its tensor, if written
        launch_, block, thread, tensor, offset = (found.column(name) for name in self.COLUMNS[:3] + self.COLUMNS[4:6])
        turn = repeats(torch.stack([launch_, block, thread], 1))              # a thread's first access, second, ...
        order = together(launch_, block, turn, thread // self.wave)
        touch = torch.stack([order, launch_, tensor, offset // PIECE, (found.column("kind") != READ).long()])
        last = (offset + found.column("bytes") - 1) // PIECE
        crossing = last > touch[3]
        touch = torch.cat([touch, torch.stack([*touch[:3], last, touch[4]])[:, crossing]], 1)
        key, by = together(*touch).sort()
        new = torch.ones_like(key, dtype=torch.bool)                          # lanes that ask for the same ask once
        new[1:] = key[1:] != key[:-1]
        touch = touch[:, by[new]]
        before = None
        for place, written, *home in zip(together(*touch[1:4]).tolist(), *(touch[i].tolist() for i in (4, 1, 2))):
            if home[0] != before:
                leave(held, 0, passed)
                before = home[0]
            dirty = held.pop(place, None)
            if dirty is None and not written:
                passed[*home] += PIECE
            held[place] = tuple(home) if written else dirty or ()
            leave(held, size // PIECE, passed)
        leave(held, 0, passed)
        return passed

    @property
    def least(self) -> int:
        """Every touched byte once for each launch, once if read and once if written."""
        found, total = self.globals, 0
        for launch_, tensor in self.shapes:
            part = found.where(launch=launch_, tensor=tensor)
            for kinds in ((READ, ATOMIC), (WRITE, ATOMIC)):
                chosen = torch.isin(part.column("kind"), torch.tensor(kinds))
                total += touched(part.column("offset")[chosen], part.column("bytes")[chosen])
        return total

    def conflicts(self) -> float:
        """Cycles that LDS takes, over the cycles without bank conflicts. 1.0: no conflicts, or no LDS."""
        found = self.lds
        if not len(found.events):
            return 1.0
        size, offset, lane = found.column("bytes"), found.column("offset"), found.column("thread") % found.wave
        lanes = torch.where(size <= 4, 32, torch.where(size == 8, 16, 8))        # how many lanes are served at a time
        group = together(found.instructions(), found.column("tensor"), lane // lanes)
        number = torch.unique(group, return_inverse=True)[1]
        words = []
        for k in range(4):                                                       # the 4-byte words of each access
            has = size > 4 * k
            words.append(number[has] * LDS_WORDS + offset[has] // 4 + k)
        words = torch.unique(torch.cat(words))                         # one word for several lanes is one read
        served, counts = torch.unique(words // LDS_WORDS * BANKS + words % BANKS, return_counts=True)
        worst = torch.zeros(int(number.max()) + 1, dtype=torch.int64).scatter_reduce(0, served // BANKS, counts, "amax")
        return float(worst.sum()) / len(worst)

    def table(self) -> list[dict]:
        """For each launch and tensor: dtype, shape, and the four measures."""
        rows, cached = [], self.behind_cache()
        for (number, tensor), (dtype, shape) in self.shapes.items():
            part = self.where(launch=number, tensor=tensor)
            if len(part.events):
                rows.append(dict(kernel=self.kernels[number], tensor=tensor, dtype=str(dtype).removeprefix("torch."),
                                 shape=list(shape), asked=part.asked, moved=part.moved,
                                 cached=cached[number, tensor], least=part.least))
        return rows


def together(*columns: Tensor) -> Tensor:
    """One int64 for each row of the columns, different for different rows, in their order. None may be negative."""
    key, size = columns[0], int(columns[0].max()) + 1 if len(columns[0]) else 1
    for column in columns[1:]:
        wide = int(column.max()) + 1 if len(column) else 1
        if size * wide >= 2**63:                   # numbered anew, which takes a while, so that the product stays below
            numbers, key = torch.unique(key, return_inverse=True)
            size = len(numbers)
        key, size = key * wide + column, size * wide
    return key


def pieces(addresses: Tensor, size: int) -> int:
    """How many 64-byte pieces one wave instruction moves. addresses: int64 (lanes,), the first byte of each lane; size:
    bytes a lane."""
    ends = torch.stack([addresses // PIECE, (addresses + size - 1) // PIECE])     # at most 16 bytes: two pieces at most
    return int(ends.unique().numel())


def leave(held: OrderedDict, room: int, passed: Counter) -> None:
    """Takes the pieces used longest ago out of a cache until `room` are left; written ones go to memory."""
    while len(held) > room:
        home = held.popitem(last=False)[1]
        if home:
            passed[home] += PIECE


def touched(offset: Tensor, size: Tensor) -> int:
    """How many different bytes the accesses [offset, offset + size) touch."""
    if not len(offset):
        return 0
    marks = torch.zeros(int((offset + size).max()) + 1, dtype=torch.int64)
    marks.index_add_(0, offset, torch.ones_like(offset))
    marks.index_add_(0, offset + size, -torch.ones_like(offset))
    return int((marks.cumsum(0) > 0).sum())


def repeats(keys: Tensor) -> Tensor:
    """For each row: how many equal rows stand before it."""
    ordered, order = together(*keys.unbind(1)).sort(stable=True)
    begins = torch.ones_like(ordered, dtype=torch.bool)
    begins[1:] = ordered[1:] != ordered[:-1]
    index = torch.arange(len(ordered))
    turn = torch.empty_like(ordered)
    turn[order] = index - torch.where(begins, index, 0).cummax(0).values
    return turn
