"""`python -m minizaya laws`: every law, and a function of yours judged by them.

    python -m minizaya laws                                   every law: statement, shapes, what it was tested to catch
    python -m minizaya laws router                            those of a component, of a protocol, or one
    python -m minizaya laws router --run mypkg.router:route   judges a function, with the smallest counterexamples
    python -m minizaya laws router --run mypkg.router:route --json > verdicts.json

Which laws of a component a function is judged by, its arguments tell: their names, or else their number. The folder
that the command is called in is searched for the package first.
"""

import argparse
import json
import os
import sys

import torch

from .. import laws
from ..laws.report import MARKS, chosen, judged, listing, record
from .shared import flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="a component (router), a protocol (choose) or a law; default: all")
    parser.add_argument("--run", metavar="PACKAGE.MODULE:FUNCTION", help="judge this function")
    parser.add_argument("--numpy", action="store_true", help="the function takes and gives NumPy arrays")
    parser.add_argument("--examples", type=int, metavar="N", help="inputs to draw (default: the law's own number)")
    parser.add_argument("--seed", type=int, metavar="N", help="draw other inputs (default: always the same)")
    parser.add_argument("--tol", type=float, help="allow this much, and this much of the number wanted")
    parser.add_argument("--dtype", choices=["float64", "float32", "float16", "bfloat16"],
                        help="hand over floating tensors in this type; the tolerance is that of the type")
    parser.add_argument("--device", help="hand over tensors on this device, such as cuda")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Lists laws, or judges a function. Returns 0, or 1 if a law is broken or the function is a stub."""
    if args.run is None:
        flags.refuse(args, "without --run", numpy=False, examples=None, seed=None, tol=None, dtype=None, device=None)
        found = chosen(args.name)
        print(json.dumps([record(law) for law in found], indent=2) if args.json else listing(found))
        return 0
    if args.name is None:
        raise ValueError("name what to judge the function by: a component, a protocol or a law")
    sys.path.insert(0, os.getcwd())      # the console script does not look there by itself
    fn = laws.load(args.run)
    fn = laws.adapt.numpy(fn) if args.numpy else fn
    options = {"examples": args.examples, "seed": args.seed, "tol": args.tol, "where": args.device,
               "dtype": getattr(torch, args.dtype) if args.dtype else None}
    rows = [judged(law, fn, options) for law in laws.applying(args.name, fn)]
    if all(row["outcome"] == "refused" for row in rows):
        raise ValueError(f"no law of {args.name} can judge {args.run} in this way: {rows[0]['message']}")
    right = all(row["outcome"] in ("passed", "refused") for row in rows)
    if args.json:
        print(json.dumps({"function": args.run, "passed": right, "laws": rows}, indent=2))
        return 0 if right else 1
    for row in rows:
        print(f"{MARKS[row['outcome']]} {row['law']}: {row['statement']}")
        if row["message"]:
            print(f"  {row['message']}")
    print(f"{sum(row['passed'] for row in rows)} of {len(rows)} laws hold for {args.run}")
    return 0 if right else 1
