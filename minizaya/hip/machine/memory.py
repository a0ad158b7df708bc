"""Memory as one wave sees it: the launch's arguments, its tensors, and LDS, with what each access costs.

A tensor lies at (its number) << 36. One on the "meta" device, and memory beyond all of them, holds ones.
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .listing import Code, Instruction
from .operations import LANES, F, I, U, W
from .registers import M64, Registers, register

PIECE, ONES = 64, 0x3F803F80                          # bytes; two bfloat16 of one, or nearly one float
NEAR, FAR, LDS_WAIT, SMALL = 500, 1700, 128, 2**25    # clocks from L2, memory, LDS (assumed); what all L2s hold, bytes
SIZES = {"ubyte": 1, "byte": 1, "sbyte": 1, "ushort": 2, "short": 2, "sshort": 2, "dword": 4, "dwordx2": 8,
         "dwordx3": 12, "dwordx4": 16, "add": 4}
LOCAL = {"b8": 1, "u8": 1, "b16": 2, "u16": 2, "b32": 4, "u32": 4, "b64": 8, "b96": 12, "b128": 16}


class Memory(Registers):
    """A wave's registers and all that it can load from or store to."""

    def __init__(self, code: Code, args: Sequence, block: tuple[int, int, int], near: frozenset[int]):
        super().__init__(code, block)
        self.tensors = [arg for arg in args if isinstance(arg, Tensor)]
        self.near_by = near | {i for i, tensor in enumerate(self.tensors) if tensor.nbytes <= SMALL}
        self.arguments, count = bytearray(), 0
        for arg in args:
            if arg is None or isinstance(arg, Tensor):
                self.arguments += bytes(-len(self.arguments) % 8)
                count += arg is not None
                self.arguments += (0 if arg is None else count << 36).to_bytes(8, "little")
            else:
                self.arguments += np.array(arg, I if isinstance(arg, int) else F).tobytes()
        self.arguments += bytes(256)
        self.local, self.patterns = np.zeros(2**14 + 64, U), {}       # LDS, in words; clocks of what was seen before
        self.clock, self.memory, self.queue = 0, [], []      # when what is on its way is there: memory's, LDS's
        self.unit, self.asked = Counter(), Counter()         # clocks of each unit; bytes asked of each tensor

    def bytes_of(self, number: int) -> np.ndarray | None:
        tensor = self.tensors[number]
        return None if tensor.is_meta else tensor.detach().reshape(-1).view(dtype=torch.uint8).numpy()

    def word(self, address: int) -> int:
        """The 4 bytes at an address."""
        if address < 2**20:
            return int.from_bytes(self.arguments[address - 4096:address - 4092], "little")
        number, offset = (address >> 36) - 1, address & 2**36 - 1
        held = self.bytes_of(number) if 0 <= number < len(self.tensors) else None
        if held is None or offset + 4 > len(held):
            return ONES
        return int.from_bytes(held[offset:offset + 4].tobytes(), "little")

    def travel(self, one: Instruction) -> None:
        """Loads and stores on global memory: which pieces of 64 bytes, and when they are there."""
        op, o = one.op.split("_", 1)[1], one.operands
        loads, size = op.startswith("load"), SIZES[re.sub(r"(_d16)?(_hi)?$", "", op.split("_", 1)[1])]
        where, base = (o[1] if loads else o[0]), o[-1]
        offset = int((re.search(r"offset:(-?\d+)", one.modifiers) or [0, 0])[1])
        if base in ("off", where) or not base.startswith("s"):
            address = self.read(where, "W") + W(offset & M64)
        else:
            address = self.read(where, "w") + W(self.scalar(base, 64) + offset & M64)
        there = address[self.mask]
        if not len(there):
            return
        ends = np.concatenate([there >> W(6), (there + W(size - 1)) >> W(6)])
        number = (int(there[0]) >> 36) - 1
        pieces = len(np.unique(ends))
        self.asked[number] += PIECE * pieces
        self.unit["cache"] += max(pieces, -(-len(there) * size // PIECE))
        soon = not 0 <= number < len(self.tensors) or number in self.near_by
        self.memory.append(max([self.clock + (NEAR if soon else FAR), *self.memory[-1:]]))
        if loads:
            held = self.bytes_of(number) if 0 <= number < len(self.tensors) else None
            for i in range(-(-size // 4)):
                value = np.full(LANES, ONES if size >= 4 else 0x3F80, U)
                if held is not None:
                    for lane in np.flatnonzero(self.mask):
                        start = int(address[lane] & W(2**36 - 1)) + 4 * i
                        value[lane] = int.from_bytes(held[start:start + min(4, size)].tobytes(), "little")
                np.copyto(self.v[register(o[0]) + i], value, where=self.mask)

    def exchange(self, one: Instruction) -> None:
        """LDS: what lies there, and how many clocks its banks take."""
        op, o = one.op[3:], one.operands
        loads = not op.startswith(("write", "add"))
        self.queue.append(self.clock + LDS_WAIT)
        if op in ("bpermute_b32", "permute_b32", "swizzle_b32"):
            if op == "bpermute_b32":
                self.write(o[0], self.read(o[2], "u")[(self.read(o[1], "u") >> U(2)) & U(63)], "u")
            self.unit["lds"] += 2
            return
        size = LOCAL[re.search(r"_([ub]\d+)", op)[1]]
        pair = re.match(r"(read|write)2(st64)?", op)
        step = size * (64 if pair and pair[2] else 1) if pair else 1
        names = ["offset0", "offset1"] if pair else ["offset"]
        offsets = [step * int((re.search(rf"{name}:(\d+)", one.modifiers) or [0, 0])[1]) for name in names]
        base = self.read(o[1] if loads else o[0], "u")
        for turn, offset in enumerate(offsets):
            address = base + U(offset)
            there = address[self.mask]
            pattern = (there - there[:1]).tobytes(), int(there[0]) % 128 if len(there) else 0, size
            if pattern not in self.patterns:
                self.patterns[pattern] = banks(there, size)
            self.unit["lds"] += self.patterns[pattern]
            words = (address >> U(2)) % U(len(self.local) - 8)
            for i in range(-(-size // 4)):
                if loads:
                    value = self.local[words + U(i)]
                    value = value >> (address & U(2)) * U(8) & U(65535) if size == 2 else value
                    np.copyto(self.v[register(o[0]) + turn * (size // 4) + i], value, where=self.mask)
                elif op.startswith("write"):
                    value = self.v[register(o[1 + turn]) + i]
                    if size == 2:
                        high = (address & U(2)) * U(8)
                        value = self.local[words] & ~(U(65535) << high) | (value & U(65535)) << high
                    self.local[words[self.mask] + U(i)] = value[self.mask]


def banks(address: np.ndarray, size: int) -> int:
    """Clocks of one access of a wave to LDS: groups of 32, 16 or 8 lanes, each as long as its fullest bank."""
    if not len(address):
        return 0
    each, total = (32 if size <= 4 else 16 if size == 8 else 8), 0
    for first in range(0, len(address), each):
        words = np.unique(np.concatenate([(address[first:first + each] >> U(2)) + U(i) for i in range(-(-size // 4))]))
        total += int(np.bincount(words % U(32)).max())
    return total
