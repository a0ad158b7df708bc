"""The full configuration paged from disk on this machine, in a few ways; lesson 16 shows it.

It needs the folder first, 17.7 GB: `python -m minizaya materialize zaya1-8b` without a folder's name puts it where this
looks.
"""

import json
import os
import subprocess
import sys

from ..hub.weights import home

SETTING = {"preset": "zaya1-8b", "layout": "any", "prompt": 128, "pairs": 5,
           "OMP_WAIT_POLICY": "ACTIVE"}  # two threads that sleep between products wake up late where others work, too
WAYS = {
    "as stored": ([], {}),
    "bfloat16 activations": (["--dtype", "bfloat16"], {}),
    "int8 experts": (["--int8", "--no-peer"], {}),
    # how torch and ours run where the CPU has no AVX-512: no bfloat16 arithmetic
    "without AVX-512": ([], {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}),
}


def runs() -> list[dict]:
    return [{"way": way} for way in WAYS]


def one(way: str) -> dict:
    """What `bench --full` prints, in a process of its own. Raises ValueError when there is no folder,
    or the bench fails."""
    folder = home(SETTING["preset"])
    if not folder.is_dir():
        raise ValueError(f"{folder} is missing; make it with `python -m minizaya materialize {SETTING['preset']}`")
    flags, switches = WAYS[way]
    done = subprocess.run([sys.executable, "-m", "minizaya", "bench", "--full", str(folder), "--pairs",
                           str(SETTING["pairs"]), "--json", *flags],
                           env=os.environ | switches | {"OMP_WAIT_POLICY": SETTING["OMP_WAIT_POLICY"]},
                           capture_output=True, encoding="utf-8")
    if done.returncode:
        raise ValueError(f"bench failed: {done.stderr[-500:]}")
    found = json.loads(done.stdout)
    found.pop("folder")
    return found
