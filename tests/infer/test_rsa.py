"""Markovian RSA: the laws run in test_laws.py; here planted bugs, failing generators, layouts,
many questions at once."""

import random
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import minizaya as mz
from minizaya import laws
from minizaya.data import text
from minizaya.data.tokenizer import ByteTokenizer
from minizaya.infer import rsa as lib
from minizaya.infer.generate import generate
from minizaya.infer.rsa import RSAConfig, delimited, in_words, majority, markovian_rsa, markovian_rsa_many, mean_score
from minizaya.laws.rsa import Script
from minizaya.studies.scoring import answer_of, summary
from wrong_functions.rsa import BUGS, one_prompt_a_call, textbook

NAMES = [law.name for law in laws.all() if law.name.startswith("rsa.") and law.name != "rsa.majority"]


# ---- planted bugs ----------------------------------------------------------------------------------------------------


def verdicts(fn):
    return {name: laws.judge(name, fn).passed for name in NAMES}


def test_the_textbook_passes():
    assert all(verdicts(textbook).values()) and len(NAMES) == 9  # and rsa.majority, which judges another function


def test_a_round_may_ask_for_one_prompt_at_a_time():
    assert all(verdicts(one_prompt_a_call).values())


@pytest.mark.parametrize("bug", BUGS)
def test_planted_bugs_die(bug):
    def wrong(generator, question, rsa, aggregate=None, seed=0):
        return textbook(generator, question, rsa, aggregate, seed, **BUGS[bug])

    assert not all(verdicts(wrong).values())


def test_ignoring_the_seed_dies():
    assert not laws.judge("rsa.seed", lambda g, q, r, a=None, seed=0: textbook(g, q, r, a, 0)).passed
    assert not laws.judge("rsa.seed", lambda g, q, r, a=None, seed=0: textbook(g, q, r, a, random.random())).passed


# ---- many questions at once ------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=4), min_size=1, max_size=4), st.integers(1, 4),
       st.integers(0, 2), st.integers(0, 99), st.data())
def test_many_questions_are_each_as_alone(questions, n, rounds, seed, data):
    """With a generator that answers each prompt by itself. Copies of a question get the same draws."""
    config = RSAConfig(N=n, C=data.draw(st.integers(1, n)), T=rounds, beta=4, tau=3)

    def echo(prompts, max_new_tokens):
        return [[(sum(prompt) + 7 * len(prompt) + k) % 50 for k in range(sum(prompt) % (max_new_tokens + 1))]
                for prompt in prompts]

    together = markovian_rsa_many(echo, questions, config, delimited([98], [99]), seed)
    assert together == [markovian_rsa(echo, question, config, delimited([98], [99]), seed) for question in questions]


def test_a_round_is_one_call():
    script = Script([3])
    markovian_rsa_many(script, [[1], [2], [3]], RSAConfig(N=4, C=2, T=2, beta=5, tau=2))
    assert [len(prompts) for prompts, _ in script.calls] == [12, 12, 12]


# ---- generators that fail --------------------------------------------------------------------------------------------


def test_failed_traces_are_left_out_and_counted():
    def flaky(prompts, max_new_tokens):
        return [None if i % 2 else [i, i + 1] for i in range(len(prompts))]

    result = markovian_rsa(flaky, [5], RSAConfig(N=4, C=4, T=1, beta=3, tau=3), delimited([0], []))
    assert result.failed == 4 and [len(own) for own in result.rounds] == [2, 2] and result.generated_tokens == 8
    assert sorted(result.prompts[1][0]) == sorted([5, 0, 0, 1, 0, 2, 3])  # both survivors' tails: C is now 2
    with pytest.raises(ValueError, match="all 4 traces of round 0"):
        markovian_rsa(lambda prompts, n: [None] * len(prompts), [5], RSAConfig(N=4, C=1, T=1, beta=3, tau=3))


@pytest.mark.parametrize("broken, says", [
    (lambda prompts, n: [[1]] * (len(prompts) - 1), "one trace a prompt, 3 in all, got 2"),
    (lambda prompts, n: [[1] * (n + 1)] * len(prompts), "has 6 tokens, max_new_tokens was 5"),
    (lambda prompts, n: [["a"]] * len(prompts), "must be a list of token ids"),
    (lambda prompts, n: [[0.5]] * len(prompts), "must be a list of token ids"),
    (lambda prompts, n: [7] * len(prompts), "must be a list of token ids"),
    (lambda prompts, n: None, "must return a list of 3 traces"),
])
def test_a_generator_that_breaks_its_word(broken, says):
    with pytest.raises(ValueError, match=says):
        markovian_rsa(broken, [1, 2], RSAConfig(N=3, C=2, T=1, beta=5, tau=2))


@pytest.mark.parametrize("wrong, names",
                         [(dict(N=0), "N"), (dict(C=17), "C"), (dict(T=-1), "T"), (dict(tau=600), "tau"),
                                          (dict(beta=0, tau=0), "beta"), (dict(C=2.0), "C"), (dict(T=True), "T")])
def test_bad_settings_are_named(wrong, names):
    with pytest.raises(ValueError, match=f"^{names} must"):
        RSAConfig(**wrong)


@pytest.mark.parametrize("question", [[], ["a"], 7])
def test_bad_questions_are_named(question):
    with pytest.raises(ValueError, match="question"):
        markovian_rsa(Script([1]), question, RSAConfig())


def test_generators_may_return_tensors():
    result = markovian_rsa(lambda prompts, n: [torch.tensor([1, 2])] * len(prompts), torch.tensor([4]), RSAConfig(T=0))
    assert result.rounds == [[[1, 2]] * 16] and result.prompts == [[[4]] * 16]


def test_a_generator_cannot_change_the_record():
    def greedy(prompts, max_new_tokens):
        for prompt in prompts:
            prompt.append(99)
        return [[1]] * len(prompts)

    assert markovian_rsa(greedy, [4], RSAConfig(N=2, C=1, T=1)).prompts == [[[4], [4]], [[4, 1], [4, 1]]]


# ---- layouts and scores ----------------------------------------------------------------------------------------------


def test_layouts():
    assert lib.concatenated([1], [[2, 3], [], [4]]) == [1, 2, 3, 4]
    assert delimited([8], [9])([1], [[2, 3], [], [4]]) == [1, 8, 2, 3, 8, 8, 4, 9]
    tokenizer = ByteTokenizer()
    hostile = tokenizer.encode("{tail} %s {0}")
    told = tokenizer.decode(in_words(tokenizer)(tokenizer.encode("What is 1+1?"), [hostile, tokenizer.encode("so 2")]))
    assert told.startswith("What is 1+1?") and "{tail} %s {0}" in told and "attempt 2" in told and "so 2" in told
    for c in range(1, 6):
        extra = len(in_words(tokenizer)([1], [[2]] * c)) - 1 - c
        assert extra <= 240 + 40 * c


def test_conclusions_are_handed_on_where_there_are_some():
    """PaCoRe's way: the answer after the end of thought (9), else the tail."""
    reduce = lib.conclusion_or_tail(9)
    assert reduce([1, 2, 9, 4, 5], 3) == [4, 5] and reduce([1, 2, 3, 4], 3) == [2, 3, 4]
    assert reduce([9, 1, 9, 4, 5, 6, 7], 3) == [5, 6, 7] and reduce([1, 9], 3) == []
    result = markovian_rsa(lambda prompts, n: [[1, 2, 9, 4], [1, 2, 3, 4]], [8],
                           RSAConfig(N=2, C=1, T=1, beta=4, tau=2), reduce=reduce)
    assert result.prompts[1] == [[8, 4], [8, 3, 4]]
    with pytest.raises(ValueError, match="reduce's tail has 4 tokens, tau is 3"):
        markovian_rsa(lambda prompts, n: [[1, 2, 9, 4]] * 2, [8], RSAConfig(N=2, C=1, T=1, beta=4, tau=3),
                      reduce=lambda trace, tau: trace)


def test_scores():
    result = lib.RSAResult([[[1]], [[1], [2], [2], [3]]], [], 5)
    assert mean_score(result, lambda trace: trace == [2]) == 0.5 and lib.best_of(result, lambda trace: trace[0]) == 3
    assert majority(["a", "b", None, "b", "a", "b"]) == "b" and majority(["b", "a"]) == "b"
    assert majority([None, None]) is None and majority([]) is None
    assert answer_of("a1b2#17$") == "17" and answer_of("a1b2#17") is None and answer_of("a1$") is None
    assert answer_of("#1$#2$") == "2"
    wanted = {"accuracy": 0.5, "stderr": round((1 / 3 / 4) ** 0.5, 4)}
    assert summary([1.0, 0.0, 1.0, 0.0]) == wanted


def test_our_own_generator_drives_it():
    torch.manual_seed(0)
    model = mz.Zaya(mz.ZayaConfig.preset("nano", num_hidden_layers=1, hidden_size=16, moe_intermediate_size=8,
                                         head_dim=8))
    sample = partial(generate, model, seed=3, rows=3)
    config = RSAConfig(N=4, C=2, T=1, beta=5, tau=3)
    result = mz.markovian_rsa(sample, [1, 2, 3], config, delimited([7], [8]))
    assert result == mz.markovian_rsa(sample, [1, 2, 3], config, delimited([7], [8]))
    assert result.generated_tokens == 40 and len({tuple(trace) for trace in result.rounds[0]}) == 4
    assert text.ALPHABET  # the alphabet has the marks of the layout
    assert "|" in text.ALPHABET and "~" in text.ALPHABET


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_questions_draw_for_themselves(seed):
    """Subsets come from the seed and the question: other questions, and other seeds, read other tails."""
    config = RSAConfig(N=8, C=4, T=1, beta=1, tau=1)

    def generator(prompts, room):
        return [[100 + i % 8] for i in range(len(prompts))]

    def drawn(questions, seed):
        found = markovian_rsa_many(generator, questions, config, lambda question, tails: sum(tails, []), seed=seed)
        return [tuple(map(tuple, result.prompts[1])) for result in found]

    questions = [[i] for i in range(12)] + [[0, 1], [1, 0], [seed]]
    assert len(set(drawn(questions[:-1], seed))) == len(questions) - 1
    assert len({drawn([[5]], s)[0] for s in range(12)}) == 12
    assert drawn([[1]], 2) != drawn([[2]], 1) and drawn([[3], [3]], seed) == drawn([[3]], seed) * 2


@pytest.mark.parametrize("trace, tau, kept", [
    ([1, 0, 2, 0, 3], 9, [3]), ([0, 0], 9, []), ([0], 1, []), ([1, 2], 1, [2]), ([1, 2], 2, [1, 2]), ([], 3, []),
    ([0, 1, 2, 3], 2, [2, 3]), ([0, 1, 2], 2, [1, 2]), ([1, 0, 5, 6, 0, 2, 3, 4], 2, [3, 4]), ([1, 2, 0], 2, [])])
def test_the_answer_stands_behind_the_last_end_of_thought(trace, tau, kept):
    assert lib.conclusion_or_tail(0)(trace, tau) == kept


# ---- where the report and Zyphra's own codes differ ------------------------------------------------------------------


def numbered(log):
    """A generator that notes what it is asked, and writes traces of two tokens."""
    def write(prompts, room):
        log.append(len(prompts))
        return [[len(log), i] for i in range(len(prompts))]
    return write


@pytest.mark.parametrize("rounds", [0, 1, 2, 8])
def test_t_counts_aggregation_rounds(rounds):
    """T = 2 is three rounds of generation; the RSA paper and Zyphra's package `rsa` would call that T = 3."""
    log = []
    markovian_rsa(numbered(log), [1], RSAConfig(N=3, C=2, T=rounds, beta=2, tau=2))
    assert log == [3] * (rounds + 1)


@pytest.mark.parametrize("c", [1, 2, 4])
@pytest.mark.parametrize("final_n", [1, 3, 4])
def test_the_last_round_may_be_short_and_sample_its_own_way(c, final_n):
    usual, last = [], []
    config = RSAConfig(N=4, C=c, T=2, beta=2, tau=2, final_n=final_n)
    result = markovian_rsa(numbered(usual), [1], config, final=numbered(last))
    assert usual == [4, 4] and last == [final_n]
    assert [len(own) for own in result.rounds] == [4, 4, final_n] and result.generated_tokens == 2 * (8 + final_n)
    whole = markovian_rsa(numbered([]), [1], RSAConfig(N=4, C=c, T=2, beta=2, tau=2))
    assert result.prompts[2] == whole.prompts[2][:final_n]      # the same draws, the first of them
    assert len(markovian_rsa(numbered(usual), [1], config).rounds[-1]) == final_n     # without a way of its own


def test_with_no_aggregation_the_only_round_is_the_last():
    usual, last = [], []
    markovian_rsa(numbered(usual), [1], RSAConfig(N=2, C=1, T=0, beta=2, tau=2), final=numbered(last))
    assert usual == [] and last == [2]


@pytest.mark.parametrize("wrong", [0, 5, True, 1.0, "1"])
def test_a_wrong_last_round_is_named(wrong):
    with pytest.raises(ValueError, match="final_n must be None or an int from 1 to N = 4"):
        RSAConfig(N=4, C=2, final_n=wrong)
    with pytest.raises(ValueError, match="final_n must be None where T is 0"):
        RSAConfig(N=4, C=2, T=0, final_n=1)


def test_a_tail_in_words_is_longer_and_loses_lines():
    """The last seven words are fifteen tokens here: tau words are no bound, so the last tau tokens of them are kept."""
    tokenizer = ByteTokenizer()
    trace = tokenizer.encode("so x = 1\n\n  and  y = 2")
    assert tokenizer.decode(lib.last_words(tokenizer)(trace, 40)) == "so x = 1 and y = 2"
    assert tokenizer.decode(lib.last_words(tokenizer)(trace, 7)) == "d y = 2"
    assert tokenizer.decode(lib.last_tokens(trace, 7)) == "  y = 2"
    for tau in range(1, 30):
        own = lib.last_words(tokenizer)(trace, tau)
        assert len(own) <= tau and tokenizer.decode(own) == " ".join("so x = 1 and y = 2".split()[-tau:])[-tau:]
    assert lib.last_words(tokenizer)([], 3) == []


def test_settings_by_name():
    assert lib.SETTINGS["report"] == RSAConfig(N=16, C=4, T=2, beta=16_384, tau=4_096)
    assert lib.SETTINGS["zyphra"] == RSAConfig(N=32, C=4, T=8, beta=32_768, tau=4_096, final_n=1)


@pytest.mark.parametrize("wrong, names", [
    (dict(N=3, C=4), "C must be at most N = 3"), (dict(beta=8, tau=9), "tau must be at most beta = 8"),
    (dict(beta=0, tau=1), "beta must be an int of at least 1"), (dict(tau=0), "tau must be an int of at least 1")])
def test_the_borders_of_a_setting(wrong, names):
    with pytest.raises(ValueError, match=names):
        RSAConfig(**wrong)
    assert RSAConfig(N=1, C=1, T=0, beta=1, tau=1).traces(0) == 1


def test_in_words_the_question_comes_first_and_what_to_do_last():
    tokenizer = ByteTokenizer()
    told = tokenizer.decode(in_words(tokenizer)(tokenizer.encode("1+1?"), [tokenizer.encode(x) for x in "ab"]))
    assert told == ("1+1?\n\nBelow are the ends of several attempts at this problem. "
                    "Any of them may be wrong or unfinished.\n\n--- end of attempt 1 ---\na\n--- end of attempt 2 ---\n"
                    "b\nWeigh the attempts against each other, go on from what is right, and give one full answer.\n")
