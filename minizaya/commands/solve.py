"""`python -m minizaya solve`: a model's accuracy on held-out problems, by task and difficulty, with standard errors."""

import argparse
import json
import sys

from ..data import tasks
from ..hub import zoo
from ..studies import compare
from ..train import evaluate
from ..train.evaluate import LEVELS
from .shared import device, flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, metavar="NAME",
                        help=f"a shipped checkpoint ({', '.join(zoo.names()) or 'none yet'}) or a run's folder")
    parser.add_argument("--task", choices=tasks.names(), help="one task only (default: all)")
    parser.add_argument("--difficulty", type=int, help="one difficulty only, with --task (default: four a task)")
    parser.add_argument("--problems", type=int, default=100, help="for each task and difficulty (default: %(default)s)")
    parser.add_argument("--temperature", type=float, help="0 is greedy (default: 1.0)")
    parser.add_argument("--seed", type=int, default=1, help="of problems and sampling (default: %(default)s)")
    parser.add_argument("--compare", action="store_true",
                        help="compare one rollout, majority vote and recursive self-aggregation in one setting")
    parser.add_argument("--sweep", action="store_true",
                        help="vary Markovian RSA's beta and tau in one setting, on the exam C and tau")
    parser.add_argument("--setting", choices=sorted(compare.SETTINGS),
                        help="with --compare or --sweep: a budget that is too short for one trace, or long enough "
                             "(default: tight)")
    parser.add_argument("--exam", action="store_true",
                        help="with --compare or --sweep: the setting exam, short and long sheets of small searches "
                             "(nano-sheets answers it for nano-reasoner)")
    device.add_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Prints a table, or {"model", "temperature", "problems", "seed", "accuracy": {task: {difficulty: {...}}}}.

    With --compare: `studies.compare.compare`. With --sweep: [{"beta", "tau", "rounds"}, ...].
    """
    if args.problems < 1:
        raise ValueError(f"problems must be at least 1, got {args.problems}")
    if args.difficulty is not None and args.task is None:
        raise ValueError("difficulty needs a task: give --task, too")
    check_flags(args)
    setting = compare.SETTINGS["exam" if args.exam else args.setting or "tight"]
    studied = args.compare or args.sweep
    name = zoo.taught(args.model, setting.task) if studied else args.model
    if name != args.model:
        print(f"{args.model} has not learned {setting.task}; {name}, which went on from it, answers", file=sys.stderr)
    model, tokenizer = zoo.open_model(name)
    model.to(device.choose(args.device))
    if studied:
        study, told = (compare.compare, compare.table) if args.compare else (compare.sweep, compare.sweep_table)
        found = study(model, tokenizer, setting, args.problems, args.seed)
        print(json.dumps(found) if args.json else told(setting, found))
        return 0
    levels = LEVELS if args.task is None else {args.task: LEVELS[args.task]}
    if args.difficulty is not None:
        levels = {args.task: (args.difficulty, )}
    temperature = 1.0 if args.temperature is None else args.temperature
    found = evaluate.accuracies(model, tokenizer, levels, args.problems, temperature, args.seed)
    if args.json:
        print(json.dumps({"model": args.model, "temperature": temperature, "problems": args.problems,
                          "seed": args.seed, "accuracy": found}))
    else:
        print(table(found))
    return 0


def check_flags(args: argparse.Namespace) -> None:
    """Raises ValueError for a flag that the other flags leave without effect."""
    if args.compare and args.sweep:
        raise ValueError("sweep and compare are two studies: give one of --compare and --sweep")
    if args.compare or args.sweep:
        flags.refuse(args, f"with --{'compare' if args.compare else 'sweep'}", task=None, difficulty=None,
                     temperature=None)
    else:
        flags.refuse(args, "without --compare or --sweep", setting=None, exam=False)
    if args.exam and args.setting is not None:
        raise ValueError("exam is a setting of its own: give one of --exam and --setting")


def table(found: dict) -> str:
    """One line a task: difficulty and accuracy in percent, with the standard error."""
    lines = []
    for name, by_difficulty in found.items():
        cells = (f"{difficulty:>3}: {100 * cell['accuracy']:5.1f} +- {100 * cell['stderr']:3.1f}"
                 for difficulty, cell in by_difficulty.items())
        lines.append(f"{name:10}" + "   ".join(cells))
    return "\n".join(lines)
