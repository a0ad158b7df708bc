"""One token through `step.cpp` is one token through the plain path: any sizes, windows, contexts, batches,
storage, caches."""

import copy
import subprocess
import sys
from ctypes import CDLL, c_size_t, c_void_p
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import minizaya as mz
from minizaya.hub import paged_step, shards
from minizaya.hub.paging import PagedZaya
from minizaya.infer.engine import Engine, engine_generate
from minizaya.laws.strategies import randomise
from minizaya.native import compiler, matmul, step
from step_models import SHAPES, SMALL

pytestmark = pytest.mark.skipif(matmul.library() is None, reason="no C++ compiler")


def folder_of(tmp_path, changes, stored=torch.bfloat16, seed=3, layout="minizaya"):
    return shards.save(randomise(mz.Zaya(mz.ZayaConfig.preset("nano", **SMALL | changes)), seed).float().to(stored),
                       tmp_path / "w", layout)


def close(folder, batch=3, past=5, steps=9) -> bool:
    """Is the step as near to the model in float64 as the plain path in float32 is? That one's roundings come to 2e-5 of
    the largest logit here; another order of the same sums may be some times as unlucky, and no more."""
    exact = shards.load(folder, torch.float64)
    mine, plain = (difference(model, exact, batch, past, steps)
                   for model in (PagedZaya(folder), shards.load(folder, torch.float32)))
    return mine < 3e-5 and mine < 5 * max(plain, 2e-6)


def difference(paged, plain, batch=3, past=5, steps=9) -> float:
    """The largest difference of logits, relative to the largest logit, over some steps;
    inf where routes or shapes differ."""
    tokens = torch.randint(3, 90, (batch, past + steps), generator=torch.Generator().manual_seed(batch + past))
    caches, worst = [model.new_cache(batch) for model in (paged, plain)], 0.0
    with torch.inference_mode():
        for start, stop in [(0, past), *((i, i + 1) for i in range(past, past + steps))]:
            one, two = (model(tokens[:, start:stop], cache=cache, last_only=True)
                        for model, cache in zip((paged, plain), caches))
            if one.logits.shape != two.logits.shape or one.probs.shape != two.probs.shape:
                return float("inf")
            if not torch.equal(one.routes, two.routes):
                return float("inf")
            for a, b in ((one.logits, two.logits), (one.probs, two.probs)):
                worst = max(worst, float(((a - b).abs().max() / b.abs().max()).nan_to_num(nan=float("inf"))))
        assert caches[0].length == caches[1].length == past + steps
        # what is remembered, too
        one, two = (cache.ends(1) + (cache.room(1, 0)[:, :, : cache.length],) for cache in caches)
        worst = max(worst, *(float((a - b).abs().max()) for a, b in zip(one, two)))
    return worst


@pytest.mark.parametrize("changes", SHAPES, ids=lambda changes: next(iter(changes), "released"))
@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float32], ids=["of bfloat16", "of float32"])
def test_step_equals_the_plain_path(tmp_path, changes, stored):
    folder = folder_of(tmp_path, changes, stored)
    assert PagedZaya(folder).step is not None
    assert all(close(folder, batch, past) for batch, past in ((1, 1), (3, 5), (17, 2)))


@pytest.mark.parametrize("changes", SHAPES, ids=lambda changes: next(iter(changes), "released"))
def test_activations_in_bfloat16(tmp_path, changes):
    """Prompt and steps are as near to float64 as the plain path in bfloat16 is, where the routes are the same ones."""
    folder = folder_of(tmp_path, changes)
    exact, paged, plain = shards.load(folder, torch.float64), *(PagedZaya(folder, torch.bfloat16) for _ in range(2))
    plain.step = None
    tokens = torch.randint(3, 90, (3, 12), generator=torch.Generator().manual_seed(1))
    caches, off = [model.new_cache(3) for model in (paged, plain)], [[], []]
    assert caches[0].kv[0].dtype == torch.bfloat16
    with torch.inference_mode():
        routes = exact(tokens).routes
        wanted = exact(tokens, routes=routes).logits
        for start, stop in [(0, 5), *((i, i + 1) for i in range(5, 12))]:
            for model, cache, own in zip((paged, plain), caches, off):
                out = model(tokens[:, start:stop], cache=cache, last_only=True)
                assert out.probs.dtype == torch.bfloat16 and out.logits.dtype == torch.float32
                same = (out.routes == routes[:, start:stop]).all(-1).all(-1)
                difference = (out.logits[:, 0] - wanted[:, stop - 1]).abs().amax(-1) / wanted.abs().max()
                own += difference[same].tolist()
    mine, theirs = (torch.tensor(own).median() for own in off)
    assert len(off[0]) > 12 and 0 < mine < 1.5 * theirs + 1e-3 and mine < 0.02


# with attention_bias nobody's value is a bias, and prompts go the plain way
@pytest.mark.parametrize("changes", [changes for changes in SHAPES if "attention_bias" not in changes],
                         ids=lambda changes: next(iter(changes), "released"))
@pytest.mark.parametrize("int8", [False, True], ids=["as stored", "int8"])
def test_padded_prompts(tmp_path, changes, int8):
    """Texts of other lengths, padded at the left, read at once and gone on with."""
    folder = folder_of(tmp_path, changes)
    paged, plain = PagedZaya(folder, int8=int8), PagedZaya(folder, int8=int8)
    plain.step = None
    tokens = torch.randint(3, 90, (3, 11), generator=torch.Generator().manual_seed(2))
    mask = torch.ones(3, 9, dtype=torch.bool)
    mask[0, :6] = mask[2, :2] = False
    caches = [model.new_cache(3) for model in (paged, plain)]
    with torch.inference_mode():
        for start, stop in ((0, 9), (9, 10), (10, 11)):
            one, two = (model(tokens[:, start:stop], cache=cache, mask=mask if start == 0 else None, last_only=True)
                        for model, cache in zip((paged, plain), caches))
            there = mask if start == 0 else torch.ones(3, 1, dtype=torch.bool)
            assert torch.equal(one.routes[there], two.routes[there])
            assert float((one.logits - two.logits).abs().max() / two.logits.abs().max()) < 3e-5
    visited = [[block.experts.visited for block in model.layers] for model in (paged, plain)]
    assert visited[0] == visited[1]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(1, 9), st.sampled_from(SHAPES), st.integers(0, 99),
       st.sampled_from(shards.LAYOUTS))
def test_any_model_any_layout(tmp_path_factory, batch, past, changes, seed, layout):
    if layout != "minizaya" and changes.get("cca_time0", 2) == 1:
        layout = "minizaya"
    folder = folder_of(tmp_path_factory.mktemp("w"), changes, seed=seed, layout=layout)
    assert close(folder, batch, past, 4)


def test_int8_experts_are_the_same_ones(tmp_path, monkeypatch):
    folder = folder_of(tmp_path, {})
    paged, plain = PagedZaya(folder, int8=True), PagedZaya(folder, int8=True)
    plain.step = None
    assert difference(paged, plain) < 3e-5
    assert [block.experts.visited for block in paged.layers] == [block.experts.visited for block in plain.layers]
    assert paged.resident_bytes() == plain.resident_bytes()


LONG_PASTS = [({}, 4200, 0), ({}, 513, 0), ({}, 2100, 2060),
              (dict(num_attention_heads=6, num_key_value_heads=3), 700, 5),
              (dict(layer_types=["hybrid", "hybrid_sliding", "hybrid"], sliding_window=600), 2500, 2300)]


def long_past(changes, length, padded) -> float:
    """The largest difference of logits, by `step.cpp` in float32 and the plain way in float64, relative to the largest,
    after `length` drawn tokens, of which sequence 0 has `padded` at the left; two steps."""
    torch.manual_seed(3)
    sizes = SMALL | dict(head_dim=20, partial_rotary_factor=0.5) | changes
    model = randomise(mz.Zaya(mz.ZayaConfig.preset("nano", **sizes)), 3).float().eval()
    caches = [model.new_cache(2) for _ in range(2)]
    for layer, kv in enumerate(caches[0].kv):
        drawn = torch.randn(2, 2, length + 3, *kv.shape[3:])
        for cache in caches:
            cache.kv[layer], cache.length = drawn.clone(), length
            cache.delayed[layer] = torch.zeros(2, model.config.kv_size // 2)
            cache.valid = torch.arange(length) >= torch.tensor([[padded], [0]]) if padded else None
    worst, exact = 0.0, copy.deepcopy(model).double()
    caches[1].kv, caches[1].columns, caches[1].delayed = ([part.double() for part in own] for own in
                                                          (caches[1].kv, caches[1].columns, caches[1].delayed))
    with torch.inference_mode():
        for token in ([[5], [6]], [[7], [8]]):
            one, two = (read(torch.tensor(token), cache=cache, last_only=True)
                        for read, cache in zip((step.reader(model, True), exact), caches))
            if not torch.equal(one.routes, two.routes):
                return float("inf")
            worst = max(worst, float((one.logits - two.logits).abs().max() / two.logits.abs().max()))
    return worst


@pytest.mark.parametrize("changes, length, padded", LONG_PASTS)
@pytest.mark.parametrize("threads", [1, 2])
def test_long_pasts(monkeypatch, changes, length, padded, threads):
    """More tokens than are looked at head by head; several parts, one of which is all padding, or before the window."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert long_past(changes, length, padded) < 3e-5


def test_who_skips_gets_nothing(tmp_path):
    folder = folder_of(tmp_path, {})
    paged, plain = PagedZaya(folder), shards.load(folder, torch.float32)
    for model in (paged, plain):
        for block in model.layers:
            block.router.balancing_bias[-1] = 0.2
    tokens = torch.randint(3, 90, (6, 7))
    caches = [model.new_cache(6) for model in (paged, plain)]
    with torch.inference_mode():
        routes = [model(tokens[:, i: i + 1], cache=caches[0]).routes for i in range(7) for model in (paged,)]
    skipped = (torch.cat(routes, 1) == 5).float().mean()
    assert 0 < skipped < 1 and difference(paged, plain, 6) < 3e-5


def edited(tmp_path, change, stored=torch.float32):
    """A folder whose model was changed before it was saved."""
    model = randomise(mz.Zaya(mz.ZayaConfig.preset("nano", **SMALL)), 3).float()
    with torch.no_grad():
        for block in model.layers:
            change(block)
    return shards.save(model.to(stored), tmp_path / "w")


def test_huge_scores_and_logits_stay_finite(tmp_path):
    """exp overflows in float32 from 89 on. Scores here reach 147 (sqrt(6) times 60), logits more: a rounding of theirs
    is one of the probability's size, and the plain path in float32 is off by 6e-4 itself."""
    def change(block):
        block.attention.temperature.fill_(60)
        block.router.mlp.out_proj.weight.mul_(150)

    folder = edited(tmp_path, change)
    paged, plain = PagedZaya(folder), shards.load(folder, torch.float64)
    assert difference(paged, plain) < 3e-3
    with torch.inference_mode():
        own = plain(torch.arange(3, 60)[None]).probs
    assert float(own.log().min()) < -89      # the guard was needed


@pytest.mark.parametrize("batch", [1, 9])
def test_a_tie_goes_to_the_lower_expert(tmp_path, batch):
    """Experts 0 and 1, 2 and 3, 4 and the skip route have equal rows, and so equal probabilities, to the bit."""
    def change(block):
        rows = block.router.mlp.out_proj.weight
        rows[1::2] = rows[::2].clone()
        block.router.balancing_bias.zero_()

    paged, routes = PagedZaya(edited(tmp_path, change)), []
    cache = paged.new_cache(batch)
    tokens = torch.randint(3, 90, (batch, 9), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        paged(tokens[:, :1], cache=cache)
        for i in range(1, 9):
            out = paged(tokens[:, i: i + 1], cache=cache)
            assert torch.equal(out.probs[..., ::2], out.probs[..., 1::2])
            routes.append(out.routes)
    assert bool((torch.cat(routes) % 2 == 0).all()) and len(torch.cat(routes).unique()) > 1


def test_the_engine_steps_too(tmp_path, monkeypatch):
    """Sequences of other lengths, some sliding, joining and leaving: token for token, by way of `step.cpp`."""
    folder = folder_of(tmp_path, dict(layer_types=["hybrid", "hybrid_sliding", "hybrid"], sliding_window=4))
    paged, plain = PagedZaya(folder), shards.load(folder, torch.float64)
    prompts, calls = [[5, 6, 7], [9], [11, 12, 13, 14, 15], [20, 21]], []
    inner = paged_step.PagedStep.__call__
    monkeypatch.setattr(paged_step.PagedStep, "__call__", lambda self, *args: calls.append(1) or inner(self, *args))
    for chosen in (dict(temperature=0.0), dict(temperature=1.0, top_p=0.9, seed=4)):
        wanted = mz.generate(plain, prompts, 9, **chosen)
        assert mz.generate(paged, prompts, 9, **chosen) == wanted
        before = len(calls)
        assert engine_generate(Engine(paged, slots=2, size=16), prompts, 9, **chosen) == wanted
        assert len(calls) > before


def test_what_goes_the_plain_way(tmp_path, monkeypatch):
    """All logits, several tokens after others, new padding, replayed routes, float64: not by `step.cpp`."""
    paged = PagedZaya(folder_of(tmp_path, {}))
    monkeypatch.setattr(paged_step.PagedStep, "__call__", lambda *_: pytest.fail("went by step.cpp"))
    with torch.inference_mode():
        cache = paged.new_cache(2)
        paged(torch.full((2, 1), 5), cache=cache)
        paged(torch.full((2, 2), 5), cache=cache)
        paged(torch.full((2, 1), 5), cache=cache, routes=torch.zeros(2, 1, 3, dtype=torch.int64))
        paged(torch.full((2, 1), 5), cache=cache, mask=torch.tensor([[True], [False]]))
    assert PagedZaya(tmp_path / "w", torch.float64).step is None


def test_wrong_tokens_are_refused(tmp_path):
    paged = PagedZaya(folder_of(tmp_path, {}))
    cache = paged.new_cache(1)
    with torch.inference_mode():
        paged(torch.tensor([[5, 6]]), cache=cache)
        with pytest.raises(ValueError, match="tokens must lie in"):
            paged(torch.tensor([[90]]), cache=cache)
        with pytest.raises(ValueError, match="cache was made for batch 1"):
            paged(torch.tensor([[5], [6]]), cache=cache)
    assert cache.length == 2


def large_pages(address) -> int:
    """KiB of the mapping around an address that lie in large pages."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in (head := line.split()[0]) and ":" not in head:
            first, end = (int(part, 16) for part in head.split("-"))
            inside = first <= address < end
        elif inside and head == "AnonHugePages:":
            return int(line.split()[1])
    return 0


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
def test_large_weights_lie_in_large_pages():
    """And keep their places and numbers; those above the limit stay as they are."""
    own = torch.empty(4 * step.LARGE, dtype=torch.uint8).fill_(7)   # whole pages, wherever it begins
    if large_pages(own.data_ptr()):
        pytest.skip("here all memory lies in large pages")
    before = own.data_ptr()
    step.in_large_pages([own, own[:9]], limit=own.nbytes - 1)
    assert large_pages(before) == 0
    if CDLL(None).madvise(c_void_p(-(-before // step.LARGE) * step.LARGE), c_size_t(step.LARGE), step.COLLAPSE):
        pytest.skip("this Linux moves no memory into large pages")
    model = mz.Zaya(mz.ZayaConfig.preset("nano", vocab_size=20000, hidden_size=128)).eval()
    step.reader(model)
    weight = model.embed.weight
    assert weight.nbytes >= 4 * step.LARGE and large_pages(weight.data_ptr()) >= weight.nbytes / 1024 / 2
    step.in_large_pages([own])
    assert own.data_ptr() == before and bool((own == 7).all()) and large_pages(before) >= 3 * step.LARGE / 1024


BUGS = {
    "mean path after the convolutions": ("add_means(l, own, mixed, j)", "add_means(l, mixed, mixed, j)"),
    "keys see one token less": ("last,\n         kv, d, y", "last - 1,\n         kv, d, y"),
    "values arrive at once": ("if (behind < 0 || !l.shift)", "if (true)"),
    "columns stand still": ("std::copy(columns + c, columns + lag * c, columns);", ""),
    "a window too wide": ("past.stored[n] + t, first = l.window ? std::max(0L, last + 1 -",
                          "past.stored[n] + t, first = l.window ? std::max(0L, last -"),
    "temperature on queries": ("place(mixed + h * d, d, 1, l", "place(mixed + h * d, d, l.temperature[j], l"),
    "another head's queries": ("look(mixed + j * group * d", "look(mixed + (l.kv_heads - 1 - j) * group * d"),
    "rotated the other way": ("first * cos[i] - second", "first * cos[i] + second"),
    "the bias weighs": ("gate = probs[n * (X + 1) + routes[n]];",
                        "gate = probs[n * (X + 1) + routes[n]] + layer->balancing_bias[routes[n]];"),
    "no memory of the router below": ("l.eda_scale ? l.eda_scale[i] * own[i] : 0", "0"),
    "scaled before the bias": ("(output[i] + m.output_bias[i]) * m.output_scale[i]",
                               "output[i] * m.output_scale[i] + m.output_bias[i]"),
    "gate and up exchanged": ("*gate = both + t * 2 * F, *up = gate + F;",
                              "*up = both + t * 2 * F, *gate = up + F;"),
    "a neighbour's tokens": ("v.first * k * size", "(v.first + 1) % total * k * size"),
    "the last rows of an expert are left out": ("parts = (m + PANEL - 1) / PANEL", "parts = (m - 1) / PANEL"),
    "an odd expert is left out": ("pairs = ((long)turns.size() + 1) / 2", "pairs = (long)turns.size() / 2"),
    "a tanh instead of erf": ("0.5f * x * (1.f + erf(x * 0.70710678f))",
                              "x - x / (1.f + exponential(1.5957691f * (x + 0.044715f * x * x * x)))"),
    "every row gets the first row's bias": ("y[n * a.rows + i] += a.bias[i]", "y[n * a.rows + i] += a.bias[0]"),
    "the last numbers of a row are left out": ("total[t * ROWS + r] += one(w[r * apart + i]) * one(x[t * k + i]);",
                                               ";"),
    "the last rows are left out": ("r < m; r += ROWS) work", "r + ROWS <= m; r += ROWS) work"),
    "every other value is left out": ("if (s < count) even[h] +=", "if (s < count) odd[h] = 0 *"),
}


PAIR_BUGS = {
    "as many numbers a vector as floats": ("WIDE = 2 * N", "WIDE = N"),
    "every sum begins anew": ("_mm512_dpbf16_ps((__m512)sum, w, x)", "_mm512_dpbf16_ps((__m512)Floats{}, w, x)"),
    "each row by itself": ("_mm512_dpbf16_ps((__m512)sum, w, x)", "_mm512_dpbf16_ps((__m512)sum, x, x)"),
}


def planted(tmp_path, old, new):
    """The compiled sources with one line changed."""
    texts = {source.name: source.read_text() for source in matmul.SOURCES}
    assert sum(text.count(old) for text in texts.values()) == 1, f"{old!r} has changed"
    (tmp_path / "decode").mkdir()
    for name, text in texts.items():   # where each includes the next
        (tmp_path / ("" if name == "lanes.cpp" else "decode") / name).write_text(text.replace(old, new))
    built = tmp_path / "bug.so"
    subprocess.run([*compiler.cpp(), "-O1", "-march=native", "-fopenmp", "-shared", "-fPIC", "-std=c++17",
                    str(tmp_path / "decode/step.cpp"), "-o", str(built)],
                   check=True)
    return matmul.load(built)


LONG_BUGS = {
    "parts of other sizes weigh the same": ("std::exp(own[l.heads * d + h] - top)", "1.f"),
    "the sum of one part": ("sum += share * own[l.heads * (d + 1) + h]", "sum = share * own[l.heads * (d + 1) + h]"),
    "padding is seen": ("if (!seen[s]) own[s - first]", "if (!seen[s - first]) own[s - first]"),
    "a part begins a token late": ("parts.push_back({n, s,", "parts.push_back({n, s + (s > first),"),
    "another head's keys": ("keys + (first + s + r) * row + h / group * d", "keys + (first + s + r) * row"),
    "another head's values": ("values + (first + s) * row + h / group * d", "values + (first + s) * row"),
    "a window a token wide too many": ("last + 1 - l.window) : 0;\n        for", "last - l.window) : 0;\n        for"),
    "the last channels are left out": ("to[h * d + i] += own[h * apart + s] * one(values[s * row + i]);", ";"),
}


@pytest.mark.parametrize("bug", LONG_BUGS)
def test_planted_bugs_in_long_pasts_are_seen(tmp_path, monkeypatch, bug):
    wrong = planted(tmp_path, *LONG_BUGS[bug])
    monkeypatch.setattr(step, "library", lambda: wrong)
    assert max(long_past(*case) for case in LONG_PASTS[2:]) > 1e-4


@pytest.mark.skipif(not matmul.multiplies_pairs(), reason="this CPU has no AVX-512 BF16")
@pytest.mark.parametrize("bug", PAIR_BUGS)
def test_planted_bugs_in_pairs_are_seen(tmp_path, monkeypatch, bug):
    wrong = planted(tmp_path, *PAIR_BUGS[bug])
    monkeypatch.setattr(matmul, "library", lambda: wrong)
    x, weight = torch.randn(3, 70).bfloat16(), torch.randn(8, 70).bfloat16()
    off = (matmul.matmul(x, weight).double() - x.double() @ weight.double().T).abs().max()
    assert not off < 0.5    # one rounding to bfloat16 is off by less than 0.1


@pytest.mark.parametrize("bug", BUGS)
def test_planted_bugs_are_seen(tmp_path, monkeypatch, bug):
    wrong = planted(tmp_path, *BUGS[bug])
    monkeypatch.setattr(paged_step, "library", lambda: wrong)
    # heads longer than a vector, and not a multiple of one
    folder = folder_of(tmp_path, dict(layer_types=["hybrid", "hybrid_sliding", "hybrid"], sliding_window=4,
                                      attention_bias=True, head_dim=20, partial_rotary_factor=0.5))
    assert difference(PagedZaya(folder), shards.load(folder, torch.float64)) > 1e-4
