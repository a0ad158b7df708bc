"""Laws in a test suite of yours: pytest finds this by the package's entry point, and it costs nothing until it is used.

    @mz.laws.holds("router.unbiased_gate", "router.biased_choice")     # over a function, or over a fixture
    def route(probs, bias): ...

    pytest --laws "mypkg.attention:attend=cca"                         # without a line of code: see `laws.applying`

Each law is a test of its own, laws_of_route[router.unbiased_gate], and its counterexample is the failure. The inputs
are the same each time, as many as the law says. A profile of Hypothesis that you load (`--hypothesis-profile`) decides
the number in its place, and, with `derandomize=False`, draws other inputs each time; `--hypothesis-seed` repeats those.
A law that cannot judge what it is given (gradients of a NumPy function) is a skip that says so.
"""

import inspect
import sys
from collections.abc import Callable, Iterator

import pytest

import minizaya as mz  # imports neither torch nor the laws: they come with the first use of `mz.laws`

BUILT_IN = ("default", "ci")     # profiles of Hypothesis that nobody chose
SEEN = pytest.StashKey[list]()   # what a module's tests have been made of


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("minizaya").addoption(
        "--laws", action="append", default=[], metavar="PACKAGE.MODULE:FUNCTION=NAME",
        help="judge this function by a law, by a protocol, or by the laws of a component that fit it; may be repeated")


def drawing(config: pytest.Config) -> dict:
    """What the settings of Hypothesis ask of `judge`."""
    from hypothesis import settings  # half a second, for who uses the laws

    asked = {} if settings.get_current_profile_name() in BUILT_IN else {"examples": "profile"}
    seed = config.getoption("--hypothesis-seed", default=None)
    return asked if seed is None else asked | {"seed": int(seed) if seed.isdigit() else seed}


def judge(law: str, fn: Callable, options: dict, config: pytest.Config) -> None:
    """Fails with the counterexample, or skips, unless the law holds."""
    try:
        verdict = mz.laws.judge(law, fn, **(drawing(config) | options))
    except mz.laws.Refused as error:
        pytest.skip(str(error))
    if not verdict:
        again = "" if verdict.seed is None else f"\n  --hypothesis-seed={verdict.seed} draws these inputs again"
        pytest.fail(f"{verdict}{again}", pytrace=False)


# ---- @mz.laws.holds --------------------------------------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Collector, name: str, obj: object) -> list[pytest.Item] | None:
    """The tests of what `holds` has marked: one a law, and of a fixture with parameters one for each of those, too."""
    obj = obj.__func__ if isinstance(obj, staticmethod) else obj
    fixture = type(obj).__name__ == "FixtureFunctionDefinition"
    marked = getattr(obj, "__dict__", {}).get("minizaya_laws") if fixture or inspect.isfunction(obj) else None
    if marked is None:
        return None
    if obj in (seen := collector.stash.setdefault(SEEN, [])):     # one function, two names
        return []
    seen.append(obj)
    laws, options = marked
    asked = obj.name if fixture else None     # the fixture's own name, which its decorator may have changed

    def laws_of(request, law, **given):
        judge(law, given[asked] if fixture else obj, options, request.config)

    places = ["request", "law", *([asked] if fixture else [])]
    laws_of.__signature__ = inspect.Signature([inspect.Parameter(p, inspect.Parameter.KEYWORD_ONLY) for p in places])
    laws_of.pytestmark = [*getattr(obj, "pytestmark", []), pytest.mark.parametrize("law", laws).mark]
    # pytest takes a test from its module by name
    test = f"laws_of_{name}"
    setattr(collector.obj, test, staticmethod(laws_of) if isinstance(collector, pytest.Class) else laws_of)
    return list(collector._genfunctions(test, laws_of))


# ---- --laws ----------------------------------------------------------------------------------------------------------


class Target(pytest.Collector):
    """A function named on the command line, and what it is judged by."""

    def collect(self) -> Iterator["LawTest"]:
        fn = mz.laws.load(self.name.rpartition("=")[0])
        for law in mz.laws.applying(self.name.rpartition("=")[2], fn):
            yield LawTest.from_parent(self, name=law.name, fn=fn)


class LawTest(pytest.Item):
    def __init__(self, *, fn: Callable, **kwargs):
        super().__init__(**kwargs)
        self.fn = fn

    def runtest(self) -> None:
        judge(self.name, self.fn, {}, self.config)

    def reportinfo(self) -> tuple:
        return self.config.rootpath, None, f"{self.name} for {self.parent.name}"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Adds the tests that --laws asks for, before -k and -m choose among them."""
    wanted = config.getoption("--laws")
    if wanted:
        sys.path.insert(0, str(config.invocation_params.dir))     # as `python -m pytest` does
    for words in wanted:
        if "=" not in words:
            raise pytest.UsageError(f"--laws wants package.module:function=name, got {words!r}")
        try:
            items += Target.from_parent(session, name=words, nodeid=words).collect()
        except ValueError as error:
            raise pytest.UsageError(f"--laws {words}: {error}") from None
