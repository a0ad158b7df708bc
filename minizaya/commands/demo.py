"""`python -m minizaya demo`: trains nano on this machine and shows what it learned.

One model learns two things at once: real English (Python's help texts, nine tenths of them) and three-digit addition
with its working written out. Then it is examined: the loss on the last tenth of the text, against character n-grams;
and additions that it never saw, answered at temperature 0.
"""

import argparse
import copy
import json
import sys
import time
from pathlib import Path

import torch

from ..arch.model import Zaya
from ..config import ZayaConfig
from ..data import tasks, text
from ..data.ngram import witten_bell
from ..data.tokenizer import CharTokenizer
from ..infer.generate import generate
from ..plots.picture import LivePicture
from ..train.checkpoint import latest, read_info
from ..train.evaluate import held_out_loss, solve
from ..train.loop import Recipe, Trainer
from ..train.sources import mixture, task_source, text_source

STEPS, FEWEST = 600, 400  # 400 are enough to pass both exams; the rest is margin
SECONDS = 230            # of training: on a slower machine there are fewer steps, but not fewer than 400
ROWS, SEQ = 16, 128      # text windows a step
TASK, DIFFICULTY, TASK_ROWS = "addition", 3, 16
PROBLEMS = 300           # held-out problems to solve
WINDOW = SEQ             # held-out text is predicted with 64 to 127 characters of context (trap: see held_out_loss)
ORDERS = 6               # n-grams up to this n


def say(line: str = "") -> None:
    print(line, file=sys.stderr, flush=True)


def steps_that_fit(trainer: Trainer, seconds: float, wanted: int) -> int:
    """At most `wanted` steps, fewer if this machine would need more than `seconds`. Tried out on a copy of the model.

    The fastest of a few steps counts: a slow one may be another program's fault, and soon over.
    """
    trial = Trainer(copy.deepcopy(trainer.model), trainer.recipe, trainer.batches)
    took = []
    for _ in range(8):
        start = time.perf_counter()
        trial.train_step()
        took.append(time.perf_counter() - start)
    return max(1, min(wanted, int(seconds / min(took))))


def free_folder() -> Path:
    """runs/demo, or runs/demo-2, ... : the first that is not there yet, so that no run is ever overwritten."""
    number, folder = 1, Path("runs/demo")
    while folder.exists():
        number += 1
        folder = Path(f"runs/demo-{number}")
    return folder


def demo(out: Path, seed: int = 0, steps: int | None = None, resume: bool = False) -> dict:
    """Trains, examines, and returns the figures. steps None: `STEPS`, or what fits into `SECONDS`.

    resume: go on with the run in `out`, with as many steps as it was begun with; others are refused.
    """
    start = time.perf_counter()
    # trap: for matrices this small a second thread brings little, and when another program wants that core, the two
    # threads wait for each other at every operation: we have seen steps take twenty times as long
    torch.set_num_threads(1)
    tokenizer = CharTokenizer(text.ALPHABET, unknown="unk")
    train_text, held_out_text = text.split(text.english())
    train_ids, held_out_ids = tokenizer.encode(train_text), tokenizer.encode(held_out_text)
    say(f"text: {len(train_ids):,} characters to learn from, {len(held_out_ids):,} held out")
    say(f"counting n-grams up to n = {ORDERS} (Witten-Bell) ...")
    ngrams = witten_bell(train_ids, held_out_ids, tokenizer.vocab_size, ORDERS)
    say("  " + "  ".join(f"{n}-gram {loss:.3f}" for n, loss in enumerate(ngrams, 1)) + "  nats a character")

    torch.manual_seed(seed)
    model = Zaya(ZayaConfig.preset("nano", vocab_size=tokenizer.vocab_size, pad_token_id=tokenizer.pad_id,
                                   bos_token_id=tokenizer.bos_id, eos_token_id=tokenizer.eos_id))
    batches = mixture(text_source(train_ids, ROWS, SEQ, seed),
                      task_source(TASK, DIFFICULTY, tokenizer, TASK_ROWS, seed))
    if steps is None and resume and (begun := latest(out)):
        steps = read_info(begun)["recipe"]["steps"]
    if steps is None:
        steps = steps_that_fit(Trainer(model, Recipe(steps=STEPS), batches), SECONDS, STEPS)
        if steps < FEWEST:
            say(f"this machine is slow, or busy: {FEWEST} steps will take longer than the {SECONDS} s planned")
        steps = max(steps, FEWEST)
    trainer = Trainer(model, Recipe(steps=steps, seed=seed), batches, run=out, keep={"tokenizer": tokenizer.to_dict()},
                      resume=resume)

    # the character before the first held-out one is its only context, and not predicted
    exam = torch.tensor(train_ids[-1:] + held_out_ids)
    # for the picture, now and then: eight short passages from all over; the whole exam is at the end
    passages = [exam[start: start + 1025] for start in range(0, len(exam) - 1, len(exam) // 8 + 1)]

    def glance() -> dict:
        return {"text": sum(held_out_loss(model, passage, WINDOW) for passage in passages) / len(passages)}

    picture = LivePicture(out / "loss.png", {f"{n}-gram": value for n, value in enumerate(ngrams, 1)})
    say(f"training nano: {sum(p.numel() for p in model.parameters()):,} parameters, {steps} steps")
    if not trainer.train(glance, eval_every=100, watch=picture):
        raise KeyboardInterrupt
    say("examining ...")
    loss = held_out_loss(model, exam, WINDOW)
    trainer.records[-1].setdefault("eval", {})["text"] = loss
    picture(trainer.records)
    exercises = tasks.problems(TASK, "held_out", DIFFICULTY, PROBLEMS, seed)
    right, written = solve(model, tokenizer, exercises)
    opening = "The "
    sample, = generate(model, [tokenizer.encode(opening)], 300, temperature=0.8, seed=seed)
    last = trainer.records[-50:]
    return {
        "seed": seed, "steps": steps, "tokens": trainer.tokens, "threads": torch.get_num_threads(),
        "seconds": round(time.perf_counter() - start, 1),
        "text": {"held_out_loss": loss, "characters": len(held_out_ids), "context": [WINDOW // 2, WINDOW - 1],
                 "ngrams": ngrams, "best_ngram": min(ngrams), "beats_ngrams": loss < min(ngrams)},
        "task": {"name": TASK, "difficulty": DIFFICULTY, "problems": len(right), "right": sum(right),
                 "share": sum(right) / len(right), "example": exercises[0].prompt + written[0]},
        "load_entropy": sum(r["load_entropy"] for r in last) / len(last),
        "max_violation": sum(r["max_violation"] for r in last) / len(last),
        "sample": opening + tokenizer.decode(sample), "figure": str(out / "loss.png"), "run": str(out),
    }


def report(result: dict) -> str:
    """The figures in words."""
    words, task = result["text"], result["task"]
    verdict = "below" if words["beats_ngrams"] else "NOT below"
    return "\n".join([
        "",
        f"A sample at temperature 0.8:\n\n{result['sample']}\n",
        f"A held-out problem, solved at temperature 0:  {task['example']}\n",
        f"held-out text   {words['held_out_loss']:.3f} nats a character, {verdict} the best n-gram "
        f"({words['best_ngram']:.3f}); {words['characters']:,} characters, each predicted once",
        f"held-out task   {task['right']} of {task['problems']} {task['name']} problems right ({task['share']:.1%})",
        f"experts         load entropy {result['load_entropy']:.3f} (1 is even), worst layer's busiest expert "
        f"{result['max_violation']:.0%} above its share",
        f"cost            {result['steps']} steps, {result['tokens']:,} tokens, {result['seconds']:.0f} seconds in all",
        f"picture         {result['figure']}",
    ])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, help="folder for log, checkpoint and picture (default: a new one in runs/)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, data and sample (default 0)")
    parser.add_argument("--steps", type=int,
                        help=f"training steps (default: {STEPS}, or what fits into {SECONDS} s, but at least {FEWEST})")
    parser.add_argument("--resume", action="store_true", help="go on with the demo in --out that Ctrl-C stopped")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of the summary")


def run(args: argparse.Namespace) -> int:
    """Prints what was learned. Returns 0; Ctrl-C raises KeyboardInterrupt when the run is saved."""
    if args.resume and args.out is None:
        raise ValueError("--resume needs --out, the folder of the run to go on with")
    result = demo(args.out or free_folder(), args.seed, args.steps, args.resume)
    print(json.dumps(result) if args.json else report(result))
    return 0
