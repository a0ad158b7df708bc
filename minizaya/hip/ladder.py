"""Lesson 14's ladder: `residual_norm` in five steps, run, counted and read; and a student's kernel as a function.

    ladder.run("v1", *arguments)          the two results
    ladder.measure("v1")                  registers, bytes and predicted time
    ladder.rms_norm_from(text)            a kernel, written as a string, as a function of tensors
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from ..native import compiler
from . import kernel, launcher
from .build import KERNELS, build
from .launch import Launcher
from .report import BANDWIDTH, metadata
from .trace import Trace, Tracer, traced

TENSORS = ("output", "residual", "s1", "b1", "s2", "b2", "weight", "stream", "normed")   # of every step, in its order
STEPS = ("v0", "v1", "v2", "v3", "v4")
THREADS = 256
ROWS, WIDTH = 128, 512                # what `measure` traces
FULL = 16384 * 2048                   # channels at ZAYA1-8B's size


def source(step: str) -> str:
    """The text of a step. Raises ValueError for an unknown one."""
    return path(step).read_text()


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

    Returns a dict: moved (bytes, counted at 128 rows of 512), least (each tensor once), ratio, instructions (of waves,
    on global memory), us (microseconds on MI300X at ZAYA1-8B's size if every moved byte came from memory, no cache
    helping), and vgpr, lds, barriers from the machine code of gfx942, None without a compiler for it.
    """
    found = trace(step)
    least = 4 * (4 * ROWS * WIDTH + 5 * WIDTH)     # output, residual, stream, normed, and the five vectors
    row = dict(step=step, moved=found.moved, least=least, ratio=found.moved / least,
               instructions=int(found.globals.instructions().unique().numel()),
               us=1e6 * found.moved * FULL / (ROWS * WIDTH) / BANDWIDTH, vgpr=None, lds=None, barriers=None)
    if compiler.gfx942() is None:
        return row
    listing = build(path(step), "gfx942").with_suffix(".s").read_text()
    name = "residual_norm_f32" if step == "v4" else step
    numbers = metadata(listing)[name]
    copies = 2 if step == "v4" else 1          # v4 holds its loop twice: for rows of whole fours, and for others
    return row | dict(vgpr=numbers["vgpr_count"], lds=numbers["group_segment_fixed_size"],
                      barriers=code(listing, name).count("s_barrier") // copies)


def code(listing: str, name: str) -> str:
    """The machine instructions of one kernel, without the assembler's own remarks."""
    body = listing[listing.index(f"\n{name}:") + 1:]
    body = body[: body.index("s_endpgm") + len("s_endpgm")]
    lines = [line.split(";")[0].rstrip() for line in body.splitlines()]
    return "\n".join(line.expandtabs(4) for line in lines if line.strip() and not line.lstrip().startswith(".p2align"))


def rms_norm_text() -> str:
    """A right answer to lesson 14's last exercise."""
    return (KERNELS / "ladder/rms_norm.hip").read_text()


def whole(text: str) -> str:
    """A student's kernel `rms_norm` with the header above it and the line below it that a launch needs."""
    text = text if '#include "gpu.h"' in text else f'#include "gpu.h"\n{text}'
    return text if "LAUNCHABLE" in text else f"{text}\nLAUNCHABLE(rms_norm)\n"


def rms_norm_from(text: str, wave: int = 64) -> Callable[[Tensor, Tensor, float], Tensor]:
    """The kernel `rms_norm` in `text` as fn(x, weight, eps): x float32 (rows, n), weight (n,) -> (rows, n).

    It is launched with one block of 256 threads a row:
    rms_norm(const float* x, const float* weight, float* y, int width, float eps). Every access is checked on the way;
    what the compiler or the tracer objects to is raised as KernelError.
    """
    on = Tracer(None, whole(text), wave)

    def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
        y = torch.full_like(x, float("nan"))
        on("text", "rms_norm", (len(x),), THREADS, [x.contiguous(), weight.contiguous(), y, x.shape[-1], float(eps)])
        return y

    return rms_norm
