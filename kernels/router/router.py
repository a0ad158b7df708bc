"""router: depth average, norm, three-layer MLP, softmax, biased choice, gate and load histogram of a tile of tokens.

Shapes: n tokens (batch * time), D channels of x, R of the state (at most 256), C choices: E experts and the skip
route (at most 64). T is float32 or bfloat16.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from minizaya.arch.residual import rms_norm
from minizaya.arch.router import choose, depth_average

BLOCK, WIDEST, MOST_ROUTES = 512, 256, 64
DTYPES = {torch.float32: "f32", torch.bfloat16: "bf16"}
TOKENS = {torch.float32: 32, torch.bfloat16: 64}          # of a block
# bytes: two steps of x, the tokens between two layers, the histogram and the routes
LDS = {torch.float32: 2 * 32 * 36 * 4 + 32 * 260 * 4 + 4 * (64 + 32),
       torch.bfloat16: 2 * 64 * 72 * 2 + 64 * 264 * 2 + 4 * (64 + 64)}


def reference(x: Tensor, below: Tensor | None, scale: Tensor | None, down: Tensor, down_bias: Tensor, gain: Tensor,
              fc1: Tensor, bias1: Tensor, fc2: Tensor, bias2: Tensor, out: Tensor, bias: Tensor, eps: float,
              pinned: Tensor | None = None, counted: Tensor | None = None) -> tuple[Tensor, ...]:
    """What the kernel computes, as `minizaya.arch.router.Router.forward` does it, and the load.

    Args:
        x: (n, D). below: (n, R), or None in the first layer. scale: (R,), None with `below`.
        down (R, D), down_bias (R,): to the state. gain: (R,), the norm's weight. fc1, fc2 (R, R), bias1, bias2 (R,).
        out: (C, R). All of these are of type T. bias: float32 (C,), the balancing bias. eps: of the norm.
        pinned: int (n,), routes to replay, -1 to choose. counted: bool (n,), False where the load leaves a token out.
    Returns:
        routes int64 (n,), gates T (n,), probs T (n, C), state T (n, R), load int32 (C,).
    """
    state = F.linear(x, down, down_bias)
    if below is not None:
        state = depth_average(state, below, scale)
    hidden = F.gelu(F.linear(rms_norm(state, gain, eps), fc1, bias1))
    probs = F.linear(F.gelu(F.linear(hidden, fc2, bias2)), out).softmax(-1)
    routes, gates = choose(probs, bias, pinned)
    load = torch.bincount(routes if counted is None else routes[counted], minlength=len(bias)).int()
    return routes, gates, probs, state, load


def supports(x: Tensor, below: Tensor | None, scale: Tensor | None, down: Tensor, down_bias: Tensor, gain: Tensor,
             fc1: Tensor, bias1: Tensor, fc2: Tensor, bias2: Tensor, out: Tensor, *rest) -> str | None:
    """None, or why the kernel cannot take these inputs."""
    if x.dtype not in DTYPES:
        return f"type {x.dtype}"
    if down.shape[0] > WIDEST:
        return f"a state of {down.shape[0]} channels, over {WIDEST}"
    return f"{out.shape[0]} choices, over {MOST_ROUTES}" if out.shape[0] > MOST_ROUTES else None


def launch(run: Callable, x: Tensor, below: Tensor | None, scale: Tensor | None, down: Tensor, down_bias: Tensor,
           gain: Tensor, fc1: Tensor, bias1: Tensor, fc2: Tensor, bias2: Tensor, out: Tensor,
           bias: Tensor, eps: float, pinned: Tensor | None = None, counted: Tensor | None = None) -> tuple[Tensor, ...]:
    """As `reference`, by the kernel. run: a `minizaya.hip.launch.Launcher`.

    A pinned route that does not exist (C or more) gets NaN for a gate and no place in the load.
    """
    (n, width), size, choices = x.shape, down.shape[0], out.shape[0]
    def empty(*shape, dtype: torch.dtype = x.dtype):
        return torch.empty(*shape, dtype=dtype, device=x.device)
    state, probs, gates, routes = empty(n, size), empty(n, choices), empty(n), empty(n, dtype=torch.int64)
    load = torch.zeros(choices, dtype=torch.int32, device=x.device)
    if below is None:
        scale = None
    pinned = None if pinned is None else pinned.long()
    counted = None if counted is None else counted.view(torch.uint8)
    run("router", f"router_{DTYPES[x.dtype]}", (-(-n // TOKENS[x.dtype]),), BLOCK,
        [x, below, scale, down, down_bias, gain, fc1, bias1, fc2, bias2, out, bias, pinned, counted, state, probs,
         routes, gates, load, n, width, size, choices, float(eps)], lds=LDS[x.dtype])
    return routes, gates, probs, state, load


def example(dtype: torch.dtype = torch.bfloat16, device: str = "cpu", n: int = 64, width: int = 256, size: int = 64,
            choices: int = 17) -> tuple:
    """Arguments of `launch`, small enough to trace: one full block in bfloat16, two in float32."""
    draw = torch.Generator().manual_seed(0)
    def normal(*shape, scale: float = 1.0):
        return (torch.randn(*shape, generator=draw) * scale).to(dtype).to(device)
    def linear(rows: int, columns: int):
        return normal(rows, columns, scale=columns ** -0.5)
    bias = torch.randn(choices, generator=draw).to(device) * 1e-2
    return (normal(n, width), normal(n, size), normal(size), linear(size, width), normal(size, scale=0.1), normal(size),
            linear(size, size), normal(size, scale=0.1), linear(size, size), normal(size, scale=0.1),
            linear(choices, size), bias, 1e-5)


def full(run: Callable, kernel: str, tokens: int = 16384, width: int = 2048, size: int = 256,
         choices: int = 17) -> None:
    """The launch of `kernel` at ZAYA1-8B's size, of tensors without numbers."""
    def meta(*shape, dtype: torch.dtype | None = None):
        of_name = torch.bfloat16 if kernel.endswith("bf16") else torch.float32
        return torch.empty(*shape, dtype=dtype or of_name, device="meta")
    launch(run, meta(tokens, width), meta(tokens, size), meta(size), meta(size, width), meta(size), meta(size),
           meta(size, size), meta(size), meta(size, size), meta(size), meta(choices, size),
           meta(choices, dtype=torch.float32), 1e-5)


def work(kernel: str, tokens: int = 16384, width: int = 2048, size: int = 256, choices: int = 17) -> tuple[int, int]:
    """(fewest bytes, floating-point operations) of one launch of `kernel` at ZAYA1-8B's size, weights read once."""
    bytes_each = 2 if kernel.endswith("bf16") else 4
    products = width * size + 2 * size * size + size * choices
    activations = tokens * ((width + 2 * size + choices + 1) * bytes_each + 8)     # x, below, state, probs, gate; route
    vectors = 5 * size * bytes_each + 8 * choices
    return activations + products * bytes_each + vectors, 2 * tokens * products


def dynamic_lds(kernel: str) -> int:
    """Bytes of LDS that a launch of `kernel` asks for beside what its code declares."""
    return LDS[torch.bfloat16 if kernel.endswith("bf16") else torch.float32]
