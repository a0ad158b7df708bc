"""`python -m minizaya evaluate`: any model on a file of questions, with avg@k, pass@k, maj@k and Markovian RSA.

    python -m minizaya evaluate --endpoint http://localhost:8010/v1 --model-name Zyphra/ZAYA1-8B \\
        --questions aime25.jsonl --samples 16 --out runs/aime25.jsonl
    python -m minizaya evaluate --model nano-reasoner --questions task:copy:10 --samples 4

It says what it will cost before it starts, and waits for a yes. docs/evaluate.md has layouts and whole commands.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from ...data import tasks
from ...data.hf_tokenizer import HFTokenizer
from ...data.tokenizer_base import Tokenizer
from ...hub import zoo
from ...infer.rsa import SETTINGS, RSAConfig
from ...serve.service import Service
from ...studies.evaluation import asking, published, questions, scores
from ...studies.evaluation.answers import Judge
from ..shared import device, flags

ROOM = 40_960  # the report's budget for a final answer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    who = parser.add_argument_group("who is asked")
    who.add_argument("--endpoint", metavar="URL", help="a server of OpenAI's protocol, up to and including /v1")
    who.add_argument("--model-name", metavar="NAME", help="with --endpoint: what the server calls the model")
    who.add_argument("--model", metavar="NAME", help="instead: a shipped checkpoint or a run's folder, in this process")
    who.add_argument("--tokenizer", metavar="WHERE", help="with --endpoint, for Markovian RSA: what cuts the tails, a "
                     "folder with a tokenizer.json or a shipped checkpoint (default: that of --model-name, if shipped)")
    who.add_argument("--raw", action="store_true", help="with --endpoint: a file's questions go out as they stand, to "
                     "/completions; a task's always do")
    who.add_argument("--key-from", metavar="VARIABLE", help="with --endpoint: the environment variable with the key")
    what = parser.add_argument_group("what is asked")
    what.add_argument("--questions", required=True, metavar="FILE", help="JSON lines, such as "
                      '{"question", "answer"}; or task:NAME:DIFFICULTY, or a setting of `solve --compare`')
    what.add_argument("--problems", type=int, metavar="N",
                      help="the first N of a file (default: all); N of a task (default: 100)")
    what.add_argument("--method", choices=("single", "markovian_rsa", "both"), default="single")
    what.add_argument("--samples", type=int, default=16, metavar="K", help="single answers a question "
                      "(default: %(default)s)")
    what.add_argument("--rsa", metavar="SETTING", help="report, zyphra, or what differs from the report's: "
                      "N=16,C=4,T=2,beta=16384,tau=4096 (default: the setting's own, else report)")
    what.add_argument("--max-tokens", type=int, help=f"of a single answer (default: {ROOM}; for tasks what they need)")
    what.add_argument("--temperature", type=float, default=1.0, help="(default: %(default)s)")
    what.add_argument("--top-p", type=float, default=1.0, help="(default: %(default)s)")
    what.add_argument("--seed", type=int, default=1, help="of problems and sampling (default: %(default)s)")
    what.add_argument("--exact", action="store_true", help="compare answers exactly, math-verify or not")
    how = parser.add_argument_group("how")
    how.add_argument("--out", type=Path, metavar="RUN.jsonl", help="keeps each finished request at once")
    how.add_argument("--resume", action="store_true", help="go on with --out: what it holds is not asked again")
    how.add_argument("--concurrency", type=int, default=16, help="requests under way at a time (default: %(default)s)")
    how.add_argument("--rate", type=float, metavar="TOKENS", help="generated tokens a second, for the estimate of time")
    how.add_argument("--yes", action="store_true", help="start without asking")
    how.add_argument("--figure", type=Path, metavar="FILE.png", help="draw the figures beside the report's")
    how.add_argument("--benchmark", metavar="NAME", help="with --figure: which of the report's benchmarks this is, "
                     "such as AIME'25")
    device.add_argument(how)
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def check(args: argparse.Namespace) -> None:
    """Raises ValueError for flags that cannot be, or have no effect."""
    if (args.endpoint is None) == (args.model is None):
        raise ValueError("who is asked? give one of --endpoint and --model")
    if args.endpoint is not None and not args.model_name:
        raise ValueError("model-name is needed with --endpoint: what the server calls the model")
    if args.model is not None:
        flags.refuse(args, "with --model", model_name=None, tokenizer=None, raw=False, key_from=None)
    else:
        flags.refuse(args, "with --endpoint", device="auto")
    if args.method == "single":
        flags.refuse(args, "with --method single", rsa=None, tokenizer=None)
    if args.method == "markovian_rsa":
        flags.refuse(args, "with --method markovian_rsa", samples=16, max_tokens=None)
    for name, least in (("samples", 1), ("problems", 1), ("max_tokens", 1), ("rate", 1e-9)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if args.key_from and not os.environ.get(args.key_from):
        raise ValueError(f"key-from names an environment variable, and {args.key_from} is not set")
    if args.figure is None:
        flags.refuse(args, "without --figure", benchmark=None)
    elif args.benchmark not in (None, *published.benchmarks()):
        raise ValueError(f"benchmark must be one of {', '.join(published.benchmarks())}, got {args.benchmark!r}")
    if args.out is None:
        flags.refuse(args, "without --out", resume=False)
    elif args.out.exists() and not args.resume:
        raise ValueError(f"out: {args.out} is there already; --resume goes on with it")
    flags.writable("figure", args.figure)
    flags.writable("out", args.out, parents=True)


def rsa_of(args: argparse.Namespace, own: RSAConfig | None, raw: bool) -> tuple[RSAConfig, dict]:
    """The settings of Markovian RSA, and how its last round samples if not as the others. own: the questions'."""
    given = args.rsa or ""
    if given in SETTINGS:
        last = asking.LAST.get(given, {})
        return SETTINGS[given], {name: value for name, value in last.items() if not (raw and name == "top_k")}
    base = own or SETTINGS["report"]
    changes = {}
    for part in filter(None, given.split(",")):
        name, equals, value = part.partition("=")
        if name not in asdict(base) or not equals or not value.isdecimal():
            raise ValueError(f"rsa must be {', '.join(SETTINGS)}, or such as N=16,C=4,T=2,beta=512,tau=128 "
                             f"(also final_n), got {part!r}")
        changes[name] = int(value)
    return replace(base, **changes), {}


def lines_in(out: Path | None, resume: bool) -> int:
    """The finished requests that a run file holds."""
    return 0 if out is None or not resume or not out.exists() else out.read_bytes().count(b"\n")


def told(cost: dict, count: int, rsa: RSAConfig | None, kept: int) -> str:
    """The estimate in words."""
    lines = [f"{count} questions, {cost['requests']:,} requests, at most {cost['tokens']:,} generated tokens"]
    if rsa is not None:
        lines.append(f"Markovian RSA: {rsa}; it reads at most {cost['read']:,} tokens of tails again")
    if kept:
        lines.append(f"the run file holds {kept:,} finished requests; those that this run needs are not asked again")
    seconds = cost["seconds"]
    lines.append("no rate known (--rate): seconds cannot be said" if seconds is None else f"at most {seconds:,.0f} s")
    return "\n".join(lines)


def agreed() -> bool:
    """Asks at a terminal. Raises ValueError where nobody can be asked."""
    if not sys.stdin.isatty():
        raise ValueError("yes: nobody can be asked here whether to start; --yes starts without asking")
    print("start? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


@contextmanager
def asker_of(args: argparse.Namespace, asked: list[questions.Question], room: int,
             rsa: RSAConfig | None, settings: dict) -> Iterator[Callable[..., asking.Asker]]:
    """While the block runs: sampling settings -> an asker of whoever is asked."""
    if args.model is None:
        raw = args.raw or asked[0].kind == "task"
        tokenizer = tokenizer_of(args, rsa is not None)
        key = os.environ[args.key_from] if args.key_from else None
        yield lambda **own: asking.Asker(args.endpoint, args.model_name, tokenizer, raw=raw, api_key=key,
                                         end=tasks.END if raw else "", **settings, **own)
        return
    model, tokenizer = zoo.open_model(args.model)
    model.to(device.choose(args.device))
    longest = max(len(tokenizer.encode(question.prompt)) for question in asked)
    after = max(room, rsa.beta + rsa.C * (rsa.tau + 1) + 1 if rsa else 0)  # tails, a mark before each, one behind
    with Service(model, tokenizer, slots=args.concurrency, size=longest + after, waiting=args.concurrency) as service:
        yield lambda **own: asking.Here(service, args.model, **settings, **own)


def tokenizer_of(args: argparse.Namespace, needed: bool) -> Tokenizer | None:
    """What cuts tails and counts tokens; None where nothing is known and it is not needed."""
    where = args.tokenizer or args.model_name
    if where in zoo.names():
        return zoo.load(where)[1]
    if args.tokenizer is None:
        if needed:
            raise ValueError("tokenizer is needed for Markovian RSA, to cut the tails: a folder with a tokenizer.json")
        return None
    path = Path(args.tokenizer)
    return HFTokenizer(path / "tokenizer.json" if path.is_dir() else path)


def run(args: argparse.Namespace) -> int:
    """Prints a table, or with --json {"model", "questions", "count", "compared", "settings", "cost", "single", ...}.

    Returns 1 when the cost is not agreed to.
    """
    check(args)
    local = args.model is not None
    asked, rsa, room = questions.read(args.questions, args.problems, args.seed, args.raw or local)
    room = args.max_tokens or room or ROOM
    rsa, last = rsa_of(args, rsa, local or args.raw or asked[0].kind == "task")
    rsa = None if args.method == "single" else rsa
    samples = 0 if args.method == "markovian_rsa" else args.samples
    cost = asking.estimate(len(asked), samples, room, rsa, args.rate)
    kept = lines_in(args.out, args.resume)
    print(told(cost, len(asked), rsa, kept), file=sys.stderr)
    if not args.yes and not agreed():
        return 1
    settings = dict(seed=args.seed, concurrency=args.concurrency, run_file=args.out)
    with Judge(args.exact) as judge, asker_of(args, asked, room, rsa, settings) as ask:
        found = {"model": args.model or args.model_name, "questions": args.questions, "count": len(asked),
                 "compared": "by each task's own verify" if asked[0].kind == "task" else judge.name,
                 "settings": {"samples": samples, "max_tokens": room, "temperature": args.temperature,
                              "top_p": args.top_p, "seed": args.seed, "rsa": rsa and asdict(rsa), "last_round": last},
                 "cost": cost}
        own = {"temperature": args.temperature, "top_p": args.top_p}
        first = ask(**own)
        if samples:
            found["single"] = scores.score(asked, asking.single(first, asked, samples, room), judge, True)
        askers = [first]
        if rsa:
            askers += [ask(**own | last)]
            results = asking.aggregated(first, askers[1], asked, rsa, args.seed)
            found["markovian_rsa"] = scores.score(asked, results, judge, False)
        found |= {"stopped": judge.stopped, "asked": sum(who.sent for who in askers),
                  "reused": sum(who.reused for who in askers), "errors": [e for who in askers for e in who.errors][:3]}
    if args.figure:
        found["figure"] = str(args.figure)
        from ...plots import evaluation  # matplotlib is for those who want pictures

        evaluation.beside_the_report(found, args.benchmark).savefig(args.figure)
    print(json.dumps(found, indent=1) if args.json else scores.table(found))
    return 0
