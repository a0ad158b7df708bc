"""`python -m minizaya solve`: a model's accuracy on held-out problems, by task and difficulty, with standard errors."""

import argparse
import json
import sys

from tqdm import tqdm

from . import compare, zoo
from .data import tasks
from .infer.generate import generate

# where a model card looks: an easy problem, two in between, a hard one
LEVELS = {"addition": (2, 6, 10, 16), "base": (1, 2, 3, 5), "chain100": (2, 6, 12, 20), "copy": (4, 10, 16, 24),
          "countdown": (1, 2, 3, 4), "falsify": (1, 2, 3, 5), "invert": (1, 2, 3, 5), "modchain": (3, 8, 14, 22),
          "parity": (3, 8, 14, 20), "program": (1, 3, 5, 8), "reverse": (4, 10, 16, 24), "sorting": (3, 6, 9, 12)}
ROWS = 256  # sequences decoded at a time


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
                        help="with --compare or --sweep: too short a budget for one trace, or long enough (default: %(default)s)")
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
    if args.compare:
        setting = compare.SETTINGS[args.setting]
        found = compare.compare(model, tokenizer, setting, args.problems, args.seed)
        print(json.dumps(found) if args.json else compare.table(setting, found))
        return 0
    if args.sweep:
        setting = compare.SETTINGS[args.setting]
        found = compare.sweep(model, tokenizer, setting, args.problems, args.seed)
        print(json.dumps(found) if args.json else compare.sweep_table(setting, found))
        return 0
    levels = LEVELS if args.task is None else {args.task: LEVELS[args.task]}
    if args.difficulty is not None:
        levels = {args.task: (args.difficulty, )}
    found = accuracies(model, tokenizer, levels, args.problems, args.temperature, args.seed)
    if args.json:
        print(json.dumps({"model": args.model, "temperature": args.temperature, "problems": args.problems,
                          "seed": args.seed, "accuracy": found}))
    else:
        print(table(found))
    return 0


def accuracies(model, tokenizer, levels: dict, problems: int, temperature: float = 1.0, seed: int = 1) -> dict:
    """{task: {difficulty: {"accuracy", "stderr", "tokens"}}}: one rollout for each of `problems` held-out problems.

    A rollout may be half as long again as the longest worked solution among the problems. tokens: the mean length.
    """
    asked = []
    for name, difficulties in levels.items():
        for difficulty in difficulties:
            drawn = tasks.problems(name, "held_out", difficulty, problems, seed)
            room = max(len(tokenizer.encode(problem.completion)) for problem in drawn)
            asked += [(problem, room + room // 2) for problem in drawn]
    asked.sort(key=lambda pair: pair[1])  # batch mates of one length: no row waits for a long one
    scores: dict[tuple[str, int], list[tuple[int, int]]] = {}
    stop = tokenizer.encode(tasks.END)
    for first in tqdm(range(0, len(asked), ROWS), desc="solve", unit="batch", file=sys.stderr):
        group = asked[first: first + ROWS]
        prompts = [tokenizer.encode(problem.prompt) for problem, _ in group]
        answers = generate(model, prompts, group[-1][1], temperature, stop=stop, seed=seed)
        for (problem, room), answer in zip(group, answers):
            right = tasks.get(problem.task).verify(problem, tokenizer.decode(answer[:room]))
            scores.setdefault((problem.task, problem.difficulty), []).append((right, min(room, len(answer))))
    return {name: {str(difficulty): summary(scores[name, difficulty]) for difficulty in difficulties}
            for name, difficulties in levels.items()}


def summary(scores: list[tuple[int, int]]) -> dict:
    """Mean and standard error of the zeros and ones, and the mean length."""
    n = len(scores)
    mean = sum(right for right, _ in scores) / n
    return {"accuracy": round(mean, 4), "stderr": round((mean * (1 - mean) / n) ** 0.5, 4),
            "tokens": round(sum(length for _, length in scores) / n, 1)}


def table(found: dict) -> str:
    """One line a task: difficulty and accuracy in percent, with the standard error."""
    lines = []
    for name, by_difficulty in found.items():
        cells = (f"{difficulty:>3}: {100 * cell['accuracy']:5.1f} +- {100 * cell['stderr']:3.1f}"
                 for difficulty, cell in by_difficulty.items())
        lines.append(f"{name:10}" + "   ".join(cells))
    return "\n".join(lines)
