"""The process that has everything imported and makes the others: a judge for each notebook, a few at a time.

    python -m minizaya.grading.warden < job.json        what `submissions.py` starts

Reads one JSON document, {"jobs": [[path, lesson], ...], "part": "exercises" or "open", "limits": {...}, "workers": n},
and writes a line of JSON for each notebook as it is done: {"job": its place, "result": what `judge.grade` returned}.
Judges are forks of it, so they start in milliseconds; a judge that hangs or dies costs its notebook.
"""

import contextlib
import importlib
import json
import os
import pkgutil
import selectors
import sys
import time
import traceback
import warnings
from functools import partial
from pathlib import Path

import torch

import minizaya

from .. import laws
from . import judge
from .apart import process
from .table import lessons

OURS = ("minizaya.grading", "minizaya.__main__", "minizaya.commands.grade", "minizaya.commands.lessons",
        "minizaya.commands.leaderboard")
MORE = 60.0         # seconds for a judge beyond those of its exercises


def preload() -> None:
    """Everything that a lesson may import: behind the walls our text cannot be read any more."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in pkgutil.walk_packages(minizaya.__path__, "minizaya."):
            if not module.name.startswith(OURS):
                with contextlib.suppress(ImportError):
                    importlib.import_module(module.name)
        for name in minizaya.EXPORTS:
            getattr(minizaya, name)
        judge.of_the_laws()
    torch.set_num_threads(1)
    laws.judge("rl.maxrl")      # what is made at first use is made once, and not by every judge


def main() -> None:
    job = json.loads(sys.stdin.read())
    out = os.dup(1)
    os.dup2(2, 1)       # whoever prints here prints beside the results
    limits = judge.Limits(**job["limits"])
    preload()
    waiting, running, watch = list(enumerate(job["jobs"]))[::-1], {}, selectors.DefaultSelector()
    try:
        while waiting or running:
            while waiting and len(running) < job["workers"]:
                number, (path, lesson) = waiting.pop()
                reading, writing = os.pipe()
                pid = process.fork(partial(work, Path(path), lesson, limits, job["part"], writing), keep=writing)
                os.close(writing)
                until = time.monotonic() + limits.whole * len(lessons()[lesson][job["part"]]) + MORE
                running[reading] = {"pid": pid, "number": number, "lesson": lesson, "until": until, "data": bytearray()}
                watch.register(reading, selectors.EVENT_READ)
            ready = {key.fd for key, _ in watch.select(0.5)}
            for end, one in list(running.items()):
                piece = os.read(end, 2**20) if end in ready else None
                if piece:
                    one["data"] += piece
                elif piece == b"" or time.monotonic() > one["until"]:
                    watch.unregister(end)
                    os.close(end)
                    process.kill(one["pid"])
                    os.waitpid(one["pid"], 0)
                    line = json.dumps({"job": one["number"], "result": result(one, job["part"])})
                    with open(out, "w", encoding="utf-8", closefd=False) as stream:
                        stream.write(line + "\n")
                    del running[end]
    finally:
        for one in running.values():
            process.kill(one["pid"])


def work(path: Path, lesson: str, limits: judge.Limits, part: str, writing: int) -> None:
    """A judge's life."""
    try:
        done = judge.grade(path, lesson, limits, part)
    except Exception:
        done = judge.nothing(lesson, f"the judge failed; please report it: {traceback.format_exc()}", part)
    with open(writing, "w", encoding="utf-8") as stream:
        json.dump(done, stream)


def result(one: dict, part: str) -> dict:
    try:
        return json.loads(one["data"])
    except ValueError:
        return judge.nothing(one["lesson"], "its judge took too long or was killed", part)


if __name__ == "__main__":
    main()
