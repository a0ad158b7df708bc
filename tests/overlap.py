"""Which laws could go, since others reject all that they reject?

    python tests/overlap.py            all components
    python tests/overlap.py trim rsa   these

Laws of one component that judge the same functions of the library take the same arguments, so each of them can judge
every wrong function of the others (`tests/helpers/wrong_functions/`). A law that is the only one to reject some of its
own stays. For any other this prints who rejects the same: merge it, or say in its docstring why it stays.

What a law rejects only for its words counts as rejected by whoever rejects it: a second law may still say it better.
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
            for name in names:
                own = [fn for fn in wrong_functions.TABLE[name] for fn in [fn[0] if isinstance(fn, tuple) else fn]]
                others = [{other for other in names if other != name and rejects(other, fn)} for fn in own]
                if all(others):
                    print(f"{name}: {len(own)} wrong functions, each rejected by others, too: "
                          + "; ".join(", ".join(sorted(found)) for found in others), flush=True)
                else:
                    print(f"{name}: alone with {others.count(set())} of {len(own)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
