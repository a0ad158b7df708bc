"""Queries, keys and values from one projection: both convolutions, means, norm, rotation, the late half of the values.

Plain: `CCA.project` in `arch/cca.py`.
"""

from ctypes import Structure, c_long, c_void_p

import torch
from einops import rearrange
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from ...arch.attention import Place
from ...arch.cache import Cache
from ...arch.cca import CCA
from ...config import ZayaConfig
from .library import call


class Mix(Structure):
    """Sizes, places and small weights, as `mix.cpp` reads them."""

    _fields_ = [*((name, c_long) for name in
                  ("b", "t", "heads", "kv_heads", "head", "taps", "reach", "rotary", "turns")),
                *((name, c_void_p) for name in
                  ("position", "taps_weight", "taps_bias", "bias", "temperature", "cos", "sin"))]


class Mixed(torch.autograd.Function):
    """packed (b, t, c + j d) -> q (b, t, h, d), k and v (b, t, j, d).

    Args:
        taps, taps_bias: (taps, c) and (c,), one filter a channel. weight, bias: (h + j, reach d, d) and (c,), of the
            grouped convolution. temperature: (j,). cos, sin: (t or b t, rotary / 2). position: int64 (b, t) or None.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, packed: Tensor, taps: Tensor, taps_bias: Tensor, weight: Tensor, bias: Tensor,
                temperature: Tensor, cos: Tensor, sin: Tensor, position: Tensor | None,
                config: ZayaConfig) -> tuple[Tensor, Tensor, Tensor]:
        packed, (b, t, _) = packed.contiguous(), packed.shape
        h, j, d = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        reach = weight.shape[1] // d
        kept = [position, taps, taps_bias, bias, temperature, cos, sin]
        ctx.sizes = b, t, h, j, d, len(taps), reach, 2 * cos.shape[-1], len(cos)
        mix = described(ctx.sizes, kept)
        columns = packed.new_empty(h + j, b * t, reach * d)
        q, k, v = (packed.new_empty(b, t, n, d) for n in (h, j, j))
        call("mix_columns", mix, packed, columns)
        mixed = torch.bmm(columns, weight)
        call("mix_finish", mix, packed, mixed, q, k, v)
        ctx.save_for_backward(packed, weight, columns, mixed, *kept)
        return q, k, v

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Tensor | None, ...]:
        packed, weight, columns, mixed, *kept = ctx.saved_tensors
        _, taps, _, bias, temperature, *_ = kept
        mix = described(ctx.sizes, kept)   # trap: weights that are gathered anew for the way back lie elsewhere
        d_packed, d_mixed = torch.empty_like(packed), torch.empty_like(mixed)
        d_bias, d_temperature = torch.empty_like(bias), torch.empty_like(temperature)
        call("mix_finish_back", mix, dq.contiguous(), dk.contiguous(), dv.contiguous(), mixed, d_packed, d_mixed,
             d_bias, d_temperature)
        d_weight = torch.bmm(columns.mT, d_mixed)
        d_columns = torch.bmm(d_mixed, weight.mT)
        d_taps = packed.new_zeros(len(packed), len(taps) + 1, taps.shape[1])
        call("mix_columns_back", mix, d_columns, packed, d_packed, d_taps)
        d_taps = d_taps.sum(0)
        return d_packed, d_taps[:-1], d_taps[-1], d_weight, d_bias, d_temperature, None, None, None, None


def described(sizes: tuple[int, ...], kept: list[Tensor | None]) -> Mix:
    """What C++ reads, of tensors that must outlive it."""
    return Mix(*sizes, *(None if one is None else one.data_ptr() for one in kept))


def standard(config: ZayaConfig) -> bool:
    """Is this the layer that `mix.cpp` knows: no ablation, no bias?"""
    return config.num_convs == 2 and config.qk_mean and config.value_shift and not config.attention_bias


def mixed(layer: CCA, x: Tensor, place: Place, cache: Cache | None) -> tuple[Tensor, Tensor, Tensor]:
    """`CCA.project` of a `standard` layer: x (b, t, E) -> q, k and v. `cache`, if there is one, is empty."""
    config, packed = layer.config, layer.down_proj(x)
    if cache is not None:
        sizes = (config.query_size + config.kv_size, config.kv_size // 2, config.kv_size // 2)
        z, _, then = packed.split(sizes, dim=-1)
        cache.exchange(layer.layer, z, then)
    taps, grouped = layer.conv_depthwise, layer.conv_grouped
    cos, sin = (angle.reshape(-1, angle.shape[-1]) for angle in place.angles[layer.sliding])
    position = None if place.position is None else place.position.contiguous()
    return Mixed.apply(packed, rearrange(taps.weight, "c 1 k -> k c").contiguous(), taps.bias,
                       rearrange(grouped.weight, "(n o) i k -> n (k i) o", n=grouped.groups), grouped.bias,
                       layer.temperature, cos, sin, position, config)
