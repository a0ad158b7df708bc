"""How alike two answers are, or an answer and the library's text: reported, never judged. Short answers are left out,
for there is one way to write them.

The measure: the runs of four tokens that both have, of those that one of them has (Jaccard). Comments, docstrings and
line breaks do not count, nor what the stub brings.
"""

import contextlib
import inspect
import io
import tokenize
from itertools import combinations
from pathlib import Path

from .. import laws
from .notebook import document
from .submissions import Submission
from .table import lessons

RUN, LEAST, ALIKE = 4, 30, 0.8      # tokens of a run; runs of an answer that is long enough; the share to report
SILENT = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING)
LESSONS = Path(__file__).resolve().parents[2] / "lessons"


def runs(source: str) -> set[tuple[str, ...]]:
    """The runs of tokens in a piece of Python; of broken Python those before the break."""
    words, first = [], True
    with contextlib.suppress(tokenize.TokenError, SyntaxError, ValueError):
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if not (token.type in SILENT or first and token.type == tokenize.STRING):
                words.append(token.string)
            first = token.type in SILENT       # a text that stands alone in its line is a docstring
    return set(zip(*(words[i:] for i in range(RUN))))


def alike(done: list[tuple[Submission, dict]]) -> list[dict]:
    """{"lesson", "exercise", "student", "like", "share"}, the most alike first. like: another student, "the library's
    f", or "the lesson's answer" where the lessons are beside the package."""
    answers: dict[tuple[str, str], dict[str, set]] = {}
    for one, result in done:
        stubs = {exercise["id"]: runs(exercise["stub"]) for exercise in lessons()[one.lesson]["exercises"]}
        for name, verdict in result["exercises"].items():
            own = runs(verdict["source"]) - stubs[name]
            if len(own) >= LEAST:
                answers.setdefault((one.lesson, name), {})[one.student] = own
    found = []
    for (lesson, name), by in answers.items():
        known = texts(lesson, name)
        pairs = [*combinations(sorted(by), 2), *((student, where) for student in sorted(by) for where in known)]
        for student, other in pairs:
            own, theirs = by[student], by[other] if other in by else known[other]
            share = len(own & theirs) / len(own | theirs)
            if share >= ALIKE:
                found.append({"lesson": lesson, "exercise": name, "student": student, "like": other,
                              "share": round(share, 2)})
    return sorted(found, key=lambda row: -row["share"])


def texts(lesson: str, name: str) -> dict[str, set]:
    """What a student may have read: the functions that the exercise's laws guard, and the folded answer."""
    exercise = next(exercise for exercise in lessons()[lesson]["exercises"] if exercise["id"] == name)
    stub, known = runs(exercise["stub"]), {}
    for law in exercise["laws"]:
        for function in laws.get(law).guards:
            with contextlib.suppress(OSError, TypeError):
                known[f"the library's {function.__name__}"] = runs(inspect.getsource(inspect.unwrap(function))) - stub
    with contextlib.suppress(ValueError):
        for cell in document(LESSONS / f"{lesson}.ipynb")["cells"]:
            if f"answer:{name}" in cell.get("metadata", {}).get("tags", []):
                answer = cell["source"].partition("```python\n")[2].partition("```")[0]
                known["the lesson's answer"] = runs(answer) - stub
    return known
