"""`python -m minizaya lessons`: the course, and how far you are.

Reads the notebooks as they lie in a folder (save yours first), runs every exercise's function by the law that its check
names, and prints what passes. The same command grades a student: `--folder submissions/anna`. The law a function is
judged by comes from the original lesson where there is one, so an edited check earns nothing.

    exercise:<id>   tag of the code cell with the function; the next code cell holds its checks
    answer:<id>     tag of the cell with the folded answer; `--without-answers DIR` writes copies that lack them
"""

import argparse
import ast
import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

from . import flags

ROOT = Path(__file__).resolve().parents[2]
ORIGINALS = ROOT / "lessons"
MARKS = {"passed": "✔", "wrong": "✘", "open": "○"}


def read(path: Path) -> dict:
    """One notebook. Raises ValueError when the file is not one."""
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        return notebook | {"cells": [cell | {"source": "".join(cell["source"])} for cell in notebook["cells"]]}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a notebook ({type(error).__name__}: {error})") from None


def ids(cell: dict, kind: str) -> list[str]:
    """The ids of the tags "kind:<id>" of a cell."""
    tags = cell.get("metadata", {}).get("tags", [])
    return [tag.split(":", 1)[1] for tag in tags if tag.startswith(kind + ":")]


def exercises(notebook: dict) -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """id -> the source of the exercise's cell, and the (law, function) pairs of the check cell below it."""
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    found = {}
    for cell, below in zip(code, code[1:]):
        for name in ids(cell, "exercise"):
            calls = [node for node in ast.walk(ast.parse(below["source"])) if isinstance(node, ast.Call)
                     and ast.unparse(node.func).endswith("laws.check") and len(node.args) == 2]
            pairs = [(ast.literal_eval(call.args[0]), ast.unparse(call.args[1])) for call in calls]
            found[name] = cell["source"], pairs
    return found


def grade(path: Path) -> dict[str, dict]:
    """Judges one notebook, here: id -> {"verdict": "passed" | "wrong" | "open", "message"}.

    Runs the imports of the first code cell and the exercise cells, in order, and nothing else of the notebook.
    """
    from ..laws import judge

    notebook = read(path)
    original = ORIGINALS / path.name
    laws_of = exercises(read(original)) if original.is_file() else exercises(notebook)
    answers = exercises(notebook)
    space: dict = {}
    setup = next((cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "code"), "")
    verdicts = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(setup, space)
        for name, (_, pairs) in laws_of.items():
            try:
                if name not in answers:
                    raise LookupError(f"the cell tagged exercise:{name} is gone")
                exec(answers[name][0], space)
                results = [judge(law, space[function], guard=True) for law, function in pairs]
            except Exception as error:  # a student's cell may fail in any way; that is a verdict, not a crash
                verdicts[name] = {"verdict": "wrong", "message": f"{type(error).__name__}: {error}"}
                continue
            failed = next((result for result in results if not result.passed), None)
            kind = "passed" if failed is None else "wrong" if failed.attempted else "open"
            verdicts[name] = {"verdict": kind, "message": failed.message if kind == "wrong" else ""}
    return verdicts


def grade_apart(path: Path, seconds: float) -> dict[str, dict]:
    """`grade` in a process of its own, so that an endless loop or a crash costs one lesson and not the rest."""
    command = [sys.executable, "-m", "minizaya.commands.lessons", str(path.resolve())]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds,
                              env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)})
        if done.returncode == 0:
            return json.loads(done.stdout)
        problem = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
    except subprocess.TimeoutExpired:
        problem = f"took longer than {seconds:.0f} seconds"
    return {name: {"verdict": "wrong", "message": problem} for name in exercises(read(path))}


def progress(folder: Path, seconds: float = 300.0) -> list[dict]:
    """Every lesson in `folder` with its verdicts. Raises FileNotFoundError when there is none."""
    paths = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not paths:
        raise FileNotFoundError(f"no lesson (NN_name.ipynb) in {folder}")
    found = []
    for path in paths:
        notebook = read(path)
        title = notebook["cells"][0]["source"].splitlines()[0].lstrip("# ")
        minutes = notebook.get("metadata", {}).get("minizaya", {}).get("minutes")
        found.append({"lesson": path.stem, "title": title, "minutes": minutes,
                      "exercises": grade_apart(path, seconds)})
    return found


def without_answers(folder: Path, out: Path) -> list[Path]:
    """Copies the lessons to `out` without their answer cells. Raises ValueError rather than overwrite a file."""
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for path in sorted(folder.glob("[0-9][0-9]_*.ipynb")):
        target = out / path.name
        if target.exists():
            raise ValueError(f"{target} is already there; choose an empty folder")
        notebook = json.loads(path.read_text(encoding="utf-8"))
        notebook["cells"] = [cell for cell in notebook["cells"] if not ids(cell, "answer")]
        aside = target.with_suffix(".writing")
        aside.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        aside.replace(target)
        written.append(target)
    return written


def report(lessons: list[dict]) -> str:
    """`progress` for people: a line a lesson, a line an exercise, the smallest counterexample where one is wrong."""
    lines, passed, total = [], 0, 0
    for lesson in lessons:
        verdicts = lesson["exercises"]
        mine = sum(verdict["verdict"] == "passed" for verdict in verdicts.values())
        passed, total = passed + mine, total + len(verdicts)
        lines.append(f"{lesson['title']:44}{lesson['minutes'] or '?':>4} min   {mine} of {len(verdicts)}")
        for name, verdict in verdicts.items():
            lines.append(f"  {MARKS[verdict['verdict']]} {name:20} {verdict['message']}".rstrip())
    return "\n".join([*lines, "", f"{passed} of {total} exercises pass"])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", type=Path, default=ORIGINALS, help="where the notebooks lie (default: lessons/)")
    parser.add_argument("--seconds", type=float, default=300.0, help="time limit for one lesson (default 300)")
    parser.add_argument("--without-answers", type=Path, metavar="DIR", help="write copies without answers and stop")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Prints what passes. Returns 0, whatever it is."""
    if not args.folder.is_dir():
        raise ValueError(f"{args.folder} is no folder; the lessons come with the repository, "
                         "--folder says where yours lie")
    if args.without_answers:
        flags.refuse(args, "with --without-answers", seconds=300.0)
        written = without_answers(args.folder, args.without_answers)
        print(json.dumps([str(path) for path in written]) if args.json else "\n".join(map(str, written)))
        return 0
    lessons = progress(args.folder, args.seconds)
    print(json.dumps(lessons) if args.json else report(lessons))
    return 0


if __name__ == "__main__":  # one notebook, judged here: what `grade_apart` starts
    print(json.dumps(grade(Path(sys.argv[1]))))
