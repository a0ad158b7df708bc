"""For teachers: the lessons without their answers, for a class or for nbgrader, and one of them as slides."""

import json
import re
import shutil
from pathlib import Path

from .table import lessons


def without_answers(folder: Path, out: Path) -> list[Path]:
    """Copies the lessons to `out` without their answer cells, with their table and its pictures where there are any.
    Returns the notebooks. Raises ValueError rather than overwrite a file."""
    written = [write(bare(path), out / path.name) for path in numbered(folder)]
    if (folder / "figures").is_dir():
        shutil.copytree(folder / "figures", out / "figures", dirs_exist_ok=True)
    if (folder / "README.md").is_file():
        table = (folder / "README.md").read_text(encoding="utf-8").splitlines(keepends=True)
        (out / "README.md").write_text("".join(line for line in table if leads(line, out)), encoding="utf-8")
    return written


def numbered(folder: Path) -> list[Path]:
    return sorted(folder.glob("[0-9][0-9]_*.ipynb"))


def bare(path: Path) -> dict:
    """A lesson's document, without its answer cells."""
    lesson = json.loads(path.read_text(encoding="utf-8"))
    lesson["cells"] = [cell for cell in lesson["cells"] if not any(
        tag.startswith("answer:") for tag in cell["metadata"].get("tags", []))]
    return lesson


def write(lesson: dict, target: Path) -> Path:
    if target.exists():
        raise ValueError(f"{target} is already there; remove it, or choose an empty folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_suffix(".writing")
    aside.write_text(json.dumps(lesson, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    aside.replace(target)
    return target


def leads(line: str, out: Path) -> bool:
    """Whether what a line links to has been handed out, too: a page for teachers has not."""
    return all((out / target).exists() for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", line))


# ---- nbgrader --------------------------------------------------------------------------------------------------------


def for_nbgrader(folder: Path, out: Path) -> list[Path]:
    """Copies each lesson to `out`/<lesson>/, which is nbgrader's source folder: `nbgrader generate_assignment <lesson>`
    makes the students' version of it. A stub is a solution cell; the cell with its checks has the points, is locked,
    and fails unless all of its laws hold. Returns the notebooks. Raises ValueError rather than overwrite a file."""
    written = []
    for path in numbered(folder):
        lesson = bare(path)
        mark(path.stem, lesson)
        written.append(write(lesson, out / path.stem / path.name))
    return written


def mark(name: str, lesson: dict) -> None:
    """Adds nbgrader's metadata, version 3 of its schema, and what it wants of the cells."""
    points = {exercise["id"]: exercise["points"] for exercise in lessons()[name]["exercises"]}
    cells = [cell for cell in lesson["cells"] if cell["cell_type"] == "code"]
    for stub, checks in zip(cells, cells[1:]):
        for tag in stub["metadata"].get("tags", []):
            if not tag.startswith("exercise:"):
                continue
            own = tag.removeprefix("exercise:")
            stub["metadata"]["nbgrader"] = kind(own, solution=True)
            checks["metadata"]["nbgrader"] = kind(f"{own}-laws", solution=False) | {"points": points[own]}
            # nbgrader puts a stub of its own between the two marks, and keeps what stands above them
            stub["source"] = re.sub(r"^( +)raise NotImplementedError$",
                                    r"\1### BEGIN SOLUTION\n\g<0>\n\1### END SOLUTION", "".join(stub["source"]),
                                    flags=re.MULTILINE)
            checks["source"] = re.sub(r"^mz\.", "assert mz.", "".join(checks["source"]), flags=re.MULTILINE)


def kind(grade_id: str, solution: bool) -> dict:
    """A cell that students fill, or one that grades them."""
    return {"grade": not solution, "grade_id": grade_id, "locked": not solution, "schema_version": 3,
            "solution": solution, "task": False}


# ---- slides ----------------------------------------------------------------------------------------------------------


def slides(path: Path, out: Path, execute: bool = True) -> Path:
    """Runs a lesson and writes it as slides: one for each heading, what stands below it appears cell by cell, without
    the answers. Needs nbconvert, which JupyterLab brings; whoever shows them needs a network, for reveal.js.

    Raises ValueError where `out` is already there.
    """
    import nbconvert  # late: grading needs neither
    import nbformat

    if out.exists():
        raise ValueError(f"{out} is already there")
    lesson = nbformat.read(path, as_version=4)
    lesson.cells = [cell for cell in lesson.cells if not any(
        tag.startswith("answer:") for tag in cell.metadata.get("tags", []))]
    for cell in lesson.cells:
        heading = cell.cell_type == "markdown" and cell.source.lstrip().startswith("#")
        cell.metadata["slideshow"] = {"slide_type": "slide" if heading else "fragment"}
    if execute:
        nbconvert.preprocessors.ExecutePreprocessor(timeout=900).preprocess(lesson, {"metadata": {"path": path.parent}})
    written, _ = nbconvert.SlidesExporter().from_notebook_node(lesson)
    out.write_text(written, encoding="utf-8")
    return out
