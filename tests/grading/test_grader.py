"""`minizaya grade`: no cheat earns a mark or ends the report, and honest notebooks, odd ones too, are judged right."""

import csv
import json
import os
import shutil
from dataclasses import replace

import nbformat
import pytest

from cheats import BEYOND, HANG, HOSTILE, SIGNATURE, WRONG
from lesson_tools import LESSONS, PATHS, read, solved
from minizaya.grading import report, submissions
from minizaya.grading.judge import Limits

NAME = "13_router_replay"
RIGHT = SIGNATURE + "    gap = logp - logp_rollout\n    return (gap.exp() - 1 - gap).mean()\n"
USES_HELPER = SIGNATURE + "    gap = difference(logp, logp_rollout)\n    return (gap.exp() - 1 - gap).mean()\n"
HELPER = "def difference(a, b):\n    return a - b"
LIMITS = Limits(seconds=60, whole=120, memory=2**30)
BRIEF = Limits(seconds=2, whole=10, memory=2**30)       # for what hangs; a busy machine makes nothing of it right


def cell(source, *tags, kind="code"):
    return {"cell_type": kind, "source": source, "metadata": {"tags": list(tags)}, "outputs": []}


def notebook(answer, *between, above=(), tag="exercise:k3"):
    """Lesson 13 with an answer to k3; cells above it, and between it and its check."""
    lesson = json.loads((LESSONS / f"{NAME}.ipynb").read_text(encoding="utf-8"))
    place = next(i for i, c in enumerate(lesson["cells"]) if "exercise:k3" in c["metadata"].get("tags", []))
    own = cell(answer, tag) if isinstance(answer, str) else answer
    own = own if isinstance(own, list) else [own]
    lesson["cells"][place: place + 1] = [*map(cell, above), *own, *map(cell, between)]
    return lesson


def below(first, lesson):
    """The lesson with a new first cell."""
    return lesson | {"cells": [cell(first), *lesson["cells"]]}


def stub():
    return next(e["stub"] for e in report.lessons()[NAME]["exercises"] if e["id"] == "k3")


def without_checks(lesson):
    return lesson | {"cells": [c for c in lesson["cells"] if "laws.check" not in "".join(c["source"])]}


HONEST = {      # name -> (notebook, verdict of k3)
    "right": (lambda: notebook(RIGHT), "passed"),
    "untouched": (lambda: notebook(stub()), "open"),
    "ellipsis": (lambda: notebook(SIGNATURE + "    ..."), "wrong"),
    "no return": (lambda: notebook(SIGNATURE + "    (logp - logp_rollout).exp()"), "wrong"),
    "wrong": (lambda: notebook(SIGNATURE + "    return (logp - logp_rollout).mean()"), "wrong"),
    "a helper above": (lambda: notebook(USES_HELPER, above=[HELPER]), "passed"),
    "a helper of a helper, later first": (lambda: notebook(
        USES_HELPER, above=["def difference(a, b):\n    return less(a, b)", "def less(a, b):\n    return a - b"]),
        "passed"),
    "a helper between stub and check": (lambda: notebook(USES_HELPER, HELPER), "passed"),
    "an import in a cell of its own": (lambda: notebook(
        SIGNATURE + "    gap = (logp - logp_rollout).numpy()\n    return torch.tensor(np.mean(np.exp(gap) - 1 - gap))",
        above=["import numpy as np"]), "passed"),
    "imports in a new first cell": (lambda: below("import os", notebook(RIGHT)), "passed"),
    "a magic in a new first cell": (lambda: below("%matplotlib inline\n%time", notebook(RIGHT)), "passed"),
    "magics around": (lambda: notebook(
        "%%time\n%timeit 1\n!ls\n" + RIGHT + "\nmy_k3?\nfiles = !ls\nif files:\n    %time x = 1", "%timeit my_k3(1, 2)",
        "%%bash\nrm -rf /\nif then", above=["%%writefile x.py\nthis is no python"]), "passed"),
    "a percent that is none": (lambda: notebook(
        SIGNATURE + "    text = '''\n%timeit 1\n'''\n    gap = logp - logp_rollout\n    x = (len(text)\n    % 7)\n"
        "    return (gap.exp() - 1 - gap).mean()"), "passed"),
    "a scratch cell under a stub": (lambda: notebook(stub(), "print('hello')"), "open"),
    "a scratch cell that fails": (lambda: notebook(RIGHT, "my_k3(1, 2)\nnot_there"), "passed"),
    "a cell that exits": (lambda: notebook(RIGHT, above=["import sys\nsys.exit('bye')"]), "passed"),
    "written below the stub": (lambda: notebook(stub(), RIGHT), "passed"),
    "the cell split in two": (lambda: notebook(
        [cell("import math", "exercise:k3"), cell(RIGHT, "exercise:k3")]), "passed"),
    "a lost tag": (lambda: notebook(RIGHT, tag="other"), "passed"),
    "a dial turned elsewhere": (lambda: notebook(RIGHT, above=["import time\nfigure = time.sleep(1000)"]), "passed"),
    "a constant": (lambda: notebook(RIGHT.replace("1", "table[2]"), above=["table = {}", "table[2] = 1"]), "passed"),
    "a dataclass": (lambda: notebook(
        "from dataclasses import dataclass\n@dataclass\nclass Gap:\n    of: object\n" + SIGNATURE
        + "    gap = Gap(logp - logp_rollout).of\n    return (gap.exp() - 1 - gap).mean()"), "passed"),
    "raises": (lambda: notebook(SIGNATURE + "    return logp / (1 / 0)"), "wrong"),
    "no Python": (lambda: notebook("def my_k3(logp:"), "wrong"),
    "gone": (lambda: notebook("", tag="other"), "wrong"),
    "in place": (lambda: notebook(RIGHT.replace("logp - logp_rollout", "logp.sub_(logp_rollout)")), "wrong"),
    "renamed, without checks": (lambda: without_checks(notebook(RIGHT)), "passed"),
    "renamed, wrong, without checks": (lambda: without_checks(notebook(WRONG)), "wrong"),
    "outputs marked as passed": (lambda: notebook(cell(SIGNATURE + "    return logp.sum()", "exercise:k3") | {
        "outputs": [{"output_type": "stream", "name": "stdout", "text": "✔ rl.k3"}]}), "wrong"),
    "a lambda": (lambda: notebook(
        "my_k3 = lambda logp, logp_rollout: ((logp - logp_rollout).exp() - 1 - (logp - logp_rollout)).mean()"),
        "passed"),
    "decorated": (lambda: notebook("@torch.no_grad()\n" + RIGHT), "passed"),
    "annotations of the future": (lambda: notebook(
        "from __future__ import annotations\n" + RIGHT.replace("logp,", "logp: Nowhere,")), "passed"),
    "lines that end as on Windows": (lambda: notebook(RIGHT.replace("\n", "\r\n")), "passed"),
    "threads of its own": (lambda: notebook(
        "from concurrent.futures import ThreadPoolExecutor\n" + SIGNATURE + "    with ThreadPoolExecutor(2) as pool:\n"
        "        gap, = pool.map(torch.sub, [logp], [logp_rollout])\n    return (gap.exp() - 1 - gap).mean()"),
        "passed"),
    "a file beside it": (lambda: notebook("from mine import difference\n" + USES_HELPER), "passed"),
}

FILES = {"empty": "", "spaces": "  \n", "cut off": '{"cells": [{"cell_ty', "text": "hello", "a list": "[]",
         "no cells": "{}", "odd cells": '{"cells": [3, null, {"source": 5}]}', "deep": "[" * 100_000,
         "bytes": b"\xff\xfe\x00",
         "table of cells": '{"cells": {}}',
         "odd metadata": '{"cells": [{"cell_type": "code", "metadata": [], "source": []}]}',
         "brackets": json.dumps({"cells": [{"cell_type": "code", "metadata": {}, "source": "(" * 100_000}]})}

NO_FILES = {"a link to nowhere": lambda path: path.symlink_to("gone.ipynb"), "a pipe": os.mkfifo,
            "a link to itself": lambda path: path.symlink_to(path.name)}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """All of them, in one folder, graded once: student -> the verdicts of their notebook."""
    folder = tmp_path_factory.mktemp("class")

    def hand_in(student, content, name=NAME):
        (folder / student).mkdir()
        path = folder / student / f"{name}.ipynb"
        content = json.dumps(content) if isinstance(content, dict) else content
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    for student, (make, _) in HONEST.items():
        hand_in(student, make(), "homework" if student.startswith("renamed") else NAME)
    (folder / "a file beside it" / "mine.py").write_text(HELPER)
    for student, content in FILES.items():
        hand_in(f"file: {student}", content)
    for student, make in NO_FILES.items():
        (folder / f"file: {student}").mkdir()
        make(folder / f"file: {student}" / f"{NAME}.ipynb")
    for student, answer in HOSTILE.items():
        path = hand_in(f"cheat: {student}", {})
        path.write_text(json.dumps(notebook(answer.replace("HERE", repr(str(path))))))
    shutil.copy(folder / "wrong" / f"{NAME}.ipynb", folder / "right" / f"{NAME}-Copy1.ipynb")
    (folder / "right" / ".ipynb_checkpoints").mkdir()
    shutil.copy(folder / "wrong" / f"{NAME}.ipynb", folder / "right" / ".ipynb_checkpoints" / f"{NAME}.ipynb")
    (folder / "right" / "notes.ipynb").write_text('{"cells": []}')
    everything, strangers = submissions.found(folder)
    hang = [one for one in everything if one.student.removeprefix("cheat: ") in HANG]
    others = [one for one in everything if one not in hang]
    done = [*submissions.graded(others, LIMITS, bar=False), *submissions.graded(hang, BRIEF, bar=False)]
    return everything, strangers, done, {one.student: result for one, result in done}


def k3(results, student):
    return results[3][student]["exercises"]["k3"]


@pytest.mark.parametrize("student", HONEST)
def test_honest_notebooks_are_judged_right(results, student):
    assert k3(results, student)["verdict"] == HONEST[student][1], k3(results, student)


@pytest.mark.parametrize("student", HOSTILE)
def test_no_cheat_earns_a_mark(results, student):
    verdict = k3(results, f"cheat: {student}")
    assert verdict["verdict"] == "wrong" and verdict["points"] == 0 and verdict["message"], verdict
    others = results[3][f"cheat: {student}"]["exercises"]
    assert {others[name]["verdict"] for name in ("bytes", "pinned")} == {"open"}


@pytest.mark.parametrize("student", BEYOND)
def test_nothing_beyond_its_process_is_touched(results, student):
    if "calls" not in results[3][f"cheat: {student}"]["walls"]:
        pytest.skip("this system forbids no calls")
    ((_, _, what),) = k3(results, f"cheat: {student}")["broke"]
    assert what.startswith("PermissionError"), what


@pytest.mark.parametrize("student", [*FILES, *NO_FILES])
def test_a_file_that_is_no_notebook_costs_only_itself(results, student):
    result = results[3][f"file: {student}"]
    assert {verdict["verdict"] for verdict in result["exercises"].values()} == {"wrong"}


def test_everyone_is_in_the_report(results):
    everything, strangers, done, _ = results
    wanted = {*HONEST, *(f"file: {name}" for name in (*FILES, *NO_FILES)), *(f"cheat: {name}" for name in HOSTILE)}
    assert {one.student for one, _ in done} == wanted
    (copy,) = [one for one in everything if one.of]
    assert copy.path.name == f"{NAME}-Copy1.ipynb" and copy.student == "right"
    assert [path.name for path in strangers] == ["notes.ipynb"]


def test_a_verdict_says_why(results):
    def message(student):
        return k3(results, student)["message"]

    assert "it returned None: is a `return` missing?" in message("no return")
    assert "in place" in message("in place")
    assert "the law wants" in message("wrong")
    assert "it raised ZeroDivisionError: division by zero" in message("raises")
    assert "SyntaxError" in message("no Python") and "cell " in message("no Python")
    assert "longer than 2 seconds" in message("cheat: hang when called")
    assert "exit code 0" in message("cheat: os._exit") or "exit is no answer" in message("cheat: os._exit")
    assert "from inside" in message("cheat: swallowed")
    assert any("MemoryError" in what for _, _, what in k3(results, "cheat: 10 GB")["broke"])
    (number, line, what), = k3(results, "cheat: sys.exit")["broke"]
    assert line == 3 and "SystemExit" in what and number > 1
    (law,) = k3(results, "right")["laws"]
    assert law["law"] == "rl.k3" and law["passed"] and law["examples"] >= 40


def test_every_answer_of_the_course_crosses_the_pipe(tmp_path):
    """Modules, callbacks, caches, gradients, a kernel: few examples of each law, for the way, not for the answers."""
    for path in PATHS:
        nbformat.write(solved(read(path)), tmp_path / path.name)
    everything, _ = submissions.found(tmp_path)
    done = list(submissions.graded(everything, replace(LIMITS, examples=2), bar=False))
    assert len(done) == len(PATHS)
    for one, result in done:
        assert set(result["walls"]) >= {"hook"}
        for name, verdict in result["exercises"].items():
            assert verdict["verdict"] == "passed", (one.lesson, name, verdict)


def test_table_csv_and_json(results, tmp_path):
    everything, strangers, done, _ = results
    text = report.table(done, [one for one in everything if one.of], strangers, [])
    assert f"{NAME}-Copy1.ipynb is a copy of {NAME}.ipynb" in text and "notes.ipynb: belongs to no lesson" in text
    assert "✔○○" in text and "the law wants" in text
    report.write_csv(tmp_path / "all.csv", done)
    with open(tmp_path / "all.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 3 * len(done) and lines[0].keys() == set(report.COLUMNS)
    (mine,) = [line for line in lines if line["student"] == "right" and line["exercise"] == "k3"]
    assert (mine["verdict"], mine["points"], mine["covered"]) == ("passed", "1", "rl.k3 41 examples")
    json.dumps(report.rows(done))
