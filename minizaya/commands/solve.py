"""`python -m minizaya solve`: a model's accuracy on held-out problems, by task and difficulty, with standard errors."""

import argparse
import json

from ..data import tasks
from ..hub import zoo
from ..studies import compare
from ..train import evaluate
from ..train.evaluate import LEVELS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, metavar="NAME",
                        help=f"a shipped checkpoint ({', '.join(zoo.names()) or 'none yet'}) or a run's folder")
    parser.add_argument("--task", choices=tasks.names(), help="one task only (default: all)")
    parser.add_argument("--difficulty", type=int, help="one difficulty only, with --task (default: four a task)")
    parser.add_argument("--problems", type=int, default=100, help="for each task and difficulty (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=1.0, help="0 is greedy (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of problems and sampling (default: %(default)s)")
    parser.add_argument("--compare", action="store_true",
                        help="compare one rollout, majority vote and recursive self-aggregation in one setting")
    parser.add_argument("--sweep", action="store_true", help="vary Markovian RSA's beta and tau in one setting")
    parser.add_argument("--setting", choices=sorted(compare.SETTINGS), default="tight",
                        help="with --compare or --sweep: a budget that is too short for one trace, or long enough "
                             "(default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Prints a table, or {"model", "temperature", "problems", "seed", "accuracy": {task: {difficulty: {...}}}}.

    With --compare: {method: {"accuracy", "stderr", "tokens"}}. With --sweep: [{"beta", "tau", "rounds"}, ...].
    """
    if args.problems < 1:
        raise ValueError(f"problems must be at least 1, got {args.problems}")
    if args.difficulty is not None and args.task is None:
        raise ValueError("difficulty needs a task: give --task, too")
    model, tokenizer = zoo.open_model(args.model)
    if args.compare or args.sweep:
        study, told = (compare.compare, compare.table) if args.compare else (compare.sweep, compare.sweep_table)
        setting = compare.SETTINGS[args.setting]
        found = study(model, tokenizer, setting, args.problems, args.seed)
        print(json.dumps(found) if args.json else told(setting, found))
        return 0
    levels = LEVELS if args.task is None else {args.task: LEVELS[args.task]}
    if args.difficulty is not None:
        levels = {args.task: (args.difficulty, )}
    found = evaluate.accuracies(model, tokenizer, levels, args.problems, args.temperature, args.seed)
    if args.json:
        print(json.dumps({"model": args.model, "temperature": args.temperature, "problems": args.problems,
                          "seed": args.seed, "accuracy": found}))
    else:
        print(table(found))
    return 0


def table(found: dict) -> str:
    """One line a task: difficulty and accuracy in percent, with the standard error."""
    lines = []
    for name, by_difficulty in found.items():
        cells = (f"{difficulty:>3}: {100 * cell['accuracy']:5.1f} +- {100 * cell['stderr']:3.1f}"
                 for difficulty, cell in by_difficulty.items())
        lines.append(f"{name:10}" + "   ".join(cells))
    return "\n".join(lines)
