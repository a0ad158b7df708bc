"""`python -m minizaya cascade`: reinforcement learning in four stages, from a shipped reasoner."""

import argparse
import json
import sys
from pathlib import Path

import torch

from ..hub import zoo
from ..rl import cascade
from ..train import checkpoint, evaluate
from .shared import device, flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, metavar="DIR", help="the folder of all runs, one a stage")
    parser.add_argument("--model", default="nano-reasoner",
                        help="a shipped checkpoint or a run's folder (default: %(default)s)")
    parser.add_argument("--resume", action="store_true", help="go on where a stopped run in --out was")
    parser.add_argument("--share", type=float, default=1.0,
                        help="of every stage's updates; 0.1 tries the whole path (default 1)")
    parser.add_argument("--processes", type=int, choices=(1, 2), default=2,
                        help="2: generator and trainer side by side; 1: in turn, repeatable exactly (default 2)")
    parser.add_argument("--seed", type=int, default=0, help="of problems and answers (default 0)")
    parser.add_argument("--problems", type=int, default=100,
                        help="held-out problems a task, before and after (default 100)")
    parser.add_argument("--publish", metavar="NAME", help="at the end put the model into the zoo, with its card")
    parser.add_argument("--table", action="store_true", help="print the stages, ours beside the real ones, and stop")
    device.add_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Returns 0 when all stages are done, 130 when Ctrl-C stopped one (it can go on with --resume)."""
    if args.table:
        flags.refuse(args, "with --table", out=None, model="nano-reasoner", resume=False, share=1.0, processes=2,
                     seed=0, problems=100, publish=None, device="auto")
        print(json.dumps(cascade.rows()) if args.json else cascade.text_table())
        return 0
    if args.out is None:
        raise ValueError("out must name a folder for the runs, got none")
    if (args.out / "plan.json").exists() and not args.resume:
        raise ValueError(f"out: {args.out} holds a run already; give --resume to go on with it, or another folder")
    if args.problems < 1 or not args.share > 0:
        raise ValueError(f"problems must be at least 1 and share positive, got {args.problems} and {args.share}")
    flags.writable("publish", args.publish and zoo.FOLDER / args.publish, parents=True)
    torch.set_num_threads(1 if args.processes == 1 else torch.get_num_threads())  # sums of one order, to be repeatable
    place = device.choose(args.device)
    model, tokenizer = zoo.open_model(args.model)
    model.to(place)
    if not cascade.train(model, tokenizer, args.out, seed=args.seed, processes=args.processes, share=args.share):
        return 130
    plan = json.loads((args.out / "plan.json").read_text("utf-8"))
    before, after = (cascade.examine(judged, tokenizer, plan["levels"], args.problems, seed=7)
                     for judged in (zoo.open_model(args.model)[0].to(place), model.eval()))
    gain = (sum(after.values()) - sum(before.values())) / len(after)
    found = {"levels": plan["levels"], "before": before, "after": after,
             "minutes": round(cascade.minutes(args.out), 1), "gain": round(gain, 4)}
    checkpoint.replace_file(args.out / "result.json", json.dumps(found, indent=1).encode())
    if args.publish:
        publish(args, found, place)
    print(json.dumps(found) if args.json else text(found))
    return 0


def text(found: dict) -> str:
    """Before and after, a line a task."""
    lines = [f"{name:10} difficulty {level:3}   "
             f"{100 * found['before'][name]:5.1f} -> {100 * found['after'][name]:5.1f} %"
             for name, level in sorted(found["levels"].items())]
    return "\n".join([*lines, f"mean gain {100 * found['gain']:.1f} points in {found['minutes']} minutes"])


def publish(args: argparse.Namespace, found: dict, place: torch.device) -> None:
    """Puts the last stage's model into the zoo, with a card that says before and after."""
    last = sorted(args.out.glob("[0-9]-*"))[-1]
    zoo.publish(last / "trainer", args.publish, {})
    model, tokenizer = zoo.load(args.publish)
    updates = [{"name": stage.name, "updates": max(2, round(stage.updates * args.share))} for stage in cascade.TOY]
    model.to(place)
    zoo.write_card(args.publish, found | {
        "model": args.publish, "from": args.model, "parameters": sum(p.numel() for p in model.parameters()),
        "accuracy": evaluate.accuracies(model, tokenizer, evaluate.LEVELS, args.problems), "problems": args.problems,
        "training_seed": args.seed, "torch": torch.__version__, "stages": updates})
    print(f"published as {args.publish}", file=sys.stderr)
