"""The course runs, and its checks cannot be fooled. For every lesson:

(a) it runs as shipped, top to bottom, in a fresh kernel, within its stated time and memory;
(b) with the answers in place of the stubs, every check passes;
(c) as shipped, and with lazy or wrong answers, no check passes;
(d) it is clean: no outputs, one-line setup, nothing that the library already has, sizes, links, the table in step.
"""

import ast
import inspect
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import minizaya as mz
from lesson_tools import (
    LESSONS,
    PATHS,
    ROOT,
    SLOW_MACHINE,
    code_cells,
    execute,
    exercises,
    function,
    next_code,
    printed,
    read,
    solved,
    tagged,
    words,
)
from minizaya.plots import turned

NAMES = [path.stem for path in PATHS]
NOTEBOOKS = {path.stem: read(path) for path in PATHS}
EXERCISES = {name: exercises(notebook) for name, notebook in NOTEBOOKS.items()}
EVERY = [(name, exercise) for name in NAMES for exercise in EXERCISES[name]]
every_lesson = pytest.mark.parametrize("name", NAMES)
every_exercise = pytest.mark.parametrize("name, exercise", EVERY, ids=[f"{n}-{e.id}" for n, e in EVERY])

MAX_CODE_LINES, MAX_WORDS, MAX_SECONDS, MAX_MINUTES = 280, 2000, 300, 80
# number of a lesson -> minutes, seconds, memory in MiB, exercises, laws, the day it was tried
ROW_OF_TAKES = re.compile(r"^\| (\d\d) \| " + r"(\d+) \| " * 5 + r"(\d{4}-\d\d-\d\d|) *\|$", re.MULTILINE)
TAKES = {row[0]: row[1:] for row in ROW_OF_TAKES.findall((LESSONS / "README.md").read_text(encoding="utf-8"))}
OTHER_TORCH = 400   # MiB: what lessons/README.md says is with torch's CPU build; one with CUDA is larger to begin with
ALLOWED_IMPORTS = {"minizaya", "torch", "einops", "matplotlib", "tqdm", "math", "inspect", "importlib", "itertools",
                   "random", "tempfile", "textwrap", "time", "warnings"}


def kernel_env(**changes):
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    env = {key: value for key, value in os.environ.items() if key != "MINIZAYA_STRICT"}
    # idle threads sleep instead of spinning: on a shared machine spinning would count as work
    return env | {"PYTHONPATH": path, "OMP_WAIT_POLICY": "PASSIVE"} | changes


# ---- (a) as shipped, and (c) unsolved: one run serves both ----------------------------------------------------------


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """name -> the lesson executed as shipped, run once."""
    done = {}

    def run(name):
        if name not in done:
            folder = tmp_path_factory.mktemp(name)
            done[name] = *execute(NOTEBOOKS[name], folder, kernel_env()), list(folder.iterdir())
        return done[name]

    return run


@every_lesson
def test_runs_as_shipped_in_its_time_and_memory(name, shipped):
    notebook, seconds, peak, left = shipped(name)
    budget, memory = notebook.metadata["minizaya"]["seconds"], int(TAKES[name[:2]][2])
    assert seconds <= budget * SLOW_MACHINE, f"{name} took {seconds:.0f} CPU seconds; it promises {budget}"
    assert not peak or 0.6 * memory <= peak <= 1.25 * memory + OTHER_TORCH, f"{name} took {peak} MiB; it says {memory}"
    for cell in notebook.cells:
        assert "Warning" not in printed(cell, "stderr"), cell.source
    assert {path.name for path in left} <= {"runs", ".hypothesis"}, f"{name} leaves files behind: {left}"


@every_lesson
def test_unsolved_exercises_are_open(name, shipped):
    notebook, *_ = shipped(name)
    output = "".join(printed(cell) for cell in notebook.cells)
    assert not re.findall(r"^[✔✘].*", output, flags=re.MULTILINE)
    assert len(re.findall(r"^○", output, flags=re.MULTILINE)) == sum(len(e.laws) for e in EXERCISES[name])


# ---- (b) solved ------------------------------------------------------------------------------------------------------


@every_lesson
def test_every_check_passes_with_the_answers(name, tmp_path):
    notebook, *_ = execute(solved(NOTEBOOKS[name]), tmp_path, kernel_env(MINIZAYA_STRICT="1"))
    output = "".join(printed(cell) for cell in notebook.cells)
    assert len(re.findall(r"^✔", output, flags=re.MULTILINE)) == sum(len(e.laws) for e in EXERCISES[name])


# ---- (c) lazy and wrong answers --------------------------------------------------------------------------------------

LAZY = {"None": None, "Ellipsis": ..., "zero": 0, "one": 1.0, "True": True, "an empty list": [], "a string": "done"}


@every_exercise
@pytest.mark.parametrize("value", LAZY.values(), ids=LAZY)
def test_a_constant_does_not_pass(name, exercise, value, capsys):
    assert not any(mz.laws.check(law, lambda *args, **kwargs: value) for law in exercise.laws)
    assert ("○" if value is ... else "✘") in capsys.readouterr().out


@every_exercise
def test_handing_back_the_first_argument_does_not_pass(name, exercise):
    passed = [mz.laws.check(law, lambda first, *args, **kwargs: first) for law in exercise.laws]     # all are run
    assert not all(passed)


@every_exercise
def test_the_stub_is_open_and_takes_what_the_answer_takes(name, exercise, capsys):
    stub, answer = (ast.parse(source).body for source in (exercise.stub, exercise.answer))
    assert ast.unparse(stub[0].args) == ast.unparse(answer[-1].args) and answer[-1].name == exercise.name
    body = stub[0].body
    assert isinstance(body[0].value, ast.Constant), "a stub says in a docstring what it takes and returns"
    assert [ast.unparse(line) for line in body[1:]] == ["raise NotImplementedError"]


WRONG = [pytest.param(name, exercise, source, id=f"{name}-{exercise.id}-{why}")
         for name, exercise in EVERY
         for why, source in import_module(f"wrong_answers.{name[3:]}").WRONG[exercise.id].items()]


@every_exercise
def test_six_wrong_answers_are_kept(name, exercise):
    wrong = import_module(f"wrong_answers.{name[3:]}").WRONG
    assert set(wrong) == {e.id for e in EXERCISES[name]}
    assert len(set(wrong[exercise.id].values())) >= 6


@pytest.mark.parametrize("name, exercise, source", WRONG)
def test_a_wrong_answer_gets_a_counterexample(name, exercise, source, capsys):
    wrong = function(NOTEBOOKS[name], exercise.name, source)
    passed = [mz.laws.check(law, wrong) for law in exercise.laws]     # all are run
    assert not all(passed)
    verdicts = capsys.readouterr().out
    (failed, *_) = re.findall(r"^✘ (.*)\n  (.*)", verdicts, flags=re.MULTILINE)
    assert failed[1].strip(), "a failed check must show what it failed on"


# ---- (d) clean -------------------------------------------------------------------------------------------------------


@every_lesson
def test_notebook_is_clean(name):
    notebook = NOTEBOOKS[name]
    ids = [cell.get("id") for cell in notebook.cells]
    assert all(ids) and len(set(ids)) == len(ids)
    for cell in code_cells(notebook):
        assert cell.outputs == [] and cell.execution_count is None, cell.source
    for cell in notebook.cells:
        assert not re.search(r"(?<![\w/.:])/(?:home|tmp|work|root|Users|mnt)/|[A-Z]:\\", cell.source), cell.source
    info = notebook.metadata["minizaya"]
    assert set(info) == {"minutes", "seconds", "needs"}
    assert 0 < info["seconds"] <= MAX_SECONDS and 0 < info["minutes"] <= MAX_MINUTES
    assert set(notebook.metadata) <= {"minizaya", "kernelspec", "language_info"}


@every_lesson
def test_notebook_is_short(name):
    lines = [line for cell in code_cells(NOTEBOOKS[name]) for line in cell.source.splitlines() if line.strip()]
    assert len(lines) <= MAX_CODE_LINES
    assert max(map(len, lines)) <= 120, max(lines, key=len)
    assert words(NOTEBOOKS[name]) <= MAX_WORDS


@every_lesson
def test_minutes_are_honest(name):
    """Fitted to six lessons whose readers were timed (45 to 90 minutes)."""
    text = "\n".join(cell.source for cell in NOTEBOOKS[name].cells if cell.cell_type == "markdown")
    lines = sum(1 for cell in code_cells(NOTEBOOKS[name]) for line in cell.source.splitlines() if line.strip())
    solving = sum(map(int, re.findall(r"Difficulty [●○]{5}, (\d+) minutes", text)))
    needed = solving + words(NOTEBOOKS[name]) / 80 + lines / 20 + 1.5 * text.count("**Predict")
    minutes = NOTEBOOKS[name].metadata["minizaya"]["minutes"]
    assert needed / 1.2 <= minutes <= needed * 1.2, f"{needed:.0f} minutes, it says {minutes}"
    assert f"About {minutes} minutes, exercises included." in NOTEBOOKS[name].cells[0].source


@every_lesson
def test_imports(name):
    notebook = NOTEBOOKS[name]
    setup = ast.parse(code_cells(notebook)[0].source).body
    assert all(isinstance(line, ast.Import | ast.ImportFrom) for line in setup), "the first code cell only imports"
    assert ast.unparse(setup[0]) == "import minizaya as mz"
    allowed = ALLOWED_IMPORTS | set(notebook.metadata["minizaya"]["needs"])
    for cell in code_cells(notebook):
        for node in ast.walk(ast.parse(cell.source)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert {n.split(".")[0] for n in names} <= allowed


def library_names():
    """Every function and class at the top of a module of the package; laws, figures and studies are no components."""
    paths = [path for path in (ROOT / "minizaya").rglob("*.py") if path.parent.name not in ("laws", "plots", "studies")]
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in paths]
    return {node.name for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


@every_lesson
def test_defines_nothing_the_library_has(name):
    notebook = NOTEBOOKS[name]
    stubs = {exercise.cell for exercise in EXERCISES[name]}
    defined = {node.name for index, cell in enumerate(notebook.cells)
               if cell.cell_type == "code" and index not in stubs
               for node in ast.parse(cell.source).body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assert not defined & library_names()


@every_lesson
def test_only_checks_use_what_a_student_writes(name):
    """Other cells run before an exercise is solved, too; and they are skipped when the answers are run."""
    own = {exercise.name for exercise in EXERCISES[name]}
    checks = {next_code(NOTEBOOKS[name], exercise.cell) for exercise in EXERCISES[name]}
    for index, cell in enumerate(NOTEBOOKS[name].cells):
        if cell.cell_type == "code" and index not in checks:
            assert not own & {node.id for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Name)}


@every_lesson
def test_has_the_form_of_a_lesson(name):
    markdown = [cell.source for cell in NOTEBOOKS[name].cells if cell.cell_type == "markdown"]
    assert re.match(r"# \d\d ", markdown[0]) and markdown[0][2:4] == name[:2]
    opening = markdown[0].split("By the end you can answer\n\n")[1].split("\n\n")[0]
    questions = re.split(r"^\d\. ", opening, flags=re.MULTILINE)[1:]
    # trap: a result in the opening list answers the "Predict" below it
    assert 3 <= len(questions) <= 6 and all(question.strip().endswith("?") for question in questions)
    headings = re.findall(r"^## (.*)$", "\n".join(markdown), flags=re.MULTILINE)
    assert headings[-2:] == ["Limits", "Next"]
    assert 3 <= len(re.findall(r"\[[^\]]+\]\([^)]+\)|https?://\S+", markdown[-1])) <= 8
    assert any("Predict" in text for text in markdown)
    assert name == NAMES[-1] or f"({NAMES[NAMES.index(name) + 1]}.ipynb)" in markdown[-1].splitlines()[2]
    assert 2 <= len(EXERCISES[name]) <= 5
    # headings stand in the table of contents
    numbers = re.findall(r"^### Exercise (\d+): \S", "\n".join(markdown), flags=re.MULTILINE)
    assert numbers == [str(i) for i in range(1, len(EXERCISES[name]) + 1)]
    assert not any(re.search(r"</details>\s*\S", text) for text in markdown), "text would stick to the fold"
    for exercise in EXERCISES[name]:
        card = NOTEBOOKS[name].cells[exercise.cell - 1].source
        assert re.search(r"Difficulty [●○]{5}", card) and re.search(r"\d+ minutes", card), card


@every_lesson
def test_a_hint_is_folded_above_the_answer_and_gives_none_of_it_away(name):
    notebook = NOTEBOOKS[name]
    hints = {id: i for i, cell in enumerate(notebook.cells) for id in tagged(cell, "hint")}
    assert set(hints) <= {exercise.id for exercise in EXERCISES[name]}
    for exercise in EXERCISES[name]:
        if exercise.id in hints:
            at = hints[exercise.id]
            hint = notebook.cells[at].source
            assert next_code(notebook, exercise.cell) < at and exercise.id in tagged(notebook.cells[at + 1], "answer")
            assert hint.startswith("<details><summary>Hint</summary>\n\n") and hint.endswith("\n\n</details>")
            steps = [line.strip() for line in exercise.answer.splitlines()[1:] if len(line.strip()) > 15]
            assert not any(step.removeprefix("return ") in hint for step in steps)
    assert len(hints) == sum("<summary>Hint" in cell.source for cell in notebook.cells)


@every_lesson
def test_a_lesson_has_a_hint(name):
    assert any(tagged(cell, "hint") for cell in NOTEBOOKS[name].cells)


@every_lesson
def test_local_links_lead_somewhere(name):
    for cell in NOTEBOOKS[name].cells:
        for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", cell.source) if cell.cell_type == "markdown" else ():
            assert (LESSONS / target).exists(), target


@every_lesson
def test_needs_are_optional(name):
    """What a lesson needs beyond the course must be guarded: the lesson still runs without it."""
    source = "\n".join(cell.source for cell in code_cells(NOTEBOOKS[name]))
    for package in NOTEBOOKS[name].metadata["minizaya"]["needs"]:
        assert f'find_spec("{package}")' in source


# ---- the dials -------------------------------------------------------------------------------------------------------


def dials():
    """(lesson, drawing function, settings) of every `dial(turned.name, ...)`."""
    for name, notebook in NOTEBOOKS.items():
        for cell in code_cells(notebook):
            for node in ast.walk(ast.parse(cell.source)):
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "dial":
                    call = eval(f"dict({ast.unparse(node).split(',', 1)[1][:-1]})", {"turned": turned})
                    yield name, getattr(turned, node.args[0].attr), call


def test_ten_lessons_have_a_dial():
    assert len({name for name, *_ in dials()}) >= 10


@every_lesson
def test_a_dial_stands_between_no_cell_and_its_explanation(name):
    cells = NOTEBOOKS[name].cells
    for i, cell in enumerate(cells):
        if cell.source.startswith("## Turn it"):
            assert cells[i + 1].source.startswith("dial(") and cells[i + 2].source.startswith("## Limits")


@pytest.mark.parametrize("name, draw, settings", [pytest.param(*found, id=found[1].__name__) for found in dials()])
def test_a_dial_can_be_turned_to_its_ends(name, draw, settings):
    def drawn(**values):
        figure = draw(**values)
        assert figure.alt and figure.axes
        figure.draw_without_rendering()

    ends = {key: value[:2] if isinstance(value, tuple) else (value[0], value[-1]) for key, value in settings.items()}
    assert set(ends) <= set(inspect.signature(draw).parameters)
    for end in (0, 1):
        drawn(**{key: value[end] for key, value in ends.items()})


# ---- the table of lessons and the figures ----------------------------------------------------------------------------

ROW = re.compile(r"^\| (\d\d) \| \[(\w+)\]\((\S+)\) \| ([^|]+\?) \| (\d+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)


def test_table_of_lessons_is_in_step():
    rows = ROW.findall((LESSONS / "README.md").read_text(encoding="utf-8"))
    assert [f"{number}_{short}" for number, short, *_ in rows] == NAMES
    for (number, _, link, _, minutes, before, _), name in zip(rows, NAMES):
        assert link == f"{name}.ipynb"
        assert int(minutes) == NOTEBOOKS[name].metadata["minizaya"]["minutes"]
        needed = re.findall(r"\b\d\d\b", before)
        assert all(other < number and any(n.startswith(other) for n in NAMES) for other in needed)


def test_table_of_what_it_takes_is_in_step():
    assert list(TAKES) == [name[:2] for name in NAMES]
    for (minutes, seconds, _, own, laws, _), name in zip(TAKES.values(), NAMES):
        info, found = NOTEBOOKS[name].metadata["minizaya"], EXERCISES[name]
        assert (int(minutes), int(seconds)) == (info["minutes"], info["seconds"]), name
        assert (int(own), int(laws)) == (len(found), sum(len(exercise.laws) for exercise in found)), name


def test_every_lesson_has_its_figure(tmp_path):
    done = subprocess.run([sys.executable, "-m", "minizaya.plots", str(tmp_path)], env=kernel_env(MPLBACKEND="Agg"),
                          capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    drawn = {path.name for path in tmp_path.iterdir()}
    kept = {path.name for path in (LESSONS / "figures").glob("*.png")}
    assert drawn == kept, "run `make figures`"
    assert {f"{name}.png" for name in NAMES} <= kept
    readme = (LESSONS / "README.md").read_text(encoding="utf-8")
    for figure in kept:
        assert f"figures/{figure}" in readme
        assert Path(tmp_path, figure).stat().st_size > 10_000


def test_figures_can_be_drawn_by_name(tmp_path):
    main = import_module("minizaya.plots.__main__").main
    assert main([str(tmp_path), "01_moe"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["01_moe.png"]
    with pytest.raises(SystemExit):
        main([str(tmp_path), "99_nothing"])
