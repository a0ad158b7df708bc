"""A student's notebook as cells, and which of them an exercise needs. Nothing is run here.

    exercise:<id>   tag of the code cell with the function; the cell with its checks stands below it
    open:<id>       the same, of an open exercise
    hint:<id>       tag of the folded hint, a markdown cell; of no concern here
    answer:<id>     tag of the folded answer, a markdown cell

A cell counts for an exercise if it binds a name that the exercise's function uses, directly or by way of other cells: a
helper, an import or a constant may stand in any cell above the checks. So a dial turned in a figure, or a training run,
costs nothing unless the function uses what it makes.
"""

import ast
import json
import re
import symtable
import warnings
from dataclasses import dataclass
from pathlib import Path

MOST = 64 * 2**20       # bytes of a file: larger ones hold outputs
RUN_BODY = ("%%time", "%%capture", "%%prun", "%%python", "%%python3")      # cell magics whose body counts


@dataclass(frozen=True)
class Cell:
    """A code cell. number: its place among all cells, from 1, as a person counts. error: why it cannot be read."""

    number: int
    source: str                 # without magics
    tags: tuple[str, ...]
    binds: frozenset[str]
    uses: frozenset[str]
    error: str = ""

    def tagged(self, kind: str) -> list[str]:
        return [tag.split(":", 1)[1] for tag in self.tags if tag.startswith(kind + ":")]


def document(path: Path) -> dict:
    """The notebook's JSON, sources joined. Raises ValueError, in words, when the file is none."""
    try:
        if not path.is_file():       # a pipe would keep us waiting
            raise ValueError("there is no such file")
        if path.stat().st_size > MOST:
            raise ValueError(f"it has more than {MOST >> 20} MiB: clear its outputs")
        text = path.read_text(encoding="utf-8-sig")
        if not text.strip():
            raise ValueError("it is empty")
        notebook = json.loads(text)
        if not isinstance(notebook.get("cells"), list):
            raise ValueError("it has no list of cells")
        for cell in notebook["cells"]:
            if not isinstance(cell.get("metadata", {}), dict):
                raise ValueError("the metadata of a cell are no object")
            cell["source"] = "".join(cell.get("source", ""))
            cell["cell_type"] = str(cell.get("cell_type", ""))
        return notebook
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
        why = str(error) if type(error) in (ValueError, OSError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{path.name} is not a notebook ({why})") from None


def cells(notebook: dict) -> list[Cell]:
    """Its code cells, without answers."""
    found = []
    for number, cell in enumerate(notebook["cells"], start=1):
        tags = cell.get("metadata", {}).get("tags", [])
        tags = tuple(tag for tag in tags if isinstance(tag, str)) if isinstance(tags, list) else ()
        if cell["cell_type"] != "code" or any(tag.startswith("answer:") for tag in tags):
            continue
        found.append(understood(number, cell["source"], tags))
    return found


def understood(number: int, source: str, tags: tuple[str, ...]) -> Cell:
    try:
        source = without_magics(source)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            binds, uses = names(source)
        return Cell(number, source, tags, frozenset(binds), frozenset(uses))
    except SyntaxError as error:
        return Cell(number, source, tags, frozenset(), frozenset(), f"SyntaxError in line {error.lineno}: {error.msg}")
    except (ValueError, RecursionError, MemoryError) as error:     # a null byte; brackets in brackets in brackets
        return Cell(number, source, tags, frozenset(), frozenset(), f"{type(error).__name__}: {error}")


def without_magics(source: str) -> str:
    """The cell as plain Python: `%%time` and its like are run without it, other cell magics are dropped whole (they are
    no Python, or bind nothing), and so are lines such as `%timeit f(x)`, `!ls`, `f?`; `%time x = f(2)` runs."""
    if source.lstrip().startswith("%%"):
        magic, _, body = source.lstrip().partition("\n")
        return without_magics(body) if magic.split()[0] in RUN_BODY else ""
    for _ in range(source.count("\n") + 1):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ast.parse(source)
            return source
        except SyntaxError as error:
            lines = source.split("\n")
            at = (error.lineno or 0) - 1
            line = plain(lines[at]) if 0 <= at < len(lines) else None
            if line is None:
                return source               # an error of another kind; whoever compiles it will say so
            lines[at] = line
            source = "\n".join(lines)
    return source


def plain(line: str) -> str | None:
    """A line with a magic, as Python; None if it has none."""
    indent, rest = re.fullmatch(r"(\s*)(.*)", line, flags=re.DOTALL).groups()
    if timed := re.match(r"%time\s+(?=\S)", rest):
        return indent + rest[timed.end():]
    if re.match(r"%|!|\?", rest) or rest.rstrip().endswith("?"):
        return indent + "pass"
    if made := re.match(r"([\w, ]+=)\s*[!%]", rest):
        return f"{indent}{made[1]} []"
    return None


def names(source: str) -> tuple[set[str], set[str]]:
    """The names a cell binds at its top, and those it uses that may come from elsewhere. Raises SyntaxError."""
    binds, uses = set(), set()

    def look(table: symtable.SymbolTable, top: bool) -> None:
        for symbol in table.get_symbols():
            name = symbol.get_name()
            if top and (symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace()):
                binds.add(name)
            if symbol.is_referenced() and (top or symbol.is_global()):
                uses.add(name)
            if not top and symbol.is_declared_global() and symbol.is_assigned():
                binds.add(name)
        for child in table.get_children():
            look(child, False)

    look(symtable.symtable(source, "cell", "exec"), True)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign)):        # table["a"] = 1, f.calls = 0
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                while isinstance(target, (ast.Subscript, ast.Attribute)):
                    target = target.value
                    if isinstance(target, ast.Name):
                        binds.add(target.id)
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            binds.add("*")
    return binds, uses


def region(found: list[Cell], exercise: dict) -> tuple[int, int]:
    """Where the cells of an exercise begin and end: from its tag (or, where that was lost, from the first cell that
    binds its function) up to its checks, the next exercise, or the end."""
    mine = [i for i, cell in enumerate(found) if exercise["id"] in cell.tagged(exercise.get("tag", "exercise"))]
    mine = mine or [i for i, cell in enumerate(found) if exercise["function"] in cell.binds][:1]
    if not mine:
        return len(found), len(found)
    check = re.compile(r"\bcheck\s*\(\s*[\"'](?:" + "|".join(map(re.escape, exercise["laws"])) + r")[\"']")
    for i in range(mine[-1] + 1, len(found)):
        if check.search(found[i].source) or found[i].tagged("exercise") or found[i].tagged("open"):
            return mine[0], i
    return mine[0], len(found)


def needed(found: list[Cell], exercise: dict) -> list[Cell]:
    """The cells to run for an exercise, in their order; without the function if no cell of its region binds it."""
    first, end = region(found, exercise)
    function, above = exercise["function"], found[:end]
    if not any(function in cell.binds for cell in above[first:]):
        first = 0                   # written above its own cell
    chosen = {i for i in range(first, end) if function in above[i].binds or above[i].error
              and (exercise["id"] in above[i].tagged(exercise.get("tag", "exercise"))
                   or f"def {function}" in above[i].source)}
    chosen |= set(range(min(1, len(above))))      # the lesson's imports
    chosen |= {i for i, cell in enumerate(above) if "*" in cell.binds}
    while True:
        wanted = {name for i in chosen for name in above[i].uses}
        more = {i for i, cell in enumerate(above) if cell.binds & wanted and not (i < first and function in cell.binds)}
        if more <= chosen:
            return [above[i] for i in sorted(chosen)]
        chosen |= more
