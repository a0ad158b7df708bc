"""Laws of the residual stream: how a layer reads it and how its output joins it."""

import torch

from ..arch import residual as lib
from . import strategies as draw_a
from . import textbook
from .core import expect, expect_trainable, finite, law, require


def streams(draw):
    b, t, c = draw_a.size(draw, 1, 2), draw_a.size(draw, 1, 4), draw_a.size(draw, 1, 6)
    vectors = {name: draw_a.tensor(draw, c) for name in ("s1", "b1", "s2", "b2")}
    return dict(output=draw_a.tensor(draw, b, t, c), residual=draw_a.tensor(draw, b, t, c), **vectors)


MERGE = dict(cases=draw_a.cases(streams), axes=dict(output="b t c", residual="b t c"), subjects={"merge": lib.merge},
             guards=[lib.merge])


@law("residual.merge", "both streams get their bias, then their scale, and are added", **MERGE)
def merge(fn, output, residual, s1, b1, s2, b2):
    """fn(output, residual, s1, b1, s2, b2): output and residual float (b, t, n); output scale and bias, residual scale
    and bias (n,) -> (b, t, n), (output + b1) * s1 + (residual + b2) * s2."""
    def right(output, residual, s1, b1, s2, b2):
        return output * s1 + b1 * s1 + residual * s2 + b2 * s2

    inputs = dict(output=output, residual=residual, s1=s1, b1=b1, s2=s2, b2=b2)
    expect(fn(*inputs.values()), right(*inputs.values()), "b t c")
    expect_trainable(fn, right, MERGE["axes"] | dict(s1="c", b1="c", s2="c", b2="c"), inputs)


@law("residual.identity", "with scales one and biases zero it is a plain addition, to the last bit", **MERGE)
def identity(fn, output, residual, s1, b1, s2, b2):
    """fn(output, residual, s1, b1, s2, b2): as in residual.merge."""
    one, zero = torch.ones_like(s1), torch.zeros_like(s1)
    expect(fn(output, residual, one, zero, one, zero), output + residual, "b t c", exact=True)


@law("residual.bias_first", "a stream that equals minus its bias vanishes whatever its scale: the bias comes first",
     **MERGE)
def bias_first(fn, output, residual, s1, b1, s2, b2):
    """fn(output, residual, s1, b1, s2, b2): as in residual.merge."""
    one, zero = torch.ones_like(s1), torch.zeros_like(s1)
    gone = (-b1).expand_as(output).contiguous()
    expect(fn(gone, residual, s1, b1, one, zero), residual, "b t c", "output = -b1", exact=True)
    gone = (-b2).expand_as(output).contiguous()
    expect(fn(output, gone, one, zero, s2, b2), output, "b t c", "residual = -b2", exact=True)


def half(draw):
    case = streams(draw)
    return dict(output=case["output"].bfloat16(), residual=case["residual"].float())


@law("residual.float32", "a half-precision output joins a float32 stream without rounding it", cases=draw_a.cases(half),
     axes=MERGE["axes"], subjects=MERGE["subjects"], guards=MERGE["guards"])
def float32(fn, output, residual):
    """fn(output, residual, s1, b1, s2, b2): output and the four vectors bfloat16, residual float32 -> float32."""
    one, zero = torch.ones(output.shape[-1]).bfloat16(), torch.zeros(output.shape[-1]).bfloat16()
    fine = residual + 2.0 ** -12      # too fine for bfloat16's eight bits
    expect(fn(output, fine, one, zero, one, zero), output.float() + fine, "b t c", exact=True)


# ---- RMSNorm ---------------------------------------------------------------------------------------------------------


def norms(draw):
    b, t, c = draw_a.size(draw, 1, 2), draw_a.size(draw, 1, 4), draw_a.size(draw, 1, 6)
    return dict(x=draw_a.tensor(draw, b, t, c), weight=draw_a.tensor(draw, c, zero=False),
                eps=draw_a.pick(draw, (1e-5, 1e-2, 0.5)))


RMS = dict(cases=draw_a.cases(norms), axes=dict(x="b t c", weight="c"), subjects={"rms_norm": lib.rms_norm},
           guards=[lib.rms_norm])


@law("residual.rms_norm", "x / sqrt(mean of squares + eps) * weight, over the last axis", **RMS)
def rms_norm(fn, x, weight, eps):
    """fn(x, weight, eps): float (b, t, n), (n,), and a positive float -> (b, t, n)."""
    expect(fn(x, weight, eps), textbook.rms(x, weight, eps), "b t c")
    expect_trainable(fn, textbook.rms, RMS["axes"], dict(x=x, weight=weight), eps)


@law("residual.rms_unit", "the result has RMS one and does not care how large the input was, as long as eps is small",
     **RMS)
def rms_unit(fn, x, weight, eps):
    """fn(x, weight, eps): as in residual.rms_norm; the weight is one, eps is 1e-30 here, and no row is zero."""
    one, x = torch.ones_like(weight), torch.where((x == 0).all(-1, keepdim=True), 1.0, x)
    out = finite(fn(x, one, 1e-30))
    expect(out.square().mean(-1), torch.ones_like(x[..., 0]), "b t", "mean of squares")
    expect(fn(-7.0 * x, one, 1e-30), -out.detach(), "b t c", "after times -7")


@law("residual.rms_epsilon", "eps stands inside the root: an input whose mean square is eps shrinks by sqrt(2)", **RMS)
def rms_epsilon(fn, x, weight, eps):
    """fn(x, weight, eps): as in residual.rms_norm. A zero row stays zero."""
    level = torch.full_like(x, eps ** 0.5)
    expect(fn(level, weight, eps), weight.expand_as(x) / 2 ** 0.5, "b t c", "mean square = eps")
    expect(fn(torch.zeros_like(x), weight, eps), torch.zeros_like(x), "b t c", "x = 0", exact=True)


def half_norms(draw):
    return dict(x=norms(draw)["x"])


@law("residual.rms_half", "in half precision the mean of squares is still taken in float32, then rounded once",
     cases=draw_a.cases(half_norms), axes=dict(x="b t c"), subjects=RMS["subjects"], guards=RMS["guards"])
def rms_half(fn, x):
    """fn(x, weight, eps): x float32 and weight bfloat16 -> bfloat16. x is cast to the weight's type first."""
    weight = torch.linspace(0.5, 1.5, x.shape[-1]).bfloat16()
    x = (x + 0.3).float()      # 0.3 has no short binary form, so roundings show
    wide = x.bfloat16().float()
    wanted = weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5)).bfloat16()
    got = finite(fn(x, weight, 1e-5))
    require(got.dtype == torch.bfloat16, f"you gave type {got.dtype}, the law wants torch.bfloat16")
    expect(got.float(), wanted.float(), "b t c", exact=True)
