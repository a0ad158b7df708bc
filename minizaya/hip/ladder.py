"""Lesson 14's ladder: `residual_norm` in five steps, run, counted and read; and a student's kernel as a function.

    ladder.run("v1", *arguments)          the two results
    ladder.measure("v1")                  registers, bytes and floors of its time
    ladder.rms_norm_from(text)            a kernel, written as a string, as a function of tensors
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from ..native import compiler
from . import kernel, launcher
from .accesses import Trace
from .build import KERNELS, build
from .launch import Launcher
from .machine.floors import FLOORS, launch_of
from .report import predicted
from .trace import Tracer, traced

TENSORS = ("output", "residual", "s1", "b1", "s2", "b2", "weight", "stream", "normed")   # of every step, in its order
STEPS = ("v0", "v1", "v2", "v3", "v4")
THREADS = 256
ROWS, WIDTH = 128, 512                # what `measure` traces
FULL = 16384, 2048                    # rows and channels at ZAYA1-8B's size
SIZE = "16384 rows of 2048, float32"

def source(step: str) -> str:
    """The text of a step. Raises ValueError for an unknown one."""
    return path(step).read_text("utf-8")

def path(step: str) -> Path:
    if step not in STEPS:
        raise ValueError(f"step must be one of {', '.join(STEPS)}, got {step!r}")
    return KERNELS / ("residual_norm/residual_norm.hip" if step == "v4" else f"ladder/{step}.hip")

def run(step: str, output: Tensor, residual: Tensor, s1: Tensor, b1: Tensor, s2: Tensor, b2: Tensor, weight: Tensor,
        eps: float, on: Launcher | None = None) -> tuple[Tensor, Tensor]:
    """stream and normed of `residual_norm`, float32 (rows, n), by one step. on: the launcher, the CPU's by default.

    Raises ValueError for a width that a step cannot do: v3 wants a multiple of 4, v2 to v4 at most 2048 channels.
    """
    width = output.shape[-1]
    if step in ("v2", "v3", "v4") and width > 2048 or step == "v3" and width % 4:
        most = "a multiple of 4, at most 2048" if step == "v3" else "at most 2048"
        raise ValueError(f"width must be {most} for {step}, got {width}")
    on = on or launcher("cpu")
    if step == "v4":
        return kernel("residual_norm").launch(on, output, residual, s1, b1, s2, b2, weight, eps, blocks=4)
    rows = len(output)
    stream, normed = torch.empty_like(residual), torch.empty_like(output)
    grid = (-(-rows // THREADS),) if step == "v0" else (rows,)
    on(str(path(step)), step, grid, THREADS,
       [output, residual, s1, b1, s2, b2, weight, stream, normed, rows, width, float(eps)])
    return stream, normed

def arguments(rows: int = ROWS, width: int = WIDTH, seed: int = 0) -> tuple:
    """Random arguments of `run`."""
    draw = torch.Generator().manual_seed(seed)
    matrices = [torch.randn(rows, width, generator=draw) for _ in range(2)]
    return *matrices, *(torch.randn(width, generator=draw) for _ in range(5)), 1e-5

@cache
def trace(step: str, rows: int = ROWS, width: int = WIDTH) -> Trace:
    """The `Trace` of one run."""
    with traced() as found:
        run(step, *arguments(rows, width), on=found.launcher)
    return found

@cache
def measure(step: str) -> dict:
    """What a step costs.

    Returns a dict: moved (bytes between memory and compute units, counted at 128 rows of 512), cached (those that are
    left behind a small cache), least (each tensor once), ratio and cached_ratio (to the least), instructions (of waves,
    on global memory); and from the machine code of gfx942, at ZAYA1-8B's size, vgpr, lds, barriers, us (microseconds),
    floors (the six of `machine.floors`, microseconds) and limit (the largest), all None without a compiler for it.
    """
    found = trace(step)
    least = 4 * (4 * ROWS * WIDTH + 5 * WIDTH)     # output, residual, stream, normed, and the five vectors
    row = dict(step=step, moved=found.moved, cached=found.cached, least=least, ratio=found.moved / least,
               cached_ratio=found.cached / least,
               instructions=int(found.globals.instructions().unique().numel()), vgpr=None, lds=None, barriers=None,
               us=None, limit=None, floors=None)
    if compiler.gfx942() is None:
        return row
    listing = build(path(step), "gfx942").with_suffix(".s").read_text("utf-8")
    name = "residual_norm_f32" if step == "v4" else step
    times = 8 if step == "v0" else 1           # all its turns are alike, and a whole row takes long to run on paper
    machine = predicted(listing, name, full(step, FULL[1] // times), 4 * (4 * FULL[0] * FULL[1] + 5 * FULL[1]), "f32",
                        times)
    us = machine["floors"]
    copies = 2 if step == "v4" else 1          # v4 holds its loop twice: for rows of whole fours, and for others
    return row | dict(vgpr=machine["vgpr"], lds=machine["lds"], us=us["us"], limit=us["limit"],
                      floors={floor: us[floor] for floor in FLOORS},
                      barriers=code(listing, name).count("s_barrier") // copies)

def full(step: str, width: int) -> tuple:
    """(grid, threads, arguments) of a step's launch on 16384 rows, of tensors without numbers."""
    if step == "v4":
        return launch_of(kernel("residual_norm"), "residual_norm_f32")
    def empty(*sizes: int) -> Tensor:
        return torch.empty(*sizes, device="meta")
    rows, seen = FULL[0], []
    def note(source: str, name: str, grid: tuple, block: int, args: list) -> None:
        seen.append(((*grid, 1, 1)[:3], block, args))
    run(step, empty(rows, width), empty(rows, width), *(empty(width) for _ in range(5)), 1e-5, on=note)
    return seen[0]

def code(listing: str, name: str) -> str:
    """The machine instructions of one kernel, without the assembler's own remarks."""
    body = listing[listing.index(f"\n{name}:") + 1:]
    body = body[: body.index("s_endpgm") + len("s_endpgm")]
    lines = [line.split(";")[0].rstrip() for line in body.splitlines()]
    return "\n".join(line.expandtabs(4) for line in lines if line.strip() and not line.lstrip().startswith(".p2align"))

def rms_norm_text() -> str:
    """A right answer to lesson 14's last exercise."""
    return (KERNELS / "ladder/rms_norm.hip").read_text("utf-8")

def whole(text: str) -> str:
    """A student's kernel `rms_norm` with the header above it and the line below it that a launch needs."""
    text = text if '#include "gpu.h"' in text else f'#include "gpu.h"\n{text}'
    return text if "LAUNCHABLE" in text else f"{text}\nLAUNCHABLE(rms_norm)\n"

def rms_norm_from(text: str, wave: int = 64, moved: list | None = None) -> Callable[[Tensor, Tensor, float], Tensor]:
    """The kernel `rms_norm` in `text` as fn(x, weight, eps): x float32 (rows, n), weight (n,) -> (rows, n).

    It is launched with one block of 256 threads a row:
    rms_norm(const float* x, const float* weight, float* y, int width, float eps). Every access is checked on the way;
    what the compiler or the tracer objects to is raised as KernelError. moved: gets the bytes that each launch moves.
    """
    def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
        seen = None if moved is None else Trace(wave)
        on = Tracer(seen, whole(text), wave, branches=2**23)
        y = torch.full_like(x, float("nan"))
        on("text", "rms_norm", (len(x),), THREADS, [x.contiguous(), weight.contiguous(), y, x.shape[-1], float(eps)])
        if seen:
            moved.append(seen.moved)
        return y

    return rms_norm
