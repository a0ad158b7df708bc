"""`python -m minizaya kernels`: what each HIP kernel costs on MI300X, what limits it, what it moves; builds them, too.

`--explain KERNEL` prints the loop in which a kernel spends its time, instruction by instruction; `--ladder NAME` the
steps of one of lesson 14's ladders.
"""

import argparse
import json
import sys
from pathlib import Path

import torch

from ..hip import kernel, ladder, names, products, told
from ..hip.build import AWAY, KernelError, NoCompiler, build, build_all, compiler
from ..hip.machine.floors import loop
from ..hip.report import declared, rows
from ..hip.trace import traced
from ..plots.hip_kernels import traffic
from .shared import flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", choices=names() or None, help="one kernel only")
    parser.add_argument("--build", action="store_true", help="build all of them, for the CPU and for MI300 (gfx942)")
    parser.add_argument("--trace", action="store_true", help="run the example on the CPU and count what it moves")
    parser.add_argument("--explain", metavar="KERNEL", help="the hot loop of one kernel function, and what limits it")
    parser.add_argument("--ladder", choices=["residual_norm", "gemm"], help="the steps of a ladder, with their floors")
    parser.add_argument("--figure", metavar="FILE", help="trace the kernel `name`, and draw who touches what into FILE")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Prints one row a kernel, or what the asked-for flags ask for. Returns 0.

    Raises ValueError for wrong flags, and where this machine cannot build a kernel, or keep what it built.
    """
    if not names():
        raise ValueError(AWAY)
    if args.explain:
        flags.refuse(args, "with --explain, which names a kernel function", name=None, trace=False, figure=None)
    if args.ladder:
        flags.refuse(args, "with --ladder", name=None, trace=False, figure=None, explain=None)
    if args.name is None:
        flags.refuse(args, "without the name of one kernel: a file has room for one", figure=None)
    flags.writable("figure", args.figure and Path(args.figure))
    try:
        return shown(args)
    except KernelError as error:
        raise ValueError(str(error)) from error


def shown(args: argparse.Namespace) -> int:
    """What checked flags ask for. Returns 0."""
    if args.build:
        built(args.name)
    if args.trace or args.figure:
        return trace(args)
    if args.explain:
        return explain(args.explain, args.json)
    if args.ladder:
        return climb(args.ladder, args.json)
    found = rows(args.name)
    if found[0]["hsaco"] is None:
        print("no compiler for gfx942, so no registers: `apt-get install clang-19 lld-19`", file=sys.stderr)
    if args.json:
        print(json.dumps(found))
        return 0
    print(told.table(found))
    return 0


def explain(name: str, as_json: bool) -> int:
    """The hot loop of one kernel function. Returns 0."""
    functions = {function: source for source in names() for function in declared(source)}
    if name not in functions:
        raise ValueError(f"--explain must be one of {', '.join(functions)}, got {name!r}")
    compiler("gfx942")                                 # says what is missing
    hot = loop(functions[name], name)
    row = next(row for row in rows(functions[name]) if row["name"] == name)
    if as_json:
        print(json.dumps(row | dict(loop=hot)))
        return 0
    print(told.hot_loop(row, hot))
    return 0


def climb(which: str, as_json: bool) -> int:
    """The steps of a ladder, in order. Returns 0."""
    compiler("gfx942")                                 # says what is missing
    room = products if which == "gemm" else ladder
    steps = [room.measure(step) for step in room.STEPS]
    print(json.dumps(steps) if as_json else told.steps(steps, room.SIZE))
    return 0


def built(only: str | None) -> None:
    """Builds for every target that this machine has a compiler for, and says which it has not."""
    targets = []
    for target in ("cpu", "gfx942"):
        try:
            compiler(target)
            targets.append(target)
        except NoCompiler as error:
            print(error, file=sys.stderr)
    done = [build(only, target) for target in targets] if only else build_all(targets)
    print(f"built {len(done)} libraries for {' and '.join(targets) or 'nothing'}", file=sys.stderr)


def trace(args: argparse.Namespace) -> int:
    """The three measures of each tensor, counted access by access."""
    documents = []
    for name in [args.name] if args.name else names():
        with traced() as found:
            module = kernel(name)
            module.launch(found.launcher, *module.example(torch.bfloat16), **getattr(module, "TRACED", {}))
        documents.append(dict(name=name, asked=found.asked, moved=found.moved, cached=found.cached, least=found.least,
                              conflicts=round(found.conflicts(), 3), tensors=found.table()))
        if args.figure:
            traffic(found).savefig(args.figure)
    if args.json:
        print(json.dumps(documents))
        return 0
    for row in documents:
        print(f"{row['name']}: {row['moved']} bytes moved, {row['cached']} behind a small cache, {row['least']} at "
              f"least ({row['moved'] / row['least']:.2f} and {row['cached'] / row['least']:.2f} times); LDS takes "
              f"{row['conflicts']} times the cycles it would without bank conflicts")
        for t in row["tensors"]:
            print(f"    {t['kernel']:32} {t['dtype']:9}{str(tuple(t['shape'])):18} moved {t['moved']:>9}, "
                  f"behind a cache {t['cached']:>9}, at least {t['least']:>9}")
    return 0
