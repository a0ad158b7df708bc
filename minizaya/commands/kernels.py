"""`python -m minizaya kernels`: what each HIP kernel costs on MI300X, and what it moves; builds them, too."""

import argparse
import json
import sys

import torch

from ..hip import kernel, names
from ..hip.build import AWAY, NoCompiler, build, build_all, compiler
from ..hip.report import TOKENS, rows
from ..hip.trace import traced
from ..plots.hip_kernels import traffic


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", choices=names() or None, help="one kernel only")
    parser.add_argument("--build", action="store_true", help="build all of them, for the CPU and for MI300 (gfx942)")
    parser.add_argument("--trace", action="store_true", help="run the example on the CPU and count what it moves")
    parser.add_argument("--figure", metavar="FILE", help="with --trace: draw who touches what into FILE")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Prints one row a kernel, or what the asked-for flags ask for. Returns 0."""
    if not names():
        raise ValueError(AWAY)
    if args.build:
        built(args.name)
    if args.trace or args.figure:
        return trace(args)
    found = rows(args.name)
    if found[0]["hsaco"] is None:
        print("no compiler for gfx942, so no registers: `apt-get install clang-19 lld-19`", file=sys.stderr)
    if args.json:
        print(json.dumps(found))
        return 0
    counts = {"vgpr": ("VGPR", 6), "lds": ("LDS", 7), "scratch": ("scratch", 8), "spills": ("spills", 7),
              "occupancy": ("waves", 6), "mfma": ("MFMA", 6)}
    print(f"{'kernel':34}{''.join(f'{title:>{width}}' for title, width in counts.values())}"
          f"{'MB':>9}{'FLOP/B':>8}{'us':>9}")
    for row in found:
        cells = "".join(f"{'-' if row[key] is None else row[key]:>{width}}" for key, (_, width) in counts.items())
        us = "-" if row["predicted_us"] is None else f"{row['predicted_us']:.1f}"
        print(f"{row['name']:34}{cells}{row['bytes'] / 1e6:>9.2f}{row['intensity']:>8}{us:>9}")
    print(f"\nat ZAYA1-8B's size, {TOKENS} tokens, on MI300X; waves: per SIMD, of 8; us: the roofline's lower bound")
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
        documents.append(dict(name=name, asked=found.asked, moved=found.moved, least=found.least,
                              conflicts=round(found.conflicts(), 3), tensors=found.table()))
        if args.figure:
            traffic(found).savefig(args.figure)
    if args.json:
        print(json.dumps(documents))
        return 0
    for row in documents:
        print(f"{row['name']}: {row['moved']} bytes moved, {row['least']} at least "
              f"({row['moved'] / row['least']:.2f}); LDS takes {row['conflicts']} times the cycles it would without "
              "bank conflicts")
        for t in row["tensors"]:
            print(f"    {t['kernel']:32} {t['dtype']:9}{str(tuple(t['shape'])):18} moved {t['moved']:>9}, "
                  f"at least {t['least']:>9}")
    return 0
