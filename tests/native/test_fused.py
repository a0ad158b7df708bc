"""Training and prompts by fused loops: the loss, every gradient, routes and caches of the plain way, in float64."""

import copy
import subprocess
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st

import minizaya as mz
from minizaya.arch.attention import Place, attend_reference, causal_mask, document_starts, locate
from minizaya.arch.cca import CCA
from minizaya.arch.experts import Experts
from minizaya.arch.residual import PlainResidual, ResidualScaling, RMSNorm
from minizaya.arch.router import Router
from minizaya.data.pack import IGNORE
from minizaya.infer.slots import SlotCache
from minizaya.laws.strategies import randomise
from minizaya.native import compiler
from minizaya.native.fused import attend, experts, library, loss, merge, mix, route
from minizaya.native.fused import model as fused
from step_models import SHAPES, SLIDING, SMALL

pytestmark = pytest.mark.skipif(library.library() is None, reason="no C++ compiler")

ALL = [*SHAPES, SLIDING, dict(num_convs=1), dict(qk_mean=False), dict(value_shift=False), dict(router="linear"),
       dict(residual_scaling=False), dict(tie_word_embeddings=False), dict(lm_head_bias=True),
       dict(cca_time0=3, cca_time1=4)]


def off(mine, wanted, least=1e-12):
    """The largest difference, relative to the largest number, or to `least`; inf for what is no number."""
    if wanted.numel() == 0:
        return 0.0
    away = (mine.double() - wanted.double()).abs().max() / wanted.abs().max().clamp_min(least)
    return float(away.nan_to_num(nan=float("inf")))


def far(ours, plain, inputs, module, seed):
    """How far outputs and gradients (of `inputs` and of the module's weights) are from the plain way in float64.

    ours, plain: (module, *inputs) -> tensors. Each output has a random gradient of its own.
    """
    found = []
    for run, dtype in ((ours, torch.float32), (plain, torch.float64)):
        mine = copy.deepcopy(module).to(dtype)
        taken = [x.detach().to(dtype, copy=True).requires_grad_() if x.is_floating_point() else x for x in inputs]
        outs = run(mine, *taken)
        draw = torch.Generator().manual_seed(seed)
        sent = [torch.randn(out.shape, generator=draw, dtype=torch.float64).to(dtype) for out in outs]
        torch.autograd.backward(outs, sent)
        assert all(torch.equal(x.detach(), before.to(x.dtype)) for x, before in zip(taken, inputs)), "inputs stay"
        found.append([*outs, *(x.grad for x in taken if x.requires_grad),
                      *(p.grad for p in mine.parameters() if p.grad is not None)])
    assert len(found[0]) == len(found[1])
    return max(off(a.detach(), b.detach(), 0.1) for a, b in zip(*found))   # where all cancel, a rounding is no bug


# One operation: sums of some hundred numbers, so a few roundings of 6e-8 of the largest. A wrong term is off by 1e-2.
NEAR = 1e-5


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 150), st.integers(2, 70), st.booleans(), st.integers(0, 99))
@example(64, 16, True, 0)
@example(129, 37, True, 1)
@example(65, 48, False, 2)
def test_merge_and_norm(tokens, size, scaling, seed):
    """Not of one number a row: its norm's gradient is a difference of equals, in the plain way as well."""
    draw = torch.Generator().manual_seed(seed)
    parts = torch.nn.ModuleList([ResidualScaling(size) if scaling else PlainResidual(), RMSNorm(size, 1e-5)])
    inputs = [torch.randn(1, tokens, size, generator=draw) for _ in range(2)]

    def plain(parts, output, stream):
        stream = parts[0](output, stream)
        return stream, parts[1](stream)

    parts = randomise(parts, seed).float()
    assert far(lambda parts, *x: merge.merge_norm(*parts, *x), plain, inputs, parts, seed) < NEAR
    norm = randomise(RMSNorm(size, 1e-5), seed).float()
    assert far(lambda norm, x: [merge.rms_norm(norm, x)], lambda norm, x: [norm(x)], inputs[:1], norm, seed) < NEAR


def test_small_rows_and_none_at_all_through_the_norm():
    """Below its eps of 1e-5 a row is not made long: with a mean square of 1e-6, or of zero, eps decides."""
    x = torch.randn(1, 5, 24, generator=torch.Generator().manual_seed(0)) * 1e-3
    x[0, 2] = 0
    parts = randomise(torch.nn.ModuleList([PlainResidual(), RMSNorm(24, 1e-5)]), 1).float()

    def plain(parts, output, stream):
        stream = parts[0](output, stream)
        return stream, parts[1](stream)

    assert far(lambda parts, *x: merge.merge_norm(*parts, *x), plain, [x, torch.zeros_like(x)], parts, 0) < NEAR
    assert far(lambda norm, x: [merge.rms_norm(norm, x)], lambda norm, x: [norm(x)], [x], parts[1], 0) < NEAR


@pytest.mark.parametrize("scaling", [True, False])
def test_one_of_two_outputs_may_go_unused(scaling):
    parts = randomise(torch.nn.ModuleList([ResidualScaling(9) if scaling else PlainResidual(), RMSNorm(9, 1e-5)]), 1)
    inputs = [torch.randn(1, 4, 9, generator=torch.Generator().manual_seed(i)) for i in (0, 1)]
    for which in (0, 1):
        found = []
        for run in (merge.merge_norm, lambda merge, norm, *x: (merge(*x), norm(merge(*x)))):
            own = [x.clone().requires_grad_() for x in inputs]
            run(*parts.float(), *own)[which].square().sum().backward()
            found.append([x.grad for x in own])
        assert max(map(off, *found)) < NEAR


def test_no_long_chain_of_roundings():
    """A gradient summed over 30,000 tokens, 64 of them at a time; one after the other it is off by 6e-5."""
    norm, x = RMSNorm(2, 1e-5), torch.tensor([0.3, -1.1]).expand(1, 30_000, 2).contiguous()
    merge.rms_norm(norm, x).sum().backward()
    wanted = 30_000 * x[0, 0].double() / (x[0, 0].double().square().mean() + 1e-5).sqrt()
    assert off(norm.weight.grad, wanted) < 2e-5
    # the convolution's: each token is a document, so all send the same
    config = mz.ZayaConfig.preset("nano", **SMALL)
    layer, sums = randomise(CCA(config, 0), 0).float(), []
    one = torch.randn(1, 1, config.hidden_size, generator=torch.Generator().manual_seed(0))
    first = locate(config, 1, 1, 0, torch.float32, one.device, torch.zeros(1, 1, dtype=torch.int64))
    for steps in (1, 30_000):
        angles = {key: [x.repeat(1, steps, *[1] * (x.dim() - 2)) for x in own] for key, own in first.angles.items()}
        place = replace(first, angles=angles, position=first.position.expand(1, steps))
        layer.zero_grad()
        sum(part.sum() for part in mix.mixed(layer, one.expand(1, steps, -1), place, None)).backward()
        sums.append([layer.conv_depthwise.bias.grad, layer.conv_grouped.bias.grad, layer.temperature.grad])
    assert max(off(many / 30_000, own) for own, many in zip(*sums)) < 2e-5


@pytest.mark.parametrize("size", [0.0, 1e-8])
def test_queries_and_keys_of_nothing(size):
    """A length below 1.2e-7 is taken for that; so says the plain way, in float32: float64 has another least length."""
    config = mz.ZayaConfig.preset("nano", **SMALL)
    layer, found = randomise(CCA(config, 0), 0).float(), []
    with torch.no_grad():
        for conv in (layer.conv_depthwise, layer.conv_grouped):
            conv.bias.zero_()
    for project in (mix.mixed, CCA.project):
        x = torch.randn(1, 3, config.hidden_size, generator=torch.Generator().manual_seed(1)).mul_(size)
        x.requires_grad_()
        out = project(layer, x, locate(config, 1, 3, 0, x.dtype, x.device), None)
        draw = torch.Generator().manual_seed(0)
        torch.autograd.backward(out, [torch.randn(part.shape, generator=draw) for part in out])
        found.append([*(part.detach() for part in out), x.grad])
    assert found[0][0].norm(dim=-1).max() < (3 if size else 1e-30) and found[1][3].abs().max() > 1e5
    assert all(off(*both) < 1e-4 for both in zip(*found))


def mix_far(changes, batch, steps, documents, seed):
    config = mz.ZayaConfig.preset("nano", **SMALL | dict(changes))
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, steps, config.hidden_size, generator=draw)
    doc_ids = (torch.rand(batch, steps, generator=draw) < 0.3).cumsum(1) if documents else None

    def run(project):
        def work(layer, x):
            return project(layer, x, locate(config, batch, steps, 0, x.dtype, x.device, doc_ids), None)
        return work

    layer = randomise(CCA(config, 0), seed).float()   # float32 numbers, in float64 too
    return far(run(mix.mixed), run(CCA.project), [x], layer, seed)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.sampled_from([one for one in SHAPES if "attention_bias" not in one]), st.integers(1, 3), st.integers(1, 70),
       st.booleans(), st.integers(0, 99))
@example({}, 2, 131, True, 0)      # more than one chunk of gradients, and documents shorter than the taps
@example(dict(cca_time0=3, cca_time1=4), 2, 9, True, 1)
@example(dict(cca_time0=3, cca_time1=4), 1, 2, False, 2)
def test_queries_keys_and_values(changes, batch, steps, documents, seed):
    """The same draws each time: the temperature's gradient is one number, a sum that may cancel to a hundredth of its
    terms and keeps their roundings, in the plain way as well; two draws of 600 are off by more."""
    assert mix_far(changes, batch, steps, documents, seed) < NEAR


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 3), st.integers(1, 150), st.integers(1, 2), st.integers(1, 2), st.sampled_from([16, 32, 48]),
       st.integers(0, 99))
@example(2, 129, 2, 2, 32, 0)      # more than one block of queries and tile of keys, the last ones of one token
@example(1, 64, 3, 1, 16, 1)
@example(2, 66, 1, 1, 80, 2)
def test_attention(batch, steps, group, kv_heads, size, seed):
    """A softmax made piece by piece, scores up to some dozens; NaN behind a query does not reach it."""
    draw = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(batch, steps, n, size, generator=draw) * 2 for n in (kv_heads * group, kv_heads, kv_heads))
    with torch.no_grad():
        mine = attend.attend(q, k, v)
        assert off(mine, attend_reference(q.double(), k.double(), v.double(), None)) < NEAR
        cut = steps // 16 * 8      # queries go by groups, and a group reads what its last one sees
        k[:, cut:], v[:, cut:] = torch.nan, torch.nan
        assert torch.equal(attend.attend(q, k, v)[:, :cut], mine[:, :cut])


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 3), st.integers(1, 150), st.integers(1, 2), st.integers(1, 2), st.sampled_from([16, 32, 48]),
       st.integers(0, 99))
@example(2, 129, 2, 2, 32, 0)      # as above; and several blocks of queries for a tile of keys
@example(1, 32, 3, 1, 16, 1)       # blocks that are full
@example(2, 66, 1, 1, 80, 2)
@example(1, 1, 2, 1, 16, 3)
def test_the_gradients_of_attention(batch, steps, group, kv_heads, size, seed):
    draw = torch.Generator().manual_seed(seed)
    inputs = [torch.randn(batch, steps, n, size, generator=draw) * 2 for n in (kv_heads * group, kv_heads, kv_heads)]
    assert far(lambda _, *args: [attend.attend(*args)], lambda _, *args: [attend_reference(*args, None)], inputs,
               torch.nn.Identity(), seed) < 10 * NEAR   # a share is e^(score - logarithm), of scores up to some dozens


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 150), min_size=1, max_size=4), st.integers(1, 150), st.integers(1, 2),
       st.sampled_from([0.0, 0.02, 0.2]), st.sampled_from([None, None, 1, 9, 70]), st.integers(0, 99))
@example([0, 1, 63, 64], 150, 2, 0.0, None, 0)     # a tile of keys seen whole, but for one, but for all, and not at all
@example([65, 127, 128, 150], 150, 1, 0.0, None, 1)   # a row of padding alone
@example([7, 8, 9], 17, 1, 0.0, None, 2)              # where a group of queries begins, and beside it
@example([1], 1, 1, 0.0, None, 3)
@example([0, 30], 150, 2, 0.05, None, 4)              # documents, and padding before them
@example([0, 3], 140, 1, 0.0, 65, 5)                  # a window from tile to tile
def test_attention_of_stretches(padding, steps, group, breaks, window, seed):
    """As a mask would have it, there and back: padding sees itself, and nobody else sees it; documents; a window."""
    draw, padded = torch.Generator().manual_seed(seed), torch.tensor(padding).clamp(max=steps)
    inputs = [torch.randn(len(padding), steps, n, 16, generator=draw) * 2 for n in (2 * group, 2, 2)]
    column, number, position = torch.arange(steps), torch.zeros(len(padding), steps), None
    if breaks:
        number, position = document_starts((torch.rand(len(padding), steps, generator=draw) < breaks).cumsum(1))
    valid = column >= padded[:, None]
    seen = causal_mask(column, column, window) & (number[:, :, None] == number[:, None])
    seen &= valid[:, None, :] | (column[:, None] == column)
    first = attend.firsts(Place({}, {}, position, valid if padded.any() else None, True), len(padding), steps, window)
    if first is None:
        assert not padded.any() and not breaks and (window is None or window >= steps)
    else:
        assert torch.equal(first, seen.int().argmax(-1)) and bool((first[:, 1:] >= first[:, :-1]).all())
    assert attend.at_left(valid) and attend.at_left(None)
    assert far(lambda _, *args: [attend.attend(*args, first)],
               lambda _, *args: [attend_reference(*args, seen[:, None])], inputs,
               torch.nn.Identity(), seed) < 10 * NEAR   # where a query sees itself alone, all cancels
    with torch.no_grad():
        mine = attend.attend(*inputs, first)
        assert off(mine, attend_reference(*(x.double() for x in inputs), seen[:, None])) < NEAR


@pytest.mark.parametrize("steps, place", [(20, 3), (130, 70), (130, 129)])
def test_attention_does_not_hide_nan(steps, place):
    """Whoever sees a key of NaN says NaN, as in torch, and nobody else: in a tile that is seen whole, and in others."""
    q, k, v = torch.randn(3, 1, steps, 1, 16, generator=torch.Generator().manual_seed(0)).unbind()
    k[:, place] = torch.nan
    with torch.no_grad():
        said = attend.attend(q, k, v)
    assert bool(said[:, place:].isnan().all()) and bool(said[:, :place].isfinite().all())


def test_experts_do_not_hide_nan():
    """A token of NaN comes back as NaN, and its neighbours in the tile do not."""
    own = Experts(2, 20, 12)
    for weight in own.parameters():
        torch.nn.init.normal_(weight, generator=torch.Generator().manual_seed(0))
    x = torch.ones(1, 40, 20)
    x[:, 7] = torch.nan
    with torch.no_grad():
        said = experts.visits(own, x, torch.zeros(1, 40, dtype=torch.int64), torch.ones(1, 40))
    assert bool(said[:, 7].isnan().all()) and int(said.isnan().any(-1).sum()) == 1


def test_padding_elsewhere_is_not_at_the_left():
    valid = torch.tensor([[False, True, True], [True, True, True], [False, False, False]])
    assert attend.at_left(valid) and not attend.at_left(valid.flip(1)) and not attend.at_left(~valid[:1])


@pytest.mark.parametrize("capability, size, padding, ours", [
    ("AVX512", 16, "left", True), ("AVX512", 16, "right", False), ("AVX2", 16, "left", False),
    ("DEFAULT", 16, "left", False), ("AVX512", 12, "left", False)])
def test_which_attention_is_ours(monkeypatch, capability, size, padding, ours):
    """On a CPU with many registers, heads that fill vectors, padding at the left; else torch's, by a mask."""
    seen = []
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(attend, "attend", lambda q, k, v, first: seen.append("ours") or q)
    monkeypatch.setattr(fused, "attend", lambda q, k, v, mask: seen.append("torch's") or q)
    model = mz.Zaya(mz.ZayaConfig.preset("nano", num_hidden_layers=1, head_dim=size))
    mask = (torch.arange(5) >= 2 if padding == "left" else torch.arange(5) < 3)[None]
    for given_mask, own in ((mask, ours), (None, ours or padding == "right")):
        seen.clear()
        fused.forward(model, torch.ones(1, 5, dtype=torch.int64), mask=given_mask)
        assert seen == ["ours" if own else "torch's"]


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 90), st.integers(1, 6), st.integers(1, 40), st.integers(1, 20), st.integers(0, 99))
@example(40, 1, 16, 8, 0)
@example(3, 6, 33, 17, 1)          # experts without a token
@example(16, 1, 5, 1, 2)           # without gradients tokens go by 16 or 32, weights by rows of 6 and 12
@example(90, 2, 13, 7, 3)
def test_experts(tokens, count, size, inner, seed):
    draw = torch.Generator().manual_seed(seed)
    x, gates = torch.randn(1, tokens, size, generator=draw), torch.rand(1, tokens, generator=draw)
    routes = torch.randint(0, count + 1, (1, tokens), generator=draw)   # the last one skips
    layer = randomise(Experts(count, size, inner), seed).float()
    assert far(lambda layer, *args: [experts.visits(layer, *args)], lambda layer, *args: [layer(*args)],
               [x, routes, gates], layer, seed) < NEAR
    with torch.no_grad():
        mine = experts.visits(layer, x, routes, gates)
        assert off(mine, layer.double()(x.double(), routes, gates.double())) < NEAR
        assert (mine[routes == count] == 0).all()


@pytest.mark.parametrize("tokens", [1, 15, 16, 17, 31, 32, 33, 64, 65])
def test_as_many_tokens_of_one_expert_as_fill_its_vectors(tokens):
    """Each gate another one: a token's answer is its own, and those before and after it are another expert's."""
    layer, draw = randomise(Experts(3, 12, 12), 0).float(), torch.Generator().manual_seed(tokens)
    x, gates = torch.randn(1, tokens + 2, 12, generator=draw), torch.rand(1, tokens + 2, generator=draw)
    routes = torch.ones(1, tokens + 2, dtype=torch.int64)
    routes[0, 0], routes[0, -1] = 2, 0
    with torch.no_grad():
        mine = experts.visits(layer, x, routes, gates)
        assert off(mine, layer.double()(x.double(), routes, gates.double())) < NEAR


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 3), st.integers(1, 40), st.integers(1, 9), st.integers(1, 30), st.booleans(), st.booleans(),
       st.integers(0, 99))
@example(1, 1, 1, 1, False, False, 0)
@example(2, 33, 8, 12, True, True, 1)     # more than one tile, the last of one token
@example(3, 16, 16, 13, True, False, 2)
@example(1, 32, 3, 11, False, True, 3)
def test_the_router_at_once(batch, steps, count, size, first, replayed, seed):
    config = mz.ZayaConfig.preset("nano", **SMALL | dict(num_experts=count, router_hidden_size=size))
    router, draw = randomise(Router(config, layer=0 if first else 1), seed).float(), torch.Generator().manual_seed(seed)
    x, below = (torch.randn(batch, steps, n, generator=draw) for n in (config.hidden_size, size))
    pinned = torch.randint(-1, count + 1, (batch, steps), generator=draw, dtype=torch.int16) if replayed else None
    below = None if first else below
    with torch.no_grad():
        routes, gates, probs, state = route.routed(router, x, below, pinned)
        wide = router.double()
        _, _, wanted, there = wide(x.double(), None if first else below.double(), pinned)
    assert off(probs, wanted) < NEAR and off(state, there) < NEAR
    assert torch.equal(gates, probs.gather(-1, routes[..., None])[..., 0])
    scores = wanted + wide.balancing_bias
    own = torch.ones_like(routes, dtype=torch.bool) if pinned is None else pinned < 0
    assert (scores.amax(-1) - scores.gather(-1, routes[..., None])[..., 0])[own].le(1e-6).all()   # or as good as it
    assert pinned is None or torch.equal(routes[~own], pinned.long()[~own])


def test_of_equal_routes_the_first_is_taken():
    router = Router(mz.ZayaConfig.preset("nano", **SMALL | dict(num_experts=2)), layer=0).float()
    torch.nn.init.zeros_(router.mlp.out_proj.weight)
    x = torch.randn(1, 40, router.down_proj.in_features, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for bias, wanted in (([0, 0, 0], 0), ([-1, 0, 0], 1), ([-1, -1, 0], 2)):
            router.balancing_bias.copy_(torch.tensor(bias))
            routes, gates, _, _ = route.routed(router, x, None, None)
            assert (routes == wanted).all() and off(gates, torch.full_like(gates, 1 / 3)) < NEAR


@pytest.mark.parametrize("skips", [True, False])
def test_experts_that_all_or_none_skip(skips):
    layer = randomise(Experts(2, 8, 4), 0).float()
    x, gates, routes = torch.randn(1, 5, 8), torch.rand(1, 5), torch.full((1, 5), 2 if skips else 1)
    assert far(lambda layer, *args: [experts.visits(layer, *args)], lambda layer, *args: [layer(*args)],
               [x, routes, gates], layer, 0) < NEAR


@pytest.mark.parametrize("tokens, size, words", [(1, 5, 1), (3, 16, 33), (2 * loss.ROWS + 1, 8, 50)])
@pytest.mark.parametrize("scored", ["all", "some", "none"])
def test_cross_entropy(tokens, size, words, scored):
    draw = torch.Generator().manual_seed(tokens)
    head = torch.nn.Linear(size, words, bias=False)
    targets = torch.randint(0, words, (tokens,), generator=draw)
    targets[torch.rand(tokens, generator=draw) < dict(all=0, some=0.5, none=1)[scored]] = IGNORE
    x = torch.randn(tokens, size, generator=draw) * 30   # logits far apart: e^100 would be infinite

    def ours(head, x):
        return [loss.SummedLoss.apply(x, head.weight, targets)]

    def plain(head, x):
        return [F.cross_entropy(head(x), targets, reduction="sum")]

    assert far(ours, plain, [x], head, 0) < NEAR
    with torch.no_grad():
        assert off(ours(head, x)[0], plain(head, x)[0]) < NEAR


def test_targets_outside_the_vocabulary_count_nothing():
    x, weight = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)).requires_grad_(), torch.eye(7)[:, :5]
    targets = torch.tensor([7, 6, -1, 2**40])
    found = loss.SummedLoss.apply(x, weight, targets)
    wanted = F.cross_entropy(x[1:2] @ weight.T, targets[1:2], reduction="sum")
    assert off(found.detach(), wanted.detach()) < NEAR
    found.backward()
    assert not x.grad[[0, 2, 3]].any() and x.grad[1].any()
    weight.requires_grad_()     # a head that learns while nothing before it does
    for total in (loss.SummedLoss.apply(x.detach(), weight, targets),
                  F.cross_entropy(x.detach()[1:2] @ weight.T, targets[1:2], reduction="sum")):
        found, weight.grad = weight.grad, None
        total.backward()
    assert off(found, weight.grad) < NEAR


@pytest.mark.parametrize("words", [3, 16, 33])
def test_whichever_logit_is_the_largest(words):
    """By 300, and e^89 is infinite: in the vectors or behind them, the target's own or another's."""
    x, weight = torch.eye(words) * 300, torch.eye(words)
    for target in (0, words - 1):
        targets = torch.full((words,), target)
        mine, wanted = x.clone().requires_grad_(), x.clone().requires_grad_()
        found = loss.SummedLoss.apply(mine, weight, targets)
        assert off(found.detach(), F.cross_entropy(wanted, targets, reduction="sum").detach()) < NEAR
        for total in (found, F.cross_entropy(wanted, targets, reduction="sum")):
            total.backward()
        assert off(mine.grad, wanted.grad) < NEAR


def models(changes, seed=3):
    """The same weights, in float64 and float32."""
    model = randomise(mz.Zaya(mz.ZayaConfig.preset("nano", **SMALL | dict(changes))), seed).float()
    wide = mz.Zaya(model.config).double()
    wide.load_state_dict(model.state_dict())
    return wide, model


@pytest.mark.parametrize("case", range(len(ALL)))
def test_every_gradient_of_a_model(case):
    """Three layers, so roundings add up: the plain way in float32 is off by up to 7e-5."""
    documents, draw, found = case % 2, torch.Generator().manual_seed(case), []
    tokens = torch.randint(3, 90, (2, 31), generator=draw)
    inputs, targets = tokens[:, :-1], tokens[:, 1:].masked_fill(torch.rand(2, 30, generator=draw) < 0.2, IGNORE)
    doc_ids = (torch.rand(2, 30, generator=draw) < 0.2).cumsum(1) if documents else None
    for model, compiled in zip(models(ALL[case]), (False, True)):
        total, routes = fused.summed_loss(model, inputs, targets, doc_ids, compiled)
        (total / 60).backward()
        found.append(([total.detach(), *(p.grad for p in model.parameters())], routes))
    (wanted, there), (mine, here) = found
    assert torch.equal(here, there)
    assert max(map(off, mine, wanted)) < 1e-4


@pytest.mark.parametrize("case", range(len(ALL)))
def test_prompts(case):
    """Logits, routes and what the cache holds, with padding at the left or without; all positions or the last one.
    Heads of 16 channels where the case says nothing of them: others go by torch's attention."""
    wide, model = models(dict(head_dim=16, partial_rotary_factor=0.5) | ALL[case])
    tokens = torch.randint(3, 90, (3, 30), generator=torch.Generator().manual_seed(case))
    last_only = case % 2 == 0
    mask = torch.arange(30) >= torch.tensor([0, 4, 29])[:, None] if case % 3 else None
    caches = wide.new_cache(3), model.new_cache(3)
    with torch.inference_mode():
        wanted = wide(tokens, cache=caches[0], mask=mask, last_only=last_only)
        mine = fused.forward(model, tokens, cache=caches[1], mask=mask, last_only=last_only)
        assert torch.equal(mine.routes, wanted.routes) and off(mine.probs, wanted.probs) < NEAR
        assert mine.logits.shape == wanted.logits.shape and off(mine.logits, wanted.logits) < NEAR
        nexts = [own(tokens[:, :1], cache=cache).logits for own, cache in zip((wide, model), caches)]
        assert caches[0].length == caches[1].length == 31 and off(nexts[1], nexts[0]) < NEAR


def test_documents_whose_first_one_is_padded():
    """Then the mask must say it: what is padding for a row is not all that a later token may not see."""
    wide, model = models(dict(head_dim=16, partial_rotary_factor=0.5))
    tokens = torch.randint(3, 90, (2, 12), generator=torch.Generator().manual_seed(0))
    doc_ids, mask = (torch.arange(12) >= 8).long().expand(2, 12), torch.arange(12) >= torch.tensor([3, 0])[:, None]
    with torch.inference_mode():
        wanted = wide(tokens, doc_ids=doc_ids, mask=mask)
        mine = fused.forward(model, tokens, doc_ids=doc_ids, mask=mask)
        assert off(mine.logits, wanted.logits) < NEAR


def test_which_caches_a_prompt_is_read_into():
    """An ordinary one in which nothing is yet; never one whose sequences have lengths of their own."""
    _, model = models({})
    cache = model.new_cache(1)
    assert fused.takes(None) and fused.takes(cache)
    assert not fused.takes(SlotCache(model.config, 1, 8, torch.float32))
    fused.forward(model, torch.tensor([[5]]), cache=cache)
    assert not fused.takes(cache)


def test_routes_are_replayed():
    wide, model = models({})
    tokens = torch.randint(3, 90, (2, 9), generator=torch.Generator().manual_seed(0))
    routes = torch.randint(-1, 3, (2, 9, 3), generator=torch.Generator().manual_seed(1))
    mine, wanted = fused.forward(model, tokens, routes=routes), wide(tokens, routes=routes)
    assert torch.equal(mine.routes, wanted.routes) and off(mine.logits.detach(), wanted.logits.detach()) < NEAR


def test_threads_do_not_change_a_gradient():
    """Sums over tokens are made in pieces of one size, whoever makes them."""
    before, found = torch.get_num_threads(), []
    parts = ResidualScaling(40), RMSNorm(40, 1e-5)
    x = torch.randn(1, 300, 40, generator=torch.Generator().manual_seed(0))
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            merge.merge_norm(*parts, x, x)[1].square().sum().backward()
        finally:
            torch.set_num_threads(before)
        found.append([p.grad for part in parts for p in part.parameters()])
        for part in parts:
            part.zero_grad()
    assert all(map(torch.equal, *found))


def test_what_cannot_be_goes_the_plain_way():
    tokens = torch.randint(3, 90, (1, 9))
    wide, model = models({})
    model.recompute = True
    for own, why in ((wide, "not all float32"), (model, "activations twice")):
        with pytest.raises(ValueError, match=f"compiled: this model cannot be trained by fused loops: .*{why}"):
            fused.summed_loss(own, tokens, tokens, compiled=True)
        assert torch.equal(fused.summed_loss(own, tokens, tokens)[0],
                           fused.summed_loss(own, tokens, tokens, compiled=False)[0])
    model.recompute = False
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with pytest.raises(ValueError, match="fused loops: torch.autocast chooses other types"):
            fused.summed_loss(model, tokens, tokens, compiled=True)
        assert torch.equal(fused.summed_loss(model, tokens, tokens)[0],
                           fused.summed_loss(model, tokens, tokens, compiled=False)[0])
    with pytest.raises(ValueError, match="compiled must be True, False or None"):
        fused.summed_loss(model, tokens, tokens, compiled="no")
    for wrong in (-1, model.config.vocab_size):
        with pytest.raises(ValueError, match=f"targets must lie in 0..{model.config.vocab_size - 1} or be -100"):
            fused.summed_loss(model, tokens, tokens.clone().fill_(wrong))
    for odd in (torch.ones(2, 3).T, torch.ones(2).double(), torch.ones(2, dtype=torch.int32),
                torch.ones(2, device="meta")):
        with pytest.raises(TypeError, match="contiguous float32 or int64 on the CPU"):
            library.argument(odd)


def test_without_a_compiler_the_plain_way_is_gone(monkeypatch):
    _, model = models({})
    tokens = torch.randint(3, 90, (1, 9))
    monkeypatch.setattr(fused, "library", lambda: None)
    monkeypatch.setattr(library, "library", lambda: pytest.fail("C++ was called"))
    assert torch.equal(fused.summed_loss(model, tokens, tokens)[0],
                       fused.summed_loss(model, tokens, tokens, compiled=False)[0])
    with pytest.raises(ValueError, match="there is no C.. compiler"):
        fused.summed_loss(model, tokens, tokens, compiled=True)


BUGS = {
    "a tap that looks over the border of a document":
        ("m.before(n + tap) >= tap)", "n + tap < end)"),
    "no gradient for the norm's length": ("x[i] * shrink) * scale", "0) * scale"),
    "a mean that keeps its gradient": ("(query[i] + own[i] / group) / 2", "query[i] / 2"),
    "the next document's value": ("(n + 1) % m.t && m.before(n + 1) > 0", "(n + 1) % m.t"),
}


@pytest.mark.parametrize("bug", BUGS)
def test_planted_bugs_are_seen(tmp_path, monkeypatch, bug):
    old, new = BUGS[bug]
    source = library.HERE / "mix.cpp"
    assert source.read_text().count(old) == 1, f"{old!r} has changed"
    (tmp_path / "fused").mkdir()
    for name in ("fused/fused.cpp", "lanes.cpp"):
        (tmp_path / name).write_text((library.HERE.parent / name).read_text())
    (tmp_path / "fused/mix.cpp").write_text(source.read_text().replace(old, new))
    built = tmp_path / "bug.so"
    subprocess.run([*compiler.cpp(), "-O0", "-march=native", "-fopenmp", "-shared", "-fPIC", "-std=c++17",
                    str(tmp_path / "fused/mix.cpp"), "-o", str(built)], check=True)
    wrong = library.ctypes.CDLL(str(built))
    monkeypatch.setattr(library, "library", lambda: wrong)
    assert mix_far({}, 2, 20, True, 0) > 1e-3
