"""One notebook, judged: each exercise in a process of its own, by the laws that the table names."""

import contextlib
import gc
import inspect
import shutil
import socket
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor

from .. import laws
from ..config import check_settings
from ..hip import KernelError, ladder, launch, trace
from ..hip.build import build
from . import notebook, open_exercises
from .apart import fence, student
from .apart.remote import Gone, Student
from .apart.wire import send
from .table import lessons

HELPERS = 2**20         # bytes of Python files beside a notebook that its cells may import


@dataclass(frozen=True)
class Limits:
    """Of one exercise. seconds: for one call of the student's function, and for all cells together; whole: for all of
    it, CPU time too; memory: bytes. seed: draws other inputs than the lessons' checks do;
    examples: so many of each law, None: the law's own number. Raises ValueError for anything else."""

    seconds: float = 20.0
    whole: float = 120.0
    memory: int = 3 * 2**30
    seed: str | None = None
    examples: int | None = None

    def __post_init__(self):
        check_settings(vars(self), seconds="(0, 1e9]", whole="(0, 1e9]", memory=1)
        if self.examples is not None:
            check_settings(vars(self), examples=1)
        if self.seed is not None and not isinstance(self.seed, str):
            raise ValueError(f"seed must be a text or None, got {self.seed!r}")


def grade(path: Path, lesson: str, limits: Limits, part: str = "exercises") -> dict:
    """{"problem": why nothing could be judged, or "", "walls": [...], "exercises": {id: verdict}}.

    part: "exercises", or "open", the open ones, whose verdicts also have "cost", "baseline" and "score" if they passed.

    A verdict: "verdict" ("passed", "wrong" or "open"), "points", "of", "message" (the counterexample, or what went
    wrong), "broke" (cells that raised: [number, line, what]), "laws" (of each that was tried: law, statement, examples,
    passed), "seconds", and "source", the cells with the function.
    """
    table = lessons()[lesson][part]
    try:
        found = notebook.cells(notebook.document(path))
    except ValueError as error:
        return nothing(lesson, str(error), part)
    walls, verdicts = set(), {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for number, exercise in enumerate(table):
            scratch = Path(folder) / str(number)
            scratch.mkdir()
            helpers(path.parent, scratch)
            began = time.monotonic()
            verdicts[exercise["id"]] = judged(exercise, found, scratch, limits, walls)
            verdicts[exercise["id"]]["seconds"] = round(time.monotonic() - began, 2)
            shutil.rmtree(scratch, ignore_errors=True)
    return {"problem": "", "walls": sorted(walls), "exercises": verdicts}


def nothing(lesson: str, problem: str, part: str = "exercises") -> dict:
    """The result of a notebook that could not be judged at all."""
    wrong = {e["id"]: verdict("wrong", e, message=problem) | {"seconds": 0.0} for e in lessons()[lesson][part]}
    return {"problem": problem, "walls": [], "exercises": wrong}


def helpers(folder: Path, scratch: Path) -> None:
    """Copies the student's Python files that lie beside the notebook; nothing else of that folder can be read."""
    room = HELPERS
    for path in sorted(folder.glob("*.py"))[:50]:
        with contextlib.suppress(OSError):
            room -= path.stat().st_size
            if room > 0 and path.is_file() and not path.is_symlink():
                shutil.copyfile(path, scratch / path.name)


def verdict(kind: str, exercise: dict, message: str = "", broke: list | None = None, tried: list | None = None,
            source: str = "") -> dict:
    return {"verdict": kind, "points": exercise["points"] if kind == "passed" else 0, "of": exercise["points"],
            "message": message, "broke": broke or [], "laws": tried or [], "source": source}


def judged(exercise: dict, found: list[notebook.Cell], scratch: Path, limits: Limits, walls: set[str]) -> dict:
    cells = notebook.needed(found, exercise)
    first, end = notebook.region(found, exercise)
    own = [cell for cell in found[first:end] if exercise["function"] in cell.binds or cell.error]
    if [cell.source.strip() for cell in own] == [exercise["stub"].strip()]:
        return verdict("open", exercise)
    source = "\n".join(cell.source for cell in own)
    unreadable = [[cell.number, None, cell.error] for cell in cells if cell.error]
    run = partial(student.start, function=exercise["function"],
                  cells=[(cell.number, cell.source) for cell in cells if not cell.error],
                  away=guarded(exercise), scratch=scratch, memory=limits.memory, seconds=int(limits.whole) + 1)
    say = partial(verdict, exercise=exercise, source=source)
    tried: list[dict] = []
    broke = unreadable
    try:
        with Student(run, limits.seconds, limits.whole) as remote, fenced_kernels(scratch, limits):
            ready = remote.ready()
            walls.update(ready["walls"])
            broke = unreadable + ready["broke"]
            if ready["kind"] == "ellipsis":
                return say("open", broke=broke)
            if ready["kind"] != "function":
                return say("wrong", message=missing(exercise, ready["kind"], broke), broke=broke)
            ask = by_cost if exercise.get("tag") == "open" else by_laws
            kind, message, more = ask(exercise, remote.function(exercise["function"]), limits, tried)
    except Gone as error:
        return say("wrong", message=str(error), broke=broke, tried=tried)
    return say(kind, message=message, broke=broke, tried=tried) | more


def by_laws(exercise: dict, function: Callable, limits: Limits, tried: list[dict]) -> tuple[str, str, dict]:
    for name in exercise["laws"]:
        result = laws.judge(name, function, seed=limits.seed, examples=limits.examples)
        tried.append(covered(name, result))
        if not result.passed:
            return ("wrong", result.message, {}) if result.attempted else ("open", "", {})
    return "passed", "", {}


def by_cost(exercise: dict, function: Callable, limits: Limits, tried: list[dict]) -> tuple[str, str, dict]:
    result = open_exercises.judge(exercise["id"], function, limits.seed or open_exercises.LESSON, guard=False)
    if result.cost is None:
        return ("wrong", str(result), {}) if result.verdict.attempted else ("open", "", {})
    return "passed", "", {"cost": result.cost, "baseline": result.baseline, "score": result.score}


def missing(exercise: dict, kind: str, broke: list) -> str:
    what = f"{exercise['function']} is a {kind}, not a function" if kind != "missing" else \
        f"no cell tagged exercise:{exercise['id']}, or below it, defines {exercise['function']}"
    return "; ".join([what, *(f"cell {number}{f', line {line}' if line else ''}: {said}"
                              for number, line, said in broke[:3])])


def covered(name: str, result: laws.Verdict) -> dict:
    """What a check of this law looked at."""
    return {"law": name, "statement": laws.get(name).statement, "examples": result.tried, "passed": result.passed}


def guarded(exercise: dict) -> list[types.FunctionType]:
    """What the exercise asks for, as the library has it, and all functions of the laws, the textbook's among them."""
    names = open_exercises.EXERCISES[exercise["id"]].LAWS if exercise.get("tag") == "open" else exercise["laws"]
    guards = [inspect.unwrap(f) for name in names for f in laws.get(name).guards]
    return [*guards, *of_the_laws()]


def of_the_laws() -> list[types.FunctionType]:
    """Every function of `minizaya.laws` that lives, those that others made, too; and of the open exercises."""
    if not OF_THE_LAWS:
        # trap: `isinstance` asks an object for its class, and some of torch's answer with a warning
        OF_THE_LAWS.extend(f for f in gc.get_objects() if type(f) is types.FunctionType
                           and (f.__module__ or "").startswith(student.JUDGES))
    return OF_THE_LAWS


OF_THE_LAWS: list[types.FunctionType] = []


# ---- kernels ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def fenced_kernels(scratch: Path, limits: Limits) -> Iterator[None]:
    """A student's kernel is machine code, which is not to run in the judge's process: it is compiled here and launched
    behind the same walls, with tensors over the same pipe."""
    def from_text(text: str, wave: int = 64, moved: list | None = None) -> Callable[[Tensor, Tensor, float], Tensor]:
        joined = text.replace("\\\n", "")
        if joined.count("include") > joined.count('#include "gpu.h"') or "incbin" in joined or "embed" in joined:
            raise KernelError('a kernel may include "gpu.h" and nothing else')

        def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
            library = scratch / "kernel.so"
            built = build(ladder.whole(text), "trace", wave)
            shutil.copyfile(built, library)

            def work(pipe: socket.socket) -> None:
                fence.raise_walls(scratch, limits.memory, int(limits.whole) + 1)
                launch.build, trace.located = (lambda *args: library), (lambda said, path: said)
                trace.source_lines = lambda path, places: {}        # no program can be started in here
                counts = []
                try:
                    y = original(text, wave, counts)(x, weight, eps)
                    send(pipe, {"moved": counts}, y.numpy().tobytes())
                except KernelError as error:
                    send(pipe, {"error": str(error)})

            with Student(work, limits.seconds, limits.whole) as other:
                message, data = other.receive(time.monotonic() + limits.seconds)
            if "error" in message or len(data) != 4 * x.numel():
                raise KernelError(trace.located(str(message.get("error", "it gave no result")), built))
            if moved is not None:
                moved.extend(map(int, message["moved"]))
            return torch.frombuffer(data, dtype=torch.float32).view(x.shape)

        return rms_norm

    original = ladder.rms_norm_from
    with mock.patch.object(ladder, "rms_norm_from", from_text):
        yield
