"""Wrong pairs planted in the lists of a sheet: what is planted, and what is counted."""

import random

import pytest

from minizaya.data import tasks, text
from minizaya.data.aggregation import GO, SEPARATOR
from minizaya.data.tasks.sheet import parts_asked, parts_of
from minizaya.data.tokenizer import CharTokenizer
from minizaya.studies.aggregation import planted_parts

TOKENIZER = CharTokenizer(text.ALPHABET, unknown="unk")
SHEETS = tasks.problems("sheet", "held_out", 6, 20, 0)


@pytest.mark.parametrize("consistent", [True, False])
@pytest.mark.parametrize("wrong", range(5))
def test_so_many_lists_are_wrong_in_one_part_and_right_in_all_others(wrong, consistent):
    for seed, problem in enumerate(SHEETS):
        tails, letter = planted_parts.lists(problem, wrong, consistent, random.Random(seed))
        truth, told = parts_of(problem.answer), [parts_of(tail) for tail in tails]
        assert len(tails) == 4 and all(tail == f"#{tail[1:-1]}$" and len(tail) == 20 for tail in tails)
        assert all(own[a] == truth[a] for own in told for a in truth if a != letter)
        bad = [own[letter] for own in told if own[letter] != truth[letter]]
        assert len(bad) == wrong and len(set(bad)) == (min(wrong, 1) if consistent else wrong)
        *digits, end = parts_asked(problem)[letter]
        assert all(pair[0] in digits and pair[1] in digits and str(sum(map(int, pair)))[-1] != end for pair in bad)
    drawn = [planted_parts.lists(SHEETS[0], 1, True, random.Random(seed)) for seed in range(60)]
    assert {letter for _, letter in drawn} == set("abcdef")
    truth = parts_of(SHEETS[0].answer)
    assert {[parts_of(tail)[a] == truth[a] for tail in tails].index(False) for tails, a in drawn} == {0, 1, 2, 3}


@pytest.mark.parametrize("wrong", [-1, 5])
def test_only_counts_of_zero_to_four(wrong):
    with pytest.raises(ValueError, match=f"wrong must lie in 0..4, got {wrong}"):
        planted_parts.lists(SHEETS[0], wrong, True, random.Random(0))


@pytest.mark.parametrize("model, right, wrong, missing", [("copies", 0.25, 0.75, 0), ("knows", 1, 0, 0),
                                                          ("counts", 0, 1, 0), ("leaves out", 0, 0, 1)])
def test_what_is_counted(monkeypatch, model, right, wrong, missing):
    """Three tails are wrong and alike, and four models read them; one leaves out what the tails disagree about."""
    truth = {tuple(TOKENIZER.encode(p.prompt)): p for p in SHEETS * 5}

    def answer(prompt):
        question, *tails = TOKENIZER.decode(prompt).removesuffix(GO).split(SEPARATOR)
        if model == "copies":
            return tails[0]
        if model == "knows":
            return truth[tuple(TOKENIZER.encode(question))].completion
        counted = [parts_of(tail) for tail in tails]
        said = {a: [own[a] for own in counted] for a in counted[0]}
        return "#" + "".join(a + (max(pairs, key=pairs.count) if model == "counts" or len(set(pairs)) == 1 else "?")
                             for a, pairs in said.items()) + "$"

    monkeypatch.setattr(planted_parts, "generate", lambda model, prompts, room, stop, seed: [
        TOKENIZER.encode(answer(prompt)) for prompt in prompts])
    found = planted_parts.outcomes(None, TOKENIZER, SHEETS * 5, 3, True)
    # 100 problems: a quarter, with a standard deviation of 0.043
    for key, share in (("right", right), ("wrong", wrong), ("missing", missing)):
        assert found[key] == pytest.approx(share, abs=0.15), key
    assert found["right"] + found["wrong"] + found["missing"] == pytest.approx(1)
    assert found["others"] == pytest.approx(1)
