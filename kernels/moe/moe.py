"""moe: tokens grouped by expert, SwiGLU as two grouped products on the matrix cores, gate, and back in their places.

Shapes: n tokens of D channels, E experts, F numbers inside an expert. T is float32 or bfloat16.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from minizaya.arch.experts import experts_loop

BLOCK, ROWS, COLUMNS = 256, 128, 64     # of a tile: tokens, and hidden numbers (channels: twice as many)
DTYPES = {torch.float32: "f32", torch.bfloat16: "bf16"}


def reference(x: Tensor, routes: Tensor, gates: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """x (n, D), int64 routes (n,), gates (n,), gate_up (E, 2F, D), down (E, D, F) -> (n, D); zeros for the route E."""
    return experts_loop(x, routes, gates, gate_up, down)


def supports(x: Tensor, routes: Tensor, gates: Tensor, gate_up: Tensor, down: Tensor) -> str | None:
    """None, or why the kernel cannot take these inputs."""
    if x.dtype not in DTYPES:
        return f"type {x.dtype}"
    if x.dtype != gate_up.dtype or x.dtype != down.dtype:
        return f"tokens of {x.dtype} and weights of {gate_up.dtype} and {down.dtype}"
    return "no experts" if len(gate_up) == 0 else None


def launch(run: Callable, x: Tensor, routes: Tensor, gates: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """As `reference`, by the kernels. run: a `minizaya.hip.launch.Launcher`."""
    order, starts = group(run, routes, len(gate_up))
    h = hidden(run, x, gate_up, order, starts)
    return output(run, h, down, gates, order, starts)


def group(run: Callable, routes: Tensor, experts: int) -> tuple[Tensor, Tensor]:
    """int64 routes (n,) -> int32 order (n,), tokens sorted by expert, and starts (E + 1,), each group's first place."""
    order = torch.empty(len(routes), dtype=torch.int32, device=routes.device)
    starts = torch.empty(experts + 1, dtype=torch.int32, device=routes.device)
    run("moe", "moe_group", (experts + 1,), BLOCK, [routes, order, starts, len(routes), experts])
    return order, starts


def hidden(run: Callable, x: Tensor, gate_up: Tensor, order: Tensor, starts: Tensor) -> Tensor:
    """silu(gate) * up of every token, (n, F) in grouped order; rows of skipped tokens are left unwritten."""
    (n, width), experts, inner = x.shape, len(gate_up), gate_up.shape[1] // 2
    h = x.new_empty(n, inner)
    # no more tiles than this, however the tokens fall: each group's last tile may be a short one
    grid = -(-inner // COLUMNS), n // ROWS + min(experts, n)
    run("moe", f"moe_hidden_{DTYPES[x.dtype]}", grid, BLOCK, [x, gate_up, order, starts, h, n, width, inner, experts])
    return h


def output(run: Callable, h: Tensor, down: Tensor, gates: Tensor, order: Tensor, starts: Tensor) -> Tensor:
    """h (n, F) in grouped order -> (n, D) in the tokens' own order."""
    (n, inner), experts, width = h.shape, len(down), down.shape[1]
    out = h.new_empty(n, width)
    grid = -(-width // (2 * COLUMNS)), n // ROWS + min(experts + 1, n)
    # a gate of T is exact as a float; a float32 gate is what a float32 router gives a bfloat16 model
    run("moe", f"moe_output_{DTYPES[h.dtype]}", grid, BLOCK,
        [h, down, gates.float(), order, starts, out, n, width, inner, experts])
    return out


def example(dtype: torch.dtype = torch.bfloat16, device: str = "cpu") -> tuple:
    """Arguments of `launch`, small enough to trace: 4 experts with uneven loads, some tokens skipped."""
    draw = torch.Generator().manual_seed(0)
    def normal(*shape):
        return torch.randn(*shape, generator=draw)
    routes = torch.multinomial(torch.tensor([6.0, 1, 3, 2, 1]), 96, replacement=True, generator=draw)
    args = normal(96, 64), routes, normal(96).sigmoid(), normal(4, 96, 64) / 8, normal(4, 64, 48) / 7
    return tuple((arg.to(dtype) if arg.is_floating_point() else arg).to(device) for arg in args)


def full(run: Callable, kernel: str, tokens: int = 16384, width: int = 2048, inner: int = 2048,
         experts: int = 16) -> None:
    """The launch of `kernel` at ZAYA1-8B's size, of tensors without numbers; every expert has as many tokens."""
    def meta(*shape, dtype: torch.dtype | None = None):
        of_name = torch.bfloat16 if kernel.endswith("bf16") else torch.float32
        return torch.empty(*shape, dtype=dtype or of_name, device="meta")
    order, starts = meta(tokens, dtype=torch.int32), (torch.arange(experts + 1) * (tokens // experts)).int()
    if kernel == "moe_group":
        group(run, meta(tokens, dtype=torch.int64), experts)
    elif "hidden" in kernel:
        hidden(run, meta(tokens, width), meta(experts, 2 * inner, width), order, starts)
    else:
        output(run, meta(tokens, inner), meta(experts, width, inner), meta(tokens), order, starts)


def work(kernel: str, tokens: int = 16384, width: int = 2048, inner: int = 2048, experts: int = 16) -> tuple[int, int]:
    """(fewest bytes, floating-point operations) of one launch of `kernel` at ZAYA1-8B's size, no token skipped."""
    size = 2 if kernel.endswith("bf16") else 4
    if kernel == "moe_group":
        return 12 * tokens + 4 * (experts + 1), 0
    if "hidden" in kernel:       # in: x, order, gate_up; out: h
        moved = tokens * (width + inner) * size + 4 * tokens + experts * 2 * inner * width * size
        return moved, 4 * tokens * width * inner
    moved = tokens * (width + inner) * size + 8 * tokens + experts * inner * width * size
    return moved, 2 * tokens * width * inner
