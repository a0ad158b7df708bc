"""Sampling filters, the choice of a token, and batched generation against its plain reference loop.

Everything runs in float64: there, rounding that differs with the size of the batch is about 1e-15, far too small to
move a sampled token, so answers can be compared token for token.
"""

import copy
import json
import math
import random

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import minizaya as mz
from minizaya.__main__ import main
from minizaya.data.tokenizer import CharTokenizer
from minizaya.infer.generate import from_the_end, generate, generate_reference, left_pad
from minizaya.infer.sample import (
    check_sampling,
    choose,
    draw_uniforms,
    filtered,
    invert_cdf,
    keep_mask,
    min_p_mask,
    probabilities,
    top_p_mask,
)
from minizaya.train import checkpoint
from minizaya.train.optim import adamw

ONE_BELOW = math.nextafter(1.0, 0.0)


def f64(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


# Few distinct values make many ties; the wide range makes probabilities that vanish beside others.
rows = st.one_of(
    st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=12),
    st.lists(st.floats(-60, 60), min_size=1, max_size=12),
    st.lists(st.sampled_from([0.0, 1.0, -math.inf]), min_size=1, max_size=12).map(lambda row: row + [0.0]),
)
temperatures = st.sampled_from([1e-307, 0.1, 0.7, 1.0, 3.0])
top_ps = st.one_of(st.floats(1e-6, 1.0), st.sampled_from([0.5, 0.9, 1.0]))
min_ps = st.one_of(st.floats(0.0, 1.0), st.sampled_from([0.0, 1e-5, 1.0]))
uniform_numbers = st.one_of(st.floats(0.0, ONE_BELOW), st.sampled_from([0.0, 5e-324, 0.5, ONE_BELOW]))


# ---- filters ---------------------------------------------------------------------------------------------------------


@given(rows, temperatures, top_ps)
def test_top_p_keeps_the_smallest_set_that_reaches_the_mass(row, temperature, top_p):
    probs = probabilities(f64([row]), temperature)[0]
    kept = top_p_mask(probs[None], top_p)[0]
    if top_p == 1:
        assert kept.all()
        return
    ranked = sorted(range(len(row)), key=lambda token: (-probs[token].item(), token))  # ties: the lower id first
    size = int(kept.sum())
    assert size >= 1 and set(ranked[:size]) == set(kept.nonzero().flatten().tolist())
    mass = [math.fsum(probs[token].item() for token in ranked[:n]) for n in (size - 1, size)]
    slack = 1e-14  # the mask adds in floating point, fsum exactly
    assert mass[0] < top_p + slack, "one token fewer would have been enough"
    assert mass[1] >= top_p - slack or size == len(row)


@given(rows, temperatures, min_ps)
def test_min_p_is_relative_to_the_largest_probability(row, temperature, min_p):
    probs = probabilities(f64([row]), temperature)[0].tolist()
    kept = min_p_mask(f64([probs]), min_p)[0].tolist()
    assert kept == [p >= min_p * max(probs) for p in probs]


def test_min_p_is_not_an_absolute_floor():
    spread = torch.full((1, 1000), 1e-3, dtype=torch.float64)
    assert min_p_mask(spread, 0.5).all(), "every probability is far below 0.5, and none is below half of the largest"


@given(rows, temperatures, top_ps, min_ps)
def test_the_argmax_always_stays(row, temperature, top_p, min_p):
    probs = probabilities(f64([row]), temperature)
    kept = keep_mask(probs, top_p, min_p)
    assert kept[0, probs.argmax()]
    assert torch.equal(kept, top_p_mask(probs, top_p) & min_p_mask(probs, min_p))


@given(rows, temperatures)
def test_top_p_one_and_min_p_zero_change_nothing(row, temperature):
    probs = probabilities(f64([row]), temperature)
    assert keep_mask(probs, 1.0, 0.0).all()
    assert torch.equal(filtered(f64([row]), temperature, 1.0, 0.0), probs)


def test_top_p_is_reached_by_equality_and_ties_go_to_the_lower_id():
    probs = f64([[0.25, 0.5, 0.25]])
    assert top_p_mask(probs, 0.5).tolist() == [[False, True, False]]
    assert top_p_mask(probs, 0.75).tolist() == [[True, True, False]]
    assert top_p_mask(probs, 0.76).tolist() == [[True, True, True]]
    many = torch.full((1, 1024), 2.0 ** -10, dtype=torch.float64)  # long enough for an unstable sort to shuffle
    assert top_p_mask(many, 0.5).nonzero()[:, 1].tolist() == list(range(512))


def test_top_p_one_keeps_tokens_beyond_the_last_digit():
    probs = f64([[1.0, 1e-20]])  # their sum rounds to 1 after the first token
    assert top_p_mask(probs, 1.0).all()


@given(rows, temperatures)
def test_probabilities_are_the_softmax_at_this_temperature(row, temperature):
    probs = probabilities(f64([row]), temperature)[0]
    top = max(row)
    weights = [math.exp((x - top) / temperature) for x in row]
    expected = f64([w / math.fsum(weights) for w in weights])
    torch.testing.assert_close(probs, expected, rtol=1e-12, atol=1e-300)


@given(st.lists(st.integers(-60, 60).map(float), min_size=1, max_size=12))
def test_a_vanishing_temperature_shares_the_mass_among_the_largest(row):
    probs = probabilities(f64([row]), 1e-307)[0].tolist()
    best = row.count(max(row))  # 60 / 1e-307 is beyond float64: only differences may be divided
    assert probs == pytest.approx([1 / best if x == max(row) else 0.0 for x in row], abs=1e-14)


def test_filters_read_the_distribution_after_the_temperature():
    logits = f64([[2.0, 0.0]])  # 0.88 and 0.12 at temperature 1, 0.62 and 0.38 at temperature 4
    assert (filtered(logits, 1.0, top_p=0.8) > 0).tolist() == [[True, False]]
    assert (filtered(logits, 4.0, top_p=0.8) > 0).tolist() == [[True, True]]
    assert (filtered(logits, 1.0, min_p=0.2) > 0).tolist() == [[True, False]]
    assert (filtered(logits, 4.0, min_p=0.2) > 0).tolist() == [[True, True]]


def test_both_filters_read_the_same_mass():
    logits = f64([[0.5, 0.3, 0.15, 0.05]]).log()
    # min-p drops the last two; counting on its renormalised mass (0.625, 0.375), top-p would drop the second as well
    assert (filtered(logits, 1.0, top_p=0.6, min_p=0.5) > 0).tolist() == [[True, True, False, False]]


# ---- choosing --------------------------------------------------------------------------------------------------------


@given(rows, temperatures, top_ps, min_ps, uniform_numbers)
def test_a_token_of_probability_zero_is_never_chosen(row, temperature, top_p, min_p, uniform):
    logits = f64([row])
    weights = filtered(logits, temperature, top_p, min_p)
    token = choose(logits, temperature, top_p, min_p, f64([uniform]))
    assert weights[0, token] > 0


@given(st.lists(st.integers(0, 5), min_size=1, max_size=10).filter(any))
def test_each_token_gets_exactly_its_share_of_the_uniforms(weights):
    total = sum(weights)
    uniforms = (torch.arange(total, dtype=torch.float64) + 0.5) / total  # the middle of every 1 / total of [0, 1)
    tokens = invert_cdf(f64([weights]).expand(total, -1), uniforms)
    assert torch.bincount(tokens, minlength=len(weights)).tolist() == weights
    assert tokens.tolist() == sorted(tokens.tolist()), "larger uniforms, larger ids"


@given(rows, temperatures, top_ps, min_ps)
def test_the_measure_of_a_token_is_its_filtered_probability(row, temperature, top_p, min_p):
    logits = f64([row])
    weights = filtered(logits, temperature, top_p, min_p)[0]
    shares = weights / weights.sum()
    ends = shares.cumsum(0).clamp(max=1.0)
    for token, (end, share) in enumerate(zip(ends.tolist(), shares.tolist())):
        if share > 1e-9:  # just inside both ends of its interval: so the interval has this length, within 2e-12
            for uniform in (end - share + 1e-12, end - 1e-12):
                assert choose(logits, temperature, top_p, min_p, f64([uniform])).tolist() == [token]


def test_edges_of_the_unit_interval():
    weights = f64([[0.0, 0.3, 0.0, 0.7, 0.0]]).expand(2, -1)
    assert invert_cdf(weights, f64([0.0, ONE_BELOW])).tolist() == [1, 3]
    tenth = torch.full((1, 10), 0.1, dtype=torch.float64)  # sums to 0.9999999999999999
    assert invert_cdf(tenth, f64([ONE_BELOW])).tolist() == [9]
    assert invert_cdf(f64([[3.0, 0.0]]), f64([ONE_BELOW])).tolist() == [0]


def test_a_shared_border_belongs_to_the_upper_token():
    assert invert_cdf(f64([[1.0, 1.0]]), f64([0.5])).tolist() == [1]


@given(rows)
def test_temperature_zero_is_the_argmax_with_ties_to_the_lower_id(row):
    assert choose(f64([row]), 0.0).tolist() == [row.index(max(row))]
    assert choose(f64([row]), 0.0, 0.3, 0.5, f64([0.99])).tolist() == [row.index(max(row))]


@given(st.lists(st.tuples(st.lists(st.floats(-5, 5), min_size=6, max_size=6), uniform_numbers), min_size=1, max_size=6),
       temperatures, top_ps, min_ps)
def test_a_row_does_not_see_the_other_rows(batch, temperature, top_p, min_p):
    together = choose(f64([row for row, _ in batch]), temperature, top_p, min_p, f64([u for _, u in batch]))
    alone = [choose(f64([row]), temperature, top_p, min_p, f64([u])).item() for row, u in batch]
    assert together.tolist() == alone


scales = st.sampled_from([0.0, 1e-12, 1.0, -1.0, 1e6, 1e18, 1e300])


@settings(max_examples=40)
@given(st.lists(st.tuples(st.lists(st.floats(-5, 5), min_size=6, max_size=6), scales, scales, uniform_numbers),
                min_size=2, max_size=5), temperatures | st.sampled_from([1e-308, 1e-30, 1e30, 1e308]), top_ps, min_ps)
@example([([0, 5, 0, 0, 0, 0], 1.0, 0.0, 0.5), ([1, 0, 0, 0, 0, 0], 1e18, 0.0, 0.5)], 1.0, 1.0, 0.0)
@example([([0, 5, 0, 0, 0, 0], 1.0, 0.0, 0.5), ([1, 0, 0, 0, 0, 0], 1.0, 1e18, 0.5)], 1.0, 1.0, 0.0)
def test_a_row_does_not_see_far_larger_rows(batch, temperature, top_p, min_p):
    """Rows of any size and at any height, side by side: weights and tokens to the bit as alone."""
    rows = f64([[logit * scale + shift for logit in row] for row, scale, shift, _ in batch])
    uniforms = f64([u for *_, u in batch])
    weights = filtered(rows, temperature, top_p, min_p)
    for i, row in enumerate(rows):
        assert torch.equal(weights[i], filtered(row[None], temperature, top_p, min_p)[0]) and weights[i].sum() > 0
    assert choose(rows, temperature, top_p, min_p, uniforms).tolist() == [
        choose(row[None], temperature, top_p, min_p, uniforms[i: i + 1]).item() for i, row in enumerate(rows)]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [[0.0, math.nan], [math.inf, 0.0], [-math.inf, -math.inf]])
def test_logits_without_a_meaning_are_refused(bad, temperature):
    with pytest.raises(ValueError, match="logits"):
        choose(f64([[0.0, 1.0], bad]), temperature, uniforms=f64([0.5, 0.5]))


# ---- streams ---------------------------------------------------------------------------------------------------------


def test_streams_follow_the_prompt_and_its_copy():
    a, b = [1, 2, 3], [12, 3]
    streams = draw_uniforms([a, b, a], 5, seed=7)
    assert streams.dtype == torch.float64 and streams.shape == (3, 5)
    assert ((streams >= 0) & (streams < 1)).all() and len(set(streams.flatten().tolist())) == 15
    assert torch.equal(draw_uniforms([b, a], 5, seed=7), streams[[1, 0]])
    assert torch.equal(draw_uniforms([a, a], 3, seed=7), streams[[0, 2], :3])
    assert not (draw_uniforms([a], 5, seed=8) == streams[0]).any()
    assert draw_uniforms([a], 0, seed=7).shape == (1, 0)


def test_streams_are_the_same_on_every_machine():
    assert draw_uniforms([[5, 6]], 2, seed=0).tolist() == [STREAM]


# SHA-256 of "0/0/5,6" as a big-endian integer seeds Python's Mersenne Twister: recorded once, never to change.
STREAM = [0.10638098319730493, 0.5110206283468174]


# ---- generation ------------------------------------------------------------------------------------------------------

SIZES = dict(vocab_size=13, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
             head_dim=8, num_experts=3, moe_intermediate_size=8, router_hidden_size=8, rope_theta=1e4)


def make_model(**changes) -> mz.Zaya:
    """A small float64 model with weights large enough to have opinions."""
    torch.manual_seed(0)
    model = mz.Zaya(mz.ZayaConfig(**SIZES | changes)).double()
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model


@pytest.fixture(scope="module")
def models() -> list[mz.Zaya]:
    sliding = dict(layer_types=("hybrid", "hybrid_sliding"), sliding_window=3)
    return [make_model(), make_model(**sliding)]


def workload(rng: random.Random) -> dict:
    """Up to five prompts of 1 to 9 tokens, some of them twice, and settings of every kind."""
    prompts = [[rng.randrange(13) for _ in range(rng.randint(1, 9))] for _ in range(rng.randint(1, 4))]
    if rng.random() < 0.3:
        prompts.append(rng.choice(prompts))
    return dict(prompts=prompts, max_new_tokens=rng.randint(0, 8), temperature=rng.choice([0, 0.5, 1.0, 2.0]),
                top_p=rng.choice([1.0, 1.0, 0.9, 0.4]), min_p=rng.choice([0.0, 0.0, 1e-5, 0.2]),
                stop=rng.sample(range(13), rng.choice([0, 0, 1, 3])), seed=rng.randrange(1000))


def test_equal_to_the_reference_on_200_workloads(models):
    rng = random.Random(0)
    stopped = left_early = 0
    for number in range(200):
        model, job = models[number % 2], workload(rng)
        answers = generate(model, **job)
        assert answers == generate_reference(model, **job), job
        ended = [bool(answer) and answer[-1] in job["stop"] for answer in answers]
        for answer, end in zip(answers, ended):
            assert end or len(answer) == job["max_new_tokens"]
            assert not set(answer[:-1]) & set(job["stop"])
        stopped += any(ended)
        left_early += len({len(answer) for answer in answers}) > 1
    assert stopped > 30 and left_early > 20, "the workloads must exercise stops, and sequences leaving a batch"


def test_an_answer_does_not_depend_on_its_batch_mates_or_place(models):
    rng = random.Random(1)
    for _ in range(20):
        prompts = [[i] + [rng.randrange(13) for _ in range(rng.randint(0, 6))] for i in range(5)]  # all different
        settings = dict(max_new_tokens=6, temperature=1.0, seed=3, stop=[0])
        together = generate(models[0], prompts, **settings)
        order = rng.sample(range(5), 5)
        assert generate(models[0], [prompts[i] for i in order], **settings) == [together[i] for i in order]
        assert [generate(models[0], [prompt], **settings)[0] for prompt in prompts] == together


@given(st.sets(st.integers(0, 12)))
@example({0, 2, 3, 5})
def test_who_stays_keeps_his_place(rows):
    """All rows that went on, once each; only those move whose place lies behind the end."""
    going = sorted(rows)
    found = from_the_end(going)
    assert sorted(found) == going
    assert all(place == row for place, row in enumerate(found) if row < len(going))
    assert [row for row in found if row >= len(going)] == [row for row in going if row >= len(going)]


def test_copies_of_a_prompt_get_different_answers_in_the_same_order(models):
    copies = generate(models[0], [[1, 2]] * 8, 12, seed=5)
    assert len(set(map(tuple, copies))) == 8
    mixed = generate(models[0], [[3], [1, 2], [4, 4, 4], [1, 2]], 12, seed=5)
    assert [mixed[1], mixed[3]] == copies[:2]


def test_seeds(models):
    prompts = [[1], [2, 3]]
    assert generate(models[0], prompts, 10, seed=1) == generate(models[0], prompts, 10, seed=1)
    assert generate(models[0], prompts, 10, seed=1) != generate(models[0], prompts, 10, seed=2)
    greedy = [generate(models[0], prompts, 10, temperature=0, seed=seed) for seed in (1, 2)]
    assert greedy[0] == greedy[1]
    assert generate(models[0], [[1]] * 2, 10, temperature=0) == [greedy[0][0]] * 2, "greedy copies are equal"


def test_a_smaller_budget_gives_the_start_of_the_same_answer(models):
    long = generate(models[0], [[1], [2, 3]], 10, seed=4)
    for budget in range(10):
        assert generate(models[0], [[1], [2, 3]], budget, seed=4) == [answer[:budget] for answer in long]


def test_samples_follow_the_models_own_distribution(models):
    count = 4000
    answers = generate(models[0], [[1, 2, 3]] * count, 1, temperature=1.5, top_p=0.9)
    seen = torch.bincount(torch.tensor(answers).flatten(), minlength=13).double()
    with torch.no_grad():
        weights = filtered(models[0](torch.tensor([[1, 2, 3]])).logits[:, -1], 1.5, 0.9)[0]
    expected = count * weights / weights.sum()
    assert (weights == 0).any() and (seen[weights == 0] == 0).all()
    assert ((seen - expected).abs() <= 5 * expected.sqrt()).all()  # five standard deviations; the seed is fixed


def test_the_stop_token_ends_an_answer_and_is_part_of_it(models):
    free = generate(models[0], [[1, 2]], 12, seed=2)[0]
    stop = free[4]
    first = free.index(stop)
    assert generate(models[0], [[1, 2]], 12, seed=2, stop=(stop,)) == [free[: first + 1]]
    assert generate(models[0], [[1, 2]], 12, seed=2, stop={stop}) == [free[: first + 1]]
    assert generate(models[0], [[stop]], 3, seed=2, stop=range(13))[0][0] in range(13), "a stop in the prompt is text"


@pytest.mark.parametrize("function", [generate, generate_reference])
def test_modes_gradients_and_prompts_are_left_alone(function):
    model = make_model()
    model.train()
    model.layers[1].eval()
    before = [module.training for module in model.modules()]
    weights = copy.deepcopy(model.state_dict())
    prompts = [[1, 2], [3]]
    function(model, prompts, 3)
    assert prompts == [[1, 2], [3]]
    assert [module.training for module in model.modules()] == before
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    model(torch.tensor([[1, 2]])).logits.sum().backward()  # nothing made in inference mode stayed in the model


def test_modes_come_back_after_an_error():
    model = make_model()
    model.train()
    model.head.weight.data[:] = math.nan
    with pytest.raises(ValueError, match="NaN"):
        generate(model, [[1]], 3)
    assert model.training and torch.is_grad_enabled()


def test_float32_and_tensor_prompts_work():
    model = make_model().float()
    prompts = [torch.tensor([1, 2, 3]), torch.tensor([4])]
    answers = generate(model, prompts, 5, temperature=0)
    assert answers == generate_reference(model, [[1, 2, 3], [4]], 5, temperature=0)
    assert all(type(token) is int for answer in answers for token in answer)


def test_left_pad():
    tokens, mask = left_pad([[1, 2, 3], [4]])
    assert tokens[0].tolist() == [1, 2, 3] and tokens[1, -1] == 4
    assert mask.tolist() == [[True] * 3, [False, False, True]]
    assert left_pad([[1, 2], [3, 4]])[1] is None


def test_the_bar_is_shown_on_request_only_and_never_on_stdout(models, capsys):
    generate(models[0], [[1]], 3)
    assert capsys.readouterr() == ("", "")
    generate(models[0], [[1]], 3, progress=True)
    shown = capsys.readouterr()
    assert shown.out == "" and "3/3" in shown.err


@pytest.mark.parametrize("changes, words", [
    (dict(prompts=[]), "prompts must be a non-empty list"),
    (dict(prompts="hello"), "prompts must be a non-empty list"),
    (dict(prompts=5), "prompts must be a non-empty list"),
    (dict(temperature="1"), "temperature must be a number"),
    (dict(top_p=None), "top_p must be a number"),
    (dict(prompts=[1, 2]), r"prompts\[0\] must be a list of token ids"),
    (dict(prompts=["hello"]), r"prompts\[0\] must be a list of token ids"),
    (dict(prompts=[[1], [2.0]]), r"prompts\[1\] must be a list of token ids"),
    (dict(prompts=[[1], []]), r"prompts\[1\] is empty"),
    (dict(prompts=[[1], [2, 13]]), r"prompts\[1\] must hold ids in 0\.\.12 .* got 13"),
    (dict(prompts=[[-1]]), r"prompts\[0\] must hold ids in 0\.\.12 .* got -1"),
    (dict(max_new_tokens=-1), "max_new_tokens must be >= 0, got -1"),
    (dict(max_new_tokens=2.5), "max_new_tokens must be an integer, got 2.5"),
    (dict(max_new_tokens=True), "max_new_tokens must be an integer, got True"),
    (dict(seed=0.5), "seed must be an integer"),
    (dict(stop=5), "stop must be a list of token ids"),
    (dict(stop=[13]), r"stop must hold ids in 0\.\.12"),
    (dict(temperature=-0.1), "temperature must be finite and >= 0"),
    (dict(temperature=math.nan), "temperature must be finite and >= 0"),
    (dict(temperature=math.inf), "temperature must be finite and >= 0"),
    (dict(top_p=0.0), r"top_p must lie in \(0, 1\]"),
    (dict(top_p=1.1), r"top_p must lie in \(0, 1\]"),
    (dict(min_p=-0.1), r"min_p must lie in \[0, 1\]"),
    (dict(min_p=math.nan), r"min_p must lie in \[0, 1\]"),
])
def test_bad_requests_are_refused_with_one_clear_error(models, changes, words):
    for function in (generate, generate_reference):
        with pytest.raises(ValueError, match=words):
            function(models[0], **dict(prompts=[[1]], max_new_tokens=2) | changes)


def test_the_borders_of_the_settings_are_allowed(models):
    check_sampling(0, 1e-9, 0)
    check_sampling(100.0, 1, 1)
    assert generate(models[0], [[0, 12]], 0) == [[]]
    assert generate_reference(models[0], [[0, 12]], 0) == [[]]


# ---- python -m minizaya sample ---------------------------------------------------------------------------------------


@pytest.fixture
def run_folder(tmp_path):
    """A run with one checkpoint of a random model that has three rows more than its tokenizer has tokens."""
    tokenizer = CharTokenizer("abc ")
    torch.manual_seed(0)
    model = mz.Zaya(mz.ZayaConfig(**SIZES | dict(vocab_size=tokenizer.vocab_size + 3)))
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    optimizer = adamw(model, 1e-3, 0.0, (0.9, 0.99))
    checkpoint.save(tmp_path, 7, model, optimizer, mz.balance.SignBalancer(3, num_layers=2),
                    {"tokenizer": tokenizer.to_dict()})
    return tmp_path, model, tokenizer


def test_sample_prints_what_generate_says(run_folder, capsys):
    folder, model, tokenizer = run_folder
    for where in (folder, folder / "checkpoint-00000007"):
        assert main(["sample", "--checkpoint", str(where), "--prompt", "ab", "--max-new-tokens", "40", "--seed", "3",
                     "--stop", "c", "--json"]) == 0
        said = json.loads(capsys.readouterr().out)
        stop = [tokenizer.eos_id, *tokenizer.encode("c")]
        expected, = generate(model, [tokenizer.encode("ab")], 40, stop=stop, seed=3)
        assert said["tokens"] == expected and said["prompt"] == "ab"
        assert said["stopped"] == (expected[-1] in stop)
    assert main(["sample", "--checkpoint", str(folder), "--prompt", "ab", "--max-new-tokens", "40", "--seed", "3",
                 "--stop", "c"]) == 0
    assert capsys.readouterr().out == "ab" + said["answer"] + "\n"


def test_sample_writes_rows_without_a_token_as_unknown(run_folder, capsys):
    folder, _, tokenizer = run_folder
    main(["sample", "--checkpoint", str(folder), "--prompt", "a", "--max-new-tokens", "60", "--temperature", "50",
          "--json"])
    said = json.loads(capsys.readouterr().out)
    assert max(said["tokens"]) >= tokenizer.vocab_size and "<unk>" in said["answer"]


@pytest.mark.parametrize("flags, words", [
    (["--prompt", "xyz"], "not one of the 4 characters"),
    (["--prompt", ""], "empty"),
    (["--prompt", "a", "--temperature", "-1"], "temperature"),
    (["--prompt", "a", "--top-p", "0"], "top_p"),
    (["--prompt", "a", "--max-new-tokens", "-1"], "max_new_tokens"),
])
def test_sample_refuses_wrong_input_in_one_line(run_folder, capsys, flags, words):
    assert main(["sample", "--checkpoint", str(run_folder[0]), *flags]) == 2
    said = capsys.readouterr()
    assert said.out == "" and words in said.err and said.err.count("\n") == 1


def test_sample_refuses_a_folder_that_is_no_checkpoint(run_folder, tmp_path, capsys):
    assert main(["sample", "--checkpoint", str(tmp_path / "nothing"), "--prompt", "a"]) == 2
    assert "no checkpoint in" in capsys.readouterr().err
    document = tmp_path / "checkpoint-00000007" / "run.json"
    whole = json.loads(document.read_text())
    for changed, words in ((whole | {"config": {"hidden_sighs": 3}}, "no model config"),
                           ({k: v for k, v in whole.items() if k != "tokenizer"}, "no tokenizer")):
        document.write_text(json.dumps(changed))
        assert main(["sample", "--checkpoint", str(tmp_path), "--prompt", "a"]) == 2
        assert words in capsys.readouterr().err


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 99])
def test_rows_change_no_answer(rows):
    """Decoding a few at a time: same streams, also for copies of a prompt that fall into different groups."""
    torch.manual_seed(0)
    model = mz.Zaya(mz.ZayaConfig.preset("nano", num_hidden_layers=2, hidden_size=32, head_dim=8)).double()
    prompts = [[1, 2, 3], [4], [1, 2, 3], [5, 6], [1, 2, 3], [4]]
    whole = generate(model, prompts, 6, stop=(3,), seed=5)
    assert generate(model, prompts, 6, stop=(3,), seed=5, rows=rows) == whole
    assert whole[0] != whole[2]
    for bad in 0, 1.5, "all":
        with pytest.raises(ValueError, match="rows"):
            generate(model, prompts, 6, rows=bad)


def test_defaults_change_nothing_of_the_models_probabilities():
    """Temperature 1, everything kept: a default that filters would pass every test that names its own."""
    torch.manual_seed(0)
    model = mz.Zaya(mz.ZayaConfig.preset("nano")).eval()
    plain = mz.generate(model, [[5, 6], [7]], 12)
    assert plain == mz.generate(model, [[5, 6], [7]], 12, temperature=1.0, top_p=1.0, min_p=0.0, stop=(), seed=0)
    assert all(plain != mz.generate(model, [[5, 6], [7]], 12, **other) for other in ({"min_p": 1.0}, {"seed": 1}))
