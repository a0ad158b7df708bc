"""The registers of one wave, and what an operand's name stands for."""

import functools
import re

import numpy as np

from .listing import Code
from .operations import LANES, F, I, U, W

M32, M64 = 2**32 - 1, 2**64 - 1


class Registers:
    """512 vector registers of 64 lanes (those for accumulation from 256 on), and the scalar ones: vcc is number 106,
    exec, the mask of the lanes at work, 126."""

    def __init__(self, code: Code, block: tuple[int, int, int]):
        self.v, self.s, self.scc = np.zeros((512, LANES), U), [0] * 128, 0
        self.v[0] = np.arange(LANES)                   # threadIdx.x
        self.s[0], self.s[2:2 + code.ids] = 4096, block[:code.ids]      # where the arguments lie, and blockIdx
        self.exec = M64

    @property
    def exec(self) -> int:
        return self.s[126] | self.s[127] << 32

    @exec.setter
    def exec(self, value: int) -> None:
        self.s[126], self.s[127] = value & M32, value >> 32
        self.whole, self.mask = value == M64, lanes(value)

    def scalar(self, name: str, bits: int = 32) -> int:
        at = place(name)
        if at is None:
            value = literal(name)
            return value & (1 << bits) - 1
        return self.s[at] | (self.s[at + 1] << 32 if bits == 64 else 0)

    def keep(self, name: str, value: int, bits: int = 32) -> None:
        if name == "exec":
            self.exec = value & M64
            return
        at = place(name)
        self.s[at] = value & M32
        if bits == 64:
            self.s[at + 1] = value >> 32 & M32

    def read(self, name: str, kind: str) -> np.ndarray:
        """An operand over the lanes. kind: u, i, f 32 bits; w 32 bits made 64; W 64 bits."""
        minus, name = name.startswith("-") and not name[1:2].isdigit(), name.lstrip("-") if name[1:2] in "vs|" else name
        absolute, name = name.startswith("|"), name.strip("|")
        at = register(name)
        if at is None:
            bits = self.scalar(name, 64 if kind == "W" else 32)
            value = np.full(LANES, bits, W if kind in "wW" else U)
        elif kind == "W":
            value = self.v[at] | (self.v[at + 1].astype(W) << W(32))
        else:
            value = self.v[at].astype(W) if kind == "w" else self.v[at]
        value = value.view(I) if kind == "i" else value.view(F) if kind == "f" else value
        value = np.abs(value) if absolute else value
        return -value if minus else value

    def write(self, name: str, value: np.ndarray, kind: str) -> None:
        at = register(name)
        if kind == "W":
            value = value.astype(W)
            np.copyto(self.v[at + 1], (value >> W(32)).astype(U), where=self.mask)
            value = value.astype(U)
        elif kind in "fi":
            value = value.astype(F if kind == "f" else I).view(U)
        np.copyto(self.v[at], value.astype(U), where=self.mask)


def lanes(bits: int) -> np.ndarray:
    return np.unpackbits(np.frombuffer((bits & M64).to_bytes(8, "little"), np.uint8), bitorder="little").astype(bool)


def number(mask: np.ndarray) -> int:
    return int.from_bytes(np.packbits(mask, bitorder="little").tobytes(), "little")


@functools.cache
def place(name: str) -> int | None:
    """The scalar register that an operand begins with, None for a number."""
    found = re.match(r"s\[?(\d+)|(vcc|exec)(_hi)?|(m0)", name)
    if found is None:
        return None
    return int(found[1]) if found[1] else 124 if found[4] else {"vcc": 106, "exec": 126}[found[2]] + bool(found[3])


@functools.cache
def register(name: str) -> int | None:
    """The vector register that an operand begins with, those for accumulation from 256 on; None for anything else."""
    found = re.match(r"([va])\[?(\d+)", name)
    return int(found[2]) + 256 * (found[1] == "a") if found else None


@functools.cache
def literal(name: str) -> int:
    """A number as the assembler writes it: whole numbers as they are, others as the bits of a float."""
    if re.fullmatch(r"-?(0x[0-9a-f]+|\d+)", name):
        return int(name, 0)
    return int(np.array(float(name), F).view(U)) if re.match(r"-?\d", name) else 0
