"""`python -m minizaya kernels`: what each HIP kernel costs on MI300X, what limits it, what it moves; builds them, too.

`--explain KERNEL` prints the loop in which a kernel spends its time, instruction by instruction.
"""

import argparse
import json
import sys

import torch

from ..hip import kernel, names
from ..hip.build import AWAY, NoCompiler, build, build_all, compiler
from ..hip.machine.floors import FLOORS, PEAKS, loop
from ..hip.report import TOKENS, declared, rows
from ..hip.trace import traced
from ..plots.hip_kernels import traffic
from . import flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", choices=names() or None, help="one kernel only")
    parser.add_argument("--build", action="store_true", help="build all of them, for the CPU and for MI300 (gfx942)")
    parser.add_argument("--trace", action="store_true", help="run the example on the CPU and count what it moves")
    parser.add_argument("--explain", metavar="KERNEL", help="the hot loop of one kernel function, and what limits it")
    parser.add_argument("--figure", metavar="FILE", help="trace the kernel `name`, and draw who touches what into FILE")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Prints one row a kernel, or what the asked-for flags ask for. Returns 0."""
    if not names():
        raise ValueError(AWAY)
    if args.explain:
        flags.refuse(args, "with --explain, which names a kernel function", name=None, trace=False, figure=None)
    if args.name is None:
        flags.refuse(args, "without the name of one kernel: a file has room for one", figure=None)
    if args.build:
        built(args.name)
    if args.trace or args.figure:
        return trace(args)
    if args.explain:
        return explain(args.explain, args.json)
    found = rows(args.name)
    if found[0]["hsaco"] is None:
        print("no compiler for gfx942, so no registers: `apt-get install clang-19 lld-19`", file=sys.stderr)
    if args.json:
        print(json.dumps(found))
        return 0
    counts = {"vgpr": ("VGPR", 6), "lds": ("LDS", 7), "scratch": ("scratch", 8), "spills": ("spills", 7),
              "occupancy": ("waves", 6), "mfma": ("MFMA", 6)}
    print(f"{'kernel':32}{''.join(f'{title:>{width}}' for title, width in counts.values())}{'MB':>9}"
          f"{''.join(f'{name:>9}' for name in FLOORS)}{'sheet':>7}  limit")
    for row in found:
        cells = "".join(f"{'-' if row[key] is None else row[key]:>{width}}" for key, (_, width) in counts.items())
        us = row["floors"]
        shown = "".join(f"{'-' if us is None else f'{us[name]:.1f}':>9}" for name in FLOORS)
        share = "-" if us is None or us["ceiling"] is None else f"{us['ceiling']:.0%}"
        print(f"{row['name']:32}{cells}{row['bytes'] / 1e6:>9.2f}{shown}{share:>7}  {row['limit'] or '-'}")
    print(f"\nat ZAYA1-8B's size, {TOKENS} tokens, on MI300X; waves: per SIMD, of 8. memory to latency: microseconds"
          "\nthat each unit needs at least, the largest is the prediction; sheet: the share of the sheet's matrix peak"
          "\nthat the other floors leave. Counted from the machine code and never measured. Peaks:")
    for name, (sheet, reached, source) in PEAKS.items():
        print(f"  {name}: {reached:g} ({sheet:g} on the sheet): {source}")
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
    for times, text in hot["lines"]:
        print(f"{times:>7} x  {text}")
    us = row["floors"]
    print(f"\n{name}: the loop where a wave spends its time runs {hot['turns']} times; a turn has "
          + ", ".join(f"{n:g} {kind}" for kind, n in hot["kinds"].items()))
    print("clocks a turn: " + ", ".join(f"{n} {kind}" for kind, n in hot["clocks"].items()))
    print(f"{us['blocks']} blocks, {us['waves']} waves on 304 compute units, {row['occupancy']} a SIMD at a time; "
          f"a wave stands {us['waits']} times before loads")
    print("floors, us: " + ", ".join(f"{floor} {us[floor]:.1f}" for floor in FLOORS)
          + f" (HBM {us['hbm']:.1f}, matrix on the sheet {us['matrix_sheet']:.1f})")
    print(f"limit: {us['limit']}, {us['us']:.1f} us" + (f"; at most {us['ceiling']:.0%} of the matrix cores' sheet"
                                                        if us["ceiling"] is not None else ""))
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
