"""A class's notebooks: whose they are, which lesson each one is, and their verdicts.

    SUBMISSIONS/anna/01_moe.ipynb       a folder for each student
    SUBMISSIONS/ben_01_moe.ipynb        loose: by the name beside the lesson's (ben), or else by the folder itself

A notebook's lesson is its name's; renamed, the one whose exercises it is tagged with. Of two for one lesson the one
with the lesson's own name counts, the other is a copy.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

from .judge import Limits
from .notebook import cells, document
from .table import lessons

PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "XDG_CACHE_HOME",
             "MINIZAYA_CACHE")       # of our surroundings: a student's code must not find a token there
USUAL = Limits()
COPY = re.compile(r"[-_ ]*(copy[-_ ]?\d*|\(\d+\))?[-_ ]*", re.IGNORECASE)


@dataclass(frozen=True)
class Submission:
    """One notebook of one student. of: the notebook it is a copy of, which is not judged; ""."""

    student: str
    lesson: str
    path: Path
    of: str = ""


def found(folder: Path) -> tuple[list[Submission], list[Path]]:
    """What lies in a folder, and notebooks that belong to no lesson. Raises FileNotFoundError when there is none."""
    everything, strangers = [], []
    for path in notebooks(folder):
        lesson = lesson_of(path)
        if lesson is None:
            strangers.append(path)
            continue
        inside = path.relative_to(folder).parts
        rest = path.stem.replace(lesson, "", 1)
        loose = re.sub(r"^[-_ ]+|[-_ ]+$", "", rest)
        loose = loose if lesson in path.stem and not COPY.fullmatch(rest) else ""
        everything.append(Submission(inside[0] if len(inside) > 1 else loose or folder.resolve().name, lesson, path))
    if not everything:
        raise FileNotFoundError(f"no lesson (such as 01_moe.ipynb) in {folder}")
    first: dict[tuple[str, str], Submission] = {}
    for one in sorted(everything, key=lambda one: (one.path.stem != one.lesson, len(one.path.name), str(one.path))):
        first.setdefault((one.student, one.lesson), one)
    sorted_out = []
    for one in sorted(everything, key=lambda one: (one.student, one.lesson, str(one.path))):
        other = first[one.student, one.lesson].path
        sorted_out.append(one if other == one.path else Submission(one.student, one.lesson, one.path, str(other)))
    return sorted_out, strangers


def notebooks(folder: Path) -> Iterator[Path]:
    """Also what cannot be read, a link to nowhere, say: its student gets a verdict, and is not passed over."""
    for path in sorted(folder.rglob("*.ipynb")):
        inside = path.relative_to(folder).parts
        hidden = any(part.startswith(".") or part == "kept" for part in inside[:-1])     # kept: by `lessons --reset`
        if not path.is_dir() and not hidden and len(inside) <= 4:
            yield path


def lesson_of(path: Path) -> str | None:
    """The lesson of a notebook, by its name or else by its tags; None if it is none of ours."""
    named = [name for name in lessons() if name in path.stem]
    if named:
        return named[0]
    try:
        tags = {tag for cell in cells(document(path)) for tag in cell.tagged("exercise")}
    except ValueError:
        return None
    fits = {name: len(tags & {e["id"] for e in lesson["exercises"]}) for name, lesson in lessons().items()}
    best = max(fits, key=fits.get)
    return best if fits[best] else None


def graded(submissions: list[Submission], limits: Limits = USUAL, workers: int = 2, bar: bool = True,
           part: str = "exercises") -> Iterator[tuple[Submission, dict]]:
    """Each submission that is no copy, with what `judge.grade` says, as they are done.

    limits: for each exercise. workers: notebooks at a time. part: "exercises", or "open", the open ones. Raises
    RuntimeError when the grading itself fails.
    """
    jobs = [one for one in submissions if not one.of]
    root = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    env = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    env |= {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "PYTHONHASHSEED": "0"}
    warden = subprocess.Popen([sys.executable, "-m", "minizaya.grading.warden"], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, encoding="utf-8")
    try:
        with tqdm(total=len(jobs), desc="grading", unit="notebook", disable=not bar, file=sys.stderr) as progress:
            json.dump({"jobs": [[os.path.realpath(one.path), one.lesson] for one in jobs], "limits": asdict(limits),
                       "workers": workers, "part": part}, warden.stdin)
            warden.stdin.close()
            for line in warden.stdout:
                done = json.loads(line)
                progress.update()
                yield jobs[done["job"]], done["result"]
        complaint = warden.stderr.read()
        if warden.wait():
            raise RuntimeError(f"the grading ended with exit code {warden.returncode}: {complaint.strip()[-2000:]}")
    finally:
        warden.kill()
        warden.wait()
        warden.stdout.close()
        warden.stderr.close()
