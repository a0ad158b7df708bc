"""Open exercises: the law comes before the cost, nothing but an answer gets a score, and a board only grows."""

import json
from dataclasses import replace

import pytest
import torch

from lesson_tools import LESSONS, read
from minizaya.__main__ import main
from minizaya.grading import judge, open_exercises
from minizaya.grading.judge import Limits
from minizaya.grading.open_exercises import balancer, board, reads, tail, traffic
from minizaya.grading.table import lessons
from minizaya.hip import ladder
from minizaya.laws.core import Subject

LAWS = balancer.LAWS
OPEN = {one["id"]: (name, one) for name, about in lessons().items() for one in about["open"]}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The same exercises, a tenth of the size; of four laws one."""
    for module, sizes in ((balancer, dict(STEPS=24, TOKENS=256, DRAWS=1, GRID=balancer.GRID[:2], LAWS=LAWS[1:2])),
                          (traffic, dict(ROWS=1, WIDTHS=(300,))),
                          (reads, dict(NEW=4, MOST=60, KINDS=(("sorting", 3),))),
                          (tail, dict(PROBLEMS=1, DIFFICULTY=4, SETTING=replace(tail.SETTING, N=4, T=1)))):
        for name, value in sizes.items():
            monkeypatch.setattr(module, name, value)


def integral(loads):
    error = loads - loads.mean(-1, keepdim=True)
    return -0.1 * error.cumsum(0)


def greedy(step, prompt, count):
    (*_, best), state = step(prompt, None)
    new = [best]
    while len(new) < count:
        (best,), state = step([new[-1]], state)
        new.append(best)
    return new


HONEST = {"late_balancer": integral, "fewer_reads": greedy, "one_tail": lambda question, tails: tails[1],
          "less_traffic": ladder.rms_norm_text}


def test_each_stands_in_one_lesson_and_its_stub_is_open():
    assert set(OPEN) == set(open_exercises.EXERCISES) == set(HONEST)
    for name, (lesson, one) in OPEN.items():
        space = {}
        exec(one["stub"], space)
        result = open_exercises.judge(name, space[one["function"]])
        assert not result.verdict.attempted and result.cost is None and not result
        cells = read(LESSONS / f"{lesson}.ipynb").cells
        assert any(f'open_exercises.check("{name}", {one["function"]})' in cell.source for cell in cells)
        assert sum(one["function"] in cell.source for cell in cells) == 2       # no answer is folded away


@pytest.mark.parametrize("name", HONEST)
def test_an_answer_gets_a_score_and_the_same_one_again(name):
    first = open_exercises.judge(name, HONEST[name], guard=False)
    again = open_exercises.EXERCISES[name].measured(Subject(HONEST[name]), open_exercises.LESSON)
    assert first.verdict and first.cost == again > 0, str(first)
    assert first.score == first.baseline / first.cost and first.verdict.law == name and bool(first) == (first.score > 1)


def test_the_lessons_own_way_is_the_baseline():
    for name, own in (("fewer_reads", greedy), ("one_tail", lambda question, tails: tails[0])):
        assert open_exercises.EXERCISES[name].measured(Subject(own), "x") == open_exercises.baseline(name, "x")


def test_four_laws_come_before_a_balancer_is_measured(monkeypatch):
    monkeypatch.setattr(balancer, "LAWS", LAWS)
    monkeypatch.setattr(balancer, "baseline", lambda seed: 1.0)
    assert open_exercises.judge("late_balancer", integral).cost
    for law, wrong in zip(LAWS, (lambda loads: integral(loads) - 0.1, lambda loads: -integral(loads),
                                 lambda loads: integral(loads) * torch.arange(1, loads.shape[1] + 1),
                                 lambda loads: integral(loads) + (loads[:, :1] - loads[:, -1:]).abs())):
        result = open_exercises.judge("late_balancer", wrong)
        assert result.cost is None and result.verdict.law in LAWS[: LAWS.index(law) + 1]


def test_better_is_possible():
    """Who knows what nobody can know is far ahead: there is room above the baseline."""
    known = {}

    def knowing(step, prompt, count):
        new = known.get(tuple(prompt)) or known.setdefault(tuple(prompt), greedy(step, prompt, count))
        step(prompt + new, None)
        return new

    open_exercises.judge("fewer_reads", knowing)
    assert open_exercises.judge("fewer_reads", knowing).score > 2


def after_a_while(value):
    return lambda loads: integral(loads) if len(loads) < 10 else value(loads)


def unread(step, prompt, count):
    return [step(prompt, None)[0][-1]] * count


def forged(step, prompt, count):
    return step([1], 7)[0]


def without_end(step, prompt, count):
    while True:
        step(prompt, None)


KERNEL = ladder.rms_norm_text()
CHEATS = {
    "late_balancer": {
        "nothing": lambda loads: torch.zeros_like(loads), "NaN": lambda loads: loads * float("nan"),
        "NaN after a while": after_a_while(lambda loads: loads * float("nan")),
        "infinite after a while": after_a_while(lambda loads: loads / 0),
        "raises after a while": after_a_while(lambda loads: loads[999]),
        "no tensor": after_a_while(lambda loads: 3.0), "float64": after_a_while(lambda loads: loads.double()),
        "one row": after_a_while(lambda loads: loads[-1]), "None": lambda loads: None,
        "in place": after_a_while(lambda loads: loads.mul_(-1))},
    "fewer_reads": {
        "None": lambda *args: None, "guesses": lambda step, prompt, count: [0] * count, "unread": unread,
        "a state that is none": forged, "no end": without_end, "raises": lambda step, prompt, count: step([], None),
        "too few": lambda step, prompt, count: greedy(step, prompt, count)[:-1],
        "floats": lambda step, prompt, count: [float(token) for token in greedy(step, prompt, count)],
        "another prompt": lambda step, prompt, count: greedy(step, prompt[1:], count)},
    "one_tail": {
        "None": lambda *args: None, "the question": lambda question, tails: question,
        "two tails": lambda question, tails: tails[0] + tails[1],
        "floats": lambda question, tails: [float(token) for token in tails[0]],
        "backwards": lambda question, tails: tails[0][::-1], "NaN": lambda question, tails: [float("nan")],
        "raises": lambda question, tails: tails[9],
        "no right attempt": lambda question, tails: tails[0][:1]},
    "less_traffic": {
        "None": lambda: None, "no text": lambda: 3, "empty": lambda: "",
        "writes nothing": lambda: KERNEL.replace("y[", "//y["),
        "unseen reads": lambda: KERNEL.replace("  int t =", "  float a; memcpy(&a, x, 4);\n  int t ="),
        "unseen by asm": lambda: KERNEL.replace("  int t =", '  asm volatile("");\n  int t ='),
        "unwatched": lambda: KERNEL.replace('extern "C"', '__attribute__((no_sanitize_thread)) extern "C"', 1),
        "ends the trace": lambda: 'extern "C" long mz_trace_end(void**);\n' + KERNEL},
}


@pytest.mark.parametrize("name, fn", [pytest.param(name, fn, id=f"{name}-{why}") for name, fns in CHEATS.items()
                                      for why, fn in fns.items()])
def test_what_is_no_answer_gets_no_score(name, fn, monkeypatch):
    if name == "one_tail":      # of a single short attempt after each tail, none is right by luck
        monkeypatch.setattr(tail, "SETTING", replace(tail.SETTING, beta=24, tau=12))
        monkeypatch.setattr(tail, "DIFFICULTY", 20)
    if name == "less_traffic":      # what would be seen by the law is to be seen by the measure alone, too
        monkeypatch.setattr(traffic, "LAWS", ())
    result = open_exercises.judge(name, fn, guard=False)
    assert result.cost is None and result.score is None and not result
    assert result.verdict.attempted and str(result).startswith("✘") and result.verdict.message


# ---- behind walls ----------------------------------------------------------------------------------------------------

LIES = {
    "right": "def my_late_balancer(loads):\n    return -0.1 * (loads - loads.mean(-1, keepdim=True)).cumsum(0)",
    "patches the judge": "from minizaya.grading import open_exercises\nopen_exercises.judge = lambda *a, **k: 1000.0\n"
                         "def my_late_balancer(loads):\n    return loads * float('nan')",
    "patches what is measured": "import minizaya.grading.open_exercises.balancer as home\n"
                                "home.measured = lambda *a: 1e-9\ndef my_late_balancer(loads):\n    return loads",
    "a tensor that lies": "class Calm(torch.Tensor):\n    def __getitem__(self, at):\n        return torch.zeros(16)\n"
                          "def my_late_balancer(loads):\n    return (loads * float('nan')).as_subclass(Calm)",
    "the library's": "def my_late_balancer(loads):\n    own = mz.balance.PIDBalancer(loads.shape[-1], 0.1, 0.1)\n"
                     "    return torch.stack([own.update(load) for load in loads])",
    "exits": "def my_late_balancer(loads):\n    if len(loads) > 8:\n        import os; os._exit(0)\n"
             "    return -0.1 * (loads - loads.mean(-1, keepdim=True)).cumsum(0)",
    "untouched": OPEN["late_balancer"][1]["stub"],
}


def handed_in(folder, lesson, name, source):
    notebook = json.loads((LESSONS / f"{lesson}.ipynb").read_text(encoding="utf-8"))
    (own,) = [cell for cell in notebook["cells"] if f"open:{name}" in cell["metadata"].get("tags", [])]
    own["source"] = source
    folder.mkdir(parents=True)
    (folder / f"{lesson}.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    return folder / f"{lesson}.ipynb"


@pytest.mark.parametrize("student", LIES)
def test_behind_walls_only_an_answer_gets_a_score(student, tmp_path):
    lesson, _ = OPEN["late_balancer"]
    path = handed_in(tmp_path / "one", lesson, "late_balancer", LIES[student])
    (verdict,) = judge.grade(path, lesson, Limits(whole=60.0, seed="x"), "open")["exercises"].values()
    assert verdict["verdict"] == {"right": "passed", "untouched": "open"}.get(student, "wrong"), verdict
    assert ("score" in verdict) == (student == "right")
    if student == "right":
        again = open_exercises.judge("late_balancer", integral, "x")
        assert (verdict["cost"], verdict["baseline"]) == (again.cost, again.baseline)
    else:
        assert bool(verdict["message"]) == (student != "untouched")


def test_a_function_behind_walls_gets_callbacks_and_renamed_tokens(tmp_path):
    """And no copy of the model helps it: what that would say next is another name."""
    lesson, _ = OPEN["fewer_reads"]
    source = """def my_answer(step, prompt, count):
    model, _ = mz.zoo.load("nano-reasoner")
    own = mz.generate(model, [prompt], count, temperature=0.0)[0]
    best, state = step(prompt + own, None)
    new = [best[len(prompt) - 1]]
    assert new[0] != own[0], "guessed"
    state = step(prompt, None)[1]
    while len(new) < count:
        (best,), state = step([new[-1]], state)
        new.append(best)
    return new"""
    path = handed_in(tmp_path / "one", lesson, "fewer_reads", source)
    (verdict,) = judge.grade(path, lesson, Limits(seconds=120.0, whole=240.0, seed="x"), "open")["exercises"].values()
    assert verdict["verdict"] == "passed" and verdict["score"] < 1, verdict


# ---- the board -------------------------------------------------------------------------------------------------------


def test_a_class_keeps_a_board(tmp_path, capsys, monkeypatch):
    """Judged as in earnest, at full size; the second time by the first time's draws."""
    lesson, one = OPEN["less_traffic"]
    right = f"def my_lean_kernel():\n    return {KERNEL!r}"
    for student, source in {"anna": right, "ben": "def my_lean_kernel():\n    return 3", "cem": one["stub"]}.items():
        handed_in(tmp_path / "class" / student, lesson, "less_traffic", source)
    monkeypatch.undo()
    command = ["leaderboard", str(tmp_path / "board.jsonl"), "--only", "less_traffic"]
    assert main([*command, "--add", str(tmp_path / "class"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (row,) = found["new"]
    assert row == found["board"][0] and row["name"] == "anna" and row["score"] == 1 and row["cost"] == row["baseline"]
    (refused,) = found["refused"]
    assert refused["name"] == "ben" and "you gave a int" in refused["message"]
    first = (tmp_path / "board.jsonl").read_text()
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "less_traffic: bytes moved" in said and "anna" in said
    board.add(tmp_path / "board.jsonl", "less_traffic", "dora", row["seed"], row | {"score": 2.0})
    assert (tmp_path / "board.jsonl").read_text().startswith(first)
    assert board.table(board.read(tmp_path / "board.jsonl")).splitlines()[1].split()[:2] == ["1", "dora"]


def test_a_board_is_measured_by_one_seed_and_damage_is_named(tmp_path):
    path = tmp_path / "board.jsonl"
    assert board.read(path) == [] and board.seed_of([], "one_tail", "mine") == "mine"
    assert board.seed_of([], "one_tail") != board.seed_of([], "one_tail")
    row = board.add(path, "one_tail", "anna", "s", {"score": 1.5, "cost": 2, "baseline": 3})
    assert board.read(path) == [row] and board.seed_of([row], "one_tail") == "s"
    with pytest.raises(ValueError, match="seed 's', not 't'"):
        board.seed_of([row], "one_tail", "t")
    whole = path.read_text()
    path.write_text(whole.rstrip("\n"))                  # an editor took the last end of line
    board.add(path, "one_tail", "ben", "s", {"score": 1.0, "cost": 3, "baseline": 3})
    assert [line["name"] for line in board.read(path)] == ["anna", "ben"]
    for damage in ("hello", "[]", '{"exercise": "one_tail"}', json.dumps(row | {"score": "2"}),
                   json.dumps(row | {"score": float("nan")}), json.dumps(row | {"exercise": "another"})):
        path.write_text(f"{whole}{damage}\n")
        with pytest.raises(ValueError, match="line 2 is no line of a leader board"):
            board.read(path)


def test_the_command_says_what_is_missing(tmp_path, capsys):
    for argv, says in ((["leaderboard"], "name the board"), (["leaderboard", str(tmp_path / "x")], "--add begins one"),
                       (["leaderboard", "x", "--add", str(tmp_path / "none")], "no folder of submissions")):
        assert main(argv) == 2
        assert says in capsys.readouterr().err
    assert main(["leaderboard", "--baseline", "--only", "less_traffic", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"less_traffic": open_exercises.baseline("less_traffic")}
    with pytest.raises(ValueError, match="an open exercise is one of"):
        open_exercises.judge("another", integral)
