"""One-line bugs planted at random: which of them does the test suite let live?

    python tests/mutate.py --map                    once: which test runs which line (a quarter of an hour, one core)
    python tests/mutate.py --sample 300 --seed 1    plants 300 bugs, one at a time, and prints the survivors
    python tests/mutate.py --minutes 9              the same sample, nine minutes of it; again: the next nine
    python tests/mutate.py --only rl/learner.py --sample 40
    python tests/mutate.py --again FILE             the survivors of an earlier report once more

A bug is a small change of one expression: `<` for `<=`, `+` for `-`, a constant one off, `and` for `or`, a condition
turned round, a `.clone()` or an argument left out, a statement dropped. Error messages, annotations and help texts are
left alone. For each bug the tests that run its line are run, the quickest first, until one fails or `--budget` seconds
of them have passed. A survivor is not always a hole: read it. Some change nothing that anybody could see.

Whether the killer is an honest one: the test that failed is run on the right code in the same copy of the tree, once;
if it fails there, too, it is set aside, and the bug is tried anew. Tests that look at the text of the code do not
count. Bugs in a room without a map are left for later (`--map arch rl` makes the maps of these two).

What it finds is kept in `runs/mutants/`: remove that folder when the code has changed a lot.
"""

import argparse
import ast
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
PACKAGE, RUNS = ROOT / "minizaya", ROOT / "runs" / "mutants"
ROOMS = ("arch", "infer", "data", "train", "rl", "hub")
TESTS = ("test_promises.py", "test_defaults.py", "arch", "rl", "infer", "data", "hub", "train", "laws", "commands",
         "native", "plan", "serve", "studies")
# They plant bugs themselves, fall over a changed line of text, or run what is wrong on purpose
NOT_COUNTED = ("laws/test_mutants.py", "laws/test_assertions.py", "laws/test_laws.py::test_a_constant",
               "laws/test_laws.py::test_nan", "laws/test_laws.py::test_the_reference_called")
SWAPS = {
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==", ast.Is: "is not",
    ast.IsNot: "is", ast.In: "not in", ast.NotIn: "in", ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*",
    ast.FloorDiv: "/", ast.Mod: "*", ast.Pow: "*", ast.BitAnd: "|", ast.BitOr: "&", ast.And: "or", ast.Or: "and",
}
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "sorted": "list", "amax": "amin", "amin": "amax",
         "argmax": "argmin", "argmin": "argmax", "floor": "ceil", "ceil": "floor", "cumsum": "cumprod", "sum": "amax"}
DROPPED = {"clone", "detach", "contiguous", "float", "double", "strip", "abs", "sqrt", "exp"}


# ---- making bugs -----------------------------------------------------------------------------------------------------


def bugs(path: Path) -> list[dict]:
    """Every bug of a file: {"file", "line", "old", "new", "at": (start, end), "by"}; at: characters of the text."""
    text = path.read_text(encoding="utf-8")
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    lines = text.splitlines()

    def at(row: int, column: int) -> int:     # ast counts bytes
        return starts[row - 1] + len(lines[row - 1].encode()[:column].decode())

    found = []

    def add(node: ast.AST, new: str, by: str) -> None:
        span = at(node.lineno, node.col_offset), at(node.end_lineno, node.end_col_offset)
        file = str(path.relative_to(PACKAGE))
        found.append(dict(file=file, line=node.lineno, old=text[slice(*span)], new=new, at=span, by=by))

    def source(node: ast.AST) -> str:    # trap: an expression's own parentheses are not in its segment
        segment = ast.get_source_segment(text, node)
        composed = isinstance(node, (ast.BinOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.UnaryOp))
        return f"({segment})" if composed else segment

    def visit(node: ast.AST) -> None:
        if isinstance(node, (ast.Raise, ast.JoinedStr, ast.Import, ast.ImportFrom, ast.Assert)):
            return
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return
        mutate(node)
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list", "type_comment"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and not (isinstance(node, ast.Call) and is_words(node)):
                    visit(child)

    def is_words(node: ast.Call) -> bool:
        called = source(node.func).rsplit(".", 1)[-1]
        return called in ("add_argument", "warn", "print", "getattr", "TypeVar") or called.endswith(("Error", "Wrong"))

    def has_text(node: ast.BinOp) -> bool:    # joined texts and paths fail at once, whatever is done to them
        words = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant)]
        return any(isinstance(word, str) for word in words) or "FOLDER" in source(node) or "folder" in source(node)

    def mutate(node: ast.AST) -> None:
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in SWAPS:
            add(node, f"{source(node.left)} {SWAPS[type(node.ops[0])]} {source(node.comparators[0])}", "comparison")
        elif isinstance(node, ast.BinOp) and type(node.op) in SWAPS and not has_text(node):
            add(node, f"{source(node.left)} {SWAPS[type(node.op)]} {source(node.right)}", "arithmetic")
        elif isinstance(node, ast.BoolOp):
            add(node, f" {SWAPS[type(node.op)]} ".join(f"({source(value)})" for value in node.values), "and, or")
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
            add(node, source(node.operand), "sign or not dropped")
        elif isinstance(node, ast.Constant) and type(node.value) in (int, float, bool):
            new = not node.value if node.value is True or node.value is False else (
                node.value + 1 if type(node.value) is int else node.value * 2 or 1.0)
            add(node, repr(new), "constant")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in NAMES:
            add(node.func, NAMES[node.func.id], "another function")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in DROPPED and not node.args:
                add(node, source(node.func.value), f".{node.func.attr}() dropped")
            elif node.func.attr in NAMES and node.func.attr != "all":
                add(node.func, f"{source(node.func.value)}.{NAMES[node.func.attr]}", "another method")
        elif isinstance(node, (ast.If, ast.IfExp)):
            add(node.test, f"not ({source(node.test)})", "condition turned round")
        elif isinstance(node, ast.AugAssign) or isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            if node.lineno == node.end_lineno:
                add(node, "pass", "statement dropped")
        if isinstance(node, ast.Call):
            for word in node.keywords:
                before = source(node)
                if word.arg and f", {source(word)}" in before:
                    add(node, before.replace(f", {source(word)}", "", 1), f"{word.arg}= left out")

    visit(ast.parse(text))
    return [bug for bug in found if "\n" not in bug["old"] and bug["old"] != bug["new"]]


def compiles(bug: dict) -> bool:
    try:
        ast.parse(planted((PACKAGE / bug["file"]).read_text(encoding="utf-8"), bug))
    except SyntaxError:
        return False
    return True


def planted(text: str, bug: dict) -> str:
    """The text with the bug in it."""
    return text[: bug["at"][0]] + bug["new"] + text[bug["at"][1]:]


def sample(rooms: list[str], only: str | None, number: int, seed: int) -> list[dict]:
    """`number` bugs, files and kinds of bug as evenly as chance allows; the same for the same seed and code."""
    files = [path for room in rooms for path in sorted((PACKAGE / room).rglob("*.py")) if not only or only in str(path)]
    every = [bug for path in files for bug in bugs(path)]
    random.Random(seed).shuffle(every)
    seen: Counter = Counter()
    for bug in every:
        bug["rank"] = seen[bug["file"], bug["by"]]
        seen[bug["file"], bug["by"]] += 1
    return list(islice(filter(compiles, sorted(every, key=lambda bug: bug["rank"])), number))


# ---- who runs what ---------------------------------------------------------------------------------------------------


class Watch:
    """A plugin of pytest: lines are noted under the test that runs, or under its file while fixtures are made."""

    def __init__(self, coverage):
        self.coverage, self.seconds = coverage, Counter()

    def pytest_runtest_logreport(self, report):
        self.seconds[report.nodeid] += report.duration

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item):
        self.coverage.switch_context(f"{item.nodeid.split('::')[0]}::")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_call(self, item):
        self.coverage.switch_context(item.nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_teardown(self, item):
        self.coverage.switch_context(f"{item.nodeid.split('::')[0]}::")


def map_room(room: str) -> None:
    """Runs the tests of one room under coverage; writes {"lines": {file: {line: [test]}}, "seconds": {test: ...}}."""
    from coverage import Coverage

    data = RUNS / f"{room}.coverage"
    data.unlink(missing_ok=True)
    measure = Coverage(data_file=str(data), source=[str(PACKAGE)], messages=False)
    watch = Watch(measure)
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    measure.start()
    pytest.main(["-q", "-p", "no:cacheprovider", *ignored(), f"tests/{room}"], plugins=[watch])
    measure.stop()
    measure.save()
    lines: dict[str, dict] = {}
    for file in measure.get_data().measured_files():
        found = measure.get_data().contexts_by_lineno(file)
        lines[str(Path(file).relative_to(PACKAGE))] = {line: sorted(filter(None, who)) for line, who in found.items()}
    (RUNS / f"{room}.map.json").write_text(json.dumps({"lines": lines, "seconds": watch.seconds}))


def ignored() -> list[str]:
    return [f"--deselect=tests/{name}" if "::" in name else f"--ignore=tests/{name}" for name in NOT_COUNTED]


def make_map(rooms: list[str]) -> None:
    """Room by room, each in a process of its own; a room that has been mapped already is left out."""
    RUNS.mkdir(parents=True, exist_ok=True)
    for room in rooms:
        if not (RUNS / f"{room}.map.json").exists():
            subprocess.run([sys.executable, __file__, "--map-room", room], check=True)


def mapped() -> list[str]:
    return [room for room in TESTS if (RUNS / f"{room}.map.json").exists()]


def read_map() -> dict:
    """All mapped rooms together: {"lines": {(file, line): {test}}, "seconds": {test: seconds}}."""
    known: dict = {"lines": {}, "seconds": {}}
    for room in mapped():
        found = json.loads((RUNS / f"{room}.map.json").read_text())
        known["seconds"] |= found["seconds"]
        for file, lines in found["lines"].items():
            for line, tests in lines.items():
                known["lines"].setdefault((file, int(line)), set()).update(tests)
    return known


def tests_for(bug: dict, known: dict, budget: float, set_aside: set[str]) -> list[str]:
    """The tests to run for a bug, `budget` seconds of them: first those that run its line, the quickest first, then
    those whose file runs it in a fixture.

    A line that only runs on import has no test of its own: then all that run any line of its file.
    """
    found = known["lines"].get((bug["file"], bug["line"])) or set().union(
        *(tests for (file, _), tests in known["lines"].items() if file == bug["file"]))
    own = {name for name in found if not name.endswith("::")}
    files = tuple(name for name in found if name.endswith("::"))
    others = {name for name in known["seconds"] if files and name.startswith(files)} - own
    chosen, spent = [], 0.0
    for group in (own, others):
        for test in sorted(group - set_aside, key=lambda test: known["seconds"].get(test, 1.0)):
            spent += known["seconds"].get(test, 1.0)
            if chosen and spent > budget:
                break
            chosen.append(test)
    return chosen


# ---- running ---------------------------------------------------------------------------------------------------------


def copy_of_the_tree(folder: Path) -> None:
    """What a test run needs, with the package as files that can be changed."""
    for name in ("minizaya", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    for path in PACKAGE.rglob("*.safetensors"):
        (folder / "minizaya" / path.relative_to(PACKAGE)).symlink_to(path)
    for name in ("lessons", "kernels", "pyproject.toml", "README.md", "constraints.txt"):
        (folder / name).symlink_to(ROOT / name)


class First:
    """A plugin of pytest: the first test that fails, or the first file that cannot be read."""

    def __init__(self):
        self.failed = ""

    def pytest_runtest_logreport(self, report):
        if report.failed and not self.failed:
            self.failed = report.nodeid

    def pytest_collectreport(self, report):
        if report.failed and not self.failed:
            self.failed = report.nodeid


def first_failure(tests: list[str], folder: Path, limit: float) -> str:
    """The first of the tests that fails in the copy of the tree, "too long", "crash", or "" when all pass.

    They run in a fork of this process, which has imported torch already.
    """
    answer = folder / "first.txt"
    answer.unlink(missing_ok=True)
    child = os.fork()
    if not child:
        said = "crash"
        try:
            os.setsid()
            os.chdir(folder)
            null = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(null, descriptor)
            sys.dont_write_bytecode = True
            sys.path.insert(0, str(folder))
            os.environ |= {"PYTHONPATH": str(folder), "CI": "true", "PYTHONDONTWRITEBYTECODE": "1"}
            first = First()
            # trap: what is imported already is a warning, and a warning is an error here
            quiet = ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
            code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *quiet, *tests],
                               plugins=[first])
            said = first.failed if code else "passed"
        finally:   # trap: whatever happens, nothing of the parent's may be cleaned up here
            answer.write_text(said)
            os._exit(0)
    began, status = time.monotonic(), None
    while status is None and time.monotonic() - began < limit:
        done, code = os.waitpid(child, os.WNOHANG)
        status = code if done else None
        time.sleep(0.05)
    try:
        os.killpg(child, signal.SIGKILL)     # whatever the tests started goes, too
    except ProcessLookupError:
        pass
    if status is None:
        os.waitpid(child, 0)
        return "too long"
    said = answer.read_text() if answer.exists() else ""
    return "" if said == "passed" else said or "crash"


def outcome(bug: dict, known: dict, budget: float, folder: Path, honest: dict[str, bool]) -> None:
    """Notes in `bug` whether it was killed and by which test; `honest`: which killers pass on the right code."""
    path = folder / "minizaya" / bug["file"]
    whole = path.read_text(encoding="utf-8")    # the copy's: the tree may move on meanwhile
    if whole[slice(*bug["at"])] != bug["old"]:
        raise ValueError(f"{bug['file']} has changed since the sample was drawn; start again")
    while True:
        tests = tests_for(bug, known, budget, {name for name, passes in honest.items() if not passes})
        if not tests:
            bug |= {"outcome": "no test", "killer": ""}
            return
        limit = 60 + 5 * sum(known["seconds"].get(test, 1.0) for test in tests)
        path.write_text(planted(whole, bug), encoding="utf-8")
        killer = first_failure(tests, folder, limit)
        path.write_text(whole, encoding="utf-8")
        bug |= {"outcome": "killed" if killer else "survived", "killer": killer}
        if killer in ("", "too long"):
            return
        asked = tests if killer == "crash" else [killer]
        if (name := "\n".join(asked)) not in honest:
            honest[name] = not first_failure(asked, folder, limit)
        if honest[name]:
            return
        if killer == "crash":
            bug["outcome"] = "no test"      # these tests do not even run on the right code
            return
        for test in tests:      # a whole file could not be read, without a bug
            if "::" not in killer and test.startswith(f"{killer}::"):
                honest[test] = False


def key(bug: dict) -> tuple:
    return bug["file"], bug["line"], bug["old"], bug["new"]


def read_report(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--map", nargs="*", choices=TESTS, metavar="ROOM", help="find out which test runs which line")
    parser.add_argument("--map-room", help=argparse.SUPPRESS)
    parser.add_argument("--rooms", nargs="+", default=list(ROOMS), help="folders of the package (default: %(default)s)")
    parser.add_argument("--only", help="files whose path holds this")
    parser.add_argument("--sample", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--budget", type=float, default=90.0, help="seconds of tests for a bug (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop then; the same command goes on from there")
    parser.add_argument("--again", type=Path, metavar="FILE", help="a report: its survivors once more")
    args = parser.parse_args()
    if args.map is not None:
        make_map(args.map or list(TESTS))
        return 0
    if args.map_room:
        map_room(args.map_room)
        return 0
    if not mapped():
        parser.error("there is no map yet: run with --map first")
    known = read_map()
    chosen = sample(args.rooms, args.only, 10**9 if args.again else args.sample, args.seed)
    if args.again:
        old = {key(bug) for bug in read_report(args.again) if bug["outcome"] != "killed"}
        chosen = [bug for bug in chosen if key(bug) in old]
    name = f"{args.only or 'rooms'}-{args.seed}{'-again' if args.again else ''}".replace("/", "_")
    path = RUNS / f"{name}.jsonl"
    if args.again:
        path.unlink(missing_ok=True)
    done = {key(bug): bug for bug in read_report(path)}
    waiting = [bug for bug in chosen if key(bug) not in done and bug["file"].split("/")[0] in mapped()]
    import einops  # noqa: F401  (what takes long to import: once for all forks)
    import hypothesis  # noqa: F401
    import torch._dynamo
    import transformers  # noqa: F401

    torch.set_num_threads(1)
    ends, honest = time.monotonic() + 60 * args.minutes, {}
    with tempfile.TemporaryDirectory() as folder, open(path, "a") as report:
        copy_of_the_tree(Path(folder))
        for bug in tqdm(waiting, desc="bugs", file=sys.stderr, mininterval=30):
            if time.monotonic() > ends:
                break
            outcome(bug, known, args.budget, Path(folder), honest)
            done[key(bug)] = bug
            print(json.dumps(bug), file=report, flush=True)
    tried = [done[key(bug)] for bug in chosen if key(bug) in done]
    for bug in tried:
        if bug["outcome"] != "killed":
            print(f"{bug['outcome']:9} {bug['file']}:{bug['line']}  {bug['old']}  ->  {bug['new']}   ({bug['by']})")
    for test in sorted(name for name, passes in honest.items() if not passes):
        print(f"set aside, fails without a bug: {test}")
    counts = Counter(bug["outcome"] for bug in tried)
    slow = sum(bug["killer"] == "too long" for bug in tried)
    print(f"{counts['killed']} of {len(tried)} killed ({slow} of them by the time limit), with the tests of "
          f"{', '.join(mapped())}; {len(chosen) - len(tried)} not tried yet; the report is {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
