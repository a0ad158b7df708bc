"""The laws hold for the library, and reject what is wrong: stubs, constants, NaN, copies of a call, wrong axes."""

import itertools
from dataclasses import fields, is_dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minizaya import laws
from minizaya.arch import attention, balance, cca, experts, residual, router

ALL = laws.all()
NAMES = [law.name for law in ALL]
SUBJECTS = [(law.name, label) for law in ALL for label in law.subjects]


@pytest.mark.parametrize("name, label", SUBJECTS, ids=[f"{name}-{label}" for name, label in SUBJECTS])
def test_the_library_obeys(name, label):
    verdict = laws.judge(name, label=label, shrink=False)
    assert verdict.passed, verdict.message


def test_every_law_is_documented():
    assert len(NAMES) == len(set(NAMES)) >= 25
    components = {name.split(".")[0] for name in NAMES}
    assert {"cca", "router", "balance", "residual", "experts", "model", "decoding"} <= components
    for law in ALL:
        assert law.statement and law.signature and "fn(" in law.signature, law.name
        assert law.subjects and law.guards, law.name


# ---- wrong in the same way for every law -----------------------------------------------------------------------------


def spoiled(fn, spoil):
    """`fn` with every tensor of its result spoiled; if it makes a model, then the model's logits and routes."""
    def mapped(x):
        if isinstance(x, torch.Tensor):
            return spoil(x)
        if isinstance(x, nn.Module):
            forward = x.forward

            def wrong(*args, **kwargs):
                out = forward(*args, **kwargs)
                out.logits, out.routes = spoil(out.logits), spoil(out.routes)
                return out

            x.forward = wrong
            return x
        if hasattr(x, "_fields"):   # a named tuple
            return type(x)(*map(mapped, x))
        if isinstance(x, (tuple, list)):
            return type(x)(mapped(y) for y in x)
        if isinstance(x, dict):
            return {key: mapped(y) for key, y in x.items()}
        if is_dataclass(x):
            return type(x)(**{field.name: mapped(getattr(x, field.name)) for field in fields(x)})
        if isinstance(x, str):
            return ""
        if isinstance(x, float):
            return float(spoil(torch.tensor(x)))
        return 0 if isinstance(x, int) else x

    return lambda *args, **kwargs: mapped(fn(*args, **kwargs))


@pytest.mark.parametrize("name", NAMES)
def test_a_constant_is_rejected(name):
    fn = next(iter(laws.get(name).subjects.values()))
    verdict = laws.judge(name, spoiled(fn, torch.zeros_like), shrink=False)
    assert not verdict.passed and verdict.attempted
    assert verdict.message.startswith("with "), verdict.message


@pytest.mark.parametrize("name", NAMES)
def test_nan_or_a_wrong_number_is_rejected(name):
    """Floats become NaN, whole numbers and flags (routes, masks, tokens) are all one too high, or inverted."""
    def spoil(x):
        if x.is_floating_point():
            return x * float("nan")
        return ~x if x.dtype == torch.bool else x + 1

    fn = next(iter(laws.get(name).subjects.values()))
    verdict = laws.judge(name, spoiled(fn, spoil), shrink=False)
    assert not verdict.passed and verdict.attempted


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_called_from_inside_is_rejected(name):
    fn = next(iter(laws.get(name).subjects.values()))
    verdict = laws.judge(name, lambda *args, **kwargs: fn(*args, **kwargs), guard=True, shrink=False)
    assert not verdict.passed and verdict.attempted
    assert "called from inside" in verdict.message
    assert laws.judge(name, fn, shrink=False, examples=2).passed, "the guard must go away afterwards"


@pytest.mark.parametrize("name", NAMES)
def test_a_stub_is_not_attempted(name, capsys):
    def stub(*args, **kwargs):
        raise NotImplementedError

    for unsolved in (stub, lambda *args, **kwargs: None, lambda *args, **kwargs: ...):
        assert not laws.check(name, unsolved)
        assert capsys.readouterr().out == f"○ {name}: not attempted yet\n"


# ---- wrong in ways of their own --------------------------------------------------------------------------------------


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


def heads_mixed(q, k, v, mask):
    """GQA with the query heads dealt out in turn."""
    group = q.shape[2] // k.shape[2]
    k, v = k.repeat(1, 1, group, 1), v.repeat(1, 1, group, 1)
    return naive(q, k, v, mask, -1)


def naive(q, k, v, mask, axis):
    group, (t, s) = q.shape[2] // k.shape[2], (q.shape[1], k.shape[1])
    k, v = k.repeat_interleave(group, 2), v.repeat_interleave(group, 2)
    mask = torch.arange(s) <= torch.arange(s - t, s)[:, None] if mask is None else mask
    scores = torch.einsum("bthd,bshd->bhts", q, k) / q.shape[-1] ** 0.5
    return torch.einsum("bhts,bshd->bthd", scores.masked_fill(~mask, -1e30).softmax(axis), v)


def gate_of(change):
    def choose(probs, bias, pinned=None):
        routes = (probs.float() + bias).argmax(-1)
        return routes, change(probs, bias).gather(-1, routes[..., None])[..., 0]
    return choose


def by_expert(change):
    """The loop over experts with one thing changed: change(rows, expert, gates of these rows)."""
    def dispatch(x, routes, gates, gate_up, down):
        out = torch.zeros_like(x)
        for e in range(len(gate_up)):
            mine = routes == e
            gate, up = (x[mine] @ gate_up[e].T).chunk(2, -1)
            out[mine] = change((F.silu(gate) * up) @ down[e].T, gates[mine])
        return out
    return dispatch


def off_by_one_expert(x, routes, gates, gate_up, down):
    return by_expert(lambda y, g: y * g[:, None])(x, routes - 1, gates, gate_up, down)


WRONG = {
    "cca.value_shift": [shift(lambda x: x), shift(lambda x: x.roll(1, 1)), shift(lambda x: x.roll(1, 0)),
                        shift(lambda x: F.pad(x, (0, 0, 0, 1))[:, 1:]), shift(lambda x: F.pad(x, (1, 0))[..., :-1]),
                        shift(lambda x: F.pad(x, (0, 0, 2, 0))[:, :-2]),
                        lambda now, then: torch.cat([now, F.pad(then, (0, 0, 1, 0))[:, :-1]], 1)],
    "cca.value_shift_resumes": [shift(lambda x: F.pad(x, (0, 0, 1, 0))[:, :-1]), shift(lambda x: x)],
    "cca.value_shift_documents": [shift(lambda x: F.pad(x, (0, 0, 1, 0))[:, :-1]), shift(torch.zeros_like)],
    "cca.convolve": [lambda z, a, b: cca.convolve(z.flip(1), a, b).flip(1), lambda z, a, b: z, lambda z, a, b: a(z)],
    "cca.pad_once": [pads_each, not_causal],
    "cca.causal": [not_causal, lambda z, a, b: z.cumsum(1) * 0, lambda z, a, b: z.mean(1, keepdim=True) + z],
    "cca.qk_mean": [lambda q, k: (q, k), lambda q, k: ((q + k.repeat(1, 1, q.shape[2] // k.shape[2], 1)) / 2, k),
                    lambda q, k: tuple(2 * m for m in cca.qk_mean(q, k))],
    "cca.qk_norm": [wrong_norm, lambda q, k, s: (q, k * s[:, None]), lambda q, k, s: (F.normalize(q), F.normalize(k))],
    "cca.temperature_linear": [lambda q, k, s: cca.qk_norm(q, k, s.exp()), lambda q, k, s: cca.qk_norm(q, k, s.abs())],
    "cca.score_bound": [lambda q, k, s: (q, k), lambda q, k, s: tuple(x / 2 for x in cca.qk_norm(q, k, s))],
    "cca.rope": [lambda x, a: attention.rope(x, (a[0], -a[1])), lambda x, a: x,
                 lambda x, a: attention.rope(x.flip(-1), a).flip(-1)],
    "cca.rope_length": [lambda x, a: x, lambda x, a: attention.rope(x, (a[0] * 2, a[1])), lambda x, a: x.roll(1, -1)],
    "cca.rope_distance": [lambda x, a: x, lambda x, a: x * a[0].repeat_interleave(2, -1).mean()],
    "cca.attention": [lambda q, k, v, m: naive(q, k, v, m, -2), heads_mixed,
                      lambda q, k, v, m: naive(q * q.shape[-1] ** 0.5, k, v, m, -1)],
    "cca.gqa_contiguous": [heads_mixed, lambda q, k, v, m: q],
    "cca.attention_hidden": [lambda q, k, v, m: naive(q, k, v, torch.ones(1, 1, 1, 1).bool(), -1)],
    "cca.sliding_window": [lambda q, k, w: attention.causal_mask(q, k, w and w + 1),
                           lambda q, k, w: attention.causal_mask(q, k), lambda q, k, w: q[:, None] > k],
    "router.biased_choice": [lambda p, b: router.choose(p, 0 * b), lambda p, b: router.choose(p, -b),
                             lambda p, b: ((p + b).argmax(1), p[..., 0])],
    "router.unbiased_gate": [gate_of(lambda p, b: p + b), gate_of(lambda p, b: torch.ones_like(p)),
                             gate_of(lambda p, b: (p + b).softmax(-1))],
    "router.bias_no_gradient": [gate_of(lambda p, b: p + b - b.detach()), gate_of(lambda p, b: p.detach())],
    "router.skip_unreachable": [lambda p, b: router.choose(p, 0 * b), lambda p, b: router.choose(p, b / 2)],
    "router.skip_threshold": [lambda p, b: router.choose(p, b + 1 / 128 * (torch.arange(len(b)) == len(b) - 1)),
                              lambda p, b: router.choose(p[..., :-1], b[:-1])],
    "router.replay": [lambda p, b, r: router.choose(p, b), lambda p, b, r: router.choose(p, b, r.clamp_min(0))],
    "router.replay_gradient": [lambda p, b, r: (r, p.gather(-1, r[..., None])[..., 0].detach()),
                               lambda p, b, r: (r, p.amax(-1))],
    "router.depth_average": [lambda s, b, c: s, lambda s, b, c: s if b is None else c * s + (1 - c) * b,
                             lambda s, b, c: s if b is None else s + c.mean() * b],
    "experts.swiglu": [lambda x, g, d: F.linear(F.silu(F.linear(x, g[1::2])) * F.linear(x, g[::2]), d),
                       lambda x, g, d: experts.swiglu(x, g.roll(len(g) // 2, 0), d)],
    "experts.dispatch": [by_expert(lambda y, g: y), by_expert(lambda y, g: y * g.mean()), off_by_one_expert],
    "experts.skip_zero": [lambda x, r, g, a, b: experts.experts_loop(x, r.clamp_max(len(a) - 1), g, a, b),
                          lambda x, r, g, a, b: x],
    "experts.token_order": [off_by_one_expert, lambda x, r, g, a, b: x[r.argsort()]],
    "residual.merge": [lambda o, r, s1, b1, s2, b2: o * s1 + b1 + r * s2 + b2, lambda o, r, *v: o + r],
    "residual.identity": [lambda o, r, *v: o, lambda o, r, s1, b1, s2, b2: (o + r) * (s1 + s2)],
    "residual.rms_norm": [lambda x, w, e: x / x.norm(dim=-1, keepdim=True) * w,
                          lambda x, w, e: F.rms_norm(x, x.shape[-1:], w),
                          lambda x, w, e: F.layer_norm(x, x.shape[-1:], w, eps=e),
                          lambda x, w, e: x / (x.square().mean(1, keepdim=True) + e).sqrt() * w],
    "residual.float32": [lambda o, r, *v: o + r.bfloat16(), lambda o, r, *v: (o + r.to(o.dtype)).float()],
    "balance.sign": [lambda b, load, lr: b + lr * (load - load.mean()).sign(), lambda b, load, lr: b - lr * load.sign(),
                     lambda b, load, lr: b - lr * (load - load.mean()),
                     lambda b, load, lr: b - lr * (load - 1 / len(b)).sign()],
    "balance.uniform_fixed": [lambda loads: -loads.cumsum(0), lambda loads: loads * 0],
    "balance.sums_to_zero": [lambda loads: -0.1 * (loads - loads.mean(-1, keepdim=True)).sign().cumsum(0),
                             lambda loads: loads * 0],
    "balance.skipped": [lambda load: -0.25 * (load - 1 / len(load)).sign(),
                        lambda load: 0.25 * (load - load.mean()).sign()],
    "balance.layers": [lambda loads: -(loads - loads.mean(1, keepdim=True)).cumsum(0), lambda loads: loads * 0],
    "balance.against_error": [lambda loads: loads - 1 / loads.shape[-1], lambda loads: -loads],
    "balance.entropy": [lambda p: -(p * p.log()).sum(-1), lambda p: 1 - p.amax(-1),
                        lambda p: -torch.xlogy(p, p).sum(0) / p.shape[-1]],
    "balance.max_violation": [lambda p: p.amax(-1) / p.mean(-1), lambda p: p.amax(-1) - p.mean(-1)],
    "balance.counts": [lambda r, e, m: balance.counts(r, e)[:, :-1], lambda r, e, m: balance.counts(r.flip(-1), e, m)],
    "balance.load": [lambda r, e, m: balance.load(r, e), lambda r, e, m: balance.counts(r, e, m)[:, :-1] / r.shape[1]],
    "decoding.top_p": [lambda p, limit: p >= limit, lambda p, limit: p.cumsum(-1) <= limit],
    "decoding.min_p": [lambda p, limit: p >= limit, lambda p, limit: p > limit * p.amax(-1, keepdim=True)],
    "decoding.temperature": [lambda x, s: (x * s).double().softmax(-1), lambda x, s: x.double().softmax(-1) / s],
}
WRONG_CASES = [(name, i) for name, functions in WRONG.items() for i in range(len(functions))]


@pytest.mark.parametrize("name, i", WRONG_CASES, ids=[f"{name}-{i}" for name, i in WRONG_CASES])
def test_a_wrong_answer_is_rejected(name, i):
    """Some of these lean on the library's own function to be wrong in just one place, so no guard here."""
    verdict = laws.judge(name, WRONG[name][i], shrink=False)
    assert not verdict.passed and verdict.attempted


# ---- what a student reads --------------------------------------------------------------------------------------------


def test_a_right_answer_passes_under_the_guard(capsys):
    def value_shift(now, then):
        return torch.cat([now, F.pad(then, (0, 0, 1, 0))[:, :-1]], -1)

    def choose(probs, bias):
        routes = (probs.float() + bias).argmax(-1)
        return routes, probs.gather(-1, routes[..., None])[..., 0]

    assert laws.check("cca.value_shift", value_shift)
    assert laws.check("router.unbiased_gate", choose)
    assert laws.check("experts.dispatch", by_expert(lambda y, g: y * g[:, None]))
    assert capsys.readouterr().out.count("✔") == 3


def test_the_smallest_counterexample_in_words(capsys):
    assert not laws.check("cca.value_shift", shift(lambda x: x))
    out = capsys.readouterr().out
    assert out.startswith("✘ cca.value_shift: ")
    assert "now = [[[1.0]]], then = [[[1.0]]] (b=1, t=1, c=1)" in out
    assert "at token 0, channel 1 (counting from 0) you gave 1.0, the law wants 0.0" in out


def test_faults_are_told_apart(capsys):
    def told(fn, name="cca.value_shift"):
        assert not laws.check(name, fn)
        return capsys.readouterr().out

    assert "it raised TypeError" in told(lambda now: now)
    assert "it raised ZeroDivisionError" in told(lambda now, then: 1 / 0)
    assert "you gave a tuple" in told(lambda now, then: (now, then))
    assert "you gave shape (1, 1, 1)" in told(lambda now, then: now)
    assert "you gave type torch.float32" in told(lambda now, then: torch.cat([now, 0 * then], -1).float())
    assert "in place" in told(lambda now, then: torch.cat([now, then.mul_(0)], -1))
    calls = itertools.count()
    assert "different answers each time" in told(lambda now, then: torch.cat(
        [now, F.pad(then, (0, 0, 1, 0))[:, :-1] + (next(calls) % 50 == 30)], -1))
    assert "give the function itself" in told(3)
    assert "2 results" in told(lambda probs, bias: probs, "router.biased_choice")


def test_a_swallowed_guard_still_counts(capsys):
    def sly(now, then):
        try:
            return cca.value_shift(now, then)
        except Exception:
            return torch.cat([now, F.pad(then, (0, 0, 1, 0))[:, :-1]], -1)

    assert not laws.check("cca.value_shift", sly)
    assert "called from inside" in capsys.readouterr().out
    assert not laws.check("cca.value_shift", cca.value_shift)
    assert not laws.check("residual.merge", lambda *args: residual.merge(*args))
    assert not laws.check("experts.dispatch", lambda *args: experts.experts_loop(*args))


def test_strict_raises(monkeypatch):
    monkeypatch.setenv("MINIZAYA_STRICT", "1")
    with pytest.raises(laws.Rejected, match="counting from 0"):
        laws.check("cca.value_shift", shift(lambda x: x))
    with pytest.raises(laws.Rejected, match="not attempted yet"):
        laws.check("cca.value_shift", None)
    assert laws.check("cca.value_shift", shift(lambda x: F.pad(x, (0, 0, 1, 0))[:, :-1]))


def test_an_unknown_law_names_its_neighbours():
    with pytest.raises(ValueError, match="cca.value_shift"):
        laws.check("cca.valueshift", lambda: 0)


def test_verdicts_repeat():
    first = [laws.judge("cca.attention", heads_mixed, shrink=True).message for _ in range(2)]
    assert first[0] == first[1] != ""
