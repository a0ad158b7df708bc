"""Planted wrong tails: what is planted, and what is counted."""

import random
import re

import pytest

from minizaya.data import tasks, text
from minizaya.data.aggregation import GO, SEPARATOR, steps
from minizaya.data.tokenizer import CharTokenizer
from minizaya.studies.aggregation import planted

TOKENIZER = CharTokenizer(text.ALPHABET, unknown="unk")
CHAINS = tasks.problems("chain100", "held_out", 20, 20, 0)


@pytest.mark.parametrize("kind", planted.KINDS)
@pytest.mark.parametrize("wrong", range(5))
def test_so_many_tails_are_wrong_each_in_its_way(wrong, kind):
    for seed, problem in enumerate(CHAINS):
        shown = planted.tails(problem, wrong, kind, 24, random.Random(seed))
        assert len(shown) == 4 and all(len(tail) == 24 and re.fullmatch("[a-z][0-9]{2}", tail[-3:]) for tail in shown)
        assert len({tail[-3] for tail in shown}) == 1, "all end before the same step"
        letter = ord(shown[0][-3]) - ord("a")
        assert 20 // 2 <= letter <= 20 - 2
        right = "".join(steps(problem))[: 5 * letter + 3][-24:]
        bad = [tail for tail in shown if tail != right]
        assert len(bad) == wrong and all(tail[-2:] != right[-2:] for tail in bad)
        assert len({tail[-2:] for tail in bad}) == (min(wrong, 1) if kind == "consistent" else wrong)
        if kind == "last":
            assert all(tail[:-2] == right[:-2] for tail in bad)
        else:  # one calculation without a slip, from a number that was wrong before
            for tail in bad:
                pairs = re.findall(r"(?=([a-z])(\d\d)([+*-])(\d)[a-z](\d\d))", tail)
                assert len(pairs) == 4
                assert all({"+": int(a) + int(d), "-": int(a) - int(d), "*": int(a) * int(d)}[sign] % 100 == int(b)
                           for _, a, sign, d, b in pairs)


def test_a_wrong_tail_may_stand_anywhere():
    places = set()
    for seed in range(40):
        shown = planted.tails(CHAINS[0], 1, "last", 24, random.Random(seed))
        places.add([shown.count(tail) for tail in shown].index(1))
    assert places == {0, 1, 2, 3}


@pytest.mark.parametrize("bad, says", [(dict(wrong=-1, kind="last"), "wrong must lie in 0..4, got -1"),
                                       (dict(wrong=5, kind="last"), "wrong must lie in 0..4, got 5"),
                                       (dict(wrong=1, kind="rare"), "kind must be one of .* got 'rare'")])
def test_what_cannot_be_planted_is_refused(bad, says):
    with pytest.raises(ValueError, match=says):
        planted.tails(CHAINS[0], tau=24, rng=random.Random(0), **bad)


def test_right_answers_are_counted(monkeypatch):
    """Of a model that knows every third problem a third is right; and each prompt is a question with its four tails."""
    seen = []

    def generate(model, prompts, room, stop, seed):
        seen.extend(TOKENIZER.decode(prompt) for prompt in prompts)
        return [TOKENIZER.encode(problem.completion if i % 3 == 0 else "#00$") for i, problem in enumerate(CHAINS[:9])]

    monkeypatch.setattr(planted, "generate", generate)
    others = [problem for problem in CHAINS[:9] if problem.answer != "00"]
    assert len(others) == 9 and planted.planted(None, TOKENIZER, CHAINS[:9], 2, "last") == pytest.approx(1 / 3)
    for prompt, problem in zip(seen, CHAINS):
        question, *shown = prompt.removesuffix(GO).split(SEPARATOR)
        assert question == problem.prompt and len(shown) == 4 and len(set(shown)) == 3 and prompt.endswith(GO)
