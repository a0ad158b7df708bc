"""One wave of a gfx942 listing, run: which instructions it executes and how often, what they ask of each unit, and how
long it takes when it is alone.

    wave = Wave(code, args, block=(3, 0, 0)).run()
    wave.done, wave.unit["mfma"], wave.clock            # instruction -> times; clocks

Integers, addresses and LDS are computed as the machine would, since they decide where the code goes; so are floats,
roughly. The other waves of the block do nothing: what they would have put into LDS reads as zeros.

Clocks: 4 a vector instruction of 64 lanes, 16 for products of integers and for exp, 1 / x and their kin; 32 for a
matrix instruction of bfloat16, 64 of float32; a bank of LDS serves a word a clock; a compute unit takes 64 bytes a
clock from its caches. What is on its way arrives in order.
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from ..build import KernelError
from .listing import Code, Instruction
from .memory import LDS_WAIT, NEAR, Memory
from .operations import COMPARE, SCALAR, VECTOR, U, W
from .registers import M32, M64, lanes, literal, number, place, register


def signed(x: int, bits: int) -> int:
    return x - (1 << bits) if x >> bits - 1 else x


class Wave(Memory):
    """Wave 0 of one block of a launch.

    Args:
        code: of `kernels_of`. args: those of the launch. block: its three indices. near: tensors (numbers) that come
            from L2. most: instructions, before it is called endless.
    Raises:
        KernelError: an instruction that is not in the tables, or more than `most` of them.
    """

    def __init__(self, code: Code, args: Sequence, block: tuple[int, int, int] = (0, 0, 0),
                 near: frozenset[int] = frozenset(), most: int = 3_000_000):
        super().__init__(code, args, block, near)
        self.code, self.most, self.done = code, most, Counter()
        self.core, self.ready = 0, set()       # when the matrix core is free; the registers that wait for it

    def run(self) -> "Wave":
        """To the end. Returns self."""
        at, steps, code = 0, 0, self.code.instructions
        costs = [cost_of(one) for one in code]
        does = {"vector": self.vector, "transcendental": self.vector, "lds": self.exchange, "load": self.travel,
                "store": self.travel, "scalar": self.count, "wait": self.wait, "mfma": self.multiply}
        with np.errstate(all="ignore"):
            while at < len(code) and code[at].op != "s_endpgm":
                one, steps = code[at], steps + 1
                self.done[at] += 1
                if steps > self.most:
                    raise KernelError(f"more than {self.most} instructions; the last was {one.text}")
                if one.op.startswith(("s_branch", "s_cbranch")):
                    at = self.code.labels[one.operands[0]] if self.taken(one.op) else at + 1
                else:
                    if one.kind in does:
                        does[one.kind](one)
                    at += 1
                self.clock += costs[at - 1] if one.kind != "mfma" else 4
        return self

    def taken(self, op: str) -> bool:
        vcc = self.s[106] | self.s[107]
        return bool({"s_branch": 1, "s_cbranch_scc0": not self.scc, "s_cbranch_scc1": self.scc,
                     "s_cbranch_vccz": not vcc, "s_cbranch_vccnz": vcc, "s_cbranch_execz": not self.exec,
                     "s_cbranch_execnz": self.exec}[op])

    def wait(self, one: Instruction) -> None:
        for counter, queue in (("vmcnt", self.memory), ("lgkmcnt", self.queue)):
            found, before = re.search(rf"{counter}\((\d+)\)", one.text), self.clock
            for _ in range(len(queue) - int(found[1]) if found else 0):
                self.clock = max(self.clock, queue.pop(0))
            self.unit[f"{counter} waits"] += self.clock > before
            self.unit[f"{counter} clocks"] += self.clock - before

    def multiply(self, one: Instruction) -> None:
        """A matrix instruction: it waits for the one before, and who asks for its result waits for it."""
        self.clock = max(self.core, self.clock)
        self.core = self.clock + cost_of(one)
        self.unit["mfma"] += cost_of(one)
        self.ready.update(range(register(one.operands[0]), register(one.operands[0]) + 16))

    def vector(self, one: Instruction) -> None:
        op, o = one.op[2:], one.operands
        self.unit["vector"] += cost_of(one)
        if self.ready and not self.ready.isdisjoint(map(register, o[1:])):
            self.clock = max(self.clock, self.core)
            self.ready.clear()
        if op in VECTOR:
            kinds, function = VECTOR[op]
            names = [o[0], *o[2:]] if op == "div_scale_f32" else o
            self.write(names[0], function(*(self.read(name, kind) for name, kind in zip(names[1:], kinds))), kinds[-1])
        elif op.startswith("cmp"):
            name, kind = op.split("_")[-2:]
            kinds = {"f32": "f", "u32": "u", "i32": "i", "u16": "u", "u64": "W", "i64": "W"}[kind]
            a, b = (self.read(name, kinds) for name in o[1:3])
            a, b = (x.view(np.int64) if kind == "i64" else x & U(65535) if kind == "u16" else x for x in (a, b))
            self.keep(o[0], number(COMPARE[name](a, b) & self.mask), 64)
        elif op == "cndmask_b32":
            which = lanes(self.scalar(o[3], 64))
            self.write(o[0], np.where(which, self.read(o[2], "u"), self.read(o[1], "u")), "u")
        elif op == "readfirstlane_b32":
            first = (self.exec & -self.exec).bit_length() - 1
            self.keep(o[0], int(self.read(o[1], "u")[first]))
        elif op == "readlane_b32":
            self.keep(o[0], int(self.read(o[1], "u")[self.scalar(o[2]) & 63]))
        elif op.startswith("mbcnt"):
            bits = lanes(self.scalar(o[1]) << (32 if "hi" in op else 0))
            self.write(o[0], (np.cumsum(bits) - bits).astype(U) + self.read(o[2], "u"), "u")
        elif re.match(r"(add|sub|subrev|addc|subb|subbrev)_co_", op):
            a, b = self.read(o[2], "w"), self.read(o[3], "w")
            carry = lanes(self.scalar(o[4], 64)).astype(W) if len(o) > 4 else W(0)
            a, b = (b, a) if "rev" in op else (a, b)
            total = a + b + carry if op.startswith("add") else a - b - carry
            self.write(o[0], total & W(M32), "u")
            self.keep(o[1], number((total >> W(32) != 0) & self.mask), 64)
        elif op.startswith(("mad_u64", "mad_i64")):
            a, b = ((self.read(name, "i").astype(np.int64).view(W) if "i64" in op else self.read(name, "w"))
                    for name in o[2:4])
            self.write(o[0], a * b + self.read(o[4], "W"), "W")
        elif op == "fmac_f32":
            self.write(o[0], self.read(o[1], "f") * self.read(o[2], "f") + self.read(o[0], "f"), "f")
        else:
            raise KernelError(f"unknown instruction {one.text}")

    def count(self, one: Instruction) -> None:
        """Scalar instructions."""
        op, o = one.op[2:], one.operands
        bits = 64 if op.endswith("64") and not op.startswith("cmp") else 32
        name, _, kind = op.rpartition("_")
        def take(i, wide=bits):
            return self.scalar(o[i], wide)
        if op.startswith("load"):
            words = int(re.search(r"x(\d+)$", op)[1]) if "x" in op else 1
            base, first = self.scalar(o[1], 64), place(o[0])
            base += self.scalar(o[2]) if o[2] != "null" else 0
            for i in range(words):
                self.s[first + i] = self.word(base + 4 * i)
            self.queue.append(self.clock + (LDS_WAIT if base < 2**20 else NEAR))
        elif name in ("cmp_lt", "cmp_gt", "cmp_le", "cmp_ge", "cmp_eq", "cmp_lg") or op.startswith("cmpk"):
            wide = 64 if "64" in kind else 32
            a, b = (signed(x, wide) if kind[0] == "i" else x for x in (take(0, wide), take(1, wide)))
            self.scc = int(COMPARE[name[-2:]](a, b))
        elif op.startswith("bitcmp"):
            self.scc = int((take(0) >> (take(1) & 31) & 1) == int(name[-1]))
        elif op.startswith("bitset"):
            bit = 1 << (take(1) & 31)
            self.keep(o[0], take(0) | bit if op[6] == "1" else take(0) & ~bit)
        elif op.startswith(("mov_", "movk")):
            self.keep(o[0], signed(literal(o[1]) & 65535, 16) & M32 if op[3] == "k" else take(1), bits)
        elif op.startswith("brev"):
            self.keep(o[0], int(f"{take(1) & (1 << bits) - 1:0{bits}b}"[::-1], 2), bits)
        elif op.startswith("cselect"):
            self.keep(o[0], take(1) if self.scc else take(2), bits)
        elif name.endswith("saveexec"):
            old, other = self.exec, take(1)
            new = {"and": old & other, "or": old | other, "andn2": other & ~old, "xor": old ^ other}[name.split("_")[0]]
            self.keep(o[0], old, 64)
            self.exec, self.scc = new & M64, int(new & M64 != 0)
        elif name in ("addc", "subb"):
            total = take(1) + take(2) + self.scc if name == "addc" else take(1) - take(2) - self.scc
            self.keep(o[0], total & M32)
            self.scc = int(total > M32 or total < 0)
        elif name.startswith("mul_hi"):
            a, b = (signed(x, 32) if kind == "i32" else x for x in (take(1), take(2)))
            self.keep(o[0], a * b >> 32 & M32)
        elif name in ("not", "abs"):
            a = take(1)
            value = (~a if name == "not" else abs(signed(a, 32))) & (1 << bits) - 1
            self.keep(o[0], value, bits)
            self.scc = int(value != 0)
        elif name in ("addk", "mulk"):
            a, b = signed(take(0), 32), signed(literal(o[1]) & 65535, 16)
            self.keep(o[0], (a + b if name == "addk" else a * b) & M32)
        elif (base := re.sub(r"_add$", "", name)) in SCALAR or name.startswith("lshl"):
            key = f"lshl{name[4]}" if re.match(r"lshl\d", name) else base
            a, b = take(1), self.scalar(o[2], 32 if key in ("lshl", "lshr", "ashr", "bfe") else bits)
            if kind[0] == "i":
                a, b = signed(a, bits), signed(b, bits) if key not in ("ashr", "bfe") else b
            total = SCALAR[key](a, b)
            value = total & (1 << bits) - 1
            self.keep(o[0], value, bits)
            if key in ("add", "sub"):
                self.scc = int(total != (signed(value, 32) if kind[0] == "i" else value))
            elif key in ("min", "max"):
                self.scc = int(total == a)
            elif key != "mul":
                self.scc = int(value != 0)
        elif op not in ("nop", "setprio", "sleep"):
            raise KernelError(f"unknown instruction {one.text}")


def cost_of(one: Instruction) -> int:
    """Clocks for which an instruction holds its unit, or the wave's place in line."""
    if one.kind == "mfma":
        return 64 if "2_f32" in one.op or "2f32" in one.op else 32
    slow = one.kind == "transcendental" or one.op.startswith(("v_mul_lo", "v_mul_hi", "v_mad_u64", "v_mad_i64"))
    return 16 if slow else 4
