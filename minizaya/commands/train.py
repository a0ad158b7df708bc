"""`python -m minizaya train`: trains a preset on text, on a task, or on both, and can be stopped at any time."""

import argparse
import json
import sys
from hashlib import sha256
from pathlib import Path

import torch

from ..arch.model import Zaya
from ..config import ZayaConfig
from ..data import tasks, text
from ..data.tokenizer import CharTokenizer
from ..plots.picture import LivePicture
from ..train.evaluate import held_out_loss
from ..train.loop import Recipe, Trainer
from ..train.sources import Source, mixture, task_source, text_source
from .shared import device, flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="the run's folder: log, picture, newest checkpoint")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in --out")
    parser.add_argument("--preset", default="nano", help="the model's size (default nano); the text's vocabulary")
    parser.add_argument("--steps", type=int, default=1000, help="optimizer steps in all (default 1000)")
    parser.add_argument("--lr", type=float, default=Recipe.lr, help=f"peak learning rate (default {Recipe.lr})")
    parser.add_argument("--optimizer", choices=("adamw", "muon"), default="adamw",
                        help="Muon moves the matrices, AdamW the rest; or AdamW moves all (default %(default)s)")
    parser.add_argument("--seq", type=int, default=128, help="tokens in a row of text (default 128)")
    parser.add_argument("--text-rows", type=int, default=16, help="rows of text a step, 0 for none (default 16)")
    parser.add_argument("--task", choices=tasks.names(), default="addition", help="the task (default addition)")
    parser.add_argument("--difficulty", type=int, default=3, help="of the task (default 3)")
    parser.add_argument("--task-rows", type=int, default=16, help="problems a step, 0 for none (default 16)")
    parser.add_argument("--text-file", type=Path, help="UTF-8 text to learn instead of Python's help texts")
    parser.add_argument("--save-every", type=int, default=200, help="steps between checkpoints (default 200)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and data (default 0)")
    device.add_argument(parser)
    parser.add_argument("--json", action="store_true", help="print the last figures as one JSON document")


def run(args: argparse.Namespace) -> int:
    """Returns 0 when the run is done, 130 when Ctrl-C stopped it (it can go on with --resume)."""
    tokenizer, train_text, held_out_text = material(args)
    batches, evaluate = mixture(*sources(args, tokenizer, train_text)), None
    model = fresh_model(args, tokenizer).to(device.choose(args.device))
    if args.text_rows:
        held_out = torch.tensor(tokenizer.encode(train_text[-1:] + held_out_text))
        window = max(2, args.seq - args.seq % 2)  # even, and not longer than the rows of training

        def evaluate() -> dict:
            return {"text": held_out_loss(model, held_out, window)}

    recipe = Recipe(steps=args.steps, lr=args.lr, seed=args.seed, optimizer=args.optimizer)
    trainer = Trainer(model, recipe, batches, args.out, kept(args, tokenizer, train_text), args.resume)
    done = trainer.train(evaluate, eval_every=args.save_every, save_every=args.save_every,
                         watch=LivePicture(args.out / "loss.png"))
    if not trainer.records:
        return 0 if done else 130
    last = trainer.records[-1]
    if args.json:
        print(json.dumps({"done": done, "run": str(args.out), **last}))
    else:
        held = f", held-out text {last['eval']['text']:.3f}" if "text" in last.get("eval", {}) else ""
        print(f"step {last['step']}: loss {last['loss']:.3f}{held} (nats a token); run folder {args.out}",
              file=sys.stderr)
    return 0 if done else 130


# ---- what the command `parallel` needs too ---------------------------------------------------------------------------


def material(args: argparse.Namespace) -> tuple[CharTokenizer, str, str]:
    """The tokenizer, the text to learn and the text held out. Raises ValueError for a flag without effect."""
    if not args.text_rows:
        flags.refuse(args, "with --text-rows 0", seq=128, text_file=None)
    if not args.task_rows:
        flags.refuse(args, "with --task-rows 0", task="addition", difficulty=3)
    whole = args.text_file.read_text("utf-8") if args.text_file else text.english()
    return CharTokenizer(text.ALPHABET, unknown="unk"), *text.split(whole)


def sources(args: argparse.Namespace, tokenizer: CharTokenizer, train_text: str) -> list[Source]:
    """The sources that the flags ask for. Raises ValueError when there is none."""
    found = []
    if args.text_rows:
        found.append(text_source(tokenizer.encode(train_text), args.text_rows, args.seq, args.seed))
    if args.task_rows:
        found.append(task_source(args.task, args.difficulty, tokenizer, args.task_rows, args.seed))
    if not found:
        raise ValueError("nothing to learn: --text-rows and --task-rows are both 0")
    return found


def fresh_model(args: argparse.Namespace, tokenizer: CharTokenizer) -> Zaya:
    """The preset with the tokenizer's vocabulary, drawn from the seed."""
    torch.manual_seed(args.seed)
    return Zaya(ZayaConfig.preset(args.preset, vocab_size=tokenizer.vocab_size, pad_token_id=tokenizer.pad_id,
                                  bos_token_id=tokenizer.bos_id, eos_token_id=tokenizer.eos_id))


def kept(args: argparse.Namespace, tokenizer: CharTokenizer, train_text: str) -> dict:
    """What else decides the losses: a resumed run must ask for the same."""
    data = {"task": [args.task, args.difficulty, args.task_rows], "text_rows": args.text_rows, "seq": args.seq}
    return {"tokenizer": tokenizer.to_dict(), "data": data, "text_sha256": sha256(train_text.encode()).hexdigest()}
