"""A student's own folder of lessons: how far, whether the notebooks are whole, and a lesson started over."""

import subprocess
from pathlib import Path

from . import notebook, report, submissions
from .judge import Limits
from .table import lessons as table


def progress(folder: Path, seconds: float = Limits.seconds, bar: bool = False) -> list[dict]:
    """Every lesson in `folder`, as one student's, with its verdicts. Raises FileNotFoundError when there is none."""
    here = [path for path in sorted(folder.glob("*.ipynb")) if path.stem in table()]
    if not here:
        raise FileNotFoundError(f"no lesson (NN_name.ipynb) in {folder}")
    mine = [submissions.Submission("", path.stem, path) for path in here]
    limits = Limits(seconds, max(seconds, Limits.whole))
    done = {one.lesson: result for one, result in submissions.graded(mine, limits, bar=bar)}
    return [{"lesson": name, "title": table()[name]["title"], "minutes": table()[name]["minutes"], **done[name]}
            for name in sorted(done)]


def check(folder: Path) -> dict[str, list[str]]:
    """What is damaged in each notebook of a folder that is some lesson's: file name -> complaints, empty when whole."""
    found = {}
    for path in sorted(folder.glob("*.ipynb")):
        lesson = submissions.lesson_of(path)
        try:
            complaints = [] if lesson is None else report.damaged(notebook.document(path), lesson)
        except ValueError as error:
            complaints = [str(error)]
        if lesson is None and not complaints:
            continue
        if lesson is not None and path.stem != lesson:
            complaints.append(f"it is not called {lesson}.ipynb")
        found[path.name] = complaints
    if not found:
        raise FileNotFoundError(f"no lesson (NN_name.ipynb) in {folder}")
    return found


def reset(folder: Path, number: str) -> tuple[Path, Path]:
    """Puts lesson `number` back as git's last commit has it. Returns the lesson, and the copy of the old one.

    Raises ValueError for a number that is no lesson's, and where there is no git or no commit to take it from.
    """
    names = [name for name in table() if name.split("_")[0] == number]
    if not names:
        raise ValueError(f"--reset must be one of {', '.join(name[:2] for name in table())}, got {number!r}")
    path = folder / f"{names[0]}.ipynb"
    try:
        done = subprocess.run(["git", "show", f"HEAD:./{path.name}"], cwd=folder, capture_output=True)
    except FileNotFoundError:
        raise ValueError("--reset takes the lesson from git, which is not installed") from None
    if done.returncode:
        raise ValueError(f"--reset takes {path} from git: {done.stderr.decode(errors='replace').strip()}")
    (folder / "kept").mkdir(exist_ok=True)
    kept = next(free for i in range(1, 10**6) if not (free := folder / "kept" / f"{path.stem}-{i}.ipynb").exists())
    if path.exists():
        path.rename(kept)
    path.write_bytes(done.stdout)
    return path, kept


def text(lessons: list[dict]) -> str:
    """`progress` for people: a line a lesson, a line an exercise, the smallest counterexample where one is wrong."""
    lines, passed, total = [], 0, 0
    for lesson in lessons:
        verdicts = lesson["exercises"]
        mine = sum(verdict["verdict"] == "passed" for verdict in verdicts.values())
        passed, total = passed + mine, total + len(verdicts)
        lines.append(f"{lesson['title']:44}{lesson['minutes'] or '?':>4} min   {mine} of {len(verdicts)}   "
                     f"{lesson['problem']}".rstrip())
        for name, verdict in verdicts.items():
            message = verdict["message"] if verdict["message"] != lesson["problem"] else ""
            lines.append(f"  {report.MARKS[verdict['verdict']]} {name:20} {message}".rstrip())
    return "\n".join([*lines, "", f"{passed} of {total} exercises pass"])
