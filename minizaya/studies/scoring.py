"""What texts are worth: accuracies with their standard errors, and votes, over whole answers and part by part."""

from ..data import tasks
from ..data.tasks import Problem
from ..data.tasks.sheet import parts_of
from ..infer.rsa import majority


def scored(asked: list[Problem], texts: list[list[str]]) -> dict:
    """What the texts about each problem are worth: their mean accuracy, its standard error over problems, and more."""
    shares = [mean([tasks.get(problem.task).verify(problem, text) for text in own])
              for problem, own in zip(asked, texts)]
    found, levels = summary(shares), sorted({problem.difficulty for problem in asked})
    if len(levels) > 1:
        found["by_level"] = {str(level): round(mean([share for share, problem in zip(shares, asked)
                                                     if problem.difficulty == level]), 4) for level in levels}
    if all(problem.task == "sheet" for problem in asked):
        found["parts"] = round(mean([mean([right_parts(problem, text) for text in own])
                                     for problem, own in zip(asked, texts)]), 4)
    return found


def voted(texts: list[str]) -> str:
    """The most frequent answer, written as one; "" if there is none. A trace that got to no answer does not vote."""
    answer = majority([answer_of(text) for text in texts])
    return tasks.CUE + answer + tasks.END if answer else ""


def voted_by_parts(texts: list[str]) -> str:
    """A list of which each part is the most frequent one under its letter, whatever traces it comes from. A trace that
    got to no answer has no parts; a letter that half of the others do not name, not even with `?`, is a slip."""
    lists = [answer for text in texts if (answer := answer_of(text)) is not None]
    sheets = [parts_of(tasks.CUE + answer) for answer in lists]
    letters = [a for a in sorted(set().union(*sheets)) if 2 * sum(a in answer for answer in lists) > len(lists)]
    return tasks.CUE + "".join(f"{a}{majority([sheet.get(a) for sheet in sheets])}" for a in letters) + tasks.END


def right_parts(problem: Problem, text: str) -> float:
    """The share of a sheet's parts that the list in the text has right."""
    given, wanted = parts_of(text), parts_of(problem.answer)
    return mean([given.get(letter) == value for letter, value in wanted.items()])


def answer_of(text: str) -> str | None:
    """The answer that a trace ends with, or None if it did not get there."""
    _, cue, answer = text.rpartition(tasks.CUE)
    return answer.removesuffix(tasks.END) if cue and answer.endswith(tasks.END) else None


def mean(values: list) -> float:
    return sum(values) / len(values)


def summary(shares: list[float]) -> dict:
    """Mean and standard error over problems."""
    average, n = mean(shares), len(shares)
    spread = (sum((share - average) ** 2 for share in shares) / max(1, n - 1)) ** 0.5
    return {"accuracy": round(average, 4), "stderr": round(spread / n**0.5, 4)}
