"""Every `minizaya` command that a page shows is run: here with its smallest setting, or in a test that is named."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from minizaya.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", "docs/running.md", "docs/evaluate.md", "lessons/TEACHING.md")

# the beginning of a command -> what makes it small; the longest that fits counts
SMALLEST = {
    "cascade --table": "", "doctor": "", "grade": "", "kernels": "router", "kernels --build": "router", "laws": "",
    "leaderboard board.jsonl": "", "lessons --folder": "", "lessons --nbgrader": "--folder mine", "plan": "",
    "solve --model nano-reasoner": "--task copy --difficulty 4 --problems 1",
    "solve --model nano-reasoner --compare": "--problems 1", "solve --model nano-sheets --compare": "--problems 1",
    "stages --out": "--share 0.0002", "stages --table": "",
}
# the same -> the test that runs it, since it takes long, needs a server, or a folder of weights
ELSEWHERE = {
    "bench --full": "tests/hub/test_paging.py::test_bench_measures_a_folder",
    "bench --growth": "tests/commands/test_bench_rows.py::test_growth_is_measured_and_drawn_beside_the_plan",
    "cascade --out": "tests/rl/test_cascade.py::test_the_command",
    "doctor --weights": "tests/hub/test_paging.py::test_golden_values_tell_right_weights_from_wrong",
    "evaluate": "tests/studies/test_evaluation.py::test_a_failed_request_costs_one_sample_and_is_said",
    "leaderboard --baseline": "tests/grading/test_open_exercises.py::test_the_command_says_what_is_missing",
    "leaderboard board.jsonl --add": "tests/grading/test_open_exercises.py::test_a_class_keeps_a_board",
    "lessons --reset": "tests/commands/test_progress.py::test_a_lesson_is_started_over_and_the_old_one_kept",
    "lessons --slides": "tests/commands/test_progress.py::test_slides_of_a_lesson",
    "materialize": "tests/hub/test_materialize.py::test_the_command",
    "parallel": "tests/parallel/test_parallel.py::test_the_command_survives_a_kill",
    "sample": "tests/hub/test_paging.py::test_sample_reads_a_folder",
    "serve": "tests/serve/test_serve.py::test_the_command",
}


def shown():
    """The commands of all pages, without "minizaya" and comments; "..." and names of commands alone are left out."""
    found = set()
    for page in PAGES:
        text = (ROOT / page).read_text("utf-8").replace("\\\n", " ")
        for line in re.findall(r"(?:^|`)(?:python -m |\.venv/bin/)?minizaya ([a-z]+(?: [^`\n]*)?)(?=`|$)", text, re.M):
            found.add(line.split("#")[0].strip())
    return sorted(line for line in found if not re.match(r"(teaches|evaluate$|grade$)", line))


def rule_of(command):
    """The longest beginning in either table."""
    fits = [start for start in (*SMALLEST, *ELSEWHERE) if f"{command} ".startswith(f"{start} ")]
    return max(fits, key=len)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """What the commands find: a student's folder, a class of one, a router to judge, an empty board."""
    for folder in ("mine", "class", "SUBMISSIONS"):
        (tmp_path / folder).mkdir()
        shutil.copy(ROOT / "lessons/12_rl_cascade.ipynb", tmp_path / folder)
    (tmp_path / "mypkg.py").write_text("def choose(probs, bias):\n"
                                       "    routes = (probs.detach().float() + bias).argmax(-1)\n"
                                       "    return routes, probs.gather(-1, routes[..., None]).squeeze(-1)\n")
    (tmp_path / "board.jsonl").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize("command", shown(), ids=str)
def test_a_command_of_a_page_works(command, place, capfd):
    start = rule_of(command)
    if start in ELSEWHERE:
        file, name = ELSEWHERE[start].split("::")
        assert f"def {name}(" in (ROOT / file).read_text("utf-8")
        return
    words = [word for word in shlex.split(command) if word != "NAME"]
    code = main([*words, *SMALLEST[start].split()])
    said = capfd.readouterr()
    assert code == 0, said.err
    assert said.out or start == "stages --out"   # the bars of training are on the other stream


def test_every_rule_is_of_a_command_that_is_shown():
    assert {rule_of(command) for command in shown()} == {*SMALLEST, *ELSEWHERE}
