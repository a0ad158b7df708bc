"""`minizaya leaderboard BOARD.jsonl`: a class's best answers to the open exercises.

`--add SUBMISSIONS` judges those of a folder, behind the walls of `minizaya grade`, and adds a line for each that keeps
its law. `--baseline` says what there is to beat, computed now.
"""

import argparse
import json
import sys
from pathlib import Path

from ..grading import open_exercises, submissions
from ..grading.judge import Limits
from ..grading.open_exercises import board
from ..grading.table import lessons
from .shared import flags

WHOLE = 600.0       # seconds for one exercise: thousands of calls


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("board", type=Path, nargs="?", metavar="BOARD", help="the file, such as board.jsonl")
    parser.add_argument("--add", type=Path, metavar="SUBMISSIONS", help="judge a folder, laid out as for grade")
    parser.add_argument("--seed", help="of what is measured: with --baseline, or --add where the board has none yet "
                                       "(default: chance)")
    parser.add_argument("--baseline", action="store_true", help="compute what there is to beat, and stop")
    parser.add_argument("--only", choices=list(open_exercises.EXERCISES), help="this exercise alone")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Prints the board, or the baselines. Returns 0. Raises ValueError and OSError for wrong arguments."""
    names = [args.only] if args.only else list(open_exercises.EXERCISES)
    if args.baseline:
        flags.refuse(args, "with --baseline", board=None, add=None)
        costs = {name: open_exercises.baseline(name, args.seed or open_exercises.LESSON) for name in names}
        print(json.dumps(costs) if args.json else "\n".join(
            f"{name}: {cost:.4g} {open_exercises.EXERCISES[name].COST}" for name, cost in costs.items()))
        return 0
    if args.board is None:
        raise ValueError("name the board, a file such as board.jsonl, or give --baseline")
    if args.add is None:
        flags.refuse(args, "without --add or --baseline", seed=None)
        if not args.board.is_file():
            raise ValueError(f"there is no {args.board}; --add begins one")
    rows = board.read(args.board)
    new, refused = ([], []) if args.add is None else added(args, rows, names)
    rows = [row for row in [*rows, *new] if row["exercise"] in names]
    if args.json:
        print(json.dumps({"board": rows, "new": new, "refused": refused}))
    else:
        print(board.table(rows), *(f"{row['name']}, {row['exercise']}: {row['message']}" for row in refused), sep="\n")
    return 0


def added(args: argparse.Namespace, rows: list[dict], names: list[str]) -> tuple[list[dict], list[dict]]:
    """Judges a folder. Returns the new lines, which are in the file by then, and what got none, with the reason."""
    if not args.add.is_dir():
        raise ValueError(f"{args.add} is no folder of submissions")
    flags.writable("board", args.board)
    everything, _ = submissions.found(args.add)
    new, refused = [], []
    for name in names:
        lesson = next(lesson for lesson, about in lessons().items() if name in [one["id"] for one in about["open"]])
        own, seed = [one for one in everything if one.lesson == lesson], board.seed_of(rows, name, args.seed)
        limits = Limits(whole=WHOLE, seed=seed)
        for one, result in submissions.graded(own, limits, bar=sys.stderr.isatty(), part="open"):
            verdict = result["exercises"][name]
            if verdict["verdict"] == "passed":
                new.append(board.add(args.board, name, one.student, seed, verdict))
            elif verdict["verdict"] == "wrong":
                refused.append({"exercise": name, "name": one.student, "message": verdict["message"]})
    return new, refused
