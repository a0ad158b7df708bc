"""The data room: tokenizers, text windows, tasks and the n-gram baseline."""

import json
import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minizaya.data import ngram, tasks, text, tokenizer
from minizaya.data.tokenizer import SPECIALS, ByteTokenizer, CharTokenizer

BYTE = ByteTokenizer()
CHAR = CharTokenizer(text.ALPHABET)
CHAR_UNK = CharTokenizer(text.ALPHABET, unknown="unk")
TOKENIZERS = [BYTE, CHAR, CHAR_UNK]

# Text with special tokens in it far more often than chance would put them there.
spiked_text = st.lists(st.one_of(st.text(text.ALPHABET), st.sampled_from(SPECIALS))).map("".join)
task_and_difficulty = st.sampled_from(tasks.names()).flatmap(
    lambda name: st.tuples(st.just(tasks.get(name)), st.integers(1, tasks.get(name).max_difficulty))
)
seeds = st.integers(-(2**70), 2**70)


# ---- tokenizers ----


@given(st.text())
def test_bytes_round_trip_any_text(s):
    ids = BYTE.encode(s)
    assert BYTE.decode(ids) == s
    assert ids == list(s.encode())


@given(spiked_text)
def test_round_trip_with_and_without_specials(s):
    for tok in TOKENIZERS:
        assert tok.decode(tok.encode(s)) == s
        assert tok.decode(tok.encode(s, allow_special=True)) == s


@given(spiked_text)
def test_ordinary_text_never_becomes_a_special_token(s):
    for tok in TOKENIZERS:
        assert all(0 <= i < tok.num_ordinary for i in tok.encode(s))


@pytest.mark.parametrize("tok", TOKENIZERS)
def test_special_tokens_are_single_ids_when_allowed(tok):
    assert sorted(tok.special_ids.values()) == list(range(tok.num_ordinary, tok.vocab_size))
    for token, i in tok.special_ids.items():
        assert tok.encode(token, allow_special=True) == [i]
        assert len(tok.encode(token)) == len(token)
        assert tok.encode(f"a{token}b", allow_special=True) == [*tok.encode("a"), i, *tok.encode("b")]
        assert tok.decode([i, *tok.encode("hi")], keep_special=False) == "hi"
    assert {tok.pad_id, tok.bos_id, tok.eos_id, tok.unk_id} <= set(tok.special_ids.values())


def test_the_longest_special_token_wins():
    tok = ByteTokenizer((*SPECIALS, "<think>!"))
    assert tok.encode("<think>!", allow_special=True) == [tok.special_ids["<think>!"]]


@given(st.lists(st.integers(0, BYTE.vocab_size - 1)))
def test_any_ids_decode(ids):
    assert isinstance(BYTE.decode(ids), str)
    assert BYTE.decode(torch.tensor(ids, dtype=torch.int64)) == BYTE.decode(ids)


def test_invalid_utf8_decodes_with_replacement():
    assert BYTE.decode([0x41, 0xFF, 0x42]) == "A\ufffdB"


@given(st.characters(exclude_characters=text.ALPHABET))
def test_unknown_characters(char):
    with pytest.raises(ValueError, match="position 2"):
        CHAR.encode("ab" + char)
    assert CHAR_UNK.encode("a" + char) == [*CHAR_UNK.encode("a"), CHAR_UNK.unk_id]


@pytest.mark.parametrize("tok", [*TOKENIZERS, CharTokenizer("cabbage", specials=(*SPECIALS, "<x>"))])
def test_to_dict_survives_json(tok):
    copy = tokenizer.from_dict(json.loads(json.dumps(tok.to_dict())))
    assert type(copy) is type(tok) and copy.to_dict() == tok.to_dict()
    assert copy.vocab_size == tok.vocab_size and copy.special_ids == tok.special_ids
    assert copy.encode("abc<think>", allow_special=True) == tok.encode("abc<think>", allow_special=True)


@pytest.mark.parametrize(
    "bad, message",
    [
        (lambda: CHAR.encode(3), "text must be a str"),
        (lambda: BYTE.encode("a\ud800"), "surrogate at position 1"),
        (lambda: BYTE.decode([BYTE.vocab_size]), "outside the vocabulary"),
        (lambda: BYTE.decode([-1]), "outside the vocabulary"),
        (lambda: CharTokenizer(""), "alphabet"),
        (lambda: CharTokenizer("a", unknown="skip"), "unknown must be"),
        (lambda: ByteTokenizer("<pad>"), "specials must be"),
        (lambda: ByteTokenizer(("<pad>", "<pad>")), "distinct"),
        (lambda: ByteTokenizer(("<pad>", "<bos>", "<unk>")), "<eos>"),
        (lambda: tokenizer.from_dict({"kind": "pickle"}), "kind"),
        (lambda: tokenizer.from_dict([]), "kind"),
        (lambda: tokenizer.from_dict({"kind": "char", "alphabet": "a"}), "must have"),
    ],
)
def test_tokenizer_errors_are_clear(bad, message):
    with pytest.raises(ValueError, match=message):
        bad()


# ---- text ----


def test_english_is_prose_inside_the_fixed_alphabet():
    s = text.english()
    train, held_out = text.split(s)
    assert train + held_out == s and len(held_out) == len(s) // 10
    assert len(s) > 300_000
    # Later Pythons may add a few characters; they must stay a rounding error.
    unknown = sum(char not in text.ALPHABET for char in s)
    assert unknown < len(s) / 1000
    assert len(set(text.ALPHABET)) == len(text.ALPHABET)


sampler = st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(0, 40), seeds, st.integers(0, 10**9))


@given(sampler)
def test_batches_are_a_pure_function_of_seed_and_step(case):
    batch, seq, extra, seed, step = case
    tokens = torch.arange(100, 100 + seq + 1 + extra)
    first = text.Batches(tokens, batch, seq, seed)
    inputs, targets = first(step)
    again = text.Batches(tokens, batch, seq, seed)
    random.seed(1), torch.manual_seed(1)  # neither the past nor global seeds matter
    before = random.getstate(), torch.get_rng_state()
    again(step + 1)
    assert random.getstate() == before[0] and torch.equal(torch.get_rng_state(), before[1])
    assert torch.equal(inputs, again(step)[0]) and torch.equal(targets, again(step)[1])
    assert inputs.shape == targets.shape == (batch, seq) and inputs.dtype == targets.dtype == torch.int64
    # tokens count upwards, so every window must too, and the target is the next token
    assert torch.equal(targets, inputs + 1) and (inputs.diff(dim=1) == 1).all()
    assert inputs.min() >= 100 and targets.max() <= tokens[-1]


def test_batches_reach_both_ends_and_differ_by_seed_and_step():
    tokens = torch.arange(6)
    batches = text.Batches(tokens, batch=200, seq=2, seed=0)
    assert set(batches(0)[0][:, 0].tolist()) == {0, 1, 2, 3}
    long = torch.arange(10_000)
    starts = {tuple(text.Batches(long, 4, 8, seed)(step)[0][:, 0].tolist()) for seed in range(9) for step in range(9)}
    assert len(starts) == 81


@given(st.integers(2, 60), st.integers(1, 12), st.integers(1, 4))
def test_eval_windows_cover_the_text_once_in_order(n, seq, batch):
    windows = list(text.eval_windows(list(range(n)), seq, batch))
    assert torch.cat([inputs.flatten() for inputs, _ in windows]).tolist() == list(range(n - 1))
    assert torch.cat([targets.flatten() for _, targets in windows]).tolist() == list(range(1, n))
    for inputs, targets in windows:
        assert inputs.shape == targets.shape and inputs.shape[0] <= batch and inputs.shape[1] <= seq
        assert inputs.dtype == targets.dtype == torch.int64
    assert all(inputs.shape[1] == seq for inputs, _ in windows[:-1])


@pytest.mark.parametrize(
    "bad, message",
    [
        (lambda: text.Batches([1, 2, 3], 1, 3, 0), "at least seq"),
        (lambda: text.Batches([1, 2, 3], 0, 1, 0), "batch"),
        (lambda: text.Batches([1, 2, 3], 1, 0, 0), "seq"),
        (lambda: text.Batches([[1, 2]], 1, 1, 0), "one-dimensional"),
        (lambda: text.Batches([1.0, 2.0], 1, 1, 0), "integers"),
        (lambda: text.Batches([1, 2, 3], 1, 1, 0)(-1), "step"),
        (lambda: list(text.eval_windows([1], 4)), "at least seq"),
        (lambda: list(text.eval_windows([1, 2], 0)), "seq"),
        (lambda: list(text.eval_windows([1, 2], 1, 0)), "batch"),
    ],
)
def test_text_errors_are_clear(bad, message):
    with pytest.raises(ValueError, match=message):
        bad()


# ---- tasks ----

PINNED_ADDITION = "192+053?a0235b0954c1102d0#245$"
PINNED_MODCHAIN = "8a*3b*3c-9?a8*3b4*3c2-9d3#3$"


@given(task_and_difficulty, seeds)
def test_problems_are_deterministic_and_use_no_global_randomness(case, seed):
    task, difficulty = case
    random.seed(0)
    before = random.getstate()
    problem = task.generate(seed, difficulty)
    assert random.getstate() == before
    task.generate(seed + 1, difficulty)
    assert task.generate(seed, difficulty) == problem
    assert (problem.task, problem.difficulty) == (task.name, difficulty)
    CHAR.encode(problem.text)  # every character is in the alphabet


def test_problems_are_the_same_in_every_process_and_version():
    # Recorded once: a change here breaks every shipped split and checkpoint card.
    assert tasks.get("addition").generate(0, 3).text == PINNED_ADDITION
    assert tasks.get("modchain").generate(0, 3).text == PINNED_MODCHAIN


@given(task_and_difficulty, seeds)
def test_a_task_accepts_its_own_answer_in_every_wrapping(case, seed):
    task, difficulty = case
    p = task.generate(seed, difficulty)
    for good in (p.answer, p.completion, p.text, p.reasoning + p.answer, f"#7777${p.completion}",
                 f"<think>{p.reasoning}</think>{p.answer}<|im_end|>", f"{p.completion}\n", f"{p.completion}#x$"):  # fmt: skip
        assert task.verify(p, good) == 1, good
    for bad in ("", "#", "$", p.prompt, p.reasoning, p.prompt + p.reasoning, f"#{p.answer}$#7777$"):
        assert task.verify(p, bad) == 0, bad


@given(task_and_difficulty, seeds, st.data())
def test_every_one_character_corruption_of_the_answer_is_rejected(case, seed, data):
    task, difficulty = case
    p = task.generate(seed, difficulty)
    i = data.draw(st.integers(0, len(p.answer) - 1))
    old, new = p.answer[i], data.draw(st.sampled_from(text.ALPHABET))
    replaced, inserted = p.answer[:i] + new + p.answer[i + 1 :], p.answer[:i] + new + p.answer[i:]
    removed = p.answer[:i] + p.answer[i + 1 :]
    for answer in (replaced, inserted, removed):
        same = answer.strip().isdigit() and int(answer) == int(p.answer)
        # A "#", "$" or "<|" inside an answer starts or ends one; that is a new answer, not a corrupted one.
        if not same and new not in "#$<":
            assert task.verify(p, f"{p.reasoning}{answer}$") == 0, (old, answer)


@given(task_and_difficulty, seeds, st.one_of(st.text(), st.text("#$0123456789-+*() \n</think>|", max_size=60)))
def test_verify_never_raises(case, seed, junk):
    task, difficulty = case
    p = task.generate(seed, difficulty)
    for s in (junk, "#" + junk, p.reasoning + junk + "$"):
        assert task.verify(p, s) in (0, 1)


@pytest.mark.parametrize("junk", ["#" + "9" * 100_000 + "$", "#\u0663$", "#-3$", "#1e3$", "#__import__('os')$", "\ud800#\x00$"])
def test_verify_survives_hostile_text(junk):
    for name in tasks.names():
        assert tasks.get(name).verify(tasks.get(name).generate(0, 1), junk) == 0


@given(st.integers(1, 20), seeds)
def test_addition_is_right_and_its_reasoning_says_why(digits, seed):
    p = tasks.get("addition").generate(seed, digits)
    x, y = p.prompt.removesuffix("?").split("+")
    assert len(x) == len(y) == digits and int(p.answer) == int(x) + int(y)
    *columns, last = [p.reasoning[i : i + 5] for i in range(0, len(p.reasoning) - 1, 5)]
    carry, written = 0, ""
    for letter, column, a, b in zip("abcdefghijklmnopqrstuvwxyz", columns, x[::-1], y[::-1]):
        assert column[:4] == f"{letter}{carry}{a}{b}"
        assert 10 * (total := (carry + int(a) + int(b)) // 10) + int(column[4]) == carry + int(a) + int(b)
        carry, written = total, column[4] + written
    assert last[1] == str(carry) and int(last[1] + written) == int(p.answer)


@given(st.sampled_from([2, 10, 11, 97, 100]), st.integers(1, 25), seeds)
def test_modchain_is_right_step_by_step(modulus, steps, seed):
    task = tasks.ModChain(modulus)
    p = task.generate(seed, steps)
    width = len(str(modulus - 1))
    value, rest = int(p.prompt[:width]), p.prompt[width:-1]
    expected = ""
    for letter, sign, number in zip(rest[::3], rest[1::3], rest[2::3]):
        expected += f"{letter}{value:0{width}d}{sign}{number}"
        value = {"+": value + int(number), "-": value - int(number), "*": value * int(number)}[sign] % modulus
    assert rest[::3] == "abcdefghijklmnopqrstuvwxy"[:steps]
    assert p.reasoning == f"{expected}{chr(ord('a') + steps)}{value:0{width}d}#"
    assert p.answer == f"{value:0{width}d}"


@pytest.mark.parametrize("name", tasks.names())
def test_the_two_parts_share_no_prompt(name):
    seen = {"train": set(), "held_out": set()}
    for seed in range(4000):
        p = tasks.get(name).generate(seed, 1 + seed % 3)
        seen[tasks.split(p)].add(p.prompt)
    assert not seen["train"] & seen["held_out"]
    # A tenth of the distinct prompts, give or take four standard errors of a binomial count.
    total = len(seen["train"]) + len(seen["held_out"])
    assert abs(len(seen["held_out"]) - total / 10) < 4 * math.sqrt(total * 0.1 * 0.9)


@settings(max_examples=20)
@given(st.sampled_from(tasks.names()), st.sampled_from(["train", "held_out"]), st.integers(1, 4), st.integers(0, 20), seeds)
def test_problems_come_from_the_asked_part(name, part, difficulty, n, seed):
    found = tasks.problems(name, part, difficulty, n, seed)
    assert len(found) == n and all(tasks.split(p) == part and p.difficulty == difficulty for p in found)
    assert tasks.problems(name, part, difficulty, n + 3, seed)[:n] == found


class OnlyOne(tasks.Task):
    """A task with one problem: one of the two parts must be empty."""

    name, max_difficulty, form = "only-one", 1, "[12]"

    def make(self, rng, difficulty):
        return "1?", "", "1"


def test_an_empty_part_is_an_error_not_an_endless_loop(monkeypatch):
    monkeypatch.setitem(tasks.TASKS, "only-one", OnlyOne())
    only = OnlyOne().generate(0, 1)
    assert (OnlyOne().verify(only, "#1$"), OnlyOne().verify(only, "#2$")) == (1, 0)  # the default check
    full = tasks.split(only)
    assert tasks.problems("only-one", full, 1, 2, seed=0) == [only, only]
    empty = {"train": "held_out", "held_out": "train"}[full]
    with pytest.raises(ValueError, match=f"has no {empty} problem"):
        tasks.problems("only-one", empty, 1, 1, seed=0)


@pytest.mark.parametrize(
    "bad, message",
    [
        (lambda: tasks.get("nope"), "addition"),
        (lambda: tasks.ModChain(1), "modulus"),
        (lambda: tasks.get("addition").generate(0, 0), "difficulty"),
        (lambda: tasks.get("addition").generate(0, 21), "1 to 20"),
        (lambda: tasks.get("addition").generate(0, 1.5), "difficulty"),
        (lambda: tasks.get("addition").verify(tasks.get("modchain").generate(0, 1), ""), "modchain"),
        (lambda: tasks.problems("addition", "test", 1, 1, 0), "part"),
        (lambda: tasks.problems("addition", "train", 1, -1, 0), "n must"),
        (lambda: tasks.problems("addition", "train", 99, 1, 0), "difficulty"),
    ],
)
def test_task_errors_are_clear(bad, message):
    with pytest.raises(ValueError, match=message):
        bad()


# ---- n-gram ----


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.lists(st.integers(0, 6), max_size=8), st.integers(1, 6))
def test_ngram_probabilities_sum_to_one_after_any_context(train, context, max_order):
    # Tokens 5 and 6 never occur in training, so many contexts are unseen.
    model = ngram.WittenBell(train, vocab_size=7, max_order=max_order)
    per_token = [model.probabilities(context, token) for token in range(7)]
    for n in range(max_order):
        column = [p[n] for p in per_token]
        assert min(column) > 0
        assert math.fsum(column) == pytest.approx(1, abs=1e-12)  # a few float64 operations per order


def test_ngram_matches_the_formula_by_hand():
    # Train "0 1 0 1 0", vocabulary of 4. p_1(1) = (2 + 2/4) / (5 + 2); context 0 was followed by 1 twice, by
    # one distinct token: p_2(1 | 0) = (2 + 1 * p_1(1)) / (2 + 1).
    p1, p2 = ngram.WittenBell([0, 1, 0, 1, 0], 4, 2).probabilities([3, 0], 1)
    assert p1 == pytest.approx(2.5 / 7, abs=1e-15) and p2 == pytest.approx((2 + 2.5 / 7) / 3, abs=1e-15)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.lists(st.integers(0, 3), min_size=1, max_size=30))
def test_ngram_loss_is_the_mean_negative_log_probability(train, ids):
    model = ngram.WittenBell(train, 4, 3)
    rows = [model.probabilities(ids[:i], token) for i, token in enumerate(ids)]
    expected = [-math.fsum(math.log(row[n]) for row in rows) / len(ids) for n in range(3)]
    assert ngram.witten_bell(train, ids, 4, 3) == pytest.approx(expected, abs=1e-12)


def test_ngrams_on_english_beat_uniform_and_longer_is_better_up_to_four():
    train, held_out = map(CHAR_UNK.encode, text.split(text.english()))
    losses = ngram.witten_bell(train, held_out, CHAR_UNK.vocab_size)
    assert len(losses) == 6 and losses[0] < math.log(CHAR_UNK.vocab_size)
    assert losses[0] > losses[1] > losses[2] > losses[3] > min(losses)
    # The text changes a little with the Python version: 3.11 gives 1.712 and 1.320 nats.
    assert losses[2] == pytest.approx(1.71, abs=0.1) and min(losses) == pytest.approx(1.32, abs=0.1)


@pytest.mark.parametrize(
    "args, message",
    [
        (([], [1], 2), "train_ids"),
        (([1], [], 2), "held_out_ids"),
        (([2], [1], 2), "train_ids must be in 0 to 1"),
        (([1], [1], 0), "vocab_size"),
        (([1], [1], 2, 0), "max_order"),
    ],
)
def test_ngram_errors_are_clear(args, message):
    with pytest.raises(ValueError, match=message):
        ngram.witten_bell(*args)
