"""The data room: tokenizers, text windows and the n-gram baseline. The tasks are in test_tasks.py."""

import json
import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minizaya.data import ngram, text, tokenizer
from minizaya.data.tokenizer import SPECIALS, ByteTokenizer, CharTokenizer

BYTE = ByteTokenizer()
CHAR = CharTokenizer(text.ALPHABET)
CHAR_UNK = CharTokenizer(text.ALPHABET, unknown="unk")
TOKENIZERS = [BYTE, CHAR, CHAR_UNK]

# Text with special tokens in it far more often than chance would put them there.
spiked_text = st.lists(st.one_of(st.text(text.ALPHABET), st.sampled_from(SPECIALS))).map("".join)
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


@pytest.mark.parametrize("wrong", [("",), (3,), (None,), (b"<x>",), ("<x>", "<x>"), ("<pad>",)])
def test_special_tokens_are_distinct_texts_and_none_is_empty(wrong):
    with pytest.raises(ValueError, match="specials must be distinct, non-empty str"):
        ByteTokenizer((*SPECIALS, *wrong))


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
        (lambda: BYTE.decode([BYTE.vocab_size]), r"ids must hold ids in 0..263 \(the vocabulary\), got 264"),
        (lambda: BYTE.decode([-1]), r"\(the vocabulary\), got -1"),
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


@pytest.mark.parametrize(
    "bad, message",
    [
        (lambda: text.Batches([1, 2, 3], 1, 3, 0), "at least seq"),
        (lambda: text.Batches([1, 2, 3], 0, 1, 0), "batch"),
        (lambda: text.Batches([1, 2, 3], 1, 0, 0), "seq"),
        (lambda: text.Batches([[1, 2]], 1, 1, 0), "token ids"),
        (lambda: text.Batches([1.0, 2.0], 1, 1, 0), "integers"),
        (lambda: text.Batches([1, 2, 3], 1, 1, 0)(-1), "step"),
    ],
)
def test_text_errors_are_clear(bad, message):
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
