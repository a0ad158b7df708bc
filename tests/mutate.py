"""One-line bugs planted at random: which of them does the test suite let live?

    python tests/mutate.py --map                    once: which test runs which line (a quarter of an hour, one core)
    python tests/mutate.py --sample 300 --seed 1    plants 300 bugs, one at a time, and prints the survivors
    python tests/mutate.py --only rl/learner.py --sample 40
    python tests/mutate.py --again FILE             the survivors of an earlier report once more

A bug is a small change of one expression: `<` for `<=`, `+` for `-`, a constant one off, `and` for `or`, a condition
turned round, a `.clone()` or an argument left out, a statement dropped. Error messages, annotations and help texts are
left alone. For each bug the tests that run its line are run, the quickest first, until one fails. A survivor is not
always a hole: read it. Some change nothing that anybody could see.

Needs the package coverage for --map. What it finds is kept in `runs/mutants/`.
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
from pathlib import Path

from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
PACKAGE, RUNS = ROOT / "minizaya", ROOT / "runs" / "mutants"
ROOMS = ("arch", "infer", "data", "train", "rl", "hub")
TESTS = ("arch", "data", "infer", "train", "rl", "hub", "native", "plan", "serve", "commands", "studies", "laws")
BUDGET = 90.0   # seconds of tests for one bug; where more tests run its line, the quickest of them
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
    return [bug for bug in found if "\n" not in bug["old"] and bug["old"] != bug["new"] and compiles(text, bug)]


def compiles(text: str, bug: dict) -> bool:
    try:
        ast.parse(planted(text, bug))
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
    return sorted(every, key=lambda bug: bug["rank"])[:number]


# ---- who runs what ---------------------------------------------------------------------------------------------------


def make_map() -> None:
    """Runs the tests once under coverage; writes {"lines": {file: {line: [test]}}, "seconds": {test: seconds}}."""
    RUNS.mkdir(parents=True, exist_ok=True)
    config, data, report = RUNS / "coveragerc", RUNS / "coverage", RUNS / "times.xml"
    config.write_text(f"[run]\nsource = {PACKAGE}\ndynamic_context = test_function\ndata_file = {data}\n")
    subprocess.run([sys.executable, "-m", "coverage", "run", f"--rcfile={config}", "-m", "pytest", "-q",
                    f"--junitxml={report}", *(str(ROOT / "tests" / room) for room in TESTS)], cwd=ROOT)
    from xml.etree import ElementTree

    import coverage

    seconds: dict[str, float] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = case.get("name").split("[")[0]
        test = f"{case.get('classname').replace('.', '/')}.py::{name}"
        seconds[test] = seconds.get(test, 0) + float(case.get("time"))
    measured = coverage.CoverageData(str(data))
    measured.read()
    places = {}
    for test in seconds:   # coverage calls them by module and function
        places.setdefault(test.split("::")[1], []).append(test)
    lines: dict[str, dict] = {}
    for file in measured.measured_files():
        name = str(Path(file).relative_to(PACKAGE))
        for line, contexts in measured.contexts_by_lineno(file).items():
            found = {test for context in contexts for test in places.get(context.rsplit(".", 1)[-1], [])}
            lines.setdefault(name, {})[line] = sorted(found)
    (RUNS / "map.json").write_text(json.dumps({"lines": lines, "seconds": seconds}))


def tests_for(bug: dict, known: dict) -> list[str]:
    """The tests to run for a bug, the quickest first, BUDGET seconds of them.

    A line that only runs on import has no test of its own: then all that run any line of its file.
    """
    lines = known["lines"].get(bug["file"], {})
    found = set(lines.get(str(bug["line"]), [])) or {test for tests in lines.values() for test in tests}
    chosen, spent = [], 0.0
    for test in sorted(found, key=lambda test: known["seconds"].get(test, 1.0)):
        spent += known["seconds"].get(test, 1.0)
        if chosen and spent > BUDGET:
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


def outcome(bug: dict, tests: list[str], folder: Path, limit: float) -> str:
    """"killed", "survived" or "no test": the tests run in a fork of this process, which has imported torch already."""
    if not tests:
        return "no test"
    path, whole = folder / "minizaya" / bug["file"], (PACKAGE / bug["file"]).read_text(encoding="utf-8")
    path.write_text(planted(whole, bug), encoding="utf-8")
    child = os.fork()
    if not child:
        os.setsid()
        os.chdir(folder)
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        sys.dont_write_bytecode = True
        sys.path.insert(0, str(folder))
        os.environ |= {"PYTHONPATH": str(folder), "CI": "true", "PYTHONDONTWRITEBYTECODE": "1"}
        import pytest

        os._exit(int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests])))
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
    path.write_text(whole, encoding="utf-8")
    return "survived" if status == 0 else "killed"     # an endless loop is seen, too


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--map", action="store_true", help="find out which test runs which line")
    parser.add_argument("--rooms", nargs="+", default=list(ROOMS), help="folders of the package (default: %(default)s)")
    parser.add_argument("--only", help="files whose path holds this")
    parser.add_argument("--sample", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--again", type=Path, metavar="FILE", help="a report: its survivors once more")
    args = parser.parse_args()
    if args.map:
        make_map()
        return 0
    if not (RUNS / "map.json").exists():
        parser.error("there is no map yet: run with --map first")
    known = json.loads((RUNS / "map.json").read_text())
    chosen = sample(args.rooms, args.only, args.sample, args.seed)
    if args.again:
        old = {(b["file"], b["old"], b["new"]) for b in map(json.loads, args.again.read_text().splitlines())
               if b["outcome"] != "killed"}
        every = sample(args.rooms, args.only, 10**9, args.seed)
        chosen = [b for b in every if (b["file"], b["old"], b["new"]) in old]
    import torch
    import transformers  # noqa: F401  (once for all forks)

    torch.set_num_threads(1)
    name = f"{args.only or 'rooms'}-{args.seed}{'-again' if args.again else ''}".replace("/", "_")
    counts, left = Counter(), []
    with tempfile.TemporaryDirectory() as folder, open(RUNS / f"{name}.jsonl", "w") as report:
        copy_of_the_tree(Path(folder))
        for bug in tqdm(chosen, desc="bugs", file=sys.stderr):
            tests = tests_for(bug, known)
            expected = sum(known["seconds"].get(test, 1.0) for test in tests)
            bug["outcome"] = outcome(bug, tests, Path(folder), 60 + 5 * expected)
            counts[bug["file"].split("/")[0], bug["outcome"]] += 1
            print(json.dumps(bug), file=report, flush=True)
            left += [bug] if bug["outcome"] != "killed" else []
    for bug in left:
        print(f"{bug['outcome']:9} {bug['file']}:{bug['line']}  {bug['old']}  ->  {bug['new']}   ({bug['by']})")
    killed = sum(number for (_, what), number in counts.items() if what == "killed")
    print(f"{killed} of {len(chosen)} killed; the report is {RUNS / f'{name}.jsonl'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
