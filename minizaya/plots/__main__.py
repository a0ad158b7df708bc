"""python -m minizaya.plots FOLDER [NAME ...]: draws the lessons' signature figures as PNG files."""

import argparse
import sys
from pathlib import Path

from ..hip import KernelError
from ..notebook import tqdm
from . import FIGURES


def main(argv: list[str] | None = None) -> int:
    """Writes NAME.png for each name (default: all). Each file is written aside and renamed. Returns 0."""
    parser = argparse.ArgumentParser(prog="python -m minizaya.plots", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the pictures go; made if it is not there")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which ones: {', '.join(FIGURES)} (default: all)")
    args = parser.parse_args(argv)
    unknown = sorted(set(args.names) - set(FIGURES))
    if unknown:
        parser.error(f"unknown figure {', '.join(unknown)}; choose from {', '.join(FIGURES)}")
    args.folder.mkdir(parents=True, exist_ok=True)
    try:
        with tqdm(args.names or list(FIGURES), unit="figure") as bar:
            for name in bar:
                aside = args.folder / f".{name}.part.png"
                # no date and no version in the file, so that drawing again changes nothing
                FIGURES[name]().savefig(aside, metadata={"Software": None})
                aside.replace(args.folder / f"{name}.png")
    except (FileNotFoundError, KernelError) as error:  # recorded runs and kernels come with the repository
        parser.exit(2, f"{parser.prog}: {error}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
