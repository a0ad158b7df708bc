"""What this machine has, what it lacks, and what each lesson needs: `python -m minizaya doctor`.

A lesson says what it needs in its notebook's metadata: `"minizaya": {"minutes": 20, "needs": ["torch", "gpu"]}`. A need
is the name of a Python package, or one of "c++" (a compiler), "gfx942" (a compiler for MI300's machine code; no GPU
needed) and "gpu".

trap: this is what a reader runs when something is broken, so nothing above a function imports more than the standard
library: it runs, and says what is missing, also without torch.
"""

import argparse
import json
import os
import platform
import re
import shlex
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from ..native import compiler

ROOT = Path(__file__).resolve().parents[2]

PYTHON = (3, 11)
REQUIRED = {"torch": (2, 8), "einops": (0, 8), "filelock": (3, 13), "hypothesis": (6, 130), "matplotlib": (3, 9),
            "tqdm": (4, 66)}  # floors
OPTIONAL = {  # package: the extra of pyproject.toml that brings it, and what it is for
    "jupyterlab": ("lessons", "opens the lessons"),
    "ipywidgets": ("lessons", "the lessons' dials and progress bars"),
    "latex2mathml": ("lessons", "formulas of the book"),
    "safetensors": ("checkpoints", "reads and writes weights"),
    "tokenizers": ("checkpoints", "reads the released tokenizer"),
    "jinja2": ("checkpoints", "reads a checkpoint's chat template"),
    "tornado": ("serve", "the chat server's HTTP"),
    "math-verify": ("evaluate", "compares answers in mathematics"),
    "pytest": ("test", "runs the tests"),
    "pytest-xdist": ("test", "runs two test files at a time"),
    "coverage": ("test", "which test runs which line, to plant bugs there"),
    "openai": ("test", "the standard client, to talk to our server"),
    "transformers": ("test", "the released model, to compare with"),
    "ruff": ("lint", "looks through the code"),
    "codespell": ("lint", "finds misspelt words"),
    "import-linter": ("lint", "holds the order of the rooms"),
    "pre-commit": ("lint", "runs these before each commit"),
    "playwright": ("browser", "clicks through the lessons"),
    "reasoning-gym": ("gyms", "a hundred more tasks"),
    "rlve-gym": ("gyms", "four hundred more tasks"),
}
MODULES = {  # package: what it is imported as, where that is another name
    "pytest-xdist": "xdist", "codespell": "codespell_lib", "import-linter": "importlinter", "pre-commit": "pre_commit",
    "math-verify": "math_verify",
    "reasoning-gym": "reasoning_gym", "rlve-gym": "Gym"}


def version(package: str) -> str | None:
    """The installed version of a package, or None. Does not import it: broken packages must not stop the doctor."""
    try:
        if find_spec(MODULES.get(package, package)) is None:
            return None
        return metadata.version(package) or "unknown version"
    except metadata.PackageNotFoundError:  # importable, yet not installed by pip or conda
        return "unknown version"
    except (ImportError, ValueError):      # "a.b" without an a, or no name at all
        return None


def too_old(found: str, floor: tuple[int, int]) -> bool:
    """Compares major and minor: too_old("2.7.1+cpu", (2, 8)) is True. A version that is no number passes."""
    number = re.match(r"(\d+)\.(\d+)", found)
    return number is not None and tuple(map(int, number.groups())) < floor


def named(command: list[str] | None) -> str | None:
    """What a compiler calls itself."""
    return command and f"{command[0]}: {compiler.version(command)}"


def gpu() -> str | None:
    """Name, memory and interface of the first GPU that torch can use, or None."""
    try:
        import torch
        if not torch.cuda.is_available():
            return None
    except (ImportError, OSError):  # OSError: a torch whose shared libraries do not load
        return None
    properties = torch.cuda.get_device_properties(0)
    interface = f"ROCm {torch.version.hip}" if torch.version.hip else f"CUDA {torch.version.cuda}"
    count = torch.cuda.device_count()
    return f"{count} x {properties.name}, {properties.total_memory / 2 ** 30:.0f} GiB, {interface}"


def machine() -> dict:
    """System, cores this process may use, and physical memory in GiB (None where the system does not say)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        memory = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2 ** 30, 1)
    except (AttributeError, ValueError, OSError):
        memory = None
    return {"system": f"{platform.system()} {platform.machine()}", "cores": cores, "memory_gib": memory}


def lessons(folder: Path, tools: dict[str, str | None]) -> list[dict]:
    """What each notebook of `folder` says it needs, and which of it is missing. tools: see `examine`."""
    found = []
    for path in sorted(folder.glob("[0-9]*.ipynb")):
        lesson = {"name": path.stem, "minutes": None, "needs": [], "missing": [], "problem": None}
        try:
            said = json.loads(path.read_text(encoding="utf-8"))["metadata"]["minizaya"]
            lesson |= {"minutes": said["minutes"], "needs": list(said["needs"])}
        except (ValueError, KeyError, TypeError) as error:
            lesson["problem"] = f"does not say what it needs ({type(error).__name__}: {error})"
        lesson["missing"] = [need for need in lesson["needs"]
                             if (tools[need] if need in tools else version(need)) is None]
        found.append(lesson)
    return found


def examine(folder: Path = ROOT / "lessons") -> dict:
    """Everything the doctor knows, as plain JSON values. "ok" is False when something required is missing."""
    required = {name: version(name) for name in REQUIRED}
    optional = {name: version(name) for name in OPTIONAL}
    tools = {"c++": named(compiler.cpp()), "gfx942": named((compiler.gfx942() or [None])[0]), "gpu": gpu(),
             "cache": compiler.writable()}
    missing = [name for name, found in required.items() if found is None or too_old(found, REQUIRED[name])]
    return {
        "ok": not missing and sys.version_info >= PYTHON,
        "python": platform.python_version(),
        "required": required, "optional": optional, "machine": machine(), "tools": tools,
        "lessons": lessons(folder, tools) if folder.is_dir() else None,
        "missing": missing,
        "install": install(missing, [name for name, found in optional.items() if found is None]),
    }


def install(missing: list[str], absent: list[str]) -> dict[str, str]:
    """The commands that bring what is missing: {"required": ..., "optional": ...}, without those not needed."""
    pip = f"{shlex.quote(sys.executable)} -m pip install"
    if (ROOT / "constraints.txt").is_file():  # a checkout: the versions the course is tested with
        pip += f" --constraint {shlex.quote(str(ROOT / 'constraints.txt'))}"
    commands = {}
    if missing:
        wanted = (shlex.quote(f"{name}>={'.'.join(map(str, REQUIRED[name]))}") for name in missing)
        commands["required"] = f"{pip} {' '.join(wanted)}"
    if absent:
        commands["optional"] = f"{pip} {' '.join(absent)}"
    return commands


def report(facts: dict) -> str:
    """`examine`'s facts for people, one a line: ✔ there, ✘ required and missing, ○ optional and missing."""
    here = facts["machine"]
    memory = "unknown" if here["memory_gib"] is None else f"{here['memory_gib']} GiB"
    lines = [f"{here['system']}, {here['cores']} cores, {memory} memory", "", "required"]
    old = sys.version_info < PYTHON
    lines.append(f"  {'✘' if old else '✔'} {'python':14}{facts['python']}{' too old: 3.11 is needed' if old else ''}")
    for name, found in facts["required"].items():
        bad = name in facts["missing"]
        floor = ".".join(map(str, REQUIRED[name]))
        said = "missing" if found is None else found + (f" too old: {floor} is needed" if bad else "")
        lines.append(f"  {'✘' if bad else '✔'} {name:14}{said}")
    lines += ["", "optional"]
    for name, found in facts["optional"].items():
        extra, purpose = OPTIONAL[name]
        lines.append(f"  {'○' if found is None else '✔'} {name:14}{found or 'missing':22}{purpose} (extra {extra!r})")
    absent = {"c++": "none: nothing can be compiled for the CPU", "gfx942": "none: nothing can be compiled for MI300",
              "gpu": "none: everything runs on the CPU",
              "cache": "cannot be written, so nothing is compiled; MINIZAYA_CACHE may name a folder"}
    lines += [f"  {'✔' if found else '○'} {name:14}{found or absent[name]}" for name, found in facts["tools"].items()]
    lines += ["", "lessons"]
    if not facts["lessons"]:
        lines.append("  the folder lessons/ is not beside the package; it comes with the repository"
                     if facts["lessons"] is None else "  none in lessons/")
    for lesson in facts["lessons"] or []:
        state = "✘" if lesson["problem"] else "○" if lesson["missing"] else "✔"
        said = lesson["problem"] or (f"missing: {', '.join(lesson['missing'])}" if lesson["missing"] else "ready")
        minutes = "" if lesson["minutes"] is None else f"{lesson['minutes']} min"
        lines.append(f"  {state} {lesson['name']:24}{minutes:>8}  {said}")
    lines += [f"\nTo install what is missing ({kind}):\n  {command}" for kind, command in facts["install"].items()]
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", metavar="DIR", help="prove a folder of the released weights right, instead")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Prints the facts. Returns 0 when nothing required is missing, else 1."""
    if args.weights:
        from ..hub import golden  # needs torch

        facts, told = golden.examine(args.weights), golden.report
    else:
        facts, told = examine(), report
    print(json.dumps(facts, indent=2) if args.json else told(facts))
    return 0 if facts["ok"] else 1
