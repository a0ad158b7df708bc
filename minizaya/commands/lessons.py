"""`python -m minizaya lessons`: the course, and how far you are.

Reads the notebooks as they lie in a folder (save yours first), and judges every exercise as `minizaya grade` does,
which is for a class. `--check` only looks whether the notebooks are whole, before they are handed in;
`--without-answers DIR` writes copies that lack the answers, `--nbgrader DIR` the same as nbgrader's source,
`--slides LESSON` makes slides of one, `--book DIR` runs them and makes a site to read, and `--reset 04` starts a lesson
over, and keeps yours.
"""

import argparse
import json
import sys
from pathlib import Path

from ..config import check_settings
from ..grading.book import book
from ..grading.course import check, progress, reset, text
from ..grading.handout import for_nbgrader, slides, without_answers
from ..grading.judge import Limits
from .shared import flags

ORIGINALS = Path(__file__).resolve().parents[2] / "lessons"


def listed(written: list[Path], as_json: bool) -> int:
    print(json.dumps([str(path) for path in written]) if as_json else "\n".join(map(str, written)))
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", type=Path, default=ORIGINALS, help="where the notebooks lie (default: lessons/)")
    parser.add_argument("--seconds", type=float, default=Limits.seconds,
                        help=f"time limit for one call of your function (default {Limits.seconds:g})")
    parser.add_argument("--check", action="store_true", help="only look whether the notebooks are whole, and stop")
    parser.add_argument("--without-answers", type=Path, metavar="DIR", help="write copies without answers and stop")
    parser.add_argument("--nbgrader", type=Path, metavar="DIR", help="write the source of an nbgrader course and stop")
    parser.add_argument("--reset", metavar="NUMBER", help="start a lesson over, such as 04; yours is kept, in kept/")
    parser.add_argument("--slides", metavar="LESSON", help="run a lesson, write LESSON.slides.html, and stop")
    parser.add_argument("--book", type=Path, metavar="DIR", help="run the lessons, write a static site, and stop")
    parser.add_argument("--only", nargs="+", metavar="NUMBER", help="with --book: these lessons, such as 01 02")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Prints what passes. Returns 0, whatever it is; with --check 1 if a notebook is damaged."""
    if not args.folder.is_dir():
        raise ValueError(f"{args.folder} is no folder; the lessons come with the repository, "
                         "--folder says where yours lie")
    check_settings(vars(args), seconds="(0, 1e9]")
    if args.only and not args.book:
        raise ValueError(f"--only needs --book, got {' '.join(args.only)}")
    copies = dict(check=False, slides=None, reset=None, book=None, seconds=Limits.seconds)
    if args.nbgrader:
        flags.refuse(args, "with --nbgrader", without_answers=None, **copies)
        return listed(for_nbgrader(args.folder, args.nbgrader), args.json)
    if args.without_answers:
        flags.refuse(args, "with --without-answers", **copies)
        return listed(without_answers(args.folder, args.without_answers), args.json)
    if args.reset is not None:
        flags.refuse(args, "with --reset", check=False, slides=None, book=None, seconds=Limits.seconds)
        path, kept = reset(args.folder, args.reset)
        print(json.dumps([str(path), str(kept)]) if args.json else f"{path} is as it was; yours is {kept}")
        return 0
    if args.book:
        flags.refuse(args, "with --book", check=False, slides=None, seconds=Limits.seconds)
        flags.writable("book", args.book, parents=True)
        return listed(book(args.folder, args.book, args.only), args.json)
    if args.slides:
        flags.refuse(args, "with --slides", check=False, seconds=Limits.seconds)
        if not (args.folder / f"{args.slides}.ipynb").is_file():
            raise ValueError(f"--slides must be a lesson in {args.folder}, such as 02_cca, got {args.slides!r}")
        flags.writable("slides", out := Path(f"{args.slides}.slides.html"))
        written = slides(args.folder / f"{args.slides}.ipynb", out)
        print(json.dumps(str(written)) if args.json else written)
        return 0
    if args.check:
        flags.refuse(args, "with --check", seconds=Limits.seconds)
        found = check(args.folder)
        print(json.dumps(found) if args.json else "\n".join(
            f"{name}: {'; '.join(complaints) or 'whole'}" for name, complaints in found.items()))
        return int(any(found.values()))
    lessons = progress(args.folder, args.seconds, bar=sys.stderr.isatty())
    print(json.dumps(lessons) if args.json else text(lessons))
    return 0
