"""What a text answers, and whether that is right.

An answer stands in the last \\boxed{}, or behind the last "answer is" or "answer:", after the reasoning; a text that
was cut off while reasoning has none. Small reasoners write it between "#" and "$". All of this is found in one pass,
however long the text.

Two answers are compared exactly, or by math-verify where that is installed: then 1/2, 0.5 and \\frac{1}{2} are one
number. Exactly means as texts, without blanks and dollars, and integers by their value, so that 070 is 70.

trap: math-verify reads LaTeX with sympy, and sympy hands numerals to Python's `eval`. It computes what it reads, so
`9^{9^9}` would keep it busy for hours, and its own time limit, a signal, cannot stop one long multiplication. So it
runs in another process, `math_judge`, whose `eval` knows numerals only, with a limit to its memory, and is ended from
here when it takes too long. What is longer than any answer is compared exactly.
"""

import json
import re
import subprocess
import sys
import threading
from importlib import metadata
from pathlib import Path

from ...data import tasks
from .. import scoring
from .questions import Question

LONGEST = 500   # characters of an answer that math-verify gets to see
SECONDS = 5.0   # for one comparison
INTEGER = re.compile(r"[+-]?[0-9]{1,100}")


def answer_of(question: Question, text: str) -> str | None:
    """The answer that a text gives to this question; None where it gives none."""
    marked = scoring.answer_of(text)
    if question.kind == "task":
        return marked
    text = said(text)
    found = boxed(text) or behind(text, ("answer is", "answer:")) or marked
    if found is None or question.kind != "choice":
        return found
    letter = re.search(r"(?<![A-Za-z])([A-Z])(?![A-Za-z])", found[:LONGEST])  # "B", "(B)", "\\text{B}", "B. seven"
    return letter[1] if letter else None


def said(text: str) -> str:
    """What follows the reasoning; "" where that was cut off."""
    _, end, rest = text.rpartition("</think>")
    return rest if end else "" if text.lstrip().startswith("<think>") else text


def boxed(text: str) -> str | None:
    """What the last \\boxed{...} holds, braces in it paired. None where there is none, or one that does not end."""
    start = text.rfind("\\boxed{")
    depth, first = 0, start + len("\\boxed{")
    for place in re.finditer(r"\\.|[{}]", text[first:], re.DOTALL) if start >= 0 else ():
        depth += {"{": 1, "}": -1}.get(place[0], 0)
        if depth < 0:
            return text[first: first + place.start()].strip()
    return None


def behind(text: str, words: tuple[str, ...]) -> str | None:
    """The rest of the line behind the last of these words, without a full stop and asterisks."""
    lower = text.lower()
    place = max(lower.rfind(word) + len(word) if word in lower else -1 for word in words)
    rest = text[place:].strip(" *:\t") if place >= 0 else ""
    line = rest.partition("\n")[0].strip(" *").removesuffix(".")
    return line or None


def plain(answer: str) -> str:
    """An answer as it is compared exactly."""
    answer = re.sub(r"\s+", "", answer).strip("$").removeprefix("\\(").removesuffix("\\)").removesuffix(".")
    number = answer.replace(",", "") if re.fullmatch(r"[+-]?\d{1,3}(,\d{3})*", answer) else answer
    return str(int(number)) if INTEGER.fullmatch(number) else answer


class Judge:
    """Compares answers: by math-verify where it is installed and `exact` is not wanted, else exactly.

    Use it in a `with` block, which ends the other process. Attributes: name (how it compares), stopped (comparisons
    that took too long, or broke their process: they count as unequal).
    """

    def __init__(self, exact: bool = False):
        self.known: dict[tuple[str, str], bool] = {}
        self.process, self.stopped, self.name = None, 0, "exactly"
        if not exact:
            try:
                self.name = f"math-verify {metadata.version('math-verify')}"
            except metadata.PackageNotFoundError:
                pass

    def __enter__(self) -> "Judge":
        return self

    def __exit__(self, *error) -> None:
        self.end()

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def right(self, question: Question, text: str) -> bool:
        """Does this text answer the question rightly? Never raises on any text."""
        if question.kind == "task":
            return bool(tasks.get(question.problem.task).verify(question.problem, text))
        answer = answer_of(question, text)
        return answer is not None and self.same(question, question.answer, answer)

    def same(self, question: Question, gold: str, answer: str) -> bool:
        """Are two answers to this question one?"""
        if question.kind != "answer":
            return gold == answer
        gold, answer = plain(gold), plain(answer)
        integers = INTEGER.fullmatch(gold) and INTEGER.fullmatch(answer)
        if gold == answer or integers or self.name == "exactly" or max(len(gold), len(answer)) > LONGEST:
            return gold == answer
        if (gold, answer) not in self.known:
            self.known[gold, answer] = self.compared(gold, answer)
        return self.known[gold, answer]

    def compared(self, gold: str, answer: str) -> bool:
        """What the other process says, if it says so in time."""
        if self.process is None:
            self.process = subprocess.Popen([sys.executable, str(Path(__file__).with_name("math_judge.py"))],
                                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                            text=True, encoding="utf-8")
            self.process.stdout.readline()  # it has read its library: the time begins to count
        late = threading.Timer(SECONDS, self.process.kill)
        late.start()
        try:
            print(json.dumps([gold, answer]), file=self.process.stdin, flush=True)
            word = self.process.stdout.readline()
        except OSError:
            word = ""
        late.cancel()
        if word not in ("yes\n", "no\n"):
            self.stopped += 1
            self.end()
        return word == "yes\n"

    def vote(self, question: Question, texts: list[str]) -> str | None:
        """The answer that most texts give, of equals the one given first; answers that are the same vote together."""
        groups: list[list] = []  # [answer, votes]
        for answer in filter(None, (answer_of(question, text) for text in texts)):
            group = next((group for group in groups if self.same(question, group[0], answer)), None)
            if group:
                group[1] += 1
            else:
                groups.append([answer, 1])
        return max(groups, key=lambda group: group[1])[0] if groups else None

    def voted(self, question: Question, texts: list[str]) -> bool:
        """Is the vote's answer right?"""
        answer = self.vote(question, texts)
        if answer is None or question.kind != "task":
            return answer is not None and self.same(question, question.answer, answer)
        return self.right(question, tasks.CUE + answer + tasks.END)


