"""Wrong functions for the laws of cca: see the head of this folder."""

import math
from copy import deepcopy

import torch
import torch.nn.functional as F

from minizaya.arch import attention, cca
from minizaya.laws.cca import pads_once, taps_of_documents
from minizaya.laws.layer import run_layer
from wrong_ways import cut_off, doubled, raised


def shift(late):
    return lambda now, then, before=None, position=None: torch.cat([now, late(then)], -1)


def wrong_norm(q, k, temperature):
    return q / q.norm() * q.numel() ** 0.5, k / k.norm(dim=-1, keepdim=True) * temperature[:, None]


def pads_each(z, depthwise, grouped):
    z = z.transpose(1, 2)
    for conv in (depthwise, grouped):
        z = conv(F.pad(z, (conv.kernel_size[0] - 1, 0)))
    return z.transpose(1, 2)


def not_causal(z, depthwise, grouped):
    z = z.transpose(1, 2)
    for conv in (depthwise, grouped):
        z = conv(F.pad(z, (0, conv.kernel_size[0] - 1)))
    return z.transpose(1, 2)


def naive(q, k, v, mask, axis):
    group, (t, s) = q.shape[2] // k.shape[2], (q.shape[1], k.shape[1])
    k, v = k.repeat_interleave(group, 2), v.repeat_interleave(group, 2)
    mask = torch.arange(s) <= torch.arange(s - t, s)[:, None] if mask is None else mask
    scores = torch.einsum("bthd,bshd->bhts", q, k) / q.shape[-1] ** 0.5
    return torch.einsum("bhts,bshd->bthd", scores.masked_fill(~mask, -1e30).softmax(axis), v)


def heads_mixed(q, k, v, mask):
    """GQA with the query heads dealt out in turn."""
    group = q.shape[2] // k.shape[2]
    k, v = k.repeat(1, 1, group, 1), v.repeat(1, 1, group, 1)
    return naive(q, k, v, mask, -1)

right = pads_once(cca.convolve)


def leaks_into_first(z, depthwise, grouped):
    out = right(z, depthwise, grouped).clone()
    out[:, 0] += z[:, -1] - z[:, 0]
    return out


def other_weights(z, depthwise, grouped, position):
    return taps_of_documents(z, deepcopy(depthwise), grouped, position)


def by_mean_size(q, k, temperature):
    q, k = (x / x.abs().mean(-1, keepdim=True).clamp_min(1e-9) for x in (q, k))
    return q, k * temperature[:, None]


def stretched(x, angles):
    """Longer the further it is turned."""
    turned, rotary = attention.rope(x, angles).clone(), 2 * angles[0].shape[-1]
    turned[..., :rotary] *= torch.cat([2 - angles[0]] * 2, -1)
    return turned


def a_radian_further(x, angles):
    cos, sin = angles
    return attention.rope(x, (cos * math.cos(1) - sin * math.sin(1), sin * math.cos(1) + cos * math.sin(1)))


def wrong_at(start):
    """RoPE that is right but where the first token's position fulfils `start`."""
    def run(x, angles):
        first = angles[0].flatten()[0]
        places = (torch.arange(10).double().cos() - first).abs() < 1e-12
        return attention.rope(x, angles) * (2 if start(places) else 1)
    return run


def half_angles(positions, frequencies, dtype):
    turn = (positions[:, None].bfloat16() * frequencies.bfloat16())[:, None]
    return turn.cos(), turn.sin()


def layer(change):
    def run(module, x):
        return change(run_layer(True)(module, x))
    return run


WRONG = {
    "cca.value_shift": [
        raised(cca.value_shift),
        doubled(cca.value_shift),
        shift(lambda x: x), shift(lambda x: x.roll(1, 1)), shift(lambda x: x.roll(1, 0)),
                        shift(lambda x: F.pad(x, (0, 0, 0, 1))[:, 1:]), shift(lambda x: F.pad(x, (1, 0))[..., :-1]),
                        shift(lambda x: F.pad(x, (0, 0, 2, 0))[:, :-2]),
                        lambda now, then: torch.cat([now, F.pad(then, (0, 0, 1, 0))[:, :-1]], 1)],
    "cca.value_shift_resumes": [shift(lambda x: F.pad(x, (0, 0, 1, 0))[:, :-1]), shift(lambda x: x)],
    "cca.value_shift_documents": [shift(lambda x: F.pad(x, (0, 0, 1, 0))[:, :-1]), shift(torch.zeros_like)],
    "cca.convolve": [lambda z, a, b: cca.convolve(z.flip(1), a, b).flip(1), lambda z, a, b: z, lambda z, a, b: a(z)],
    "cca.padding": [
        lambda z, a, b: right(z.detach(), a, b),
        pads_each, not_causal],
    "cca.causal": [
        lambda z, a, b: F.pad(right(z, a, b), (0, 0, 0, 1)),
        leaks_into_first,
        not_causal, lambda z, a, b: z.cumsum(1) * 0, lambda z, a, b: z.mean(1, keepdim=True) + z],
    "cca.qk_mean": [
        raised(cca.qk_mean, 0),
        raised(cca.qk_mean, 1),
        doubled(cca.qk_mean),
        lambda q, k: (q, k), lambda q, k: ((q + k.repeat(1, 1, q.shape[2] // k.shape[2], 1)) / 2, k),
                    lambda q, k: tuple(2 * m for m in cca.qk_mean(q, k))],
    "cca.qk_norm": [
        raised(cca.qk_norm, 0),
        raised(cca.qk_norm, 1),
        doubled(cca.qk_norm),
        wrong_norm, lambda q, k, s: (q, k * s[:, None]), lambda q, k, s: (F.normalize(q), F.normalize(k))],
    "cca.temperature_linear": [
        lambda q, k, s: (q * s.sum(), cca.qk_norm(q, k, s)[1]),
        lambda q, k, s: (q, cca.qk_norm(q, k, s)[1] / 2),
        lambda q, k, s: cca.qk_norm(q, k, s.exp()), lambda q, k, s: cca.qk_norm(q, k, s.abs())],
    "cca.score_bound": [
        by_mean_size,
        lambda q, k, s: (q, k), lambda q, k, s: tuple(x / 2 for x in cca.qk_norm(q, k, s))],
    "cca.rope": [lambda x, a: attention.rope(x, (a[0], -a[1])), lambda x, a: x,
                 lambda x, a: attention.rope(x.flip(-1), a).flip(-1)],
    "cca.rope_length": [
        lambda x, a: attention.rope(x, a) * (1 + 1e-12),
        stretched,
        a_radian_further,
        lambda x, a: x, lambda x, a: attention.rope(x, (a[0] * 2, a[1])), lambda x, a: x.roll(1, -1)],
    "cca.rope_distance": [
        lambda x, a: torch.cat([attention.rope(x, a)] * 2),
        wrong_at(lambda places: places[0]),
        wrong_at(lambda places: not places.any()),
        lambda x, a: x, lambda x, a: x * a[0].repeat_interleave(2, -1).mean()],
    "cca.attention": [lambda q, k, v, m: naive(q, k, v, m, -2), heads_mixed,
                      lambda q, k, v, m: naive(q * q.shape[-1] ** 0.5, k, v, m, -1)],
    "cca.gqa_contiguous": [heads_mixed, lambda q, k, v, m: q],
    "cca.attention_hidden": [
        lambda q, k, v, m: 2 * naive(q, k, v, m, -1),
        lambda q, k, v, m: naive(q, k, v, torch.ones(1, 1, 1, 1).bool(), -1)],
    "cca.sliding_window": [lambda q, k, w: attention.causal_mask(q, k, w and w + 1),
                           lambda q, k, w: attention.causal_mask(q, k), lambda q, k, w: q[:, None] > k],
    "cca.convolve_documents": [
        raised(taps_of_documents),
        doubled(taps_of_documents),
        (cut_off(taps_of_documents), "carries no gradient back to z"),
        (other_weights, "does not depend on depthwise weight"),
    ],
    "cca.qk_norm_tiny": [
        lambda q, k, s: (F.normalize(q, dim=-1, eps=1e-3) * q.shape[-1] ** 0.5, cca.qk_norm(q, k, s)[1]),
        lambda q, k, s: (cca.qk_norm(q, k, s)[0], k / k.norm(dim=-1, keepdim=True) * k.shape[-1] ** 0.5 * s[:, None]),
        lambda q, k, s: (cca.qk_norm(q, k, s)[0],
                         (k / k.norm(dim=-1, keepdim=True)).nan_to_num() * k.shape[-1] ** 0.5 * s[:, None]),
        lambda q, k, s: (cca.qk_norm(q, k, s)[0], cca.qk_norm(q, k, s)[1] + (k == 0).all(-1, keepdim=True)),
    ],
    "cca.layer": [
        layer(lambda y: y.flip(1)),
    ],
    "cca.layer_causal": [
        layer(lambda y: y + y.mean(1, keepdim=True)),
    ],
    "cca.layer_batch": [
        layer(lambda y: y + y.mean(0, keepdim=True)),
    ],
    "cca.rope_half": [
        lambda p, f, t: tuple(x.float() for x in attention.rope_angles(p, f, t)),
        half_angles,
    ],
    "cca.rope_frequencies": [
        lambda width, theta: attention.rope_frequencies(width + 2, theta)[:-1],
    ],
    "cca.document_starts": [
        lambda ids: (attention.document_starts(ids)[0], attention.document_starts(ids)[1] + 1),
        lambda ids: (ids, attention.document_starts(ids)[1]),
        (lambda ids: (ids[:, :-1], attention.document_starts(ids)[1]), "one document number is wanted"),
    ],
}
