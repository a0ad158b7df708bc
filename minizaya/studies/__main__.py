"""python -m minizaya.studies NAME --out lessons/recorded"""

import argparse
import sys
from pathlib import Path

from . import RECORDED, STUDIES, record


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m minizaya.studies", description="Do the runs of a recorded study.")
    parser.add_argument("name", choices=STUDIES, help="which study")
    parser.add_argument("--out", type=Path, default=RECORDED, metavar="FOLDER",
                        help="where NAME.json goes; runs that it holds already are not done again")
    args = parser.parse_args(argv)
    if args.out == RECORDED and not RECORDED.is_dir():
        parser.error("--out must name a folder: lessons/recorded is not here, it comes with the repository")
    done = record(args.name, args.out)
    print(f"{args.out / args.name}.json: {len(done['runs'])} runs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
