"""`python -m minizaya sample`: a trained model continues a text; a released one answers a question.

    python -m minizaya sample --checkpoint runs/mine --prompt "To be"
    python -m minizaya sample --weights ZAYA1-8B --prompt "How many primes are there below 30?"

With --weights the folder is paged from disk (`hub.paging`), and the prompt is a user's turn in the folder's chat
template, or in ChatML where it has none, unless --raw.
"""

import argparse
import json
from pathlib import Path

from ..data import template
from ..hub.weights import add_weight_arguments, open_weights
from ..infer.generate import generate
from ..parallel import sharded_checkpoint
from ..serve.formats import ChatFormat
from .shared import flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", type=Path, metavar="FOLDER",
                        help="a run's folder (its newest checkpoint is taken) or one checkpoint in it")
    source.add_argument("--weights", type=Path, metavar="DIR",
                        help="a checkpoint folder of any size: the released weights, or what `materialize` wrote")
    parser.add_argument("--raw", action="store_true", help="with --weights: continue the text, without chat template")
    add_weight_arguments(parser)
    parser.add_argument("--prompt", required=True, metavar="TEXT", help="the text to continue")
    parser.add_argument("--max-new-tokens", type=int, default=200, help="the budget (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=1.0,
                        help="0 is greedy, and leaves no choice to --top-p, --min-p and --seed (default: %(default)s)")
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
    if args.temperature == 0:
        flags.refuse(args, "at temperature 0", top_p=1.0, min_p=0.0, seed=0)
    if args.weights:
        model, tokenizer = open_weights(args.weights, args.dtype, args.int8)
    else:
        flags.refuse(args, "without --weights: a run's checkpoint is loaded as it was trained", dtype="float32",
                     int8=False)
        flags.refuse(args, "without --weights: a run has no chat template", raw=False)
        model, tokenizer = sharded_checkpoint.load_model(args.checkpoint)
    stop = {tokenizer.eos_id, *tokenizer.encode(args.stop)}
    if args.weights:
        stop |= set(template.end_tokens(args.weights, model.config.vocab_size))
    if args.weights and not args.raw:
        form = ChatFormat(tokenizer, template.beside(args.weights))
        prompt = form.prompt([{"role": "user", "content": args.prompt}])
        stop |= set(form.stop)
    else:
        prompt = [tokenizer.bos_id] * bool(args.weights) + tokenizer.encode(args.prompt)
    tokens, = generate(model, [prompt], args.max_new_tokens, args.temperature, args.top_p,
                       args.min_p, stop, args.seed, progress=True)
    # trap: a model may have more rows than its tokenizer has tokens, and an untrained one writes them
    known = [token if token < tokenizer.vocab_size else tokenizer.unk_id for token in tokens]
    answer = tokenizer.decode(known)
    if args.json:
        print(json.dumps({"prompt": args.prompt, "answer": answer, "tokens": tokens,
                          "stopped": bool(tokens) and tokens[-1] in stop}))
    else:
        print(answer if args.weights and not args.raw else args.prompt + answer)
    return 0
