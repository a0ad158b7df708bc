"""docs/laws.md: every command is run in a folder of its own, and prints what the page shows."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import minizaya as mz

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGE = (ROOT / "docs" / "laws.md").read_text(encoding="utf-8")
PYTHON = [sys.executable, "-W", "error"]
PROGRAMS = {"minizaya": [*PYTHON, "-m", "minizaya"], "python": PYTHON,
            "pytest": [*PYTHON, "-m", "pytest", "-p", "minizaya.pytest_plugin", "-p", "_hypothesis_pytestplugin"]}


def steps():
    """The page in order: (files written before, the commands of a block, what they print together)."""
    blocks = BLOCK.findall(PAGE)
    assert {kind for kind, _ in blocks} == {"python", "sh", "text"}
    files = {}
    for (kind, text), (after, shown) in zip(blocks, [*blocks[1:], ("", "")]):
        if kind == "python":
            name = re.match(r"# (\w+\.py)\n", text)
            assert name, f"a block does not say which file it is: {text[:60]}"
            files[name[1]] = text
        elif kind == "sh":
            yield dict(files), text.splitlines(), shown.splitlines() if after == "text" else []


STEPS = list(steps())


@pytest.mark.parametrize("files, commands, shown", STEPS, ids=[commands[0] for _, commands, _ in STEPS])
def test_every_command_prints_what_the_page_shows(files, commands, shown, tmp_path):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    said = ""
    for command in commands:
        program, *words = shlex.split(command)
        if words[:2] == ["-m", "pip"]:        # that the wheel is whole test_packaging.py says
            assert words == ["-m", "pip", "install", ".", "pytest"]
            continue
        if words[0].startswith("examples/"):  # run by tests/examples, a function at a time
            assert (ROOT / words[0]).is_file()
            continue
        done = subprocess.run([*PROGRAMS[program], *words], cwd=tmp_path, capture_output=True, text=True, timeout=300,
                              env=os.environ | {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"})
        said += done.stdout
        assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
    for line in shown:
        assert line in said, said


def test_the_page_names_what_is_there():
    for name in re.findall(r"`(?:mz\.laws\.)?adapt\.(\w+)", PAGE):
        assert hasattr(mz.laws.adapt, name), name
    for name in re.findall(r"`mz\.laws\.(\w+)", PAGE):
        assert hasattr(mz.laws, name), name
    about = int(re.search(r"has about (\d+) of them", PAGE)[1])
    assert abs(about - len(mz.laws.all())) < 10
    for kind, tol in re.findall(r"(float\d+) (\d+e-\d+)", PAGE):
        assert mz.laws.core.TOLERANCE[getattr(torch, kind)] == float(tol)
