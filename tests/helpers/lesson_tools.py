"""Reads, edits and runs the lessons, for test_lessons.py.

How a lesson is marked up:
    notebook metadata   "minizaya": {"minutes": reading time, "seconds": CPU time, "needs": ["transformers", ...]}
    tag exercise:<id>   a code cell that defines one function, the stub; the next code cell holds its checks
    tag hint:<id>       a markdown cell with a folded hint, right above the answer; not every exercise has one
    tag answer:<id>     a markdown cell with the answer, folded, in a python fence
"""

import ast
import re
import sys
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
LESSONS = ROOT / "lessons"
PATHS = sorted(LESSONS.glob("[0-9][0-9]_*.ipynb"))

# Lessons state their CPU time. A CI machine can be this many times slower than the laptop they were timed on.
SLOW_MACHINE = 3
CELL_TIMEOUT = 900   # seconds on the wall: a cell that hangs

# A last cell: CPU seconds, and the kernel's memory at its peak in MiB. Zero where /proc is missing.
# trap: getrusage's figure is no less than what the process that starts the kernel has had.
CLOCK = """
import time
from pathlib import Path
status = Path("/proc/self/status")
lines = status.read_text().splitlines() if status.exists() else []
print(time.process_time(), max([int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM")], default=0))
"""


@dataclass(frozen=True)
class Exercise:
    """One exercise of a lesson: its stub's source, the laws that judge it, and the answer's source."""

    id: str
    cell: int                 # index of the stub in the notebook
    name: str                 # the function
    stub: str
    laws: tuple[str, ...]
    answer: str


def read(path):
    return nbformat.read(path, as_version=4)


def tags(cell):
    return cell.metadata.get("tags", [])


def tagged(cell, kind):
    """The ids of the tags "kind:<id>" of a cell."""
    return [tag.split(":", 1)[1] for tag in tags(cell) if tag.startswith(kind + ":")]


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def words(notebook):
    """Words a reader reads: markdown without code fences and tags."""
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    text = re.sub(r"```.*?```|<[^>]*>|\]\([^)]*\)", " ", text, flags=re.DOTALL)
    return len(re.findall(r"[\w'-]+", text))


def checks(source):
    """The (law, function) pairs of a check cell, which may hold nothing but `mz.laws.check("law", function)` lines."""
    found = []
    for statement in ast.parse(source).body:
        call = statement.value if isinstance(statement, ast.Expr) else None
        if not isinstance(call, ast.Call) or ast.unparse(call.func) != "mz.laws.check" or len(call.args) != 2:
            raise ValueError("a check cell holds mz.laws.check(law, function) lines only, "
                             f"got {ast.unparse(statement)}")
        found.append((ast.literal_eval(call.args[0]), ast.unparse(call.args[1])))
    return found


def next_code(notebook, index):
    """The index of the next code cell. After an exercise's stub that is the one with its checks."""
    return next(i for i in range(index + 1, len(notebook.cells)) if notebook.cells[i].cell_type == "code")


def exercises(notebook):
    """The `Exercise`s of a lesson, in order. Raises ValueError where the markup is not as the module says."""
    found = []
    for index, cell in enumerate(notebook.cells):
        for id in tagged(cell, "exercise"):
            (stub,) = ast.parse(cell.source).body
            after = notebook.cells[next_code(notebook, index)]
            pairs = checks(after.source)
            if {name for _, name in pairs} != {stub.name}:
                raise ValueError(f"the cell after exercise {id} must check {stub.name} and nothing else, got {pairs}")
            answers = [c.source for c in notebook.cells[index:] if id in tagged(c, "answer")]
            if len(answers) != 1:
                raise ValueError(f"exercise {id} must have one answer below it, got {len(answers)}")
            fences = re.findall(r"```python\n(.*?)```", answers[0], flags=re.DOTALL)
            if len(fences) != 1 or not answers[0].startswith("<details><summary>Answer</summary>"):
                raise ValueError(f"the answer of {id} must be folded and hold one python fence")
            found.append(Exercise(id, index, stub.name, cell.source, tuple(law for law, _ in pairs), fences[0]))
    return found


def solved(notebook):
    """A copy with every answer in place of its stub, of which nothing is left but imports, answers and checks.

    No other cell may use an exercise's function (a test says so), so an answer changes nothing else.
    """
    copy = deepcopy(notebook)
    cells = [code_cells(copy)[0]]
    for exercise in exercises(notebook):
        copy.cells[exercise.cell].source = exercise.answer
        cells += [copy.cells[exercise.cell], copy.cells[next_code(notebook, exercise.cell)]]
    copy.cells = cells
    return copy


def function(notebook, name, source):
    """Runs a lesson's imports and then `source`, here, and returns the function `name` that it defines."""
    namespace = {}
    exec(code_cells(notebook)[0].source, namespace)
    exec(source, namespace)
    return namespace[name]


class ThisPython(KernelSpecManager):
    """trap: the kernel called "python3" may be another Python's; tests must run the one that runs pytest."""

    def get_kernel_spec(self, kernel_name):
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="this Python", language="python")


def execute(notebook, folder, env):
    """Runs a copy of the notebook in a fresh kernel with working directory `folder`; stops at the first error.

    Returns the executed copy, its CPU seconds, imports included, and the kernel's memory at its peak in MiB. CPU time,
    not time on the wall: other work on the machine must not fail a lesson.
    """
    copy = deepcopy(notebook)
    manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=ThisPython())
    clock = nbformat.v4.new_code_cell(CLOCK)
    copy.cells.append(clock)
    NotebookClient(copy, km=manager, timeout=CELL_TIMEOUT).execute(cwd=str(folder), env=env, cleanup_kc=True)
    copy.cells.pop()
    seconds, memory = printed(clock).split()
    return copy, float(seconds), int(memory)


def printed(cell, stream="stdout"):
    """What a cell wrote to stdout or stderr; a verdict's card counts as the text that stands for it."""
    def text(output):
        if output.output_type == "stream":
            return output.text if output.name == stream else ""
        card = stream == "stdout" and "text/html" in output.get("data", {})
        return output.data.get("text/plain", "") + "\n" if card else ""

    return "".join(map(text, cell.get("outputs", [])))
