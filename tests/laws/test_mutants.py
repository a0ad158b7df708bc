"""Every planted bug in `mutants.py` is killed by a law."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import mutants
from mutants import MUTANTS, PACKAGE

IDS = [f"{i}-{file.split('/')[-1]}-{why}" for i, (file, _, _, why, _) in enumerate(MUTANTS)]


@pytest.fixture(scope="module")
def killers() -> dict[int, tuple[str, str]]:
    """Mutant number -> (law, what it says). One process plants them all, since importing torch is the slow part."""
    script = Path(mutants.__file__)
    paths = [str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=900,
                          env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    return {i: (law, message) for i, law, message in map(json.loads, done.stdout.splitlines())}


def test_there_are_enough():
    assert len(MUTANTS) >= 45
    assert len({(file, old, new) for file, old, new, _, _ in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=IDS)
def test_the_table_matches_the_code(mutant):
    file, old, new, why, names = mutant
    found = (PACKAGE / file).read_text().count(old)
    assert found == 1, f"{old!r} occurs {found} times in {file}; the table must follow the code"
    assert old != new and why and names


@pytest.mark.parametrize("number", range(len(MUTANTS)), ids=IDS)
def test_a_planted_bug_is_killed(number, killers):
    law, message = killers[number]
    file, old, new, why, _ = MUTANTS[number]
    assert law, f"{file}: {old!r} -> {new!r} survived ({why})"
    assert message.startswith("with "), message
