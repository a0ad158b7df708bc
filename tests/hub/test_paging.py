"""A model paged from its folder answers like the same folder loaded: any layout, any chunks,
in the engine, over HTTP."""

import json
import mmap
import urllib.request
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import minizaya as mz
from minizaya import __main__ as cli
from minizaya.hub import golden, shards
from minizaya.hub.mapped import Mapped, Page
from minizaya.hub.paging import MAPPED, PagedZaya
from minizaya.hub.weights import StandIn, open_weights
from minizaya.infer.engine import Engine, engine_generate
from minizaya.native import matmul
from minizaya.plan import account
from minizaya.serve.protocol import ChatFormat
from minizaya.serve.server import Server
from minizaya.serve.service import Service
from paged_tools import CONFIG, written

UNTIED = mz.ZayaConfig(**CONFIG.to_dict() | {"tie_word_embeddings": False, "attention_bias": True,
                                             "lm_head_bias": True})
CLOSE = {torch.float64: 1e-9, torch.float32: 1e-5}


@pytest.fixture(scope="module", params=shards.LAYOUTS)
def folder(request, tmp_path_factory):
    return written(tmp_path_factory.mktemp("paged") / "weights", layout=request.param)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return written(tmp_path_factory.mktemp("small") / "weights")


def tokens_of(seed, *shape):
    return torch.randint(3, 300, shape, generator=torch.Generator().manual_seed(seed))


def close(one, two, dtype):
    assert torch.equal(one.routes, two.routes)
    for a, b in ((one.logits, two.logits), (one.probs, two.probs)):
        assert a.dtype == b.dtype and bool(((a - b).abs() <= CLOSE[dtype] * (1 + b.abs()) * (1 + b.abs().max())).all())


# ---- the product -----------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 70), st.integers(1, 40),
       st.sampled_from([torch.bfloat16, torch.float32, torch.int8]),
       st.booleans(), st.integers(0, 999))
def test_matmul_is_the_product(n, k, m, dtype, build, seed):
    """Compiled loop and tiles, odd sizes, a slice as the output."""
    generator = torch.Generator().manual_seed(seed)
    x, whole = torch.randn(n, k, generator=generator), torch.full((n, m + 2), 7.0)
    weight, scale = torch.randn(m, k, generator=generator).to(torch.bfloat16), None
    if dtype == torch.int8:
        weight, scale = matmul.quantise(weight)
    weight = weight.to(dtype)
    wanted = x.double() @ (weight.double() * (1 if scale is None else scale[:, None].double())).T
    if build and matmul.library() is not None:
        matmul.compiled(x, weight, scale, whole[:, 1:-1])
    else:
        matmul.tiles(x, weight, scale, whole[:, 1:-1])
    assert torch.allclose(whole[:, 1:-1].double(), wanted, atol=1e-5 * (1 + wanted.abs().max()), rtol=0)
    assert (whole[:, [0, -1]] == 7).all()
    assert torch.allclose(matmul.matmul(x, weight, scale).double(), wanted, atol=1e-5 * (1 + wanted.abs().max()),
                          rtol=0)
    assert torch.allclose(matmul.matmul(x.double(), weight, scale), wanted, atol=1e-9 if scale is None else 1e-5)


@pytest.mark.skipif(not matmul.multiplies_pairs(), reason="this CPU has no AVX-512 BF16")
@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.one_of(st.integers(1, 70), st.integers(120, 300)), st.integers(1, 40), st.integers(0, 999))
def test_pairs_of_bfloat16_are_the_product(n, k, m, seed):
    """Products of bfloat16 numbers are exact in float32, so only the sums round. Then the result is rounded once."""
    generator = torch.Generator().manual_seed(seed)
    x, weight = (torch.randn(rows, k, generator=generator).bfloat16() for rows in (n, m))
    wanted, whole = x.double() @ weight.double().T, torch.full((n, m + 2), 7.0)
    matmul.compiled(x, weight, None, whole[:, 1:-1])
    assert torch.allclose(whole[:, 1:-1].double(), wanted, atol=1e-5 * (1 + wanted.abs().max()), rtol=0)
    assert (whole[:, [0, -1]] == 7).all()
    assert torch.equal(matmul.matmul(x, weight), whole[:, 1:-1].bfloat16())


def test_many_tokens_and_tiles_agree(monkeypatch):
    x, weight = torch.randn(matmul.FEW + 3, 33), torch.randn(70, 33).bfloat16()
    wanted = x.double() @ weight.double().T
    monkeypatch.setattr(matmul, "TILE", 100)
    assert torch.allclose(matmul.matmul(x, weight).double(), wanted, atol=1e-4)
    monkeypatch.setattr(matmul, "library", lambda: None)
    assert torch.allclose(matmul.matmul(x[:1], weight).double(), wanted[:1], atol=1e-4)
    rounded = matmul.matmul(x.bfloat16(), weight)
    wanted = x.bfloat16().double() @ weight.double().T
    assert rounded.dtype == torch.bfloat16 and torch.allclose(rounded.double(), wanted, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("n", [1, 5, matmul.FEW + 1])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_a_scale_counts_for_every_type(n, dtype):
    x, weight = torch.randn(n, 33).to(dtype), torch.randn(7, 33).to(dtype)
    scale = torch.tensor([3.0, 1, 1, 1, 1, 1, -2])
    wanted = (x.double() @ weight.double().T) * scale.double()
    close = torch.finfo(dtype).eps * 60     # sums of 33 numbers of size one, in float32 at least; then one rounding
    assert torch.allclose(matmul.matmul(x, weight, scale).double(), wanted, atol=close, rtol=2 * torch.finfo(dtype).eps)


def test_each_tile_has_scales_of_its_own(monkeypatch):
    """Tiles of three rows, whose sizes lie decades apart: a first, a second and a third, and a last short one."""
    weight, x = torch.randn(10, 33) * 10.0 ** torch.arange(10)[:, None], torch.randn(matmul.FEW + 1, 33)
    whole, scale = matmul.quantise(weight)
    monkeypatch.setattr(matmul, "TILE", 100)
    again = matmul.quantise(weight)
    assert torch.equal(again[0], whole) and torch.equal(again[1], scale)
    wanted = x.double() @ (whole.double() * scale[:, None].double()).T
    for rows in (1, len(x)):
        found = torch.empty(rows, 10)
        matmul.tiles(x[:rows], whole, scale, found)
        for out in (found, matmul.matmul(x[:rows], whole, scale)):
            assert bool(((out - wanted[:rows]).abs() <= 1e-5 * wanted.abs().amax(0)).all())


@pytest.mark.skipif(matmul.library() is None, reason="no C++ compiler")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8, torch.float32])
def test_large_weights_are_shared_by_two_threads(monkeypatch, dtype):
    """Above 2^18 weights; rows that are no multiple of a block's, for one token and for several."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    weight, scale = torch.randn(523, 510).bfloat16(), None
    if dtype == torch.int8:
        weight, scale = matmul.quantise(weight * 2.0 ** (torch.arange(523) % 40)[:, None])
    weight, x = weight.to(dtype), torch.randn(7, 510)
    wanted = x.double() @ (weight.double() * (1 if scale is None else scale[:, None].double())).T
    for rows in (1, 7):
        found = torch.empty(rows, 523)
        matmul.compiled(x[:rows], weight, scale, found)
        assert bool(((found - wanted[:rows]).abs() <= 1e-5 * wanted.abs().amax(0)).all())


def test_quantising_is_off_by_half_a_step():
    weight = torch.randn(40, 2048).bfloat16()
    weight[3] = 0
    small, scale = matmul.quantise(weight)
    off = (small * scale[:, None] - weight.float()).abs()
    assert bool((off <= weight.float().abs().amax(-1, keepdim=True) / 254 * 1.0001).all()) and not small[3].any()
    assert bool((scale > 0).all() and scale.isfinite().all()), "of a row of zeros, too"
    assert 0.006 < (off[4:].square().mean() / weight[4:].float().square().mean()).sqrt() < 0.01   # the docstring's 0.8%


@pytest.mark.parametrize("x, weight", [(torch.zeros(3), torch.zeros(2, 3)), (torch.zeros(1, 4), torch.zeros(2, 3))],
                         ids=["one axis", "other widths"])
def test_products_that_do_not_fit(x, weight):
    with pytest.raises(ValueError, match="x must be"):
        matmul.matmul(x, weight)


# ---- the model -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float32], ids=["of bfloat16", "of float32"])
def test_paged_equals_loaded(folder, tmp_path, dtype, stored):
    """Prefill at odd lengths, in chunks with a cache, with padding, token by token."""
    if stored == torch.float32:
        folder = written(tmp_path / "wide", layout=Mapped(folder).layout, dtype=stored)
    whole, paged = shards.load(folder, dtype), PagedZaya(folder, dtype)
    mask = torch.ones(3, 11, dtype=torch.bool)
    mask[0, :7] = mask[2, :2] = False
    with torch.inference_mode():
        for length in (1, 2, 17):
            tokens = tokens_of(length, 2, length)
            close(paged(tokens), whole(tokens), dtype)
        tokens = tokens_of(5, 3, 11)
        caches = [model.new_cache(3) for model in (paged, whole)]
        for start, stop in ((0, 11), (11, 12), (12, 17), (17, 18)):
            tokens = tokens_of(start, 3, stop - start)
            own = mask if start == 0 else None
            close(*(model(tokens, cache=cache, mask=own) for model, cache in zip((paged, whole), caches)), dtype)
        assert all(torch.allclose(a[:, :, :18], b[:, :, :18], atol=CLOSE[dtype] * 100)
                   for a, b in zip(caches[0].kv, caches[1].kv))


@pytest.mark.parametrize("changes", [dict(tie_word_embeddings=False, attention_bias=True, lm_head_bias=True),
                                     dict(router="linear"), dict(num_convs=0), dict(num_convs=1, qk_mean=False),
                                     dict(residual_scaling=False, eda=False),
                                     dict(num_experts=1)], ids=lambda changes: next(iter(changes)))
def test_other_configurations(tmp_path, changes):
    folder = written(tmp_path / "w", mz.ZayaConfig(**CONFIG.to_dict() | changes))
    whole, paged = shards.load(folder, torch.float64), PagedZaya(folder, torch.float64)
    with torch.inference_mode():
        close(paged(tokens_of(1, 2, 9)), whole(tokens_of(1, 2, 9)), torch.float64)


def test_skipped_tokens_and_empty_experts(small):
    whole, paged = shards.load(small, torch.float64), PagedZaya(small, torch.float64)
    tokens, routes = tokens_of(1, 2, 6), torch.full((2, 6, 3), 5)  # everybody skips
    with torch.inference_mode():
        close(paged(tokens, routes=routes), whole(tokens, routes=routes), torch.float64)
        assert paged.touched_bytes() == 0
        routes[0, 2, 1] = 4                                        # one token, one expert
        close(paged(tokens, routes=routes), whole(tokens, routes=routes), torch.float64)
    visits = [block.experts.visited for block in paged.layers]
    assert visits == [[0] * 5, [0, 0, 0, 0, 1], [0] * 5]
    assert paged.touched_bytes() == 2 * 3 * 20 * 9                 # bfloat16, 3 D F


def test_large_matrices_stay_in_the_file(small):
    paged = PagedZaya(small)
    mapped = paged.mapped
    kept = sum(torch.Size(shape).numel() for name, shape in mapped.shapes.items() if not name.endswith(MAPPED))
    assert paged.resident_bytes() == 4 * kept
    with torch.inference_mode():
        paged(tokens_of(1, 1, 30))
    assert paged.resident_bytes() == 4 * kept
    assert not any(parameter.requires_grad for parameter in paged.parameters())
    assert not paged.training and paged.embed.weight.numel() == 0


def test_balancing_biases_are_not_rounded_to_the_models_type(tmp_path):
    """bfloat16 would tie experts that 1e-3 tells apart; a file's float32 biases come in as they are."""
    folder = written(tmp_path / "weights", layout="minizaya")
    model = shards.load(folder)
    for block in model.layers:
        block.router.balancing_bias[:] = torch.arange(len(block.router.balancing_bias)) * 1e-3 - 0.1 / 3
    shards.save(model, tmp_path / "again")
    for dtype in (torch.float32, torch.bfloat16):
        for own, block in zip(PagedZaya(tmp_path / "again", dtype).layers, model.layers):
            assert own.router.balancing_bias.dtype == torch.float32
            assert torch.equal(own.router.balancing_bias, block.router.balancing_bias)


def test_a_token_outside_the_vocabulary_is_refused_in_each_call(small):
    """In the first, and where one more token goes through C++, which would read past the table."""
    paged, size = PagedZaya(small), CONFIG.vocab_size
    with torch.inference_mode():
        for wrong in (size, -1):
            with pytest.raises(ValueError, match=f"tokens must lie in 0..{size - 1}"):
                paged(torch.tensor([[wrong]]))
            cache = paged.new_cache(1)
            paged(tokens_of(1, 1, 3), cache=cache)
            with pytest.raises(ValueError, match=f"tokens must lie in 0..{size - 1}"):
                paged(torch.tensor([[wrong]]), cache=cache)


def test_a_page_is_where_its_expert_lies(folder):
    """Read ahead once, at the first visit, and given back: the bytes of this expert, not of its neighbour."""
    mapped = Mapped(folder)
    for name in ("layers.0.experts.gate_up_proj", "layers.2.experts.down_proj"):
        for expert in range(CONFIG.num_experts):
            page = mapped.expert(name, expert)
            bytes_there = page.whole[page.first: page.first + page.view.nbytes]
            assert bytes_there == page.view.contiguous().view(torch.uint8).numpy().tobytes()


def test_pages_are_asked_for_and_given_back_whole():
    """Read ahead: all pages that hold a byte of the matrix. Given back: those that hold no byte of a neighbour's."""
    size, asked = mmap.PAGESIZE, []
    whole = SimpleNamespace(madvise=lambda what, start, length: asked.append((what, start, start + length)))
    Page(torch.zeros(3 * size // 4), whole, size - 8).soon()
    Page(torch.zeros(3 * size // 4), whole, size - 8).leave()
    Page(torch.zeros(size // 4), whole, 8).leave()           # no page is its own
    assert asked == [(mmap.MADV_WILLNEED, 0, 4 * size - 8), (mmap.MADV_DONTNEED, size, 3 * size)]


def test_an_expert_is_asked_for_at_its_first_visit_alone(small, monkeypatch):
    asked = []
    monkeypatch.setattr("minizaya.hub.mapped.Page.soon", lambda page: asked.append(page.first))
    paged = PagedZaya(small, torch.float64)
    with torch.inference_mode():
        for _ in range(3):
            paged(tokens_of(1, 1, 5))
            asked.append("pass")
    assert len(set(asked[: asked.index("pass")])) > 3 and asked[-3:] == ["pass"] * 3


def test_int8_experts(small):
    """Near the exact ones, kept at the first visit, half the bytes."""
    exact, paged = PagedZaya(small), PagedZaya(small, int8=True)
    tokens, before = tokens_of(3, 2, 9), paged.resident_bytes()
    with torch.inference_mode():
        routes = exact(tokens).routes
        one, two = exact(tokens, routes=routes).logits, paged(tokens, routes=routes).logits
    assert 1e-6 < (one - two).square().mean().sqrt() / one.square().mean().sqrt() < 0.05
    assert paged.resident_bytes() - before == paged.touched_bytes() // 2 + sum(
        4 * (2 * 9 + 20) for block in paged.layers for visits in block.experts.visited if visits)


def test_generate_engine_and_seeds(small):
    whole, paged = shards.load(small, torch.float64), PagedZaya(small, torch.float64)
    prompts = [[5, 6, 7], [9], [11, 12, 13, 14, 15]]
    for settings_ in (dict(temperature=0.0), dict(temperature=1.0, top_p=0.9, seed=4)):
        wanted = mz.generate(whole, prompts, 7, **settings_)
        assert mz.generate(paged, prompts, 7, **settings_) == wanted
        assert engine_generate(Engine(paged, slots=2, size=16), prompts, 7, **settings_) == wanted


def test_wrong_folders(small, tmp_path):
    with pytest.raises(ValueError, match="dtype must be one of"):
        PagedZaya(small, torch.float16)
    with pytest.raises(FileNotFoundError, match="config.json"):
        PagedZaya(tmp_path)
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in small.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    shard = sorted(copy.glob("*.safetensors"))[1]
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    with pytest.raises(ValueError, match="damaged"):
        PagedZaya(copy)
    shard.write_bytes(content)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"num_experts": 4}))
    with pytest.raises(ValueError, match="is of shape .*, the model wants"):
        PagedZaya(copy)
    (copy / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2, "layer_types": None}))
    with pytest.raises(ValueError, match="unknown"):
        PagedZaya(copy)


# ---- the commands ----------------------------------------------------------------------------------------------------


def test_sample_reads_a_folder(small, capsys):
    assert cli.main(["sample", "--weights", str(small), "--prompt", "Hi", "--max-new-tokens", "6", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert 1 <= len(found["tokens"]) <= 6 and found["prompt"] == "Hi"
    flags = ["--prompt", "Hi", "--max-new-tokens", "3", "--raw", "--int8"]
    assert cli.main(["sample", "--weights", str(small), *flags]) == 0
    assert capsys.readouterr().out.startswith("Hi")
    assert cli.main(["sample", "--weights", str(small) + "/none", "--prompt", "Hi"]) == 2
    assert "must be a checkpoint folder" in capsys.readouterr().err
    for flag in ("--int8", "--dtype=bfloat16"):
        assert cli.main(["sample", "--checkpoint", str(small), "--prompt", "Hi", flag]) == 2
        assert "has no effect without --weights" in capsys.readouterr().err


def test_a_tokenizer_beside_the_weights_is_used(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    from minizaya.data.tokenizer import SPECIALS

    folder = written(tmp_path / "w")
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<unk>": 0, "hello": 1, "there": 2}, unk_token="<unk>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    inner.add_special_tokens(list(SPECIALS))
    inner.save(str(folder / "tokenizer.json"))
    _, tokenizer = open_weights(folder)
    assert tokenizer.encode("hello there") == [1, 2] and "<|im_end|>" in tokenizer.special_ids
    inner.add_tokens([f"word{number}" for number in range(300 - inner.get_vocab_size())])
    inner.save(str(folder / "tokenizer.json"))
    assert open_weights(folder)[1].vocab_size == 300, "as many ids as the model has"
    inner.add_tokens(["one more"])
    inner.save(str(folder / "tokenizer.json"))
    with pytest.raises(ValueError, match="tokenizer.json has 301 ids, the model 300: it is another model's"):
        open_weights(folder)


def test_the_stand_in_reads_bytes_and_shows_numbers():
    tokenizer = StandIn(300)
    assert tokenizer.decode([*tokenizer.encode("né"), 299, 65]) == "né[299]A"
    assert tokenizer.vocab_size == 300 and tokenizer.decode([tokenizer.special_ids["<think>"]]) == "<think>"
    with pytest.raises(ValueError, match="at least 264"):
        StandIn(100)


def test_serve_answers_from_a_folder(small):
    model, tokenizer = open_weights(small)
    with Server(Service(model, tokenizer, slots=2, size=128), ChatFormat(tokenizer), "paged") as server:
        body = json.dumps({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5, "seed": 1}).encode()
        reply = json.load(urllib.request.urlopen(f"{server.url}/chat/completions", body, timeout=60))
    assert 1 <= reply["usage"]["completion_tokens"] <= 5


def test_bench_measures_a_folder(tmp_path, capsys):
    """Figures that agree with each other; how large they are is the machine's affair."""
    # the peer wants rows of 16 bytes, and always has three layers
    config = mz.ZayaConfig(
        **CONFIG.to_dict() | dict(hidden_size=32, moe_intermediate_size=16, num_hidden_layers=2, layer_types=None)
    )
    small = written(tmp_path / "w", config)
    assert cli.main(["bench", "--full", str(small), "--pairs", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    decode, prefill, memory = found["decode"], found["prefill"], found["memory"]
    assert found["file_bytes"] == Mapped(small).bytes and found["load_seconds"] > 0
    assert decode["bytes"] / decode["seconds"] / 1e9 == pytest.approx(decode["gb_s"])
    assert prefill["of_arithmetic"] == pytest.approx(prefill["least_seconds"] / prefill["seconds"])
    # twice a multiplication for each active weight and token; scores and convolutions on top; the head for one token
    active = account.active_parameters(config) - config.vocab_size * config.hidden_size
    assert 2 * 128 * active < prefill["flops"] < 2 * 128 * active * 3
    theirs = min(prefill["transformers_layer_seconds"].values()) * 2
    assert prefill["ratio"] == pytest.approx(theirs / prefill["seconds"])
    assert memory["planned_mapped"] > 0 and memory["after"].get("own", 1) > 0
    assert cli.main(["bench", "--full", str(small), "--pairs", "3", "--no-peer", "--int8"]) == 0
    assert "of the arithmetic" in capsys.readouterr().out


# ---- golden values ---------------------------------------------------------------------------------------------------


def test_golden_values_tell_right_weights_from_wrong(tmp_path, capsys, monkeypatch):
    folder, tokens = written(tmp_path / "w", layout="transformers"), [2, 9, 40, 41, 42, 7, 8, 106, 5, 4, 3]
    with torch.inference_mode():
        wanted = golden.record(shards.load(folder).eval(), tokens)       # in bfloat16, by the other path
    monkeypatch.setattr(golden, "RELEASED", wanted)
    monkeypatch.setattr(golden.examine, "__defaults__", (wanted, *golden.examine.__defaults__[1:]))
    facts = golden.examine(folder)
    assert facts["argmax_ok"] and facts["largest_difference"] < 0.1      # sums in another order, rounded to bfloat16
    exact = golden.record(PagedZaya(folder, torch.bfloat16), tokens)
    assert golden.examine(folder, exact)["ok"] and golden.examine(folder, exact)["sums_checked"] > 1
    monkeypatch.setattr(golden.examine, "__defaults__", (exact, *golden.examine.__defaults__[1:]))
    assert cli.main(["doctor", "--weights", str(folder)]) == 0
    assert "read rightly" in capsys.readouterr().out

    for name in ("model.layers.1.self_attn.qk_norm.temp", "model.layers.2.mlp.gate.router_mlp.fc1.weight",
                 "model.norm.weight"):
        mapped = Mapped(folder)
        file = next(path for path in folder.glob("*.safetensors") if name.encode() in path.read_bytes())
        content = bytearray(file.read_bytes())
        entry = mapped.entries[name]
        for place in range(entry.start + 1, entry.end, 2):
            content[place] ^= 0x80                                       # the sign of each number of one tensor
        damaged = tmp_path / name
        damaged.mkdir()
        for path in folder.iterdir():
            (damaged / path.name).write_bytes(content if path == file else path.read_bytes())
        with pytest.raises(ValueError, match="SHA-256"):
            golden.examine(damaged)
        assert not golden.examine(damaged, sums=False)["ok"], name
    other = golden.Golden(mz.ZayaConfig.preset("nano"), tokens, exact.argmax, exact.logits)
    with pytest.raises(ValueError, match="golden values are of a model with"):
        golden.examine(folder, other)


def test_the_released_values_are_those_published():
    assert golden.RELEASED.config == mz.ZayaConfig.preset("zaya1-8b")
    assert len(golden.RELEASED.tokens) == len(golden.RELEASED.argmax) == 11
    assert golden.RELEASED.logits[1] == [-1.4297] * 3 and golden.TOLERANCE == 1e-3
