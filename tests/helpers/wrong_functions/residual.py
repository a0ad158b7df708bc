"""Wrong functions for the laws of residual: see the head of this folder."""

import torch
import torch.nn.functional as F

from minizaya.arch import residual
from wrong_ways import doubled, raised


def half_by_half(x, weight, eps):
    """All in bfloat16."""
    x = x.to(weight.dtype)
    return weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps))


def never_float32(start, layers):
    for layer in layers:
        start = start + layer(start)
    return start.float()


def float32_layers(start, layers):
    stream = start.float()
    for layer in layers:
        stream = stream + layer(stream)
    return stream


WRONG = {
    "residual.merge": [
        raised(residual.merge),
        doubled(residual.merge),
        lambda o, r, s1, b1, s2, b2: o * s1 + b1 + r * s2 + b2, lambda o, r, *v: o + r],
    "residual.identity": [lambda o, r, *v: o, lambda o, r, s1, b1, s2, b2: (o + r) * (s1 + s2)],
    "residual.rms_norm": [
        raised(residual.rms_norm),
        doubled(residual.rms_norm),
        lambda x, w, e: x / x.norm(dim=-1, keepdim=True) * w,
                          lambda x, w, e: F.rms_norm(x, x.shape[-1:], w),
                          lambda x, w, e: F.layer_norm(x, x.shape[-1:], w, eps=e),
                          lambda x, w, e: x / (x.square().mean(1, keepdim=True) + e).sqrt() * w],
    "residual.float32": [lambda o, r, *v: o + r.bfloat16(), lambda o, r, *v: (o + r.to(o.dtype)).float()],
    "residual.bias_first": [
        lambda o, r, s1, b1, s2, b2: o * s1 + b1 + (r + b2) * s2,
        lambda o, r, s1, b1, s2, b2: (o + b1) * s1 + r * s2 + b2,
    ],
    "residual.rms_unit": [
        lambda x, w, e: 2 * residual.rms_norm(x, w, e),
        lambda x, w, e: residual.rms_norm(x, w, e).abs(),
    ],
    "residual.rms_epsilon": [
        lambda x, w, e: x / (x.square().mean(-1, keepdim=True).sqrt() + e ** 0.5) * w,
        lambda x, w, e: residual.rms_norm(x, w, e) + (x == 0) * 1e-30,
    ],
    "residual.rms_half": [
        lambda x, w, e: residual.rms_norm(x, w, e).float(),
        half_by_half,
    ],
    "residual.forms": [
        lambda scale, bias: (bias / scale)[None],
        lambda scale, bias: bias,
    ],
    "residual.float32_stream": [
        never_float32,
        (float32_layers, "was given torch.float32"),
    ],
}
