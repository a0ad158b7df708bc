"""`minizaya grade SUBMISSIONS`: a class's notebooks, judged by the laws, each behind walls of its own."""

import argparse
import json
from pathlib import Path

from ..config import check_settings
from ..grading import report, similarity, submissions
from ..grading.judge import Limits
from .shared import flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("submissions", type=Path, help="a folder: a folder for each student, or notebooks")
    parser.add_argument("--lesson", help="only this lesson, such as 02_cca")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write a line for each exercise")
    parser.add_argument("--seconds", type=float, default=Limits.seconds,
                        help=f"time limit for one call of a student's function (default {Limits.seconds:g})")
    parser.add_argument("--whole", type=float, default=Limits.whole,
                        help=f"time limit for one exercise (default {Limits.whole:g})")
    parser.add_argument("--memory", type=float, default=Limits.memory / 2**30, metavar="GIB",
                        help=f"memory of a student's process, in GiB (default {Limits.memory / 2**30:g})")
    parser.add_argument("--seed", help="draw other inputs than the lessons' checks, the same for the same text")
    parser.add_argument("--workers", type=int, default=2, help="notebooks at a time (default 2)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Prints who has what. Returns 0, whatever it is. Raises ValueError and OSError for wrong arguments."""
    check_settings(vars(args), seconds="(0, 1e9]", whole="(0, 1e9]", memory="(0, 1e9]", workers=1)
    limits = Limits(args.seconds, args.whole, int(args.memory * 2**30), args.seed)
    if not args.submissions.is_dir():
        raise ValueError(f"{args.submissions} is no folder of submissions")
    if args.lesson is not None and args.lesson not in report.lessons():
        raise ValueError(f"--lesson must be one of {', '.join(report.lessons())}, got {args.lesson!r}")
    flags.writable("csv", args.csv)
    everything, strangers = submissions.found(args.submissions)
    if args.lesson:
        everything = [one for one in everything if one.lesson == args.lesson]
    copies = [one for one in everything if one.of]
    done = list(submissions.graded(everything, limits, args.workers))
    if args.csv:
        report.write_csv(args.csv, done)
    alike = similarity.alike(done)
    if args.json:
        print(json.dumps({"exercises": report.rows(done), "alike": alike,
                          "copies": [str(one.path) for one in copies], "strangers": [str(path) for path in strangers]}))
    else:
        print(report.table(done, copies, strangers, alike))
    return 0
