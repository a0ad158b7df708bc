"""Adapters: what is right stays right behind one, what is wrong is still caught."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import nn

from minizaya import laws
from minizaya.laws import adapt, core


def shift(now, then):
    return np.concatenate([now, np.pad(then, ((0, 0), (1, 0), (0, 0)))[:, :-1]], -1)


def route(probs, bias):
    routes = (probs.astype(np.float32) + bias).argmax(-1)
    return routes, np.take_along_axis(probs, routes[..., None], -1)[..., 0]


def heads_first(q, k, v, mask=None):
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None and q.shape[2] > 1)


def heads_mixed(q, k, v, mask=None):
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat(1, group, 1, 1), v.repeat(1, group, 1, 1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None and q.shape[2] > 1)


# ---- NumPy and others ------------------------------------------------------------------------------------------------


def test_numpy_functions():
    assert laws.judge("cca.value_shift", adapt.numpy(shift))          # its gradients are not asked for
    for name in ("router.biased_choice", "router.unbiased_gate", "router.replay"):
        fn = route if name != "router.replay" else lambda p, b, pinned: (
            np.where(pinned >= 0, pinned, route(p, b)[0]),
            np.take_along_axis(p, np.where(pinned >= 0, pinned, route(p, b)[0])[..., None], -1)[..., 0])
        assert laws.judge(name, adapt.numpy(fn)), name
    assert not laws.judge("cca.value_shift", adapt.numpy(lambda now, then: np.concatenate([now, then], -1)))
    message = laws.judge("cca.value_shift", adapt.numpy(lambda now, then: np.multiply(now, 2, out=now))).message
    assert "in place" in message
    assert "type torch.float32" in laws.judge("cca.value_shift", adapt.numpy(
        lambda now, then: shift(now, then).astype(np.float32))).message


def test_numpy_results_of_every_kind():
    assert torch.equal(adapt.from_numpy(np.arange(3)[::-1]), torch.tensor([2, 1, 0]))
    assert adapt.from_numpy(np.float64(0.5)).dtype == torch.float64 and adapt.from_numpy(np.int64(3)) == 3
    assert type(adapt.from_numpy(np.int64(3))) is int and type(adapt.from_numpy(np.bool_(True))) is bool
    assert adapt.to_numpy(torch.ones(2, dtype=torch.bfloat16)).dtype == np.float32
    assert adapt.from_numpy("text") == "text"
    assert laws.judge("pack.fits", adapt.numpy(lambda lengths, capacity: [[np.int64(i)] for i in range(len(lengths))]))


def test_laws_of_gradients_refuse_what_has_none():
    for name in ("router.bias_no_gradient", "router.replay_gradient", "experts.gradients", "cca.convolve_documents"):
        with pytest.raises(laws.Refused, match=f"{name}: it judges gradients"):
            laws.judge(name, adapt.numpy(lambda *args: args[0]))


class Array:
    """An array of another framework."""

    def __init__(self, values):
        self.values = values


def test_a_pair_of_converters():
    def other(now, then):
        assert isinstance(now, Array)
        return Array(shift(now.values, then.values))

    fn = adapt.converted(other, lambda x: Array(x.numpy()), lambda x: torch.from_numpy(x.values))
    assert laws.judge("cca.value_shift", fn) and fn.__name__ == "other" and not fn.differentiable


# ---- other calls -----------------------------------------------------------------------------------------------------


def test_other_names_and_orders_of_arguments():
    def scored(offset, *, scores):
        routes = (scores.float() + offset).argmax(-1)
        return scores.gather(-1, routes[..., None])[..., 0], routes

    fn = adapt.arguments(scored, "scores", 0, returns=(1, 0))
    for law in laws.protocol("choose").laws:
        assert laws.judge(law.name, fn), law.name
    assert [law.name for law in laws.applying("router", fn)] == [law.name for law in laws.protocol("choose").laws]
    assert not laws.judge("router.biased_choice", adapt.arguments(scored, "scores", 0))
    assert laws.judge("cca.value_shift", adapt.numpy(adapt.arguments(lambda then, now: shift(now, then), 1, 0)))
    for places in ((0, 2), ("a", "a"), (1,)):
        with pytest.raises(ValueError, match="places must be names, and numbers from 0 on, each once"):
            adapt.arguments(scored, *places)
    with pytest.raises(laws.Refused, match="hands over 3 arguments, the adapter has places for 2"):
        laws.judge("router.replay", fn)


def test_heads_before_tokens():
    names = [law.name for law in laws.protocol("attention").laws]
    assert all(laws.judge(name, adapt.layout(heads_first, "bhtd")) for name in names)
    assert not laws.judge("cca.gqa_contiguous", adapt.layout(heads_mixed, "bhtd"))
    for axes in ("bht", "bhtx", "bhtdd"):
        with pytest.raises(ValueError, match="axes must be the letters of 'bthd' in another order"):
            adapt.layout(heads_first, axes)


# ---- modules ---------------------------------------------------------------------------------------------------------


class Norm(nn.Module):
    def __init__(self, width, eps, centred=False):
        super().__init__()
        self.weight, self.eps, self.centred = nn.Parameter(torch.ones(width)), eps, centred

    def forward(self, x):
        x = x - x.mean(-1, keepdim=True) if self.centred else x
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)


def test_a_module_with_the_laws_weights():
    norm = adapt.module(lambda x, weight, eps: Norm(len(weight), eps), {"weight": 1}, inputs=(0,))
    for name in ("residual.rms_norm", "residual.rms_unit", "residual.rms_epsilon"):
        assert laws.judge(name, norm), name
    wrong = adapt.module(lambda x, weight, eps: Norm(len(weight), eps, True), {"weight": 1}, inputs=(0,))
    assert not laws.judge("residual.rms_norm", wrong)
    with pytest.raises(laws.Refused, match="weights must name parameters of Norm, got scale; it has weight"):
        laws.judge("residual.rms_norm", adapt.module(lambda x, w, eps: Norm(len(w), eps), {"scale": 1}, inputs=(0,)))


class Means(nn.Module):
    """Without weights of the law's: in float32, as modules are."""

    def __init__(self, off=0.0):
        super().__init__()
        self.off = nn.Parameter(torch.tensor(off))

    def forward(self, q, k):
        group = q.shape[2] // k.shape[2]
        mean = (q + k.repeat_interleave(group, 2)) / 2 + self.off
        assert not self.training and q.dtype == self.off.dtype
        return mean, mean.unflatten(2, (k.shape[2], group)).mean(3)


def test_a_module_with_its_own_weights():
    for right in (Means(), Means().double(), Means().bfloat16()):
        assert laws.judge("cca.qk_mean", right), right.off.dtype
    assert laws.judge("cca.qk_mean", Means(1e-7))             # float32 has its own tolerance
    assert not laws.judge("cca.qk_mean", Means(1e-7).double()) and not laws.judge("cca.qk_mean", Means(1e-3))


def test_types_and_devices_through_more_than_one_adapter():
    fn = adapt.layout(heads_first, "bhtd")
    assert laws.judge("cca.attention", fn, dtype=torch.bfloat16, where="cpu", examples=10)
    with pytest.raises(laws.Refused, match="cca.rope_half: it hands over a dtype"):
        laws.judge("cca.rope_half", where="cpu")


def test_a_law_has_its_words_where_python_has_dropped_them(monkeypatch):
    """`python -OO` leaves no docstrings."""
    monkeypatch.setattr(core, "LAWS", {})
    core.law("a.b", "it holds", cases=st.just({}), subjects={}, guards=[])(lambda fn: None)
    assert core.LAWS["a.b"].signature == ""
