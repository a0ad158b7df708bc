"""RMSNorm and residual scaling: how a layer reads the residual stream, and how its output joins it.

The residual stream stays in float32 (or wider) even when the model runs in bfloat16: 80 additions in eight bits of
mantissa would lose the small ones.
"""

import torch
from torch import Tensor, nn


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """float32 for half types, the type itself otherwise (float64 stays float64, so parity tests can be sharp)."""
    return torch.promote_types(dtype, torch.float32)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight over the last axis; the mean of squares is taken in at least float32.

    Args:
        x: (..., n), any float type. weight: (n,). eps: added to the mean square, so a zero row stays zero.
    Returns:
        (..., n) in the type of `weight`. As in the released code, x is cast to that type *first*.
    """
    x = x.to(weight.dtype)
    wide = x.to(at_least_float32(x.dtype))
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return weight * wide.to(x.dtype)


class RMSNorm(nn.Module):
    """`rms_norm` with its learned weight, which starts at one."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


def merge(output: Tensor, residual: Tensor, output_scale: Tensor, output_bias: Tensor,
          residual_scale: Tensor, residual_bias: Tensor) -> Tensor:
    """(output + b1) * s1 + (residual + b2) * s2: both streams scaled, then added.

    Args:
        output: (b, t, n), what the layer just computed. residual: (b, t, n), the stream, at least float32.
        output_scale, output_bias, residual_scale, residual_bias: (n,) each.
    Returns:
        (b, t, n), the new residual stream, at least float32.

    Papers and code disagree. The AMD paper (2511.17127) scales the layer's *input*; the ZAYA1-8B report prints
    s * x + b; the released weights mean (x + b) * s on both streams. We take the weights' word:
    `test_residual_adds_the_bias_before_it_scales` pins it.
    """
    return (output + output_bias) * output_scale + (residual + residual_bias) * residual_scale


class ResidualScaling(nn.Module):
    """`merge` with its four learned vectors; at initialisation (ones and zeros) it is a plain addition."""

    def __init__(self, size: int):
        super().__init__()
        self.output_scale = nn.Parameter(torch.ones(size))
        self.output_bias = nn.Parameter(torch.zeros(size))
        self.residual_scale = nn.Parameter(torch.ones(size))
        self.residual_bias = nn.Parameter(torch.zeros(size))

    def forward(self, output: Tensor, residual: Tensor) -> Tensor:
        return merge(output, residual, self.output_scale, self.output_bias, self.residual_scale, self.residual_bias)


class PlainResidual(nn.Module):
    """output + residual: what every other transformer does. The ablation `residual_scaling=False`."""

    def forward(self, output: Tensor, residual: Tensor) -> Tensor:
        return output + residual
