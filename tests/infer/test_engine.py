"""The engine equals the reference loop, whatever the company, the order of arrival, and who leaves when."""

import math
import random

import pytest
import torch

import minizaya as mz
from minizaya.infer import engine as infer_engine
from minizaya.infer.engine import Completion, Engine, engine_generate
from minizaya.infer.generate import generate, generate_reference
from minizaya.infer.slots import SlotCache

SIZES = dict(vocab_size=11, pad_token_id=None, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
             num_key_value_heads=2, head_dim=4, moe_intermediate_size=8, router_hidden_size=4, num_experts=3,
             initializer_range=0.3)


def tiny(seed=0, dtype=torch.float64, **changes):
    torch.manual_seed(seed)
    return mz.Zaya(mz.ZayaConfig.preset("nano", **SIZES | changes)).to(dtype)


@pytest.fixture(scope="module")
def model():
    return tiny()


def request(chance):
    """A random request: its prompt and its settings."""
    settings = dict(max_new_tokens=chance.randint(0, 6), temperature=chance.choice((0.0, 0.7, 1.0, 2.0)),
                    seed=chance.randrange(9), top_p=chance.choice((1.0, 0.8)), min_p=chance.choice((0.0, 0.1)),
                    stop=chance.choice(((), (3,), (1, 4, 6))))
    return [chance.randrange(11) for _ in range(chance.choice((1, 1, 2, 3, 7)))], settings


def expected(model, prompt, settings):
    return generate_reference(model, [prompt], **settings)[0]


@pytest.mark.parametrize("seed", range(10))
def test_a_thousand_workloads_equal_the_reference(model, seed):
    """Ten times a hundred: requests come and go at random moments; every token is that of the plain loop."""
    chance = random.Random(seed)
    for _ in range(100):
        engine = Engine(model, slots=chance.randint(1, 4), size=16, joining=chance.randint(1, 4))
        coming = [request(chance) for _ in range(chance.randint(1, 5))]
        wanted, streamed = {}, {}
        while coming or engine.busy:
            if coming and (chance.random() < 0.6 or not engine.busy):
                prompt, settings = coming.pop()
                wanted[engine.submit(prompt, **settings)] = expected(model, prompt, settings)
            for number, token in engine.step():
                streamed.setdefault(number, []).append(token)
        for number, tokens in wanted.items():
            done = engine.take(number)
            assert done.tokens == tokens == streamed.get(number, [])
        assert not engine.done and engine.cache.batch == 0


@pytest.mark.parametrize("changes", [dict(layer_types=("hybrid_sliding", "hybrid"), sliding_window=3),
                                     dict(num_convs=0), dict(num_convs=1), dict(value_shift=False),
                                     dict(eda=False, router="linear")], ids=str)
def test_other_models_too(changes):
    model, chance = tiny(1, **changes), random.Random(1)
    prompts = [[chance.randrange(11) for _ in range(n)] for n in (1, 5, 2, 9, 3)]
    assert engine_generate(Engine(model, slots=2, size=20), prompts, 7, seed=4, stop=(2,)) == generate_reference(
        model, prompts, 7, seed=4, stop=(2,))


def test_as_a_generator_it_is_generate(model):
    prompts = [[1, 2], [3], [1, 2], [4, 5, 6], [1, 2]]
    assert engine_generate(Engine(model, slots=2, size=12), prompts, 8, seed=7) == generate(model, prompts, 8, seed=7)
    assert engine_generate(Engine(model), prompts, 0) == [[]] * 5


@pytest.mark.parametrize("how", ["engine", "generate"])
def test_equal_prompts_are_read_once_and_answered_by_themselves(how):
    """Three different ones of six, of other lengths: three rows are read, and each answer is what it is alone."""
    model, read = tiny(3), []
    prompts = [[1, 2], [3], [1, 2], [4, 5, 6], [1, 2], [3]]
    wanted = generate_reference(model, prompts, 8, seed=7)
    model.embed.register_forward_hook(lambda module, args, out: read.append(tuple(args[0].shape)))
    found = (generate(model, prompts, 8, seed=7) if how == "generate"
             else engine_generate(Engine(model, slots=6, size=12), prompts, 8, seed=7))
    assert found == wanted and read == [(3, 3)] + [(6, 1)] * 7


def test_the_routes_of_equal_prompts_are_each_ones_own():
    model = tiny(3)
    engine = Engine(model, slots=4, size=20)
    numbers = [engine.submit(prompt, 9, seed=i, record=True) for i, prompt in enumerate([[1, 2, 3], [4], [1, 2, 3]])]
    while engine.busy:
        engine.step()
    for number, prompt in zip(numbers, [[1, 2, 3], [4], [1, 2, 3]]):
        done = engine.take(number)
        routes = model(torch.tensor([prompt + done.tokens])).routes[0]
        assert done.routes[:-1].equal(routes[:-1].short()) and done.routes[-1].tolist() == [-1, -1]


def test_logprobs_and_routes_are_the_models():
    """In float32: within 1e-5 of a full forward pass; replaying the routes gives the same logits."""
    model = tiny(3, torch.float32)
    engine, chance = Engine(model, slots=3, size=40), random.Random(3)
    asked = [([chance.randrange(11) for _ in range(n)], t) for n, t in ((1, 1.0), (7, 0.5), (3, 2.0), (12, 1.0))]
    numbers = [engine.submit(prompt, 20, temperature=t, record=True, seed=i) for i, (prompt, t) in enumerate(asked)]
    plain = engine.submit([1], 3)
    while engine.busy:
        engine.step()
    for number, (prompt, temperature) in zip(numbers, asked):
        done = engine.take(number)
        text = torch.tensor([prompt + done.tokens])
        with torch.no_grad():
            out = model.eval()(text)
            again = model(text, routes=done.routes[None].long())
        wanted = (out.logits[0].double() / temperature).log_softmax(-1)
        for i, (token, logprob) in enumerate(zip(done.tokens, done.logprobs, strict=True)):
            assert abs(float(wanted[len(prompt) - 1 + i, token]) - logprob) < 1e-5
        assert done.routes.shape == (len(prompt) + 20, 2) and done.routes.dtype == torch.int16
        assert (done.routes[-1] == -1).all() and torch.equal(done.routes[:-1].long(), out.routes[0, :-1])
        torch.testing.assert_close(again.logits, out.logits, rtol=0, atol=1e-6)
    assert engine.take(plain).logprobs is None


def test_filters_are_recorded_with_what_they_kept():
    """What min-p kept, and log-probabilities over that: a token's mass is shared out among the kept ones."""
    model = tiny(3, torch.float32)
    engine = Engine(model, slots=2, size=40)
    number = engine.submit([1, 2, 3], 12, min_p=0.5, record=True)
    while engine.busy:
        engine.step()
    done = engine.take(number)
    with torch.no_grad():
        probs = model.eval()(torch.tensor([[1, 2, 3] + done.tokens])).logits[0, 2:-1].double().softmax(-1)
    wanted = probs >= 0.5 * probs.amax(-1, keepdim=True)
    assert torch.equal(done.kept, wanted) and not done.kept.all() and (done.kept.sum(-1) > 1).any()
    shared = (probs * wanted / (probs * wanted).sum(-1, keepdim=True)).log()
    torch.testing.assert_close(torch.tensor(done.logprobs).double(), shared[range(12), done.tokens], rtol=0, atol=1e-5)
    number = engine.submit([1, 2, 3], 2, temperature=1.0, record=True)
    while engine.busy:
        engine.step()
    assert engine.take(number).kept is None      # no filter, nothing to record


def test_cancelled_requests_leave_and_disturb_nobody(model):
    engine = Engine(model, slots=2, size=20)
    numbers = [engine.submit([n + 1], 10, seed=n) for n in range(4)]
    for _ in range(3):
        engine.step()
    engine.cancel(numbers[0])   # at work
    engine.cancel(numbers[3])   # still in line
    while engine.busy:
        engine.step()
    first, *rest = [engine.take(number) for number in numbers]
    assert first == Completion(expected(model, [1], dict(max_new_tokens=10, seed=0))[:3], "cancelled")
    assert rest[-1] == Completion([], "cancelled")
    for n in (1, 2):
        assert rest[n - 1] == Completion(expected(model, [n + 1], dict(max_new_tokens=10, seed=n)), "length")
    engine.cancel(numbers[0])   # long gone: nothing happens
    with pytest.raises(KeyError):
        engine.take(numbers[0])


def test_why_it_ended(model):
    engine = Engine(model, size=20)
    greedy = expected(model, [5, 6], dict(max_new_tokens=5, temperature=0.0))
    for settings, finish, tokens in ((dict(stop=(greedy[0],)), "stop", greedy[:1]), (dict(), "length", greedy),
                                     (dict(stop=(greedy[0],), max_new_tokens=1), "stop", greedy[:1])):
        number = engine.submit([5, 6], temperature=0.0, **dict(max_new_tokens=5) | settings)
        while engine.busy:
            engine.step()
        assert engine.take(number) == Completion(tokens, finish)
    number = engine.submit([5], 0)
    assert not engine.busy and engine.take(number) == Completion([], "length")


def test_memory_is_stated_and_kept():
    model = tiny(0, torch.float32)
    engine = Engine(model, slots=5, size=30, joining=2)

    def held():
        cache = engine.cache
        tensors = [*cache.kv, *cache.all_columns, *cache.all_delayed, cache.stored, cache.turned]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    before = held()
    assert before == SlotCache.bytes(model.config, 5, 30, 4)
    assert engine.bytes == before + SlotCache.bytes(model.config, 2, 30, 4)
    engine_generate(engine, [[n] * (1 + n) for n in range(11)] * 2, 20)
    assert held() == before


def test_what_cannot_fit_is_refused_and_the_rest_goes_on(model):
    engine = Engine(model, slots=2, size=8)
    with pytest.raises(ValueError, match="size of 8 tokens, got 6 and 4"):
        engine.submit([1] * 6, 4)
    assert engine_generate(engine, [[1] * 6], 3) == generate(model, [[1] * 6], 3)   # the last token needs no place
    for bad, name in ((dict(prompt=[]), "empty"), (dict(prompt=[11]), "vocabulary"),
                      (dict(temperature=-1), "temperature"),
                      (dict(max_new_tokens=-1), "max_new_tokens"), (dict(top_p=0), "top_p")):
        with pytest.raises(ValueError, match=name):
            engine.submit(**dict(prompt=[1], max_new_tokens=2) | bad)
    for bad in dict(slots=0), dict(size=0), dict(joining=True):
        with pytest.raises(ValueError, match=next(iter(bad))):
            Engine(model, **bad)
    assert not engine.busy


def test_modes_and_gradients_are_left_alone(model):
    model.train()
    engine_generate(Engine(model), [[1]], 2)
    assert model.training and all(p.requires_grad for p in model.parameters())


def moved_nothing(self, slot):
    self.batch -= 1
    self.measure()


def sees_one_more(self, place):
    right = true_placed(self, place)
    right.masks.update({kind: mask | mask.roll(1, -1) for kind, mask in right.masks.items()})
    return right


def turns_by_length(self, place):
    kept, self.turned = self.turned, self.stored
    try:
        return true_placed(self, place)
    finally:
        self.turned = kept


def forgets_the_columns(self, layer, z, then):
    past, before = true_exchange(self, layer, z, then)
    return torch.zeros_like(past), before


def forgets_the_value(self, layer, z, then):
    past, before = true_exchange(self, layer, z, then)
    return past, torch.zeros_like(before)


true_placed, true_exchange = SlotCache.placed, SlotCache.exchange
BUGS = {"leave": moved_nothing, "placed": sees_one_more, "placed ": turns_by_length, "exchange": forgets_the_columns,
        "exchange ": forgets_the_value}


@pytest.mark.parametrize("name", BUGS)
def test_planted_bugs_change_tokens(model, name, monkeypatch):
    chance = random.Random(0)
    prompts = [[chance.randrange(11) for _ in range(n)] for n in (1, 6, 2, 4, 3, 5) * 3]
    wanted = generate(model, prompts, 9, seed=1, stop=(2, 3))
    assert engine_generate(Engine(model, slots=4, size=20), prompts, 9, seed=1, stop=(2, 3)) == wanted
    monkeypatch.setattr(SlotCache, name.strip(), BUGS[name])
    try:
        found = engine_generate(Engine(model, slots=4, size=20), prompts, 9, seed=1, stop=(2, 3))
    except IndexError:  # a slot that believes it is full: noticed, too
        return
    assert found != wanted


# ---- one request's trouble -------------------------------------------------------------------------------------------


def poisoned(model, token, value):
    """The model, in whose stream this token is NaN or infinite, or at which it fails (None)."""
    def spoil(module, args, out):
        if value is None and bool((args[0] == token).any()):
            raise RuntimeError("out of\nmemory")
        return out if value is None else out.masked_fill((args[0] == token)[..., None], value)

    return model.embed.register_forward_hook(spoil)


@pytest.mark.parametrize("value, slots, record", [(math.nan, 1, True), (math.inf, 2, False), (None, 1, False),
                                                  (None, 3, True)])
def test_one_requests_trouble_ends_that_request(value, slots, record):
    """At its prompt or in the middle of its answer; its slot's next tenant, too, writes what it would alone."""
    model = tiny(5)
    prompts = [[7, 6, 5, 4, 3, 2, 1], [1], [1, 2, 9, 3], [4, 5], [9]]
    wanted = [generate(model, [prompt], 6, seed=i)[0] for i, prompt in enumerate(prompts)]
    assert any(9 in tokens[:-1] for tokens, prompt in zip(wanted, prompts) if 9 not in prompt)
    hook = poisoned(model, 9, value)
    engine = Engine(model, slots=slots, size=16, joining=3)
    numbers = [engine.submit(prompt, 6, seed=i, record=record) for i, prompt in enumerate(prompts)]
    streamed = {number: [] for number in numbers}
    while engine.busy:
        for number, token in engine.step():
            streamed[number].append(token)
    hook.remove()
    for number, prompt, tokens in zip(numbers, prompts, wanted):
        done = engine.take(number)
        spoilt = 9 in prompt or 9 in tokens[:-1]
        tokens = [] if 9 in prompt else tokens[: tokens.index(9) + 1] if spoilt else tokens
        assert done.finish == ("error" if spoilt else "length") and done.tokens == tokens == streamed[number]
        wrong = "RuntimeError: out of memory" if value is None else infer_engine.NO_LOGITS
        assert done.error == (wrong if spoilt else None)
        assert not record or (len(done.logprobs) == len(tokens) and len(done.routes) == len(prompt) + len(tokens))
    kind, says = (RuntimeError, "RuntimeError: out of") if value is None else (ValueError, "logits must hold no NaN")
    with pytest.raises(kind, match=rf"prompts\[1\]: {says}.* after 0 new tokens"):
        hook = poisoned(model, 9, value)
        engine_generate(engine, [[1], [9]], 1)
    hook.remove()
    cache = engine.cache
    assert all(bool(part.isfinite().all()) for part in [*cache.kv, *cache.all_columns, *cache.all_delayed])


@pytest.mark.parametrize("together", [1, 2, 3])
def test_a_choice_that_fails_for_several_is_made_for_each(monkeypatch, together):
    """Two are several, too. One for whom it fails alone is in trouble, and no other."""
    model, prompts, choose = tiny(5), [[1, 2], [3], [4, 5, 6]][:together], infer_engine.choose
    wanted = [generate(model, [prompt], 3, seed=i)[0] for i, prompt in enumerate(prompts)]

    def fail(logits, *settings):
        if len(logits) > 1 or fail.alone:
            raise RuntimeError("no room")
        return choose(logits, *settings)

    monkeypatch.setattr(infer_engine, "choose", fail)
    for fail.alone in (False, True):
        engine = Engine(model, slots=3, size=16)
        numbers = [engine.submit(prompt, 3, seed=i) for i, prompt in enumerate(prompts)]
        for _ in range(9):
            engine.step()
        done = [engine.take(number) for number in numbers]
        assert [one.tokens for one in done] == ([[]] * together if fail.alone else wanted)
        assert {one.error for one in done} == {"RuntimeError: no room" if fail.alone else None}


WORK = [([1, 2, 3], {}), ([4], {"temperature": 0.0}), ([5, 6], {"top_p": 0.8}), ([7, 7, 7, 7], {}), ([8], {})]


def answered(model, slots=3, joining=2):
    """What an engine makes of WORK: everything that is recorded."""
    engine = Engine(model, slots=slots, size=16, joining=joining)
    numbers = [engine.submit(prompt, 5, seed=i, record=True, **settings) for i, (prompt, settings) in enumerate(WORK)]
    while engine.busy:
        engine.step()
    return [engine.take(number) for number in numbers]


@pytest.mark.parametrize("fails", [{0}, {1}, {2}, {3}, {2, 5}, "many"])
def test_a_failure_that_passes_changes_nothing(fails):
    """At the first prompts, at a step, while others join, twice, or whenever several are read at once."""
    model = tiny(6)
    wanted, calls = answered(model), []

    def fail(module, args, kwargs):
        calls.append(args[0].shape)
        if (len(calls) - 1 in fails) if fails != "many" else args[0].shape[0] > 1:
            raise RuntimeError("out of memory")

    hook = model.register_forward_pre_hook(fail, with_kwargs=True)
    found = answered(model)
    hook.remove()
    assert len(calls) > 8
    for one, other in zip(found, wanted):
        assert (one.tokens, one.finish, one.error) == (other.tokens, other.finish, None)
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-12) and torch.equal(one.routes, other.routes)
        assert one.kept is other.kept is None or torch.equal(one.kept, other.kept)


def test_a_model_that_fails_for_good_ends_each_request_and_not_the_engine():
    model = tiny(6)
    wanted = answered(model)
    hook = model.layers[1].register_forward_pre_hook(lambda module, args: 1 / 0)
    found = answered(model)
    assert [(done.tokens, done.finish, done.error) for done in found] == \
        [([], "error", "ZeroDivisionError: division by zero")] * len(WORK)
    hook.remove()
    assert [done.tokens for done in answered(model)] == [done.tokens for done in wanted]


@pytest.mark.parametrize("part", ["choose", "tempered"])
def test_a_sampling_that_fails_ends_its_request(part, monkeypatch):
    """The others with its settings write what they would have: with the chances that were drawn for them."""
    model = tiny(6)
    wanted, true, seen = answered(model), getattr(infer_engine, part), []
    row = model(torch.tensor([WORK[3][0] + wanted[3].tokens[:2]])).logits[0, -1].detach()

    def fail(logits, *settings):
        seen.append(len(logits))
        if bool((logits - row).abs().amax(-1).lt(1e-9).any()):
            raise RuntimeError("no choice")
        return true(logits, *settings)

    monkeypatch.setattr(infer_engine, part, fail)
    found = answered(model, slots=5, joining=5)
    assert max(seen) >= 3
    for i, (one, other) in enumerate(zip(found, wanted)):
        n, why, error = (2, "error", "RuntimeError: no choice") if i == 3 else (5, "length", None)
        assert (one.tokens, one.finish, one.error) == (other.tokens[:n], why, error)
        assert one.logprobs == pytest.approx(other.logprobs[:n], abs=1e-12)


def test_a_slot_cache_selects_nothing(model):
    with pytest.raises(ValueError, match="rows: a slot cache cannot select"):
        Engine(model, slots=2, size=4).cache.select(torch.tensor([0]))


@pytest.mark.parametrize("temperature", [1e-308, 5e-324, 1e-30, 1e308])
@pytest.mark.parametrize("filters", [{}, {"top_p": 0.9}, {"min_p": 0.1}])
def test_temperatures_at_the_edge_are_recorded(model, temperature, filters):
    engine = Engine(model, slots=2, size=16)
    cold = temperature < 1
    number = engine.submit([1, 2], 3, temperature=temperature, record=True, **filters)
    while engine.busy:
        engine.step()
    done = engine.take(number)
    assert not cold or done.tokens == generate(model, [[1, 2]], 3, temperature=0)[0]
    hot = -math.log(done.kept[0].sum() if filters else 11)
    assert done.logprobs == pytest.approx([0.0 if cold else hot] * 3, abs=0.11)
    if filters and cold:
        assert [row.nonzero().flatten().tolist() for row in done.kept] == [[token] for token in done.tokens]


@pytest.mark.parametrize("wrong", [10**400, True, float("nan"), float("inf"), -1e-308, "1", None])
def test_temperatures_beyond_the_edge_are_refused(model, wrong):
    """Before they can trouble a step."""
    engine = Engine(model, slots=1, size=9)
    with pytest.raises(ValueError, match="temperature must be"):
        engine.submit([1], 1, temperature=wrong)
    assert not engine.busy


@pytest.mark.parametrize("steps, valid", [(2, None), (1, torch.ones(2, 1, dtype=torch.bool)), (0, None)])
def test_a_slot_cache_takes_one_real_token_a_time(steps, valid):
    cache = SlotCache(mz.ZayaConfig.preset("nano"), 2, 8, torch.float32, torch.device("cpu"))
    assert cache.advance(1, None) is None
    with pytest.raises(ValueError, match="one real token"):
        cache.advance(steps, valid)


def test_greedy_reads_no_filter(model):
    """So none is recorded, and a log-probability is over all tokens."""
    engine, found = Engine(model, slots=1, size=9), []
    for filters in ({}, {"top_p": 0.1, "min_p": 0.9}):
        number = engine.submit([1, 2], 3, temperature=0.0, record=True, **filters)
        while engine.busy:
            engine.step()
        done = engine.take(number)
        found.append((done.tokens, done.logprobs, done.kept))
    assert found[0] == found[1] and found[1][2] is None and max(found[1][1]) < -0.01
