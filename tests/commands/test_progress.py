"""`python -m minizaya lessons`: it passes right answers, and nothing else earns a mark."""

import json
import re
import shutil
import subprocess

import pytest

import minizaya as mz
from lesson_tools import LESSONS, PATHS, exercises, read, solved
from minizaya.commands import lessons
from minizaya.grading import table
from minizaya.grading.notebook import document

NAME = "01_moe"


@pytest.fixture
def folder(tmp_path):
    """A student's folder with one lesson, as shipped."""
    (tmp_path / f"{NAME}.ipynb").write_text((LESSONS / f"{NAME}.ipynb").read_text(encoding="utf-8"), encoding="utf-8")
    return tmp_path


def edit(folder, change):
    """Applies change(notebook) to the student's copy."""
    path = folder / f"{NAME}.ipynb"
    notebook = json.loads(path.read_text(encoding="utf-8"))
    change(notebook)
    path.write_text(json.dumps(notebook), encoding="utf-8")


def tagged(notebook, tag):
    return next(cell for cell in notebook["cells"] if tag in cell["metadata"].get("tags", []))


def test_every_verdict_in_one_folder(folder):
    """A right, a wrong and a missing answer; an edited check; a lesson as shipped; a file that is no notebook."""
    import nbformat

    def cheat(notebook):
        place = notebook["cells"].index(tagged(notebook, "exercise:swiglu"))
        notebook["cells"][place]["source"] = "def swiglu(load):\n    return mz.balance.entropy(load)"
        check = next(cell for cell in notebook["cells"][place + 1:] if cell["cell_type"] == "code")
        check["source"] = ""
    edit(folder, cheat)
    edit(folder, lambda nb: nb["cells"].remove(tagged(nb, "exercise:active")))
    edit(folder, lambda nb: tagged(nb, "exercise:mixture").update(
        source="def mixture_of_experts(*args):\n    return args[0]"))
    nbformat.write(solved(read(LESSONS / "12_rl_cascade.ipynb")), folder / "12_rl_cascade.ipynb")
    for name in ("13_router_replay", "05_residual"):
        (folder / f"{name}.ipynb").write_text((LESSONS / f"{name}.ipynb").read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "02_cca.ipynb").write_text("hello")
    done = {lesson["lesson"]: lesson for lesson in lessons.progress(folder)}
    found = {name: {verdict["verdict"] for verdict in lesson["exercises"].values()} for name, lesson in done.items()}
    assert found == {NAME: {"wrong"}, "02_cca": {"wrong"}, "12_rl_cascade": {"passed"}, "13_router_replay": {"open"},
                     "05_residual": {"open"}}
    assert {e.id for e in exercises(read(LESSONS / f"{NAME}.ipynb"))} == set(done[NAME]["exercises"])
    messages = {name: verdict["message"] for name, verdict in done[NAME]["exercises"].items()}
    assert "TypeError" in messages["swiglu"] and "the law wants" in messages["mixture"]
    assert "defines used_by_one_token" in messages["active"]
    assert "is not a notebook" in done["02_cca"]["problem"]
    text = lessons.text(list(done.values()))
    assert "✘ mixture" in text and "is not a notebook" in text and "2 of 16 exercises pass" in text


def test_copies_without_answers(tmp_path):
    out = tmp_path / "class"
    written = lessons.without_answers(LESSONS, out)
    assert [path.name for path in written] == [path.name for path in PATHS]
    for path in written:
        notebook = document(path)
        text = path.read_text(encoding="utf-8")
        assert '"answer:' not in text and "<summary>Answer" not in text
        assert text.count('"hint:') == (LESSONS / path.name).read_text(encoding="utf-8").count('"hint:')
        assert table.lesson(notebook) == table.lesson(document(LESSONS / path.name))
        read(path)  # still a valid notebook
    # what the pages link to has been handed out, and the page for teachers is not linked to
    assert "TEACHING" not in (out / "README.md").read_text(encoding="utf-8")
    for path in (*written, out / "README.md"):
        for target in re.findall(r"\]\((?!https?://)([^)#\\]+)\)", path.read_text(encoding="utf-8")):
            assert (out / target).exists(), f"{path.name} links to {target}"
    with pytest.raises(ValueError, match="already there"):
        lessons.without_answers(LESSONS, out)


def test_copies_for_nbgrader(tmp_path):
    """Each exercise is a cell to solve and a locked one with its points, which fails while it is open."""
    written = lessons.for_nbgrader(LESSONS, tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in written] == [f"{p.stem}/{p.name}" for p in PATHS]
    for path in written:
        cells = [cell for cell in read(path).cells if "nbgrader" in cell.metadata]
        about = table.lessons()[path.stem]["exercises"]
        assert [cell.metadata.nbgrader.grade_id for cell in cells] == \
            [name for e in about for name in (e["id"], e["id"] + "-laws")]
        for stub, checks, exercise in zip(cells[::2], cells[1::2], about):
            assert stub.metadata.nbgrader.solution and not stub.metadata.nbgrader.locked
            assert checks.metadata.nbgrader.grade and checks.metadata.nbgrader.points == exercise["points"]
            assert re.fullmatch(r"(?:    ### BEGIN SOLUTION|    ### END SOLUTION|    raise NotImplementedError\n?)+",
                                "".join(stub.source.splitlines()[-3:]))
            assert stub.source.startswith(exercise["stub"].removesuffix("    raise NotImplementedError"))
            assert all(line.startswith("assert mz.laws.check(") for line in checks.source.splitlines())
            assert len(checks.source.splitlines()) == len(exercise["laws"])
    with pytest.raises(AssertionError):
        exec(checks.source, {"mz": mz, exercise["function"]: ...})
    with pytest.raises(ValueError, match="already there"):
        lessons.for_nbgrader(LESSONS, tmp_path)


def test_nbgrader_makes_an_assignment_of_it(tmp_path):
    """Its own validator of metadata, and its own making of the students' version."""
    preprocessors = pytest.importorskip("nbgrader.preprocessors")
    from nbgrader.nbgraderformat import MetadataValidator

    (path,) = [path for path in lessons.for_nbgrader(LESSONS, tmp_path) if path.stem == NAME]
    notebook = read(path)
    MetadataValidator().validate_nb(notebook)
    for step in (preprocessors.LockCells(), preprocessors.ClearSolutions(), preprocessors.CheckCellMetadata()):
        notebook, _ = step.preprocess(notebook, {})
    stub = tagged(notebook, "exercise:swiglu")
    assert stub.source.startswith("def swiglu(") and "raise NotImplementedError()" in stub.source
    assert "SOLUTION" not in stub.source


def test_slides_of_a_lesson(tmp_path):
    """A slide for each heading, figures where they stood, no answer. Not run here: the lessons' own tests do that."""
    path, out = LESSONS / "05_residual.ipynb", tmp_path / "x.html"
    assert lessons.slides(path, out, execute=False) == out
    html = out.read_text(encoding="utf-8")
    headings = [cell for cell in document(path)["cells"]
                if cell["cell_type"] == "markdown" and cell["source"].startswith("#")]
    assert html.count("<section><section>") >= len(headings) - 1 > 5
    assert "reveal" in html and "<summary>Answer" not in html
    with pytest.raises(ValueError, match="already there"):
        lessons.slides(path, out)


def test_a_folder_without_lessons():
    with pytest.raises(FileNotFoundError, match="no lesson"):
        lessons.progress(LESSONS / "figures")


def test_the_table_is_made_from_the_lessons():
    """Otherwise: python -m minizaya.grading.table lessons"""
    fresh = table.made(LESSONS)
    assert table.text(fresh) == table.PLACE.read_text(encoding="utf-8")
    assert table.rubric(fresh) == (LESSONS / "RUBRIC.md").read_text(encoding="utf-8")


def test_check_finds_damage_before_it_costs_marks(folder, capsys):
    from minizaya.__main__ import main

    assert lessons.check(folder) == {f"{NAME}.ipynb": []}
    edit(folder, lambda nb: tagged(nb, "exercise:swiglu")["metadata"].update(tags=[]))
    edit(folder, lambda nb: tagged(nb, "exercise:mixture").update(source="x = 1"))
    edit(folder, lambda nb: nb["cells"].append(
        tagged(nb, "exercise:active") | {"source": "def used_by_one_token(model:"}))
    (folder / "02_cca.ipynb").write_text("")
    assert main(["lessons", "--folder", str(folder), "--check"]) == 1
    said = capsys.readouterr().out
    assert "no cell is tagged exercise:swiglu" in said and "does not define mixture_of_experts" in said
    assert "are tagged exercise:active" in said and "cannot be read: SyntaxError" in said and "it is empty" in said


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_a_lesson_is_started_over_and_the_old_one_kept(folder):
    def git(*words):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=folder, check=True,
                       capture_output=True)

    path = folder / f"{NAME}.ipynb"
    with pytest.raises(ValueError, match="takes .* from git: "):
        lessons.reset(folder, "01")              # no repository: nothing has moved
    assert [found.name for found in folder.glob("*.ipynb")] == [path.name]
    git("init")
    git("add", path.name)
    git("commit", "-m", "as shipped")
    shipped = path.read_bytes()
    for turn in (1, 2):
        path.write_text(f"mine, {turn}")
        back, kept = lessons.reset(folder, "01")
        assert back.read_bytes() == shipped and kept.read_text() == f"mine, {turn}"
        assert kept == folder / "kept" / f"{NAME}-{turn}.ipynb"
    with pytest.raises(ValueError, match=r"--reset must be one of 01, .*, got '99'"):
        lessons.reset(folder, "99")
