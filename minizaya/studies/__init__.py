"""Experiments too long for a lesson: each is run once, its small record is kept in the repository, lessons read it.

    python -m minizaya.studies cca_ablation --out lessons/recorded

A study is a module of this package with three names:

    SETTING     dict of plain JSON values: everything that a run needs to be the same run again
    runs()      -> list of dicts of plain JSON values, the keyword arguments of the runs,
                e.g. {"variant": ..., "seed": 0}
    one(**run)  -> dict of plain JSON values, what that run measured

The record holds the setting and, for each run, its arguments and its results. It is written after every run, so a study
that was stopped goes on where it was; more seeds in `runs()` only add runs.
"""

import json
import os
import platform
from importlib import import_module
from pathlib import Path
from types import ModuleType

import torch

from ..notebook import tqdm

STUDIES = ("cca_ablation", "router_nano", "balance_nano", "residual_depth", "trimming", "training", "aggregation",
           "cascade", "router_replay", "parallel", "full_8b")
RECORDED = Path(__file__).resolve().parents[2] / "lessons" / "recorded"


def study(name: str) -> ModuleType:
    """The module of a study. Raises ValueError for an unknown name."""
    if name not in STUDIES:
        raise ValueError(f"unknown study {name!r}; choose from {', '.join(STUDIES)}")
    return import_module(f"{__name__}.{name}")


def recorded(name: str, folder: Path | None = None) -> dict:
    """The record of a study: {"study", "command", "python", "torch", "setting", "runs"}, `runs` a list of dicts.

    Raises ValueError for an unknown study or a damaged record, FileNotFoundError (naming the command) if there is none.
    """
    study(name)
    path = Path(folder or RECORDED) / f"{name}.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; it comes with the repository, or `{command(name)}` makes it")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not a record: {error}") from error


def record(name: str, folder: Path, bar: bool = True) -> dict:
    """Does the runs that `folder`/name.json lacks, writing the file after each. Returns the whole record.

    Raises ValueError if the file was made with another setting: then it answers another question, remove it first.
    """
    module, path = study(name), Path(folder) / f"{name}.json"
    kept = {"study": name, "command": command(name), "python": platform.python_version(), "torch": torch.__version__,
            "setting": module.SETTING, "runs": []}
    if path.exists():
        old = recorded(name, folder)
        if old["setting"] != module.SETTING:
            raise ValueError(f"{path} was made with the setting {old['setting']}, now it is {module.SETTING}")
        kept["runs"] = old["runs"]
    missing = [run for run in module.runs() if not any(run.items() <= done.items() for done in kept["runs"])]
    for run in tqdm(missing, desc=name, unit="run", disable=not bar):
        kept["runs"].append(run | module.one(**run))
        write(path, kept)
    return kept


def write(path: Path, data: dict) -> None:
    """One line a run, so that a diff shows which runs changed. Written aside, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = {key: value for key, value in data.items() if key != "runs"}
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    runs = ",\n".join(json.dumps(run) for run in data["runs"])
    aside = path.with_suffix(".part")
    aside.write_text("{" + ",\n".join(lines) + ',\n"runs": [\n' + runs + "\n]}\n", encoding="utf-8")
    os.replace(aside, path)


def command(name: str) -> str:
    return f"python -m minizaya.studies {name} --out lessons/recorded"
