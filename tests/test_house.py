"""The house: which room may import which, no circles, rooms of a size that one sitting takes."""

import ast
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "minizaya"
LINES = 1700                                                # of a folder, its subfolders apart
OF_ONE_KIND = {"commands", "laws", "plots", "studies"}      # many modules of one kind: their docstring names the kind
# imports inside a function that would close a circle if they stood above it: from -> to, and why
LAZY = {("minizaya.arch.model", "minizaya.hip.layers"): "backend='hip' puts kernels under the plain model"}


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path, modules):
    """The modules of ours that a file imports, also inside functions; "from room import module" is the module."""
    package = name_of(path) if path.name == "__init__.py" else name_of(path).rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: 1 - node.level or None] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names:
                yield from [name for name in (f"{base}.{alias.name}", base) if name in modules][:1]


def graph():
    modules = {name_of(path): path for path in PACKAGE.rglob("*.py")}
    return {name: set(imported(path, modules)) - {name} for name, path in modules.items()}


def circle(edges):
    """A list of modules each of which imports the next, and the last the first; or None.

    What imports nothing is in no circle, nor is what imports only such: taken away, they leave the circles.
    """
    edges = {name: set(found) for name, found in edges.items()}
    while ends := {name for name, found in edges.items() if not found}:
        edges = {name: found - ends for name, found in edges.items() if name not in ends}
    if not edges:
        return None
    path = [min(edges)]
    while path[-1] not in path[:-1]:
        path.append(min(edges[path[-1]]))
    return path[path.index(path[-1]) : -1]


def test_no_module_imports_itself_in_a_circle():
    edges = graph()
    assert sum(map(len, edges.values())) > 400
    for start, end in LAZY:
        edges[start].remove(end)     # KeyError: the exception is gone, so is its line here
    assert circle(edges) is None


def test_a_planted_circle_is_found():
    edges = graph()
    assert "minizaya.arch.residual" in edges["minizaya.arch.model"]
    edges["minizaya.arch.residual"].add("minizaya.arch.model")
    assert {"minizaya.arch.model", "minizaya.arch.residual"} <= set(circle(edges))


def test_only_the_command_line_imports_commands():
    for name, found in graph().items():
        if not name.startswith(("minizaya.commands", "minizaya.__main__")):
            assert not [other for other in found if other.startswith("minizaya.commands")], name


def test_rooms_import_one_way():
    """The contracts of pyproject.toml, which name the rooms from the last to the first."""
    if find_spec("importlinter") is None:
        pytest.skip("import-linter is not installed")
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run([sys.executable, "-c", code, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 kept, 0 broken" in done.stdout


FOLDERS = sorted(path for path in {path.parent for kind in ("*.py", "*.cpp") for path in PACKAGE.rglob(kind)})


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_folder_is_read_in_one_sitting(folder):
    if folder.name in ("laws", "plots"):     # one file each by itself: nobody reads them one after the other
        return
    lines = sum(len(path.read_text(encoding="utf-8").splitlines())
                for path in folder.iterdir() if path.suffix in (".py", ".cpp"))
    assert lines <= LINES, f"{folder.relative_to(ROOT)} has {lines} lines"


@pytest.mark.parametrize("room", sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py")))
def test_a_room_says_what_is_in_it(room):
    """Its docstring is the paragraph that a newcomer reads first; it names the modules in the order to read them."""
    text = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text(encoding="utf-8")))
    assert text, f"minizaya/{room} does not say what it is"
    if room not in OF_ONE_KIND:
        missing = [name for path in sorted((PACKAGE / room).iterdir()) if not (name := path.stem).startswith("__")
                   and (path.suffix == ".py" or (path / "__init__.py").exists()) and f"`{name}`" not in text]
        assert not missing, f"minizaya/{room} does not name {', '.join(missing)}"


def without_encoding(code):
    """The lines of calls that read or write text in whatever encoding the surroundings have."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call):
            given = {word.arg: word.value for word in node.keywords}
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            mode = given.get("mode", node.args[1] if len(node.args) > 1 else None)
            silent = {"read_text": not node.args, "write_text": len(node.args) < 2, "fdopen": True,
                      "open": isinstance(node.func, ast.Name) and "b" not in str(getattr(mode, "value", ""))}
            if "encoding" not in given and (silent.get(name) or {"text", "universal_newlines"} & given.keys()):
                yield node.lineno


def test_text_is_utf8_whatever_the_locale():
    """`LC_ALL=C PYTHONUTF8=0`: no file, pipe or child's words may fail on a letter that is no ASCII."""
    found = [f"{path.relative_to(ROOT)}:{line}" for folder in (PACKAGE, ROOT / "kernels", ROOT / "examples")
             for path in sorted(folder.rglob("*.py")) for line in without_encoding(path.read_text(encoding="utf-8"))]
    assert not found, f"say encoding=\"utf-8\" in {found}"
    odd = ["open(x)", "open(x, 'w')", "p.read_text()", "p.write_text(t)", "run(c, text=True)", "open(x, mode='a')"]
    right = ["open(x, 'rb')", "open(x, encoding='utf-8')", "p.read_text('utf-8')", "p.write_text(t, 'utf-8')",
             "run(c, encoding='utf-8')", "stack.open(x)", "p.write_text(t, encoding='utf-8')"]
    assert [len(list(without_encoding(line))) for line in odd + right] == [1] * len(odd) + [0] * len(right)
