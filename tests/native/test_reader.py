"""Decoding a model in memory through `step.cpp`: the same answers as the plain way, for any model, and for weights that
change between two steps."""

import copy
import math

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import minizaya as mz
from minizaya.infer.engine import Engine, engine_generate
from minizaya.laws.strategies import randomise
from minizaya.native import compiler, layout, matmul, step
from step_models import SHAPES, SLIDING, SMALL

pytestmark = pytest.mark.skipif(matmul.library() is None, reason="no C++ compiler")

ALL = [*SHAPES, SLIDING | dict(head_dim=32, hidden_size=600), dict(num_convs=1), dict(num_convs=0), dict(qk_mean=False),
       dict(value_shift=False), dict(router="linear"), dict(eda=False), dict(residual_scaling=False)]


def model_of(changes=(), seed=3, dtype=torch.float32):
    return randomise(mz.Zaya(mz.ZayaConfig.preset("nano", **SMALL | dict(changes))), seed).float().to(dtype).eval()



def written(read, cache, past, padding, steps=5):
    """Logits, probs and routes of some steps after a prompt; row i has `padding[i]` tokens of padding before it, and
    from the second step on the even rows are left, backwards."""
    batch = len(padding)
    tokens = torch.randint(3, 90, (batch, past + steps), generator=torch.Generator().manual_seed(batch + past))
    mask = torch.arange(past) >= torch.tensor(padding)[:, None]
    rows, found = torch.arange(batch), []
    with torch.inference_mode():
        read(tokens[:, :past], cache=cache, mask=None if mask.all() else mask, last_only=True)
        for i in range(past, past + steps):
            out = read(tokens[rows, i: i + 1], cache=cache, last_only=True)
            found.append((out.logits, out.probs, out.routes))
            if i == past:
                left = torch.arange(batch)[::2].flip(0)
                cache.select(left)
                rows = rows[left]
    assert cache.length == past + steps
    held = [torch.cat([cache.kv[layer][..., :cache.length, :, :].flatten(), cache.columns[layer].flatten(),
                       cache.delayed[layer].flatten()]) for layer in range(len(cache.kv))]
    return found, held


def three_ways(model, batch, past, padding):
    """`written` by the same weights in float64, by the model itself, and by `step.cpp`."""
    wide = mz.Zaya(model.config).double().eval()
    wide.load_state_dict(model.state_dict())
    ways = (wide, wide), (model, model), (step.reader(model, True), model)
    return [written(read, own.new_cache(batch), past, padding) for read, own in ways]


def off(one, two) -> float:
    """The largest difference of logits and probabilities, relative to the largest; inf where routes differ."""
    worst = 0.0
    for mine, wanted in zip(one, two):
        if not torch.equal(mine[2], wanted[2]):
            return float("inf")
        for a, b in zip(mine[:2], wanted[:2]):
            assert a.shape == b.shape
            worst = max(worst, float(((a.double() - b).abs().max() / b.abs().max()).nan_to_num(nan=float("inf"))))
    return worst


@settings(max_examples=20, deadline=None)
@given(st.integers(0, len(ALL) - 1), st.integers(1, 20), st.integers(1, 9), st.integers(0, 99), st.integers(1, 3))
@example(0, 1, 1, 3, 1)
@example(1, 64, 5, 4, 3)
@example(2, 17, 3, 3, 1)
@example(3, 5, 2, 3, 2)
@example(4, 9, 6, 3, 1)
@example(5, 4, 4, 3, 1)
@example(6, 3, 4, 3, 1)
@example(7, 7, 3, 3, 2)
@example(8, 33, 7, 3, 2)       # rows longer than `SHORT`, and heads longer than a vector
@example(9, 4, 4, 3, 2)
@example(10, 4, 4, 3, 1)
@example(11, 4, 4, 3, 2)
@example(12, 4, 4, 3, 1)
@example(13, 4, 4, 3, 2)
@example(14, 4, 4, 3, 1)
@example(15, 4, 4, 3, 2)
def test_a_step_is_the_plain_one(shape, batch, past, seed, threads):
    """As near to the model in float64 as the plain path in float32 is: that one's roundings come to 2e-5 of the largest
    logit here; another order of the same sums may be some times as unlucky, and no more."""
    model = model_of(ALL[shape], seed)
    if ALL[shape].get("attention_bias"):
        padding = [0] * batch   # trap: there padding is not quite nothing, see `Zaya.forward`
    else:
        padding = [i % past for i in range(batch)]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        exact, plain, mine = three_ways(model, batch, past, padding)
    finally:
        torch.set_num_threads(before)
    found, rounding = off(mine[0], exact[0]), off(plain[0], exact[0])
    assume(rounding < 1)    # else two experts are so near that float32 cannot tell them apart
    assert found < 3e-5 and found < 5 * max(rounding, 2e-6)
    for a, b in zip(mine[1], exact[1]):
        assert torch.allclose(a.double(), b, atol=1e-4 * (1 + b.abs().max()))


@pytest.mark.parametrize("batch", [1, 3, 20])
def test_bfloat16_weights_and_cache(batch):
    """Everybody visits one expert, so that no rounding changes a route. The plain path rounds all that modules hand on
    to bfloat16, the step only what it keeps; both stand on a prompt that was read in bfloat16."""
    model = model_of(SLIDING, dtype=torch.bfloat16)
    for block in model.layers:
        block.router.balancing_bias[2] = 5
    padding = [i % 4 for i in range(batch)]
    exact, plain, mine = three_ways(model, batch, 6, padding)
    assert off(mine[0], exact[0]) < min(0.04, 2 * off(plain[0], exact[0]))
    assert all(a.dtype == torch.bfloat16 for a in mine[1])
    assert [x.dtype for x in mine[0][0]] == [x.dtype for x in plain[0][0]]
    with torch.no_grad():
        model.norm.weight.mul_(2)   # a small weight, of which C++ reads a wider twin
    again = written(step.reader(model, True), model.new_cache(batch), 6, padding)
    assert all(torch.allclose(2 * a[0], b[0], rtol=1e-5) for a, b in zip(mine[0], again[0]))


@pytest.mark.parametrize("chosen", [dict(temperature=0.0), dict(temperature=1.0, top_p=0.9, seed=4),
                                    dict(temperature=0.7, min_p=0.05, stop=range(20), seed=1)])
def test_answers_are_the_same(monkeypatch, chosen):
    """Token for token, in batches, in rows, and in the engine, where sequences join and leave."""
    model, prompts = model_of(SLIDING), [[5, 6, 7], [9], [11, 12, 13, 14, 15], [20, 21], [9], [30, 31]]
    calls, inner = [], step.Step.read
    monkeypatch.setattr(step.Step, "read", lambda *args, **kwargs: calls.append(1) or inner(*args, **kwargs))
    wanted = mz.generate(model, prompts, 9, compiled=False, **chosen)
    assert engine_generate(Engine(model, slots=4, size=16, compiled=False), prompts, 9, **chosen) == wanted
    assert not calls
    for compiled in (None, True):
        assert mz.generate(model, prompts, 9, compiled=compiled, **chosen) == wanted
        assert mz.generate(model, prompts, 9, compiled=compiled, rows=2, **chosen) == wanted
        before = len(calls)
        assert engine_generate(Engine(model, slots=4, size=16, compiled=compiled), prompts, 9, **chosen) == wanted
        assert len(calls) > before


def test_what_is_recorded_is_the_same():
    model = model_of(SLIDING)
    found = []
    for compiled in (False, True):
        engine = Engine(model, slots=3, size=20, compiled=compiled)
        numbers = [engine.submit([3 + i] * (1 + i), 8, min_p=0.02, seed=i, record=True) for i in range(5)]
        while engine.busy:
            engine.step()
        found.append([engine.take(number) for number in numbers])
    for one, two in zip(*found):
        assert one.tokens == two.tokens and torch.equal(one.routes, two.routes) and torch.equal(one.kept, two.kept)
        assert torch.allclose(torch.tensor(one.logprobs), torch.tensor(two.logprobs), atol=1e-4)


def test_weights_that_change_are_followed():
    """In place, as training and `load_state_dict` change them: by the reader at hand. Other memory: by the next one."""
    model, other = model_of(), model_of(seed=4)
    read = step.reader(model, True)

    def now(read):
        return written(read, model.new_cache(2), 3, [0, 0])[0]

    assert off(now(read), now(model)) < 3e-5
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.03)
    model(torch.tensor([[5, 6, 7]])).logits.square().mean().backward()
    before = now(read)
    optimizer.step()
    assert off(now(read), now(model)) < 3e-5 and off(now(read), before) > 1e-3
    model.load_state_dict(other.state_dict())
    assert off(now(read), now(other)) < 3e-5
    for block in model.layers:
        block.router.balancing_bias[:-1] += torch.tensor([0.3, 0, 0, 0, -0.3])   # a balancer's move
    assert off(now(read), now(model)) < 3e-5
    assert step.reader(model, True).args and step.STEPS[model].places == step.places(model)
    kept = step.STEPS[model]
    assert step.reader(model) and step.STEPS[model] is kept, "the same memory is looked up once"
    third = model_of(seed=5)
    for mine, own in zip(model.parameters(), third.parameters()):
        mine.data = own.data.clone()
    assert off(now(step.reader(model, True)), now(model)) < 3e-5
    model.layers[1].experts = model_of(seed=6).layers[1].experts
    assert off(now(step.reader(model, True)), now(model)) < 3e-5


def test_the_engine_follows_weights_in_other_memory():
    model, other = model_of(), model_of(seed=4)
    engine = Engine(model, slots=2, size=16, compiled=True)
    for mine, own in zip(model.parameters(), other.parameters()):
        mine.data = own.data.clone()
    assert engine_generate(engine, [[5, 6]], 6, temperature=0.0) == mz.generate(other, [[5, 6]], 6, temperature=0.0)


def test_long_prompts_go_the_plain_way(monkeypatch):
    """And so do prompts whose every logit is wanted, pieces of a prompt, and those with a bias of the projections."""
    model, biased = model_of(), model_of(dict(attention_bias=True))
    tokens = torch.randint(3, 90, (2, step.PROMPT + 1), generator=torch.Generator().manual_seed(1))
    short = tokens[:, :5]
    with torch.inference_mode():
        taken = step.reader(model, True)(tokens[:, :-1], cache=model.new_cache(2), last_only=True)
        plain = model(tokens[:, :-1], cache=model.new_cache(2), last_only=True)
        assert torch.equal(taken.routes, plain.routes) and torch.allclose(taken.logits, plain.logits, atol=1e-4)
        monkeypatch.setattr(step, "library", lambda: pytest.fail("went by step.cpp"))
        for own, given, chosen in ((model, tokens, True), (model, short, False), (biased, short, True)):
            step.Step(own).read(own, given, own.new_cache(2), last_only=chosen)
        cache = model.new_cache(2)
        model(short, cache=cache)
        step.STEPS[model].read(model, short, cache, last_only=True)


def test_training_is_left_alone():
    model = model_of().train()
    tokens = torch.tensor([[5, 6, 7, 8]])

    def gradients():
        model.zero_grad()
        model(tokens).logits.square().mean().backward()
        return [p.grad.clone() for p in model.parameters()]

    before = gradients()
    mz.generate(model, [[5, 6]], 5, compiled=True)
    assert model.training and all(module.training for module in model.modules())
    assert all(torch.equal(a, b) for a, b in zip(before, gradients()))
    copied = copy.deepcopy(model)   # nothing of the step hangs on the model
    assert mz.generate(copied, [[5, 6]], 5, temperature=0.0) == mz.generate(model, [[5, 6]], 5, temperature=0.0)


def test_an_engine_reads_each_request_by_the_weights_that_are_there_then():
    """Also when a parameter was given other memory in between, while the old one is still somebody's."""
    model = model_of()
    engine = Engine(model, slots=2, size=16)

    def told():
        number = engine.submit([5, 6, 7], 6, temperature=0.0)
        while engine.busy:
            engine.step()
        return engine.take(number).tokens

    first, old = told(), model.embed.weight
    model.embed.weight = torch.nn.Parameter(-old.detach().flip(0))
    assert told() == mz.generate(model, [[5, 6, 7]], 6, temperature=0.0)[0] != first


class Own(mz.Zaya):
    """A model that is not `Zaya`."""


def hooked():
    model = model_of()
    model.layers[1].register_forward_hook(lambda module, args, out: out)
    return model


def patched():
    model = model_of()
    model.layers[0].router.forward = model.layers[1].router.forward
    return model


def narrowed_at_once():
    """trap: its balancing bias is still float64, see `Router._apply`."""
    return model_of(dtype=torch.float64).bfloat16()


@pytest.mark.parametrize("make, why", [
    (narrowed_at_once, "a balancing bias is not float32"),
    (hooked, "layers.1 has a hook"), (patched, "layers.0.router is a Router of its own kind"),
    (lambda: Own(model_of().config), "it is a Own"), (lambda: model_of(dtype=torch.float64), "not all float32"),
    (lambda: mz.Zaya(model_of().config, backend="reference"), "its backend is 'reference'")])
def test_who_goes_the_plain_way(make, why):
    model = make()
    assert step.reader(model) is model and step.reader(model, False) is model
    with pytest.raises(ValueError, match=f"compiled: this model cannot be decoded by step.cpp: .*{why}"):
        mz.generate(model, [[5]], 2, compiled=True)
    with pytest.raises(ValueError, match="compiled: this model cannot"):
        Engine(model, compiled=True)
    with pytest.raises(ValueError, match="compiled must be True, False or None"):
        mz.generate(model, [[5]], 2, compiled="yes")


def test_without_a_compiler_there_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(step, "library", lambda: None)
    monkeypatch.setattr(step, "TROUBLE", ["there is no C++ compiler"])
    step.tell.cache_clear()
    model = model_of()
    answers = [mz.generate(model, [[5, 6]], 3, temperature=0.0) for _ in range(2)]
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("there is no C++ compiler") == told.err.count("\n") == 1
    step.tell.cache_clear()
    monkeypatch.undo()
    assert mz.generate(model, [[5, 6]], 3, temperature=0.0, compiled=True) == answers[0] == answers[1]


def test_why_nothing_is_compiled_is_the_true_reason(monkeypatch, capsys):
    monkeypatch.setattr(compiler, "TROUBLE", [])
    monkeypatch.setenv("MINIZAYA_CACHE", "/dev/null")
    assert compiler.shared("native/matmul.so", matmul.SOURCES) is None
    monkeypatch.setattr(compiler, "cpp", lambda: None)
    assert compiler.shared("native/matmul.so", matmul.SOURCES) is None
    nowhere = "cannot write into /dev/null/native (Not a directory); MINIZAYA_CACHE names another folder"
    assert compiler.TROUBLE == [nowhere, "there is no C++ compiler (CXX may name one)"]
    monkeypatch.setattr(step, "library", lambda: None)
    monkeypatch.setattr(step, "TROUBLE", [nowhere])
    step.tell.cache_clear()
    mz.generate(model_of(), [[5, 6]], 1)
    step.tell.cache_clear()
    assert capsys.readouterr().err == (f"minizaya: {nowhere}, so decoding goes the plain way, several times slower\n")


def test_every_structure_is_as_long_as_in_cpp():
    """Counted by hand: a field more on one side would shift all that follow."""
    source = "".join(path.read_text() for path in matmul.SOURCES)
    for name in ("Piece", "Matrix", "Merge", "Twin"):
        body = source.split(f"struct {name} {{")[1].split("};")[0]
        assert body.count(";") + body.count(",") == len(getattr(layout, name)._fields_), name


@pytest.mark.parametrize("sliding", [False, True])
def test_tables_of_angles_grow_by_doubling(sliding):
    """So a thousand steps make a handful of them; each is that of its positions."""
    config = mz.ZayaConfig.preset("nano", rope_theta_sliding=77.0)
    angles, made = step.Angles(config), {}
    for end in range(1, 1001):
        cos, sin = angles(sliding, end)
        assert len(cos) == len(sin) >= end
        made[cos.data_ptr(), len(cos)] = cos
    assert len(made) <= 6
    place = config.rotary_dim // 2 - 1
    theta = 77.0 if sliding else config.rope_theta
    assert float(cos[999, place]) == pytest.approx(math.cos(999 * theta ** (-2 * place / config.rotary_dim)), abs=1e-4)
