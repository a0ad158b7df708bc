"""The hot loops of the kernels as LLVM's machine analyser counts them, beside our count.

    python -m minizaya.hip.machine.mca      # a table; needs llvm-mca-19 (apt-get install llvm-19)

llvm-mca reads the same instructions, each once, as if they followed one another for ever. Its cycle is four clocks, the
time in which a SIMD issues one instruction of a wave of 64.
"""

import functools
import re
import shutil
import subprocess
import sys

from ..build import NoCompiler, build
from .floors import counted, hot_loop
from .listing import kernels_of
from .wave import cost_of

CLOCKS, TURNS = 4, 10
UNITS = {"mfma": "HWXDL", "vector": "HWVALU"}
MAIN = {"residual_norm": "residual_norm_bf16", "cca_mix": "cca_mix_bf16", "cca_attention": "cca_attention_128_bf16",
        "router": "router_bf16", "moe": "moe_hidden_bf16", "newton_schulz": "newton_schulz_product_bf16"}


def analyser() -> str | None:
    """The command, or None where there is none."""
    return next((name for name in ("llvm-mca-19", "llvm-mca") if shutil.which(name)), None)


@functools.cache
def beside(source: str, kernel: str) -> dict:
    """Clocks of one turn of a kernel's hot loop. Each instruction counts once; what fewer than half of the turns reach
    is left out.

    Returns a dict: ours and theirs, each with `mfma` and `vector`; slow (how many of the instructions count 16 clocks
    with us); alone (theirs for a turn of a wave that has the SIMD to itself, dependences included, waits not).
    Raises NoCompiler without llvm-mca or clang for gfx942.
    """
    command = analyser()
    if command is None:
        raise NoCompiler("no llvm-mca: `apt-get install llvm-19`")
    code = kernels_of(build(source, "gfx942").with_suffix(".s").read_text("utf-8"), kernel)[kernel]
    done = counted(source, kernel)["done"]
    first, last = hot_loop(code, done)
    taken = [code.instructions[i] for i in range(first, last + 1) if 2 * done.get(i, 0) >= done.get(first, 1)]
    taken = [one for one in taken if "branch" not in one.op]
    said = subprocess.run([command, "-mtriple=amdgcn", "-mcpu=gfx942", f"-iterations={TURNS}", "-"],
                          input="\n".join(one.text for one in taken), capture_output=True, check=True,
                          encoding="utf-8").stdout
    names = re.findall(r"^\[\d\]\s+- (\w+)", said, re.M)
    spent = dict(zip(names, re.search(r"Resource pressure per iteration:\n.*\n(.*)\n", said)[1].split()))
    matrix = [one for one in taken if one.kind == "mfma"]
    vector = [one for one in taken if one.kind in ("vector", "transcendental")]
    return dict(ours=dict(mfma=sum(map(cost_of, matrix)), vector=sum(map(cost_of, vector))),
                theirs={kind: 0 if spent[unit] == "-" else round(CLOCKS * float(spent[unit]))
                        for kind, unit in UNITS.items()},
                slow=sum(cost_of(one) == 16 for one in vector),
                alone=round(CLOCKS / TURNS * int(re.search(r"Total Cycles:\s+(\d+)", said)[1])))


def markdown() -> str:
    """The main kernels as a table, clocks of a turn."""
    lines = ["| kernel | matrix | theirs | vector | theirs | 16 clocks with us | alone, theirs |", "|---" * 7 + "|"]
    for source, kernel in MAIN.items():
        found = beside(source, kernel)
        ours, theirs = found["ours"], found["theirs"]
        lines.append(f"| {kernel} | {ours['mfma']} | {theirs['mfma']} | {ours['vector']} | {theirs['vector']} | "
                     f"{found['slow']} | {found['alone']} |")
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        print(markdown())
    except NoCompiler as error:
        sys.exit(str(error))
