"""Aggregation examples: the continuation is right, takes up what the tails reached,
and the prompt holds just the tails."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minizaya.data import tasks, text
from minizaya.data.aggregation import (
    GO,
    SEARCHES,
    SEPARATOR,
    aggregation_documents,
    aggregation_text,
    continuation,
    cut_off,
    problem_chat,
    spoiled,
    steps,
    winning_try,
)
from minizaya.data.tasks.sheet import united
from minizaya.data.tokenizer import CharTokenizer
from minizaya.data.trim import cut
from minizaya.rl.generator import draw_aggregation

TOKENIZER = CharTokenizer(text.ALPHABET, unknown="unk")


@st.composite
def problems(draw, names=None):
    task = tasks.get(draw(st.sampled_from(names or tasks.names())))
    return task.generate(draw(st.integers(0, 10**6)), draw(st.integers(1, task.max_difficulty)))


@settings(max_examples=200, deadline=None)
@given(problems([name for name in tasks.names() if name != "sheet"]), st.data())
def test_continuation_is_right_and_a_suffix(problem, data):
    """Whatever the tails, what the model should write ends with a right answer; not so of a sheet (test_tasks)."""
    cuts = data.draw(st.lists(st.integers(1, len(problem.completion)), min_size=1, max_size=4))
    tau = data.draw(st.integers(1, 80))
    tails = [problem.completion[:end][-tau:] for end in cuts]
    told = continuation(problem, tails)
    assert tasks.get(problem.task).verify(problem, told) == 1
    if problem.task in SEARCHES:
        assert told == problem.completion or any(tail.endswith(told) for tail in tails)
    else:
        assert problem.completion.endswith(told)


@settings(max_examples=200, deadline=None)
@given(problems())
def test_steps_are_the_reasoning(problem):
    assert "".join(steps(problem)) + tasks.CUE == problem.reasoning


@settings(max_examples=150, deadline=None)
@given(problems(("addition", "chain100", "copy", "modchain", "parity", "reverse", "sorting")), st.data())
def test_continuation_takes_up_the_furthest_step(problem, data):
    """A right tail that ends after step i: go on from step i - 1. A wrong one beside it changes nothing."""
    pieces = steps(problem)
    i = data.draw(st.integers(0, len(pieces) - 1))
    tail = "".join(pieces[: i + 1])
    wanted = "".join(pieces[max(0, i - 1):]) + tasks.CUE + problem.answer + tasks.END
    assert continuation(problem, [tail]) == wanted
    assert continuation(problem, ["".join(pieces[:1]), tail, "~~~"]) == wanted
    assert continuation(problem, ["~~~"]) == problem.completion


@settings(max_examples=100, deadline=None)
@given(problems(SEARCHES))
def test_a_solved_search_is_not_searched_again(problem):
    """The try that found it, and the answer: even if the tail holds no more than that."""
    told = continuation(problem, ["junk", problem.completion])
    assert problem.completion.endswith(told)
    assert told == steps(problem)[-1] + tasks.CUE + problem.answer + tasks.END
    wrong = problem.completion.replace(tasks.END, "")  # it ran out of budget right before its end
    assert winning_try(tasks.get(problem.task), problem, wrong) is None


def test_prompt_is_problem_tails_go():
    assert aggregation_text("1+2?", ["ab", "", "c"]) == "1+2?|ab||c~"
    for task in tasks.names():  # the marks must not be part of any task
        worked = tasks.get(task).generate(0, 1).text
        assert SEPARATOR not in worked and GO not in worked


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text("ab", min_size=1, max_size=90), min_size=1, max_size=5), st.integers(1, 70), st.integers(0, 99))
def test_cut_off_gives_suffixes_of_prefixes(rollouts, tau, seed):
    tails = cut_off(rollouts, tau, random.Random(seed))
    assert len(tails) == len(rollouts)
    for tail, rollout in zip(tails, rollouts):
        assert len(tail) <= tau and tail in rollout


def test_documents_are_drawn_from_records():
    records = []
    for number, name in enumerate(tasks.names()):
        problem = tasks.get(name).generate(number, 2)
        rollouts = [problem.completion, problem.completion[:5], "?!" * 9, problem.completion]
        records.append(dict(task=name, difficulty=2, number=number, rollouts=rollouts))
    draw = aggregation_documents(records, TOKENIZER)
    for seed in range(50):
        chat = draw(random.Random(seed))
        assert chat == draw(random.Random(seed))
        whole = TOKENIZER.decode(chat.tokens)
        prompt, trained = whole.split(GO)
        assert 1 <= prompt.count(SEPARATOR) <= 4
        assert trained.endswith(tasks.END)
        assert TOKENIZER.decode([t for t, flag in zip(chat.tokens, chat.loss_mask) if flag]) == trained
    for bad in [], [dict(records[0], rollouts=["a"])]:
        with pytest.raises(ValueError, match="records"):
            aggregation_documents(bad, TOKENIZER)


def test_tails_of_a_sheet_may_hold_its_whole_answer():
    """A list of 24 parts has up to 72 characters; tails of at most 64 would nearly always lose its beginning."""
    problem = tasks.get("sheet").generate(0, 24)
    records = [dict(task="sheet", difficulty=24, number=0, rollouts=[problem.completion] * 4)]
    lengths = [len(tail) for seed in range(60) for tail in
               TOKENIZER.decode(aggregation_documents(records, TOKENIZER)(random.Random(seed)).tokens)
               .split(GO)[0].split(SEPARATOR)[1:]]
    assert 85 < max(lengths) <= 90 and min(lengths) <= 60
    tails = ["#a?$", problem.completion[-30:]]
    assert continuation(problem, tails) == united(problem, tails) != continuation(problem, tails[:1])


@settings(max_examples=100, deadline=None)
@given(problems(), st.data())
def test_a_trimmed_problem_keeps_its_answer(problem, data):
    chat = problem_chat(problem, TOKENIZER)
    assert TOKENIZER.decode(chat.tokens) == problem.text
    answer = tasks.CUE + problem.answer + tasks.END
    least = len(problem.prompt) + len(answer)
    budget = data.draw(st.integers(least, len(problem.text) + 3))
    trimmed = cut(chat, budget)
    shown = TOKENIZER.decode(trimmed.tokens)
    assert len(shown) == min(budget, len(problem.text))
    assert shown.startswith(problem.prompt) and shown.endswith(answer)
    assert problem.text.startswith(shown.removesuffix(answer))
    assert cut(chat, least - 1) is None


# ---- shares of the mixtures ------------------------------------------------------------------------------------------


def near(count, share, of):
    """Within four standard deviations of a coin with that share."""
    return abs(count - share * of) < 4 * (share * (1 - share) * of) ** 0.5


def test_one_tail_in_five_is_spoiled():
    rng, tail = random.Random(0), "123456789" * 4
    found = [spoiled(tail, rng) for _ in range(4000)]
    changed = [sum(a != b for a, b in zip(tail, other)) for other in found]
    assert all(len(other) == len(tail) and other.isdigit() for other in found) and max(changed) == 3
    # of 1, 2 or 3 digits drawn anew, each is another one nine times in ten
    assert near(sum(n > 0 for n in changed), 0.2 * (0.9 + 0.99 + 0.999) / 3, 4000)
    assert spoiled("a+b", rng) == "a+b" and spoiled("", rng) == ""


def test_half_of_the_time_no_budget_cuts():
    rng, rollouts = random.Random(1), ["x" * 200, "y" * 150]
    whole = sum(list(map(len, cut_off(rollouts, 500, rng))) == [200, 150] for _ in range(4000))
    assert 1900 <= whole <= 2200    # a budget drawn so high that it cuts neither adds one or two in a hundred


def test_tails_and_their_lengths_are_drawn_evenly():
    problem = tasks.get("copy").generate(1, 3)
    records = [dict(task="copy", difficulty=3, number=1, rollouts=["z" * 300] * 5)]
    draw, rng = aggregation_documents(records, TOKENIZER, most=3, lengths=(5, 7)), random.Random(2)
    counts, taus = [0] * 4, [0] * 9
    for _ in range(1500):
        tails = TOKENIZER.decode(draw(rng).tokens).partition(GO)[0].removeprefix(problem.prompt).split(SEPARATOR)[1:]
        counts[len(tails)] += 1
        taus[max(map(len, tails))] += 1
    assert counts[0] == 0 and all(near(count, 1 / 3, 1500) for count in counts[1:])
    assert sum(taus[5:8]) >= 1490 and all(abs(count - 500) < 90 for count in taus[5:8])


def test_an_experts_tails_and_ones_own_take_turns():
    problem = tasks.get("modchain").generate(3, 12)
    records = [{"task": "modchain", "difficulty": 12, "number": 3, "rollouts": [problem.completion] * 5}]
    rng = random.Random(3)
    drawn = [draw_aggregation(records, rng) for _ in range(1200)]
    assert near(sum(asked["kind"] == "own tails" for asked in drawn), 0.5, 1200)
    counts = [asked["prompt"].count(SEPARATOR) for asked in drawn]
    assert set(counts) == {1, 2, 3, 4} and all(near(counts.count(n), 0.25, 1200) for n in (1, 2, 3, 4))


def test_a_cut_leaves_a_steps_length():
    """However low the budget and whatever moves it: four characters at least, unless there are fewer."""
    for rollouts in (["x" * 9, "y" * 12], ["x" * 60], ["ab"]):
        tails = [tail for seed in range(200) for tail in cut_off(rollouts, 90, random.Random(seed))]
        assert min(map(len, tails)) == min(4, *map(len, rollouts))
