"""Which laws could go, since others reject all that they reject?

    python tests/overlap.py            all components
    python tests/overlap.py trim rsa   these

Laws of one component that judge the same functions of the library take the same arguments, so each of them can judge
every wrong function of the others (`tests/helpers/wrong_functions/`). A law that is the only one to reject some of them
stays. Of any other this prints who rejects the same. It may stay all the same: `minizaya/laws/__init__.py` says why.
"""

import argparse
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).with_name("helpers"))]

import law_assertions  # noqa: E402
import wrong_functions  # noqa: E402
from minizaya import laws  # noqa: E402


def together(component: str) -> list[list[laws.Law]]:
    """The laws of a component, in groups that judge the same functions, groups of one left out."""
    groups: dict[frozenset, list] = {}
    for law in (law for law in laws.all() if law.name.startswith(f"{component}.")):
        groups.setdefault(frozenset(law.subjects.values()), []).append(law)
    return [group for group in groups.values() if len(group) > 1]


def rejects(law: str, fn) -> bool:
    verdict, _ = law_assertions.judged(law, fn)
    return not verdict.passed and "it raised TypeError" not in verdict.message    # arguments that do not fit


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    components = list(dict.fromkeys(law.name.split(".")[0] for law in laws.all()))
    parser.add_argument("components", nargs="*", default=components, metavar="COMPONENT")
    args = parser.parse_args()
    if unknown := set(args.components) - set(components):
        parser.error(f"components are {', '.join(components)}, got {', '.join(unknown)}")
    for component in args.components:
        for group in together(component):
            names = [law.name for law in group]
            rows = [row for name in names for row in wrong_functions.TABLE[name]]
            wrong = [row[0] if isinstance(row, tuple) else row for row in rows]
            found = [[name for name in names if rejects(name, fn)] for fn in wrong]
            for name in names:
                alone = found.count([name])
                shared = sorted({other for rejected in found if name in rejected for other in rejected} - {name})
                print(f"{name}: alone with {alone}" if alone else f"{name}: never alone, beside {', '.join(shared)}",
                      flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
