"""Questions with known answers: a file of them, in the layouts of public benchmarks, or problems of our own tasks.

A file holds one JSON object a line. Its fields say which layout it is:

    question, answer                        also `problem`, `prompt`, `expected_answer`, in any case: AIME, HMMT, GSM8K
    question, choices, answer               MMLU and MMLU-Pro (`options`), ARC (`answerKey`): letter, index or text
    Question, Correct Answer, Incorrect Answer 1 ..        GPQA; the choices are shuffled by the question's own text

An answer is a text, LaTeX or plain, or a number. Instruction checks (IFEval) are programs, not answers; they are left
to the library that has them, lm-eval (docs/evaluate.md).

Instead of a file: "task:copy:3" is our task `copy` at difficulty 3, held-out problems judged by the task's own
`verify`, and a name of `compare.SETTINGS` is that setting's problems. Their prompts go out as they stand.
"""

import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ...data import tasks
from ...data.tasks import Problem
from ...infer.rsa import RSAConfig
from .. import compare

ASK = "\n\nReason step by step, and put the final answer within \\boxed{}."
ASK_CHOICE = "\n\nReason step by step, and put the letter of the right choice within \\boxed{}."
QUESTION = ("question", "problem", "prompt")
ANSWER = ("answer", "expected_answer", "answerkey", "correct answer")
CHOICES = ("choices", "options")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Question:
    """prompt: what a model reads. kind: "answer", "choice" (the answer is a letter) or "task" (`problem` has it).

    copy: how many earlier questions have the same prompt; it gives them other chances.
    """

    prompt: str
    answer: str
    kind: str
    problem: Problem | None = None
    copy: int = 0


def read(source: str, number: int | None, seed: int, raw: bool) -> tuple[list[Question], RSAConfig | None, int | None]:
    """(questions, the Markovian RSA that goes with them, tokens that one answer needs); None where nothing is known.

    number: at most so many of a file, exactly so many of a task (None: 100). seed: of a task's problems. raw: a file's
    questions go out as they stand. Raises ValueError naming file, line and field, or what a task's name may be.
    """
    setting = compare.SETTINGS.get(source)
    if setting is not None or source.startswith("task:"):
        count = 100 if number is None else number
        if setting is not None:
            problems = setting.problems(count, seed)
            return numbered(map(of_task, problems)), setting.rsa, setting.rsa.beta
        problems = of_name(source, count, seed)
        room = max(len(problem.completion) for problem in problems)  # a character is a token of our small reasoners
        return numbered(map(of_task, problems)), None, room + room // 2
    questions = list(lines_of(Path(source), raw))[:number]
    if not questions:
        raise ValueError(f"questions: {source} holds none")
    return numbered(questions), None, None


def numbered(questions: Iterator[Question]) -> list[Question]:
    """The questions, copies of one prompt told apart."""
    seen: Counter = Counter()
    found = []
    for question in questions:
        found.append(replace(question, copy=seen[question.prompt]))
        seen[question.prompt] += 1
    return found


def of_name(source: str, number: int, seed: int) -> list[Problem]:
    """The problems of "task:NAME:DIFFICULTY"."""
    _, _, rest = source.partition(":")
    name, _, difficulty = rest.partition(":")
    if not difficulty.isdecimal():
        raise ValueError(f"questions must be a file, {', '.join(compare.SETTINGS)}, or task:NAME:DIFFICULTY such as "
                         f"task:copy:3, got {source!r}")
    return tasks.problems(name, "held_out", int(difficulty), number, seed)


def of_task(problem: Problem) -> Question:
    return Question(problem.prompt, problem.answer, "task", problem)


# ---- files -----------------------------------------------------------------------------------------------------------


def lines_of(path: Path, raw: bool) -> Iterator[Question]:
    """One question a line; empty lines are passed over. Raises ValueError naming the line and the field."""
    if not path.is_file():
        raise ValueError(f"questions must be a file of JSON lines, {', '.join(compare.SETTINGS)}, or "
                         f"task:NAME:DIFFICULTY, got {str(path)!r}")
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield question_of(json.loads(line), raw)
            except (ValueError, RecursionError) as error:  # no JSON, no text, or not what we can read
                raise ValueError(f"questions: {path}, line {number}: {error}") from None


def question_of(entry: object, raw: bool) -> Question:
    """One line's question. Raises ValueError naming the field."""
    if not isinstance(entry, dict):
        raise ValueError(f"must be an object, got {type(entry).__name__}")
    fields = {name.casefold(): value for name, value in entry.items()}
    if "instruction_id_list" in fields:
        raise ValueError("instruction_id_list: instructions are checked by programs; lm-eval has them, as its task "
                         "ifeval (docs/evaluate.md)")
    asked, _ = text_in(fields, QUESTION)
    choices = choices_of(fields)
    if choices is None:
        answer, _ = text_in(fields, ANSWER)
        return Question(asked if raw else asked + ASK, answer, "answer")
    texts, letter = choices
    listed = "".join(f"\n{name}. {text}" for name, text in zip(LETTERS, texts))
    return Question(asked + "\n" + listed + ("" if raw else ASK_CHOICE), letter, "choice")


def text_in(fields: dict, names: tuple[str, ...]) -> tuple[str, str]:
    """The first of these fields that is there, as a text, and its name. Raises ValueError for none, or one of another
    type."""
    name = next((name for name in names if fields.get(name) is not None), None)
    if name is None:
        raise ValueError(f"needs a field {' or '.join(names)}, got {', '.join(fields) or 'none'}")
    value = fields[name]
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = json.dumps(value)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} must be a text or a number, not an empty one, got {value!r:.80}")
    return value.strip(), name


def choices_of(fields: dict) -> tuple[list[str], str] | None:
    """(the choices' texts, the letter of the right one), or None where there are none to choose from.

    Raises ValueError naming the field.
    """
    if "correct answer" in fields:
        texts = [text_in(fields, ("correct answer", ))[0]]
        texts += [text_in(fields, (name, ))[0] for name in sorted(fields) if name.startswith("incorrect answer")]
        right, order = texts[0], list(texts)
        random.Random(text_in(fields, QUESTION)[0]).shuffle(order)
        return order, LETTERS[order.index(right)]
    name = next((name for name in CHOICES if fields.get(name)), None)
    if name is None:
        return None
    given, labels = fields[name], LETTERS
    if isinstance(given, dict):  # ARC
        given, labels = given.get("text"), given.get("label")
    listed = isinstance(given, list) and isinstance(labels, list | str) and 2 <= len(given) <= len(LETTERS)
    if not listed or not all(isinstance(text, str) for text in given):
        raise ValueError(f"{name} must be a list of 2 to 26 texts, got {given!r:.80}")
    answer, named = text_in(fields, ANSWER)
    places = [list(map(str, labels))[: len(given)], [str(i) for i in range(len(given))], given]
    place = next((names.index(answer) for names in places if answer in names), None)
    if place is None:
        raise ValueError(f"{named} must be a letter, an index or a text of {name}, got {answer!r:.80}")
    return given, LETTERS[place]
