"""`python -m minizaya sample`: a trained model continues a text."""

import argparse
import json
from pathlib import Path

from .infer.generate import generate
from .train import checkpoint


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", required=True, type=Path, metavar="FOLDER",
                        help="a run's folder (its newest checkpoint is taken) or one checkpoint in it")
    parser.add_argument("--prompt", required=True, metavar="TEXT", help="the text to continue")
    parser.add_argument("--max-new-tokens", type=int, default=200, help="the budget (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=1.0, help="0 is greedy (default: %(default)s)")
    parser.add_argument("--top-p", type=float, default=1.0,
                        help="keep the most probable tokens up to this mass (default: %(default)s, all)")
    parser.add_argument("--min-p", type=float, default=0.0,
                        help="drop tokens under this share of the most probable one (default: %(default)s, none)")
    parser.add_argument("--stop", default="", metavar="CHARACTERS",
                        help="end the answer after any of these, too (the token <eos> always ends it)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another sample (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Prints prompt and answer as one text, or with --json {"prompt", "answer", "tokens", "stopped"}."""
    model, tokenizer = checkpoint.load_model(args.checkpoint)
    stop = {tokenizer.eos_id, *tokenizer.encode(args.stop)}
    tokens, = generate(model, [tokenizer.encode(args.prompt)], args.max_new_tokens, args.temperature, args.top_p,
                       args.min_p, stop, args.seed, progress=True)
    # trap: a model may have more rows than its tokenizer has tokens, and an untrained one writes them
    known = [token if token < tokenizer.vocab_size else tokenizer.unk_id for token in tokens]
    answer = tokenizer.decode(known)
    if args.json:
        print(json.dumps({"prompt": args.prompt, "answer": answer, "tokens": tokens,
                          "stopped": bool(tokens) and tokens[-1] in stop}))
    else:
        print(args.prompt + answer)
    return 0
