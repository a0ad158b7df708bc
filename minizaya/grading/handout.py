"""For teachers: the lessons without their answers, and one of them as slides."""

import json
from pathlib import Path


def without_answers(folder: Path, out: Path) -> list[Path]:
    """Copies the lessons to `out` without their answer cells. Raises ValueError rather than overwrite a file."""
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for path in sorted(folder.glob("[0-9][0-9]_*.ipynb")):
        target = out / path.name
        if target.exists():
            raise ValueError(f"{target} is already there; choose an empty folder")
        lesson = json.loads(path.read_text(encoding="utf-8"))
        lesson["cells"] = [cell for cell in lesson["cells"] if not any(
            tag.startswith("answer:") for tag in cell["metadata"].get("tags", []))]
        aside = target.with_suffix(".writing")
        aside.write_text(json.dumps(lesson, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        aside.replace(target)
        written.append(target)
    return written


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
