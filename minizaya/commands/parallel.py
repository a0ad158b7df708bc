"""`python -m minizaya parallel --layout dp2xep2 ...`: trains on several processes, and can be stopped and resumed.

It starts its own ranks on this machine. Over several machines, or where torchrun is at hand anyway:

    torchrun --nproc-per-node 4 -m minizaya parallel --layout dp2xep2 --out runs/four

A run that was saved by one layout goes on with any other.
"""

import argparse
import json
import math
import os
import signal
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.distributed as dist

from ..parallel import launch
from ..parallel.grid import Grid
from ..parallel.layout import Layout
from ..parallel.traffic import KINDS, Traffic
from ..parallel.trainer import ParallelTrainer
from ..train.checkpoint import latest
from ..train.loop import Recipe
from ..train.sources import mixture
from . import train as run_train

PATIENCE = 5.0  # seconds in which torchrun should have ended a rank that lost another


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--layout", required=True, help="how to share the work: dp2, ep4, cp2, dp2xep2, ...")
    run_train.add_arguments(parser)
    other = parser.add_argument_group("other than in train", conflict_handler="resolve")   # these replace its flags
    other.add_argument("--out", type=Path, required=True,
                       help="the run's folder: log, newest checkpoint; no picture is drawn")
    other.add_argument("--optimizer", default="adamw", metavar="adamw",
                       help="AdamW only: Muon needs whole matrices, and a rank holds rows of them")
    other.add_argument("--device", choices=("auto",), default="auto", metavar="auto",
                       help="auto only: a GPU for each rank where there are enough, else all on the CPU")
    parser.add_argument("--timeout", type=float, default=20.0,
                        help="seconds that a rank waits for the others before it gives up (default 20)")


def run(args: argparse.Namespace) -> int:
    """Returns 0 when the run is done, 130 when Ctrl-C stopped it, 1 when a rank failed; it can go on with --resume."""
    layout = Layout.parse(args.layout)
    if not 0 < args.timeout < math.inf:
        raise ValueError(f"--timeout must be above 0 seconds, got {args.timeout}")
    if "RANK" in os.environ:   # torchrun has started this process
        return 0 if rank(to_json(args)) else 130
    if layout.ranks > 64:
        raise ValueError(f"layout {layout} wants {layout.ranks} ranks on this machine; 64 is the most")
    try:
        done = launch.run_job("minizaya.commands.parallel:rank", layout.ranks, math.inf, args.timeout, foreground=True,
                              given=to_json(args))
    except launch.RankFailed as failed:
        if failed.code == -signal.SIGINT:   # it was still importing, and had no ears for Ctrl-C
            print(f"minizaya parallel: stopped; {state_of(args.out)}", file=sys.stderr)
            return 130
        if failed.code != 2:
            # trap: the bar of a rank that was killed leaves the cursor in the middle of its line
            print(f"\nminizaya parallel: {failed}; {state_of(args.out)}", file=sys.stderr)
            return 1
        if failed.rank != 0:                # the input was wrong; what rank 0 says of it has been seen
            print(f"minizaya parallel: {failed}", file=sys.stderr)
        return 2
    return 0 if all(done) else 130


def to_json(args: argparse.Namespace) -> dict:
    """The arguments for another process. trap: JSON knows no paths."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}


def from_json(given: dict) -> argparse.Namespace:
    paths = {name: given[name] and Path(given[name]) for name in ("out", "text_file")}
    return argparse.Namespace(**given | paths)


def state_of(folder: Path) -> str:
    """Where a broken run stands, in words."""
    newest = latest(folder)
    return f"the last checkpoint is {newest}, go on with --resume" if newest else f"{folder} has no checkpoint yet"


def rank(given: dict) -> bool:
    """One rank's part: is the run done? What goes wrong ends this process: the way out of a broken group can hang."""
    args, launched = from_json(given), dist.is_initialized()
    try:
        with nullcontext() if launched else launch.join(args.timeout):
            return train(args)
    except (ValueError, OSError) as error:
        # every rank: a file may be damaged that this one alone reads. The launcher shows what it wants of their logs
        who = "minizaya parallel" if os.environ["RANK"] == "0" else type(error).__name__
        print(f"{who}: {' '.join(str(error).split())}", file=sys.stderr)
        code = 2
    except RuntimeError as error:
        if not launch.lost_peer(error):
            raise
        code = launch.LOST
        if not launched:
            time.sleep(PATIENCE)   # torchrun ends us, and prints which rank it was. If nobody does, say what is known
            me = os.environ["RANK"]
            print(f"minizaya parallel: rank {me} lost another rank; {state_of(args.out)}", file=sys.stderr)
    sys.stderr.flush()
    os._exit(code)


def train(args: argparse.Namespace) -> bool:
    """Trains to the end, or until Ctrl-C. Rank 0 says where it got."""
    grid = Grid(Layout.parse(args.layout))
    tokenizer, train_text, _ = run_train.material(args)
    recipe = Recipe(steps=args.steps, lr=args.lr, seed=args.seed, optimizer=args.optimizer)
    trainer = ParallelTrainer(run_train.fresh_model(args, tokenizer), recipe,
                              mixture(*run_train.sources(args, tokenizer, train_text)), grid, args.out,
                              run_train.kept(args, tokenizer, train_text), args.resume)
    sent = measure(trainer) if args.json and trainer.step < recipe.steps else None
    done = trainer.train(args.save_every)
    if grid.rank == 0 and trainer.records:
        last = trainer.records[-1]
        if args.json:
            print(json.dumps({"done": done, "run": str(args.out), "layout": str(grid.layout),
                              "ranks": grid.layout.ranks, "sent_in_one_step": sent, **last}))
        else:
            where = f"(nats a token); run folder {args.out}"
            print(f"step {last['step']}: loss {last['loss']:.3f} {where}", file=sys.stderr)
    return done


def measure(trainer: ParallelTrainer) -> dict[str, list[int]]:
    """Takes one step and says what was sent in it: kind -> bytes by sending rank, for the kinds that were used."""
    with Traffic() as traffic:
        trainer.log(trainer.train_step())
    ranks = dist.get_world_size()
    kinds = list(KINDS.values())
    table = torch.zeros(len(kinds), ranks, dtype=torch.int64)
    for kind, row in traffic.sent.items():
        table[kinds.index(kind), trainer.grid.rank] = sum(row)
    table = trainer.grid.sum(table).tolist()
    return {kind: row for kind, row in zip(kinds, table) if any(row)}
