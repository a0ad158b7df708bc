"""`python -m minizaya lessons`: it passes right answers, and nothing else earns a mark."""

import json

import pytest

from lesson_tools import LESSONS, PATHS, exercises, read, solved
from minizaya.commands import lessons

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


def verdicts(folder, **limits):
    (lesson,) = lessons.progress(folder, **limits)
    return {name: verdict["verdict"] for name, verdict in lesson["exercises"].items()}


def test_as_shipped_everything_is_open(folder):
    assert verdicts(folder) == {e.id: "open" for e in exercises(read(LESSONS / f"{NAME}.ipynb"))}


def test_the_answers_pass(folder):
    import nbformat
    nbformat.write(solved(read(LESSONS / f"{NAME}.ipynb")), folder / f"{NAME}.ipynb")
    assert set(verdicts(folder).values()) == {"passed"}


def test_a_wrong_answer_shows_its_counterexample(folder):
    edit(folder, lambda nb: tagged(nb, "exercise:swiglu").update(
        source="def swiglu(x, gate_up, down):\n    return x * 0.5"))
    (lesson,) = lessons.progress(folder)
    assert lesson["exercises"]["swiglu"]["verdict"] == "wrong"
    assert "the law wants" in lesson["exercises"]["swiglu"]["message"]
    assert "✘ swiglu" in lessons.report([lesson])


def test_an_edited_check_earns_nothing(folder):
    def cheat(notebook):
        place = notebook["cells"].index(tagged(notebook, "exercise:swiglu"))
        notebook["cells"][place]["source"] = "def swiglu(load):\n    return mz.balance.entropy(load)"
        check = next(cell for cell in notebook["cells"][place + 1:] if cell["cell_type"] == "code")
        check["source"] = ""
    edit(folder, cheat)
    assert verdicts(folder)["swiglu"] == "wrong"


def test_a_missing_cell_and_a_broken_cell_are_verdicts(folder):
    edit(folder, lambda nb: nb["cells"].remove(tagged(nb, "exercise:active")))
    edit(folder, lambda nb: tagged(nb, "exercise:swiglu").update(source="def swiglu(x:"))
    result = verdicts(folder)
    assert result["active"] == result["swiglu"] == "wrong" and result["mixture"] == "open"


def test_an_endless_loop_costs_one_lesson(folder):
    edit(folder, lambda nb: tagged(nb, "exercise:swiglu").update(source="while True: pass"))
    assert set(verdicts(folder, seconds=8).values()) == {"wrong"}


def test_copies_without_answers(tmp_path):
    out = tmp_path / "class"
    written = lessons.without_answers(LESSONS, out)
    assert [path.name for path in written] == [path.name for path in PATHS]
    for path in written:
        notebook = lessons.read(path)
        assert not any(lessons.ids(cell, "answer") for cell in notebook["cells"])
        assert lessons.exercises(notebook) == lessons.exercises(lessons.read(LESSONS / path.name))
        read(path)  # still a valid notebook
    with pytest.raises(ValueError, match="already there"):
        lessons.without_answers(LESSONS, out)


def test_a_folder_without_lessons_and_a_file_that_is_no_notebook(tmp_path):
    with pytest.raises(FileNotFoundError, match="no lesson"):
        lessons.progress(tmp_path)
    (tmp_path / "01_moe.ipynb").write_text("hello")
    with pytest.raises(ValueError, match="is not a notebook"):
        lessons.progress(tmp_path)
