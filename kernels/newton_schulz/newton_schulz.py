"""newton_schulz: Muon's iteration, X <- a X + (b G + c G G) X with G = X X^T, as three launches of one product a step.

Shapes: a stack (..., m, n) of matrices. The arithmetic is float32 or bfloat16, summed in float32.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from minizaya.arch.residual import at_least_float32
from minizaya.train import muon

BLOCK, TILE, SIDE = 256, 128, 32
MOST_SHARES = 64             # blocks that add up the squares of one matrix
DTYPES = {torch.float32: "f32", torch.bfloat16: "bf16"}


def reference(matrix: Tensor, steps: int = 5, dtype: torch.dtype | None = None) -> Tensor:
    """float (..., m, n) -> (..., m, n) in its own type, singular values made about one. dtype: of the arithmetic."""
    return muon.newton_schulz(matrix, steps, dtype)


def supports(matrix: Tensor, steps: int = 5, dtype: torch.dtype | None = None) -> str | None:
    """None, or why the kernel cannot take these inputs."""
    work_in = dtype or at_least_float32(matrix.dtype)
    if work_in not in DTYPES:
        return f"arithmetic in {work_in}"
    size = matrix.shape[-2] * matrix.shape[-1]
    return f"matrices of {size} numbers, over 2 ** 31 - 1" if size >= 2 ** 31 else None


def launch(run: Callable, matrix: Tensor, steps: int = 5, dtype: torch.dtype | None = None) -> Tensor:
    """As `reference`, by the kernels. run: a `minizaya.hip.launch.Launcher`."""
    *stack, m, n = matrix.shape
    if matrix.numel() == 0:
        return matrix.clone()
    a, b, c = muon.COEFFICIENTS
    x, turned = scaled(run, matrix.to(dtype or at_least_float32(matrix.dtype)).reshape(-1, m, n).contiguous())
    tall = m > n
    if tall:                                              # X X^T is then the smaller of the two products
        x, turned = turned, x
    gram = x.new_empty(len(x), *(2 * [x.shape[1]]))
    poly, next_x, next_turned = torch.empty_like(gram), torch.empty_like(x), torch.empty_like(turned)
    for _ in range(steps):
        product(run, x, x, None, gram, gram, 0, 1)
        product(run, gram, gram, gram, poly, poly, b, c)
        product(run, poly, turned, x, next_x, next_turned, a, 1)
        x, turned, next_x, next_turned = next_x, next_turned, x, turned
    return (turned if tall else x).view(*stack, m, n).to(matrix.dtype)


def scaled(run: Callable, x: Tensor) -> tuple[Tensor, Tensor]:
    """x (e, m, n) over its Frobenius norm: (e, m, n), and turned over (e, n, m)."""
    e, m, n = x.shape
    shares = min(MOST_SHARES, -(-m * n // (16 * BLOCK)))
    sums = torch.empty(e, shares, dtype=torch.float32, device=x.device)
    run("newton_schulz", f"newton_schulz_squares_{DTYPES[x.dtype]}", (shares, e), BLOCK, [x, sums, m * n, shares])
    out, turned = torch.empty_like(x), x.new_empty(e, n, m)
    run("newton_schulz", f"newton_schulz_scale_{DTYPES[x.dtype]}", (-(-m // SIDE) * -(-n // SIDE), e), BLOCK,
        [x, sums, out, turned, m, n, shares, muon.EPS])
    return out, turned


def product(run: Callable, a: Tensor, b: Tensor, before: Tensor | None, out: Tensor, turned: Tensor, alpha: float,
            beta: float) -> None:
    """out = alpha * before + beta * a b^T: a (e, m, k), b (e, n, k), out and before (e, m, n); `turned` (e, n, m) too.

    turned is out: the result is known to be symmetric, and only half of it is computed.
    """
    e, m, n = out.shape
    run("newton_schulz", f"newton_schulz_product_{DTYPES[a.dtype]}", (-(-n // TILE), -(-m // TILE) * e), BLOCK,
        [a, b, before, out, turned, m, n, a.shape[2], int(turned is out), float(alpha), float(beta)])


def example(dtype: torch.dtype = torch.bfloat16, device: str = "cpu") -> tuple:
    """Arguments of `launch`, small enough to trace: one step on a tall matrix."""
    draw = torch.Generator().manual_seed(0)
    return torch.randn(96, 72, generator=draw).to(dtype).to(device), 1, dtype


def full(run: Callable, kernel: str, m: int = 2048, n: int = 2048, experts: int = 16) -> None:
    """The launches of one step on the gate maps of a layer of ZAYA1-8B, of matrices without numbers."""
    dtype = torch.bfloat16 if kernel.endswith("bf16") else torch.float32
    launch(run, torch.empty(experts, m, n, dtype=dtype, device="meta"), 1, dtype)


def work(kernel: str, tokens: int = 16384, m: int = 2048, n: int = 2048, experts: int = 16) -> tuple[int, int]:
    """(fewest bytes, floating-point operations) of one launch on a layer's gate maps of ZAYA1-8B, whatever `tokens`.

    product: the last of the three, a X + P X, written both ways.
    """
    size = 2 if kernel.endswith("bf16") else 4
    if "squares" in kernel:
        return experts * m * n * size, 2 * experts * m * n
    if "scale" in kernel:
        return 3 * experts * m * n * size, experts * m * n
    return experts * (m * m + 4 * m * n) * size, 2 * experts * m * m * n
