"""`python -m minizaya serve`: a chat server on this machine, in OpenAI's protocol, over our engine.

    python -m minizaya serve --model nano-reasoner --port 8000
    curl http://127.0.0.1:8000/v1/chat/completions -d '{"messages": [{"role": "user", "content": "47+85?"}]}'

All who ask share one engine, and what they ask is decoded together. It listens on the loopback interface only, unless
--host says otherwise: there is no key and no encryption. It needs tornado: `pip install "minizaya[serve]"`.

The released weights run here too, slowly, from their folder: `serve --weights DIR`. The same clients talk to vLLM,
which serves them fast:

    vllm serve Zyphra/ZAYA1-8B --reasoning-parser qwen3 --tool-call-parser zaya_xml --enable-auto-tool-choice \\
        --mamba-cache-dtype float32 --dtype bfloat16          # several GPUs: -dp N -ep; there is no tensor parallelism
"""

import argparse
import sys
import threading
from pathlib import Path

import torch

from ..data import template
from ..hub import zoo
from ..hub.weights import add_weight_arguments, open_weights
from ..serve.formats import ChatFormat, TaskFormat
from ..serve.service import Service
from .shared import flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="nano-reasoner",
                        help="a shipped checkpoint or a run's folder (default: %(default)s)")
    parser.add_argument("--weights", metavar="DIR",
                        help="instead: a checkpoint folder of any size, paged from disk; answers in --format chat")
    add_weight_arguments(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=8000, help="0 picks a free one (default: %(default)s)")
    parser.add_argument("--slots", type=int, default=None,
                        help="answers written at a time (default: 64; 4 with --weights)")
    parser.add_argument("--size", type=int, default=1024,
                        help="tokens of a prompt and its answer (default: %(default)s)")
    parser.add_argument("--format", choices=("tasks", "chat"), default=None,
                        help="tasks: the shipped reasoners' notation; chat: the folder's own chat template, or ChatML "
                             "with think tags (default: tasks; chat with --weights)")


def run(args: argparse.Namespace) -> int:
    """Serves until Ctrl-C. Returns 0. Raises ValueError for flags that cannot be, OSError where it cannot listen."""
    try:
        from ..serve.server import Server
    except ModuleNotFoundError as error:
        raise ValueError(f'the server needs {error.name}: pip install "minizaya[serve]"') from None
    if args.weights:
        flags.refuse(args, "with --weights", model="nano-reasoner")
    else:
        flags.refuse(args, "without --weights", dtype="float32", int8=False)
    args.slots = (4 if args.weights else 64) if args.slots is None else args.slots
    args.format = args.format or ("chat" if args.weights else "tasks")
    for name in ("slots", "size"):
        if getattr(args, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(args, name)}")
    if not args.host:  # trap: to a socket the empty name means every interface
        raise ValueError("--host must name an address, got ''; 127.0.0.1 is this machine only, 0.0.0.0 every interface")
    if not 0 <= args.port < 65536:
        raise ValueError(f"port must lie in 0..65535, got {args.port}")
    torch.set_num_threads(max(1, torch.get_num_threads()))
    if args.weights:
        args.model = Path(args.weights).resolve().name
        model, tokenizer = open_weights(args.weights, args.dtype, args.int8)
        own, ends = template.beside(args.weights), template.end_tokens(args.weights, model.config.vocab_size)
    else:
        model, tokenizer = zoo.open_model(args.model)
        own, ends = None, ()
    form = ChatFormat(tokenizer, own, ends) if args.format == "chat" else TaskFormat(tokenizer)
    try:
        service = Service(model, tokenizer, args.slots, args.size)
    except MemoryError as error:
        raise ValueError(f"--slots {args.slots} and --size {args.size}: {error}") from None
    with Server(service, form, args.model, args.host, args.port) as server:
        print(f"{args.model} at {server.url}; caches take {service.bytes / 2**20:.0f} MiB; Ctrl-C stops",
              file=sys.stderr)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
    return 0
