"""cca_mix: from the packed down-projection to q, k and v as attention wants them.

Shapes: b batch, t time, h query heads, j KV heads, d channels of a head (at most 128), c = (h + j) d, kv = j d. T is
float32 or bfloat16. In bfloat16 the kernel rounds twice, u and the result, where PyTorch rounds after each operation.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from minizaya.arch.attention import rope
from minizaya.arch.cca import qk_mean, qk_norm, value_shift

BLOCK, ROWS, WIDEST = 256, 32, 128
DTYPES = {torch.float32: "f32", torch.bfloat16: "bf16"}


def reference(packed: Tensor, depthwise: Tensor, depthwise_bias: Tensor, grouped: Tensor, grouped_bias: Tensor,
              temperature: Tensor, cosine: Tensor, sine: Tensor, position: Tensor | None = None,
              past: Tensor | None = None, before: Tensor | None = None,
              dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """q (b, t, h, d), k and v (b, t, j, d), in float32 and not rounded to T (values of v are exact in T).

    Given float64, in float64.

    Args:
        packed: (b, t, c + kv) of T: queries, keys, v_now, v_then. depthwise: (c, 1, 2). grouped: (c, d, 2).
        depthwise_bias, grouped_bias: (c,). temperature: (j,). cosine, sine: (1 or b, t, rotary / 2).
        position: int32 (b, t), place in the token's own document; None: one document a row.
        past: (b, 2, c), the columns of the two tokens before; before: (b, kv / 2), `v_then` of the token before. None:
            nothing came before. dtype: T, where the inputs are given in float32.
    """
    dtype, (channels, dim, _), kv_heads = dtype or packed.dtype, grouped.shape, len(temperature)
    exact = torch.float64 if packed.dtype == torch.float64 else torch.float32
    wide = [x.to(exact) for x in (packed, depthwise, depthwise_bias, grouped, grouped_bias, temperature, cosine, sine)]
    packed, w, b0, matrix, b1, temperature, cosine, sine = wide
    batch, steps, _ = packed.shape
    z, now, then = packed.split((channels, kv_heads * dim // 2, kv_heads * dim // 2), dim=-1)
    own = torch.full((batch, steps), 2) if position is None else position.long().cpu()
    joined = (own >= 1).to(packed.device)[..., None]                 # is the token before of the same document?

    held = z.new_zeros(batch, 2, channels) if past is None else past.to(exact)
    columns = torch.cat([held, z], dim=1)
    inside = torch.cat([torch.ones_like(joined[:, :1]), joined], dim=1)            # for tokens -1 .. t - 1
    u = b0 + w[:, 0, 1] * columns[:, 1:] + w[:, 0, 0] * (columns[:, :-1] * inside)
    u = Rounded.apply(u, dtype)
    late = torch.where(joined, u[:, :-1], b0)
    heads = channels // dim
    def per_head(x: Tensor, tap: int) -> Tensor:
        return torch.einsum("btni,noi->btno", x.unflatten(-1, (heads, dim)),
                            matrix[..., tap].unflatten(0, (heads, dim)))
    y = b1.unflatten(0, (heads, dim)) + per_head(u[:, 1:], 1) + per_head(late, 0)

    sizes = (heads - kv_heads, kv_heads)
    q0, k0 = z.unflatten(-1, (heads, dim)).split(sizes, dim=2)
    q, k = y.split(sizes, dim=2)
    mean_q, mean_k = qk_mean(q0, k0)
    q, k = (RoundedGradient.apply(x, dtype) for x in (q + mean_q, k + mean_k))
    q, k = qk_norm(q, k, temperature)
    angles = cosine[:, :, None], sine[:, :, None]
    v = value_shift(now, then, None if before is None else before.to(exact), None if position is None else position)
    return rope(q, angles), rope(k, angles), v.unflatten(-1, (kv_heads, dim))


class Rounded(torch.autograd.Function):
    """x as it comes back from type `dtype`; the gradient passes as if nothing had happened."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, dtype: torch.dtype) -> Tensor:
        return x.to(dtype).to(x.dtype)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor):
        return gradient, None


class RoundedGradient(torch.autograd.Function):
    """x itself; its gradient is rounded to `dtype`, since the backward kernel feeds it to the matrix cores."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.dtype = dtype
        return x.clone()

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor):
        return gradient.to(ctx.dtype).to(gradient.dtype), None


def supports(packed: Tensor, depthwise: Tensor, depthwise_bias: Tensor, grouped: Tensor, *rest) -> str | None:
    """None, or why the kernel cannot take these inputs."""
    if packed.dtype not in DTYPES:
        return f"type {packed.dtype}"
    if packed.dtype == torch.float32 and packed.is_cuda and not torch.version.hip:
        return "float32 on NVIDIA, where a head fills more than 48 KB of LDS"
    if depthwise.shape[-1] != 2 or grouped.shape[-1] != 2:
        return f"convolutions of {depthwise.shape[-1]} and {grouped.shape[-1]} taps, not 2 and 2"
    return f"heads of {grouped.shape[1]} channels, over {WIDEST}" if grouped.shape[1] > WIDEST else None


def suffix_of(packed: Tensor, dim: int, rotary: int) -> str:
    """Which kernels take heads of `dim` channels, `rotary` of them turned: those of ZAYA1's heads, or any."""
    return f"{'' if (dim, rotary) == (WIDEST, WIDEST // 2) else 'any_'}{DTYPES[packed.dtype]}"


def launch(run: Callable, packed: Tensor, depthwise: Tensor, depthwise_bias: Tensor, grouped: Tensor,
           grouped_bias: Tensor, temperature: Tensor, cosine: Tensor, sine: Tensor, position: Tensor | None = None,
           past: Tensor | None = None, before: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """As `reference`, in type T, by the kernel."""
    (batch, steps, _), (channels, dim, _), kv_heads = packed.shape, grouped.shape, len(temperature)
    heads = channels // dim - kv_heads
    q, k, v = (packed.new_empty(batch, steps, n, dim) for n in (heads, kv_heads, kv_heads))
    suffix = suffix_of(packed, dim, 2 * cosine.shape[-1])
    run("cca_mix", f"cca_mix_{suffix}", (-(-steps // ROWS), kv_heads, batch), BLOCK,
        [packed, depthwise, depthwise_bias, grouped, grouped_bias, temperature, cosine, sine, position, past, before, q,
         k, v, steps, heads, kv_heads, dim, 2 * cosine.shape[-1], steps if len(cosine) > 1 else 0])
    return q, k, v


def launch_backward(run: Callable, d_q: Tensor, d_k: Tensor, d_v: Tensor, packed: Tensor, depthwise: Tensor,
                    depthwise_bias: Tensor, grouped: Tensor, grouped_bias: Tensor, temperature: Tensor, cosine: Tensor,
                    sine: Tensor, position: Tensor | None = None) -> tuple[Tensor, ...]:
    """The gradients of packed, depthwise, depthwise_bias, grouped, grouped_bias and temperature, each of type T.

    Two kernels go back to `packed`; the weights' gradients are products over all tokens, which torch forms.
    """
    (batch, steps, _), (channels, dim, _), kv_heads = packed.shape, grouped.shape, len(temperature)
    heads, suffix = channels // dim - kv_heads, suffix_of(packed, dim, 2 * cosine.shape[-1])
    tiles = -(-steps // ROWS)
    dy, d_packed = packed.new_empty(batch, steps, channels), torch.empty_like(packed)
    du = torch.empty(batch, steps, channels, dtype=torch.float32, device=packed.device)
    d_temperature = torch.empty(tiles, kv_heads, batch, dtype=torch.float32, device=packed.device)
    run("cca_mix", f"cca_mix_backward_heads_{suffix}", (tiles, kv_heads, batch), BLOCK,
        [packed, depthwise, depthwise_bias, grouped, grouped_bias, temperature, cosine, sine, position, d_q, d_k, dy,
         d_temperature, steps, heads, kv_heads, dim, 2 * cosine.shape[-1], steps if len(cosine) > 1 else 0, batch])
    run("cca_mix", f"cca_mix_backward_taps_{suffix}", (-(-steps // (ROWS - 1)), heads + kv_heads, batch), BLOCK,
        [dy, d_v, depthwise, grouped, position, d_packed, du, steps, heads, kv_heads, dim])
    weights = weight_gradients(dy.float(), du, packed[..., :channels].float(), depthwise.float(),
                               depthwise_bias.float(), grouped.float(), position, packed.dtype)
    return d_packed, *(x.to(packed.dtype) for x in (*weights, d_temperature.sum((0, 2))))


def weight_gradients(dy: Tensor, du: Tensor, z: Tensor, w: Tensor, b0: Tensor, matrix: Tensor, position: Tensor | None,
                     dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Those of depthwise, depthwise_bias, grouped and grouped_bias, in float32; all inputs in float32."""
    heads, dim = len(b0) // matrix.shape[1], matrix.shape[1]
    before = torch.nn.functional.pad(z, (0, 0, 1, 0))[:, :-1]        # z of the token before, zero at a beginning
    starts = torch.zeros(z.shape[:2], dtype=torch.bool, device=z.device) if position is None else position == 0
    starts = starts.clone()
    starts[:, 0] = True
    before = before.masked_fill(starts[..., None], 0)
    u = (b0 + w[:, 0, 1] * z + w[:, 0, 0] * before).to(dtype).float()
    late = torch.where(starts[..., None], b0, torch.nn.functional.pad(u, (0, 0, 1, 0))[:, :-1])
    def over_tokens(x: Tensor) -> Tensor:
        product = torch.einsum("btno,btni->noi", dy.unflatten(-1, (heads, dim)), x.unflatten(-1, (heads, dim)))
        return product.flatten(0, 1)
    d_grouped = torch.stack([over_tokens(late), over_tokens(u)], dim=-1)
    # a document's first token saw b0 itself through the older tap
    first = (dy * starts[..., None]).sum((0, 1)).unflatten(0, (heads, dim))
    through = torch.einsum("no,noi->ni", first, matrix[..., 0].unflatten(0, (heads, dim))).flatten()
    d_depthwise = torch.stack([(du * before).sum((0, 1)), (du * z).sum((0, 1))], dim=-1)[:, None]
    return d_depthwise, du.sum((0, 1)) + through, d_grouped, dy.sum((0, 1))


def example(dtype: torch.dtype = torch.bfloat16, device: str = "cpu", batch: int = 1, steps: int = 64, heads: int = 4,
            kv_heads: int = 2, dim: int = 32) -> tuple:
    """Arguments of `launch`, small enough to trace."""
    draw = torch.Generator().manual_seed(0)
    def normal(*shape, scale: float = 1.0):
        return (scale * torch.randn(*shape, generator=draw)).to(device, dtype)
    channels, angles = (heads + kv_heads) * dim, torch.randn(1, steps, dim // 4, generator=draw)
    return (normal(batch, steps, channels + kv_heads * dim), normal(channels, 1, 2), normal(channels),
            normal(channels, dim, 2, scale=dim ** -0.5), normal(channels), normal(kv_heads).abs() + 1,
            angles.cos().to(device, dtype), angles.sin().to(device, dtype))


def full(run: Callable, kernel: str, tokens: int = 16384, heads: int = 8, kv_heads: int = 2) -> None:
    """The launch of `kernel` at ZAYA1-8B's size, of tensors without numbers; "any": with heads of half the width."""
    dim = 64 if "any" in kernel else 128

    def meta(*shape):
        return torch.empty(*shape, dtype=torch.bfloat16 if kernel.endswith("bf16") else torch.float32, device="meta")
    channels, angles = (heads + kv_heads) * dim, meta(1, tokens, dim // 4)
    inputs = (meta(1, tokens, channels + kv_heads * dim), meta(channels, 1, 2), meta(channels), meta(channels, dim, 2),
              meta(channels), meta(kv_heads), angles, angles)
    if "backward" in kernel:
        launch_backward(run, *(meta(1, tokens, n, dim) for n in (heads, kv_heads, kv_heads)), *inputs)
    else:
        launch(run, *inputs)


def work(kernel: str, tokens: int = 16384, heads: int = 8, kv_heads: int = 2) -> tuple[int, int]:
    """(fewest bytes, floating-point operations) of one launch of `kernel`, as in `full`. Weights count once."""
    dim = 64 if "any" in kernel else 128
    size, channels, values = 2 if kernel.endswith("bf16") else 4, (heads + kv_heads) * dim, kv_heads * dim
    weights = channels * dim * 2 * size
    products = 2 * 2 * tokens * channels * dim
    if "heads" in kernel:      # in: z and the gradients of q and k; out: dy
        return tokens * channels * 3 * size + weights, products + 30 * tokens * channels
    if "taps" in kernel:       # in: dy, d_v; out: du and d_packed
        return tokens * (channels * (2 * size + 4) + 2 * values * size) + weights, products + 5 * tokens * channels
    return 2 * tokens * (channels + values) * size + weights, products + 20 * tokens * channels
