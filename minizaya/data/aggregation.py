"""Aggregation examples: a problem, the ends of several attempts at it, and one good continuation.

    7a+9b*9c-4?|a7+9b6*9c4|+9b6*9c5-4|a7+9b6~      b6*9c4-4d0#0$
    the problem  three tails, of which one is     a good continuation: it takes up the furthest
                 wrong and one was cut off        right step that a tail reached, and goes on

Markovian RSA puts such prompts to a model at every round (`infer.rsa`), so a model should have met them. The report
builds them for SFT from several rollouts of a teacher, of which C are drawn and cut to their last tau tokens (section
VI). Here the rollouts are the model's own, made before the stage begins: its errors are the ones it will have to see
through. The continuation is written from the worked solution, where the report has a teacher write it.
"""

import random
import re
from collections.abc import Callable, Iterable

from .chat import Chat, Span
from .tasks import CUE, END, Problem, Task, get
from .tasks.sheet import united
from .tokenizer_base import Tokenizer

SEPARATOR, GO = "|", "~"   # before each tail; after the last one
# what ends a step; the other tasks' steps begin with a letter
STEP_END = {"sorting": ",", "countdown": "x", "falsify": "=", "invert": "x"}
TAU = (12, 64)                 # shortest and longest tau of an example
LENGTHS = {"sheet": (40, 90)}  # the same where an answer alone is longer than most tails
SEARCHES = ("countdown", "falsify", "invert")


def aggregation_text(prompt: str, tails: list[str]) -> str:
    """The prompt of an aggregation: problem, tails, go."""
    return prompt + "".join(SEPARATOR + tail for tail in tails) + GO


def steps(problem: Problem) -> list[str]:
    """The worked reasoning in pieces: its steps, or its tries where the task is a search. Joined, they are all."""
    reasoning = problem.reasoning.removesuffix(CUE)
    mark = STEP_END.get(problem.task)
    pieces = re.split(rf"(?<={re.escape(mark)})" if mark else "(?=[a-w])", reasoning)
    return [piece for piece in pieces if piece]


def continuation(problem: Problem, tails: list[str], overlap: int = 2) -> str:
    """What a model should write after these tails: a completion that ends with a right answer, but for a sheet.

    A search is over when a tail holds a right answer: write the try that found it once more, and the answer. Else start
    the search afresh. A calculation goes on from the furthest right step that any tail reached, written once more with
    `overlap` - 1 steps before it, so that the border between old and new is a step like any other. A sheet goes through
    all its parts once more, what the tails found first; its list may still lack some.
    """
    if problem.task == "sheet":
        return united(problem, tails)
    task, pieces = get(problem.task), steps(problem)
    if problem.task in SEARCHES:
        found = [solved for tail in tails if (solved := winning_try(task, problem, tail))]
        return found[0] if found else problem.completion
    # the last step is compared without what follows it, so a tail may end right there
    reached = [i for i, piece in enumerate(pieces) if any(piece in tail for tail in tails)]
    start = max(0, (reached[-1] if reached else 0) + 1 - overlap)
    return "".join(pieces[start:]) + CUE + problem.answer + END


def winning_try(task: Task, problem: Problem, tail: str) -> str | None:
    """The last try in a tail that ends with a right answer, together with that answer; None if there is none."""
    if END not in tail or CUE not in tail or not task.verify(problem, tail):
        return None
    return tail.rpartition(STEP_END[problem.task])[2]


def aggregation_documents(records: list[dict], tokenizer: Tokenizer, most: int = 4,
                          lengths: tuple[int, int] = TAU) -> Callable[[random.Random], Chat]:
    """Draws aggregation examples, prompts untrained.

    Args:
        records: problems with rollouts, `{"task", "difficulty", "number", "rollouts": [text, ...]}`, where
            `tasks.get(task).generate(number, difficulty)` is the problem.
        most: the largest C; an example has 1 to `most` tails. lengths: the shortest and the longest tau.
    Raises ValueError for records that are empty or hold fewer than `most` rollouts.
    """
    if not records or min(len(record["rollouts"]) for record in records) < most:
        raise ValueError(f"records must hold problems with at least {most} rollouts each")

    def draw(rng: random.Random) -> Chat:
        record = rng.choice(records)
        problem = get(record["task"]).generate(record["number"], record["difficulty"])
        rollouts = rng.sample(record["rollouts"], rng.randint(1, most))
        tails = spoiled_tails(rollouts, rng, LENGTHS.get(problem.task, lengths))
        reasoning, _, answer = continuation(problem, tails).rpartition(CUE)
        return spans_chat((("prompt", aggregation_text(problem.prompt, tails), False),
                           ("reasoning", reasoning, True), ("answer", CUE + answer, True)), tokenizer)

    return draw


def spoiled_tails(rollouts: list[str], rng: random.Random, lengths: tuple[int, int] = TAU) -> list[str]:
    """What an example shows of these rollouts: all cut to one tau, drawn from `lengths`, and some spoiled."""
    return [spoiled(tail, rng) for tail in cut_off(rollouts, rng.randint(*lengths), rng)]


def cut_off(rollouts: list[str], tau: int, rng: random.Random) -> list[str]:
    """The last `tau` characters of each rollout, after a budget has cut all of them at about the same place.

    Half of the time no budget cuts. Else it is drawn between a step's length and the longest rollout, and moves by a
    few characters from one rollout to the next, as budgets do after a round that began at different places.
    """
    longest = max(map(len, rollouts))
    if rng.random() < 0.5:
        cuts = [longest] * len(rollouts)
    else:
        budget = rng.randint(min(8, longest), longest)
        cuts = [max(4, budget + rng.randint(-8, 8)) for _ in rollouts]
    return [rollout[:cut][-tau:] for rollout, cut in zip(rollouts, cuts)]


def spoiled(tail: str, rng: random.Random) -> str:
    """One tail in five gets one to three wrong digits.

    A good model's rollouts are seldom wrong. Then copying any one tail would do, and comparing them is never learned.
    """
    digits = [i for i, character in enumerate(tail) if character.isdigit()]
    if not digits or rng.random() >= 0.2:
        return tail
    letters = list(tail)
    for i in rng.sample(digits, min(len(digits), rng.randint(1, 3))):
        letters[i] = rng.choice("0123456789")
    return "".join(letters)


def problem_chat(problem: Problem, tokenizer: Tokenizer) -> Chat:
    """A worked problem, ready for trimming: prompt (untrained), reasoning, and the cue with answer and end mark."""
    return solution_chat(problem, problem.reasoning.removesuffix(CUE), problem.answer, tokenizer)


def solution_chat(problem: Problem, reasoning: str, answer: str, tokenizer: Tokenizer) -> Chat:
    """The same with another way to answer it, its cue left out."""
    return spans_chat((("prompt", problem.prompt, False), ("reasoning", reasoning, True),
                       ("answer", CUE + answer + END, True)), tokenizer)


def spans_chat(pieces: Iterable[tuple[str, str, bool]], tokenizer: Tokenizer) -> Chat:
    """A `Chat` of one prompt and one reply, from (kind, text, trained) pieces."""
    tokens, loss_mask, spans = [], [], []
    for kind, text, trained in pieces:
        ids = tokenizer.encode(text)
        spans.append(Span(kind, int(kind != "prompt"), len(tokens), len(tokens) + len(ids), trained))
        tokens += ids
        loss_mask += [trained] * len(ids)
    return Chat(tokens, loss_mask, tuple(spans))
