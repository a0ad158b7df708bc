"""What the laws draw: small odd sizes, and tensors that stay readable when Hypothesis shrinks them.

A tensor costs Hypothesis one choice, its `pattern`. Pattern 0, the simplest, counts 1, 2, 3, ... so that a shrunken
counterexample shows which number went where; any other pattern seeds multiples of a quarter between -2 and 2.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from torch import Tensor, nn

from ..config import ZayaConfig


def cases(fill: Callable[[DrawFn], dict]) -> SearchStrategy[dict]:
    """A strategy from a function that takes Hypothesis' `draw` and returns the inputs of one case as a dict."""
    return st.composite(fill)()


def size(draw: DrawFn, low: int, high: int) -> int:
    return draw(st.integers(low, high))


def flag(draw: DrawFn) -> bool:
    return draw(st.booleans())


def pick(draw: DrawFn, options: Sequence) -> Any:
    return draw(st.sampled_from(options))


def tensor(draw: DrawFn, *shape: int, dtype: torch.dtype = torch.float64, zero: bool = True) -> Tensor:
    """Numbers of size about one; `zero=False` leaves zero out (for divisors and temperatures)."""
    pattern = draw(st.integers(0, 9999))
    count = torch.Size(shape).numel()
    if pattern == 0:
        # counts to 7 and starts again: large numbers would drown small ones in a softmax
        return (torch.arange(count) % 7 + 1).to(dtype).reshape(shape)
    quarters = torch.randint(-8, 9, shape, generator=torch.Generator().manual_seed(pattern))
    if not zero:
        quarters = torch.where(quarters == 0, 1, quarters)
    return quarters.to(dtype) / 4


def integers(draw: DrawFn, *shape: int, low: int, high: int) -> Tensor:
    """int64 between low and high, both included; pattern 0 counts up from low, round and round."""
    pattern = draw(st.integers(0, 9999))
    if pattern == 0:
        return (torch.arange(torch.Size(shape).numel()) % (high - low + 1) + low).reshape(shape)
    return torch.randint(low, high + 1, shape, generator=torch.Generator().manual_seed(pattern))


def heads(draw: DrawFn, most_kv: int = 3, most_group: int = 3,
          dims: tuple[int, ...] = (2, 4, 6)) -> tuple[int, int, int]:
    """Query heads, KV heads, channels of a head."""
    kv = size(draw, 1, most_kv)
    return kv * size(draw, 1, most_group), kv, pick(draw, dims)


def lengths(draw: DrawFn, total: int) -> list[int]:
    """`total` cut into pieces of at least one: chunks of a sequence, or documents of a packed row."""
    cuts = draw(st.lists(st.booleans(), min_size=total - 1, max_size=total - 1))
    pieces, run = [], 1
    for cut in cuts:
        pieces, run = (pieces + [run], 1) if cut else (pieces, run + 1)
    return pieces + [run]


def positions(pieces: list[int], batch: int = 1) -> Tensor:
    """Each token's place in its own document, int (batch, sum of pieces)."""
    return torch.cat([torch.arange(n) for n in pieces]).expand(batch, -1).clone()


def convolution(draw: DrawFn, channels: int, taps: int, groups: int) -> nn.Conv1d:
    """A float64 Conv1d over time, no padding, every weight and bias drawn."""
    conv = nn.Conv1d(channels, channels, taps, groups=groups, dtype=torch.float64)
    conv.weight.data = tensor(draw, *conv.weight.shape)
    conv.bias.data = tensor(draw, channels)
    return conv


def config(draw: DrawFn, **fixed) -> ZayaConfig:
    """A tiny model of any legal shape: odd sizes, one to three layers, sometimes sliding."""
    h, j, d = heads(draw, most_kv=2, most_group=2, dims=(2, 4, 8))
    layers = fixed.pop("num_hidden_layers", None) or size(draw, 1, 3)
    kinds = tuple(pick(draw, ("hybrid", "hybrid_sliding")) for _ in range(layers))
    values = dict(vocab_size=11, hidden_size=size(draw, 3, 6), num_hidden_layers=layers, num_attention_heads=h,
                  num_key_value_heads=j, head_dim=d, partial_rotary_factor=1.0 if d == 2 else pick(draw, (0.5, 1.0)),
                  cca_time0=size(draw, 1, 3), cca_time1=size(draw, 1, 3), num_experts=size(draw, 1, 4),
                  moe_intermediate_size=size(draw, 1, 3), router_hidden_size=size(draw, 2, 4), layer_types=kinds,
                  sliding_window=size(draw, 1, 5), rope_theta=100.0, rope_theta_sliding=10.0, pad_token_id=0)
    return ZayaConfig(**values | fixed)


@torch.no_grad()
def randomise(module: nn.Module, seed: int) -> nn.Module:
    """The module in float64 with every parameter and buffer drawn anew: a fresh model hides bugs behind its ones and
    zeros. Scales stay around one, the skip route's bias around zero so that skipping happens."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double()
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        centre = 1.0 if any(word in name for word in ("scale", "norm", "temperature")) and "bias" not in name else 0.0
        width = 0.5 if value.dim() < 2 else 0.7
        value.copy_(centre + width * torch.randn(value.shape, generator=generator, dtype=torch.float64))
        if name.endswith("balancing_bias"):
            value.mul_(0.3)
    return module
