"""`python -m minizaya stages`: trains the shipped reasoner, or one like it, through all stages of the table."""

import argparse
import json
import sys
from pathlib import Path

import torch

from ..hub import zoo
from ..rl import cascade
from ..train import evaluate, stages
from .shared import device, flags

RL = f"{len(stages.ALL) + 1}-rl"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, help="the folder of all runs, one a stage")
    parser.add_argument("--sheets", action="store_true",
                        help="three stages more, on sheets of small searches, the last of RL: they make nano-sheets")
    parser.add_argument("--resume", action="store_true", help="go on where a stopped run in --out was")
    parser.add_argument("--share", type=float, default=1.0,
                        help="of every stage's tokens; 0.01 tries the whole path in a minute or two (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and data (default 0)")
    parser.add_argument("--publish", metavar="NAME", help="at the end measure the model and put it into the zoo")
    parser.add_argument("--problems", type=int, default=200, help="with --publish: for each accuracy (default 200)")
    parser.add_argument("--table", action="store_true", help="print the table, ours beside the real one, and stop")
    device.add_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Returns 0 when all stages are done, 130 when Ctrl-C stopped one (it can go on with --resume)."""
    if args.table:
        flags.refuse(args, "with --table", out=None, sheets=False, resume=False, share=1.0, seed=0, publish=None,
                     device="auto")
    if args.publish is None:
        flags.refuse(args, "without --publish", problems=200)
    if args.table:
        print(json.dumps(stages.rows()) if args.json else stages.text_table())
        return 0
    if args.out is None:
        raise ValueError("out must name a folder for the runs, got none")
    if args.problems < 1:
        raise ValueError(f"problems must be at least 1, got {args.problems}")
    flags.writable("publish", args.publish and zoo.FOLDER / args.publish, parents=True)
    place = device.choose(args.device)
    done = stages.train(args.out, table_of(args), args.share, args.seed, args.resume, device=place)
    if done and args.sheets:
        model, tokenizer = zoo.open_model(str(last_of(args, rl=False)))
        done = cascade.train(model.to(place), tokenizer, args.out / RL, cascade.SHEETS, args.seed, share=args.share)
    if done and args.publish:
        publish(args, place)
    if args.json:
        print(json.dumps({"done": done, "run": str(args.out)}))
    elif done:
        print(f"done; now: python -m minizaya solve --model {last_of(args)}", file=sys.stderr)
    return 0 if done else 130


def table_of(args: argparse.Namespace) -> tuple[stages.Stage, ...]:
    return stages.ALL if args.sheets else stages.TOY


def last_of(args: argparse.Namespace, rl: bool = True) -> Path:
    """The folder of the last stage; without rl, of the last one that read texts."""
    table, updates = table_of(args), f"{RL}/1-{cascade.SHEETS[0].name}/trainer"
    return args.out / (updates if args.sheets and rl else f"{len(table)}-{table[-1].name}")


def publish(args: argparse.Namespace, place: torch.device) -> None:
    """Puts the last stage's model into the zoo, with its card, measured on the device `place`."""
    zoo.publish(last_of(args), args.publish, {})
    model, tokenizer = zoo.load(args.publish)
    learned = {name for stage in table_of(args) for name in stage.levels}
    levels = {name: level for name, level in evaluate.LEVELS.items() if name in learned}
    found = evaluate.accuracies(model.to(place), tokenizer, levels, args.problems)
    zoo.write_card(args.publish, {
        "model": args.publish, "parameters": sum(p.numel() for p in model.parameters()),
        "experts": model.config.num_experts, "flags": " --sheets" if args.sheets else "",
        "training_seed": args.seed, "torch": torch.__version__,
        "stages": zoo.stage_facts(args.out), "temperature": 1.0, "problems": args.problems, "seed": 1,
        "accuracy": found})
