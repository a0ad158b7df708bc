"""The second ladder: one matrix product in six steps, `kernels/ladder/gemm`, run, counted and set against its floors.

    products.run("v3", a, b)              a b^T
    products.measure("v3")                registers, LDS, floors, and the share of the matrix cores that they leave
    products.markdown()                   all steps, as the table in kernels/ladder/gemm/README.md
    products.measure_text(text)           the same of a kernel of your own, named `mine`
"""

from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from . import launcher
from .build import KERNELS, build
from .launch import Launcher
from .machine.floors import FLOORS
from .report import predicted

STEPS = ("v0", "v1", "v2", "v3", "v4", "v5")
THREADS, FULL = 256, 4096                                     # FULL: rows of A and B and their length, in `measure`
SIZE = "4096 x 4096 x 4096, bfloat16"
TILES = dict(v0=16, v1=16, v2=64, v3=64, v4=64, v5=128)
SHORT = dict(v0=16, v1=16, v2=8)      # these are counted on rows so many times shorter: their turns are alike, and many


def path(step: str) -> Path:
    """The file of a step. Raises ValueError for an unknown one."""
    if step not in STEPS:
        raise ValueError(f"step must be one of {', '.join(STEPS)}, got {step!r}")
    return KERNELS / "ladder/gemm" / f"{step}.hip"


def run(step: str, a: Tensor, b: Tensor, on: Launcher | None = None) -> Tensor:
    """a b^T in bfloat16, added up in float32: a (m, k), b (n, k), both bfloat16 -> (m, n). on: the launcher, the CPU's
    by default. Raises ValueError for other types or lengths."""
    if a.dtype != torch.bfloat16 or b.dtype != torch.bfloat16 or a.shape[-1] != b.shape[-1]:
        raise ValueError(f"a and b must be bfloat16, their rows of one length, got {tuple(a.shape)} of {a.dtype} and "
                         f"{tuple(b.shape)} of {b.dtype}")
    c = torch.empty(len(a), len(b), dtype=a.dtype, device=a.device)
    (on or launcher("cpu"))(str(path(step)), step, grid(TILES[step], *c.shape), THREADS,
                            [a, b, c, *c.shape, a.shape[-1]])
    return c


def grid(tile: int, m: int, n: int) -> tuple[int, int, int]:
    return -(-n // tile), -(-m // tile), 1


@cache
def measure(step: str) -> dict:
    """vgpr, lds, occupancy and floors (`machine.floors`, us) of a step on 4096 x 4096 x 4096; sheet: the time that the
    matrix cores take on the sheet, over the largest floor. Raises NoCompiler without a compiler for gfx942."""
    return of(build(path(step), "gfx942").with_suffix(".s").read_text("utf-8"), step, TILES[step], SHORT.get(step, 1))


def measure_text(text: str, tile: int = 128) -> dict:
    """The same for a kernel `mine` in a text, with the arguments of the steps, launched with a block of 256 threads for
    each tile x tile numbers of C."""
    return of(build(text, "gfx942").with_suffix(".s").read_text("utf-8"), "mine", tile, 1)


def of(listing: str, name: str, tile: int, times: int) -> dict:
    def empty(length: int) -> Tensor:
        return torch.empty(FULL, length, dtype=torch.bfloat16, device="meta")
    k = FULL // times
    args = [empty(k), empty(k), empty(FULL), FULL, FULL, k]
    found = predicted(listing, name, (grid(tile, FULL, FULL), THREADS, args), 6 * FULL * FULL, "bf16", times)
    us = found["floors"]
    return found | dict(step=name, us=us["us"], limit=us["limit"], sheet=2 * FULL ** 3 / 1307e12 * 1e6 / us["us"])


def markdown() -> str:
    """All steps as a table: registers, LDS, floors in microseconds, the largest in bold, and the share of the sheet."""
    lines = [f"| step | VGPR | LDS | {' | '.join(FLOORS)} | of the sheet |", "|---" * (len(FLOORS) + 4) + "|"]
    for step in STEPS:
        found = measure(step)
        us = {floor: f"{found['floors'][floor]:.0f}" for floor in FLOORS}
        us[found["limit"]] = f"**{us[found['limit']]}**"
        cells = [step, found["vgpr"], found["lds"], *us.values(), f"{found['sheet']:.1%}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)
