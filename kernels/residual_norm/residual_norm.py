"""residual_norm: both streams scaled and added, the new stream written in float32, and its RMSNorm for the next layer.

Shapes: rows = batch * time, n channels (at most 2048). T is float32 or bfloat16.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from minizaya.arch.residual import merge, rms_norm

BLOCK, WIDEST, BLOCKS = 256, 2048, 608          # 608 = two blocks for each of MI300X's 304 compute units
TRACED = dict(blocks=3)      # for the example's 64 rows: about as many rows a block as at full size
DTYPES = {torch.float32: "f32", torch.bfloat16: "bf16"}


def reference(output: Tensor, residual: Tensor, s1: Tensor, b1: Tensor, s2: Tensor, b2: Tensor, weight: Tensor,
              eps: float) -> tuple[Tensor, Tensor]:
    """output (rows, n) and the vectors (n,) of type T, residual (rows, n) float32 -> stream float32, normed T."""
    stream = merge(output, residual, s1, b1, s2, b2)
    return stream, rms_norm(stream, weight, eps)


def supports(output: Tensor, residual: Tensor, *vectors) -> str | None:
    """None, or why the kernel cannot take these inputs."""
    if output.dtype not in DTYPES:
        return f"type {output.dtype}"
    return f"rows of {output.shape[-1]} channels, over {WIDEST}" if output.shape[-1] > WIDEST else None


def launch(run: Callable, output: Tensor, residual: Tensor, s1: Tensor, b1: Tensor, s2: Tensor, b2: Tensor,
           weight: Tensor, eps: float, blocks: int = BLOCKS) -> tuple[Tensor, Tensor]:
    """As `reference`, by the kernel. run: a `minizaya.hip.launch.Launcher`. blocks: at most this many."""
    rows, width = output.shape
    stream, normed = torch.empty_like(residual), torch.empty_like(output)
    grid, each = shares(rows, blocks)
    run("residual_norm", f"residual_norm_{DTYPES[output.dtype]}", grid, BLOCK,
        [output, residual, s1, b1, s2, b2, weight, stream, normed, rows, width, each, float(eps)])
    return stream, normed


def launch_backward(run: Callable, d_stream: Tensor, d_normed: Tensor, output: Tensor, residual: Tensor, s1: Tensor,
                    b1: Tensor, s2: Tensor, b2: Tensor, weight: Tensor,
                    eps: float, blocks: int = BLOCKS) -> tuple[Tensor, ...]:
    """The gradients of output, residual, s1, b1, s2, b2 and weight."""
    rows, width = output.shape
    d_output, d_residual = torch.empty_like(output), torch.empty_like(residual)
    grid, each = shares(rows, blocks)
    sums = torch.empty(*grid, 4, width, dtype=torch.float32, device=output.device)
    run("residual_norm", f"residual_norm_backward_{DTYPES[output.dtype]}", grid, BLOCK,
        [d_stream, d_normed, output, residual, s1, b1, s2, b2, weight, d_output, d_residual, sums, rows, width, each,
         float(eps)])
    total, with_output, with_residual, with_unit = sums.sum(0)     # a few hundred partial sums: torch adds them
    vectors = with_output, total * s1.float(), with_residual, total * s2.float(), with_unit
    return d_output, d_residual, *(v.to(weight.dtype, copy=True) for v in vectors)


def shares(rows: int, blocks: int) -> tuple[tuple[int], int]:
    """How many blocks, and how many rows each of them takes."""
    each = max(1, -(-rows // blocks))
    return (-(-rows // each),), each


def example(dtype: torch.dtype = torch.bfloat16, device: str = "cpu") -> tuple:
    """Arguments of `launch`, small enough to trace, with as many rows a block as at full size."""
    draw = torch.Generator().manual_seed(0)
    def normal(*shape):
        return torch.randn(*shape, generator=draw).to(device)
    return (normal(64, 512).to(dtype), normal(64, 512), *(normal(512).to(dtype) for _ in range(5)), 1e-5)


def full(run: Callable, kernel: str, tokens: int = 16384, width: int = 2048) -> None:
    """The launch of `kernel` at ZAYA1-8B's size, of tensors without numbers."""
    def meta(*shape, dtype: torch.dtype | None = None):
        of_name = torch.bfloat16 if kernel.endswith("bf16") else torch.float32
        return torch.empty(*shape, dtype=dtype or of_name, device="meta")
    inputs = meta(tokens, width), meta(tokens, width, dtype=torch.float32), *(meta(width) for _ in range(5)), 1e-5
    if "backward" in kernel:
        launch_backward(run, meta(tokens, width, dtype=torch.float32), meta(tokens, width), *inputs)
    else:
        launch(run, *inputs)


def work(kernel: str, tokens: int = 16384, width: int = 2048) -> tuple[int, int]:
    """(fewest bytes, floating-point operations) of one launch of `kernel` at ZAYA1-8B's size."""
    size = 2 if kernel.endswith("bf16") else 4
    if "backward" in kernel:     # in: d_stream, d_normed, output, residual; out: d_output, d_residual
        return tokens * width * (3 * size + 12) + 5 * width * size, 24 * tokens * width
    return tokens * width * (2 * size + 8) + 5 * width * size, 8 * tokens * width
