"""cca_attention: causal grouped-query attention in the latent space, scores and weights never written to memory.

Shapes: b batch, t query time, s key time (the queries are the last t keys), h query heads, j KV heads, d <= 128
channels of a head. T is float32 or bfloat16.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from minizaya.arch.attention import attend_reference, causal_mask

BLOCK, KEYS, WIDEST, MERGERS = 256, 32, 128, 512
BLOCKS = 608                 # two for each of MI300X's 304 compute units: fewer, and the keys are shared out, too
DTYPES = {torch.float32: "f32", torch.bfloat16: "bf16"}


def reference(q: Tensor, k: Tensor, v: Tensor, documents: Tensor | None = None, window: int = 0) -> Tensor:
    """q (b, t, h, d), k and v (b, s, j, d) -> (b, t, h, d), in float32 and rounded once at the end.

    documents: int32 (b, s), numbers that never fall along a row; a query sees the keys of its own number only.
    window: how many last keys a query sees, its own included; 0: all of them.
    """
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    return attend_reference(q.to(wide), k.to(wide), v.to(wide), mask(q, k, documents, window)).to(q.dtype)


def mask(q: Tensor, k: Tensor, documents: Tensor | None = None, window: int = 0) -> Tensor:
    """bool, broadcastable to (b, 1, t, s): True where a query sees a key."""
    keys = torch.arange(k.shape[1], device=k.device)
    queries = keys[k.shape[1] - q.shape[1]:]
    seen = causal_mask(queries, keys, window or None)[None, None]
    return seen if documents is None else seen & (documents[:, None, queries, None] == documents[:, None, None, :])


def supports(q: Tensor, k: Tensor, v: Tensor, documents: Tensor | None = None, window: int = 0) -> str | None:
    """None, or why the kernel cannot take these inputs."""
    if q.dtype not in DTYPES or not q.dtype == k.dtype == v.dtype:
        return f"types {q.dtype}, {k.dtype}, {v.dtype}"
    if q.shape[1] > k.shape[1]:
        return f"{q.shape[1]} queries and only {k.shape[1]} keys"
    if documents is not None and documents.dtype != torch.int32:
        return f"document numbers of type {documents.dtype}"
    return f"heads of {q.shape[3]} channels, over {WIDEST}" if q.shape[3] > WIDEST else None


def launch(run: Callable, q: Tensor, k: Tensor, v: Tensor, documents: Tensor | None = None, window: int = 0,
           parts: int | None = None) -> Tensor:
    """As `reference`, by the kernel. run: a `minizaya.hip.launch.Launcher`. parts: blocks that share a row's keys."""
    (b, t, h, d), (s, j) = q.shape, k.shape[1:3]
    out, partial, stats = torch.empty_like(q), None, None
    if q.numel() == 0:
        return out
    rows = t * (h // j)                                   # of one KV head: all its query heads at all positions
    block = BLOCK if rows > 32 else 64                    # a team of 64 lanes for 32 rows
    tiles = -(-rows // (block // 2))
    if parts is None:
        parts = 1 if tiles > 1 else max(1, min(BLOCKS // (b * j), s // 64))
    if parts > 1:
        partial, stats = (torch.empty(b, t, h, parts, n, dtype=torch.float32, device=q.device) for n in (d, 2))
    wide = next(wide for wide in (32, 64, 128) if d <= wide)
    few = "few_" if block == 64 else ""
    run("cca_attention", f"cca_attention_{few}{wide}_{DTYPES[q.dtype]}", (tiles * parts, b * j), block,
        [q, k, v, documents, out, partial, stats, t, s, h, j, d, window, parts, tiles, d ** -0.5])
    if parts > 1:
        run("cca_attention", f"cca_attention_merge_{DTYPES[q.dtype]}", (b * t * h,), MERGERS,
            [partial, stats, out, d, parts])
    return out


def example(dtype: torch.dtype = torch.bfloat16, device: str = "cpu") -> tuple:
    """Arguments of `launch`, small enough to trace: two documents, 4 query heads on 2 KV heads."""
    draw = torch.Generator().manual_seed(0)
    def normal(heads: int):
        return torch.randn(1, 40, heads, 32, generator=draw).to(dtype).to(device)
    documents = torch.tensor([[1] * 23 + [2] * 17], dtype=torch.int32, device=device)
    return normal(4), normal(2), normal(2), documents


def full(run: Callable, kernel: str, tokens: int = 16384, heads: int = 8, kv_heads: int = 2, width: int = 128) -> None:
    """The launch of `kernel` at ZAYA1-8B's size, of tensors without numbers; of the narrower kernels, with narrower
    heads. merge: one decoding step."""
    def meta(*shape):
        return torch.empty(*shape, dtype=torch.bfloat16 if kernel.endswith("bf16") else torch.float32, device="meta")
    queries, width = 1 if "merge" in kernel or "few" in kernel else tokens, width
    width = width if "merge" in kernel else int(kernel.split("_")[-2])
    launch(run, meta(1, queries, heads, width), *(meta(1, tokens, kv_heads, width) for _ in range(2)))


def work(kernel: str, tokens: int = 16384, heads: int = 8, kv_heads: int = 2, width: int = 128) -> tuple[int, int]:
    """(fewest bytes, floating-point operations) of one launch of `kernel` at ZAYA1-8B's size, one row of `tokens`.

    Of the products only the half under the diagonal counts. merge: one decoding step, its keys in 256 parts.
    """
    size = 2 if kernel.endswith("bf16") else 4
    if "merge" in kernel:
        return heads * (256 * (width + 2) * 4 + width * size), 3 * heads * 256 * width
    width = int(kernel.split("_")[-2])                    # the narrower kernels, with narrower heads
    if "few" in kernel:                                   # one decoding step
        return width * (2 * heads + 2 * kv_heads * tokens) * size, 4 * heads * width * tokens
    return tokens * width * (2 * heads + 2 * kv_heads) * size, 4 * heads * width * tokens * (tokens + 1) // 2
