"""Does each test file pass, and exit well, by itself and in any order?

    python tests/alone.py                       every file in a process of its own, in the order of a shuffle
    python tests/alone.py tests/arch tests/rl   these files, or the files of these folders
    python tests/alone.py --seed 7              another order

Inside each file the tests are shuffled, too, one parametrized case among the others. Two orders of two files are two
chances to see what one test leaves behind for another. It goes on after a failure; the exit code is that of the worst.
A test that left a setting of the whole process changed (`tests/helpers/tidy.py`) is named, and its file fails.
`--together` runs all files in one process, their tests among each other.
"""

import argparse
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


class Shuffle:
    """A plugin of pytest: the tests of a file in an order of the seed's. Fixtures of a module are still made once.

    together: those of all files among each other. It also says what tests left behind.
    """

    def __init__(self, seed: int, together: bool = False):
        self.seed, self.together = seed, together

    def pytest_configure(self, config):
        self.left = config.left_behind = {}

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session):
        if self.left and not session.exitstatus:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter):
        for test, what in self.left.items():
            terminalreporter.write_line(f"{test} left {', '.join(what)} changed")

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items):
        first = items[0].nodeid.split("::")[0] if items and not self.together else ""
        random.Random(f"{self.seed}/{first}").shuffle(items)


def files_of(places: list[Path]) -> list[Path]:
    """The test files in these folders, or these files. Raises ValueError for what is neither."""
    found = [file for place in places for file in (sorted(place.rglob("test_*.py")) if place.is_dir() else [place])]
    if missing := [str(file) for file in found if not file.is_file()]:
        raise ValueError(f"no such test file: {', '.join(missing)}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("places", nargs="*", type=Path, default=[ROOT / "tests"], help="files, folders (default: all)")
    parser.add_argument("--seed", type=int, default=1, help="of the orders (default: %(default)s)")
    parser.add_argument("--without", default="\0", metavar="PART", help="leave out files whose path holds this")
    parser.add_argument("--together", action="store_true", help="all in one process")
    parser.add_argument("--inside", type=int, help=argparse.SUPPRESS)     # one file, in this process
    args = parser.parse_args()
    if args.inside is not None or args.together:
        seed = args.seed if args.together else args.inside
        return int(pytest.main(["-p", "no:cacheprovider", "-p", "no:xdist", *map(str, args.places)],
                               plugins=[Shuffle(seed, args.together)]))
    files = [file for file in files_of(args.places) if args.without not in str(file)]
    random.Random(args.seed).shuffle(files)
    bad = []
    for number, file in enumerate(files, 1):
        began = time.monotonic()
        done = subprocess.run([sys.executable, __file__, "--inside", str(args.seed), str(file)], cwd=ROOT,
                              capture_output=True, text=True)
        last = (done.stdout.strip().splitlines() or [""])[-1]
        name = file.resolve().relative_to(ROOT)
        print(f"{number}/{len(files)} {name}: exit code {done.returncode}, {time.monotonic() - began:.0f} s, {last}",
              flush=True)
        if done.returncode:
            bad.append(str(name))
            print(done.stdout[-3000:], done.stderr[-3000:], flush=True)
    print(f"{len(files) - len(bad)} of {len(files)} files pass alone, shuffled by seed {args.seed}"
          + (f"; not: {', '.join(bad)}" if bad else ""))
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
