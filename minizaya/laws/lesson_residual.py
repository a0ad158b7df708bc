"""Laws of small steps that only the exercises of lesson 05 ask for."""

import torch
from torch import Tensor

from ..arch import residual as lib
from . import strategies as draw_a
from .core import Broken, expect, law, require

# ---- two ways to print one scaling -----------------------------------------------------------------------------------


def printed_forms(draw):
    n = draw_a.size(draw, 1, 5)
    return dict(scale=draw_a.tensor(draw, n, zero=False), bias=draw_a.tensor(draw, n), x=draw_a.tensor(draw, 2, n))


def nearly_zero():
    """Scales that are small, and not zero."""
    scale, bias = torch.tensor([1e-4, -1e-4], dtype=torch.float64), torch.tensor([1.0, 2.0], dtype=torch.float64)
    return [dict(scale=scale, bias=bias, x=torch.ones(1, 2, dtype=torch.float64))]


def weights_bias(scale: Tensor, bias: Tensor) -> Tensor:
    """The library's subject: scale * x + bias is (x + bias / scale) * scale."""
    return bias / scale


@law("residual.forms", "the weights' form (x + b') * s with the new bias computes what s * x + b does",
     cases=draw_a.cases(printed_forms), always=nearly_zero, axes=dict(scale="c", bias="c", x="t c"),
     subjects={"weights_bias": weights_bias}, guards=[weights_bias])
def forms(fn, scale, bias, x):
    """fn(scale, bias): float (n,) each, of the report's form; no scale is zero -> (n,), bias of the weights' form."""
    new = fn(scale, bias)
    require(isinstance(new, Tensor) and new.shape == bias.shape,
            f"the new bias must be a tensor of shape {tuple(bias.shape)}")
    expect((x + new) * scale, x * scale + bias, "t c", "the stream under your bias")


# ---- a float32 stream in a half-precision model ----------------------------------------------------------------------


def half_models(draw):
    layers, n = draw_a.size(draw, 1, 80), draw_a.size(draw, 1, 3)
    # large numbers in the stream, small writes: a bfloat16 sum would lose them
    return dict(start=(16 * draw_a.tensor(draw, n, dtype=torch.float32)).bfloat16(),
                gains=(draw_a.tensor(draw, layers, n, dtype=torch.float32, zero=False) / 512).bfloat16())


def float32_stream(start: Tensor, layers: list) -> Tensor:
    """The library's subject: every layer reads bfloat16, the stream adds up in float32."""
    stream = start.to(lib.at_least_float32(start.dtype))
    for layer in layers:
        stream = lib.PlainResidual()(layer(stream.to(start.dtype)), stream)
    return stream


@law("residual.float32_stream", "layers read and write bfloat16, and the stream between them never rounds to it",
     cases=draw_a.cases(half_models), axes=dict(start="c", gains="l c"), subjects={"float32_stream": float32_stream},
     guards=[float32_stream, lib.merge, lib.PlainResidual.forward])
def stream_in_float32(fn, start, gains):
    """fn(start, layers): bfloat16 (n,), and a list of functions bfloat16 (n,) -> bfloat16 (n,) -> float32 (n,).
    Here layer l returns gains[l] times what it reads."""
    def make(index):
        def layer(x):
            if x.dtype != torch.bfloat16:
                raise Broken(f"layer {index} was given {x.dtype}; its matrices are torch.bfloat16")
            return gains[index] * x
        return layer

    wanted = start.float()
    for gain in gains:
        wanted = wanted + (gain * wanted.bfloat16()).float()
    got = fn(start, [make(index) for index in range(len(gains))])
    expect(got, wanted, "c", "the stream at the end", exact=True)
