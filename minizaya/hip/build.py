"""Building a kernel: one HIP source, four targets.

    cpu      g++       every GPU thread a fiber; really runs, anywhere
    trace    g++       the same, and every access to memory is written down and checked (`trace.py`)
    gfx942   clang     MI300's machine code, a `.hsaco`; needs no ROCm and no GPU: `apt-get install clang-19 lld-19`, or
                       `pip install ziglang`, or ROCm's own hipcc where there is one
    sm_90    nvcc      NVIDIA H100's, a `.cubin`; bfloat16 products by mma.sync

What was built is kept: see `native.compiler`.
"""

import os
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..native import compiler as compilers
from ..native.compiler import CompilerError, kept, run

KERNELS = Path(__file__).resolve().parents[2] / "kernels"     # beside the package; a wheel has none
AWAY = "the folder `kernels` is not beside the package: clone the repository and install that (pip install -e .)"
TARGETS = ("cpu", "trace", "gfx942", "sm_90")

CPU = ["-std=c++17", "-fPIC", "-fvisibility=hidden", "-pthread", "-Wno-unknown-pragmas", "-DMZ_CPU"]
# trap: without -ffp-contract=off a compiler fuses a * b + c where it likes, and no two targets round alike
# -O1 for the CPU: the largest kernels build in a third of the time that -O3 takes, and run a fifth longer
FLAGS = {
    "cpu": [*CPU, "-O1", "-march=native", "-ffp-contract=off"],
    "trace": [*CPU, "-O1", "-g1", "-ffp-contract=off", "-DMZ_TRACE"],
    "gfx942": ["-x", "hip", "--offload-arch=gfx942", "--cuda-device-only", "-nogpuinc", "-nogpulib", "-nostdinc",
               "-std=c++17", "-O3", "-ffp-contract=off", "-fno-math-errno", "-mcode-object-version=5", "-DMZ_BARE"],
    "sm_90": ["-x", "cu", "-std=c++17", "-O3", "-fmad=false", "-arch=sm_90", "-cubin"],
}
# a call at each access, at each branch, and at each index that its array does not have.
# trap: with its head copied, an endless loop may have no branch left; with structs taken apart, a store of 16 bytes is
# four of 4
WATCHED = ["-fsanitize=thread", "-fsanitize-coverage=trace-pc", "-fsanitize=bounds-strict", "-fno-tree-ch",
           "-fno-tree-sra"]
ASSEMBLE = ["--target=amdgcn-amd-amdhsa", "-mcpu=gfx942", "-mcode-object-version=5", "-c"]


class KernelError(RuntimeError):
    """A kernel could not be built, or went wrong while it ran; the message says what and where."""


class NoCompiler(KernelError):
    """This machine cannot build for the target; the message says what to install."""


def names() -> list[str]:
    """Every kernel of the repository, in the order of the model; an empty list when `kernels/` is not there."""
    order = ("residual_norm", "cca_mix", "cca_attention", "router", "balance", "moe", "route_tape", "span_gather",
             "newton_schulz")
    return [name for name in order if (KERNELS / name / f"{name}.hip").is_file()]


def compiler(target: str) -> list[str]:
    """The compiler's command for a target. Raises NoCompiler, or ValueError for an unknown target."""
    if target not in TARGETS:
        raise ValueError(f"target must be one of {', '.join(TARGETS)}, got {target!r}")
    if target == "gfx942":
        found, wanted = (compilers.gfx942() or [None])[0], "`apt-get install clang-19 lld-19` or `pip install ziglang`"
    elif target == "sm_90":
        found, wanted = compilers.nvcc(), "nvcc of the CUDA toolkit is not on the path"
    else:
        found, wanted = compilers.cpp(), "`apt-get install g++`"
    if found is None:
        what = f"compiler for {target}" if target in ("gfx942", "sm_90") else "C++ compiler"
        raise NoCompiler(f"no {what}: {wanted}")
    return found


def build(source: str | Path, target: str, wave: int | None = None) -> Path:
    """The library, cubin or code object of one source, built if it is not there yet.

    Args:
        source: a kernel's name, the path of a `.hip` file, or a kernel's text itself (anything with a newline).
        target: "cpu", "trace", "gfx942" or "sm_90". wave: 64 or 32, for "cpu" and "trace"; None: 64.
    Returns:
        The file: `.so`, `.hsaco` (its listing with the registers stands beside it as `.s`) or `.cubin`.
    Raises:
        NoCompiler: nothing on this machine builds for the target. KernelError: the compiler refused; its words follow.
    """
    if wave not in (None, 32, 64) or (wave == 32 and target == "gfx942"):
        raise ValueError(f"wave must be 64, or 32 on other targets than gfx942, got {wave!r}")
    command, path = compiler(target), source_path(source)
    name, text = ("text", str(source)) if path is None else (path.stem, path.read_text("utf-8"))
    flags = FLAGS[target] + ([f"-DMZ_WAVE={wave or 64}"] if target in ("cpu", "trace") else [])
    headers = "".join(path.read_text("utf-8") for path in sorted([*KERNELS.glob("*.[hc]*"), *KERNELS.glob("*/*.h")]))
    others = {"gfx942": ("hsaco", build_gfx942), "sm_90": ("cubin", build_sm_90)}
    suffix, build_one = others.get(target, ("so", build_cpu))
    watched = WATCHED if target == "trace" else ()
    ingredients = [text, headers, *flags, *watched, *command, compilers.version(command) or ""]

    def make(aside: Path) -> Path:
        if path is None:
            (aside / "text.hip").write_text(text, "utf-8")
        return build_one(path or aside / "text.hip", aside, command, flags)     # its own file: messages name it

    beside = (".s",) if target == "gfx942" else ()
    try:
        return kept(f"kernels/{name}-{target}-{wave or 64}.{suffix}", ingredients, make, beside)
    except CompilerError as error:
        raise KernelError(str(error)) from None


def source_path(source: str | Path) -> Path | None:
    """The file of a kernel, or None where `source` is a text. Raises KernelError when it is not there."""
    if "\n" in str(source):
        return None
    path = Path(source) if str(source).endswith(".hip") else KERNELS / source / f"{source}.hip"
    if not path.is_file():
        there = f"there are {', '.join(names())}" if names() else AWAY
        raise KernelError(f"no kernel {source!r}: {path} is not there; {there}")
    return path


def build_cpu(path: Path, aside: Path, command: list[str], flags: list[str]) -> Path:
    traced = "-DMZ_TRACE" in flags
    # only the kernel's own code calls the tracer, and we link without the flag, so the calls arrive at trace.cpp
    source, watched = path, flags
    if traced:
        run([*command, *flags, *WATCHED, "-I", KERNELS, "-x", "c++", "-S", path, "-o", aside / "kernel.s"])
        refuse_endless((aside / "kernel.s").read_text("utf-8"))
        source, watched = aside / "kernel.s", [flag for flag in flags if not flag.startswith("-D")]
    run([*command, *watched, "-I", KERNELS, *(() if traced else ("-x", "c++")), "-c", source, "-o", aside / "kernel.o"])
    parts = [runtime(part, command, flags) for part in (("fibers", "trace") if traced else ("fibers",))]
    run([*command, "-shared", "-pthread", aside / "kernel.o", *parts, "-o", aside / "kernel.so"])
    return aside / "kernel.so"


def refuse_endless(listing: str) -> None:
    """Raises KernelError for a loop that has nothing in it: a jump to itself, where no call could stop it."""
    lines, place, mark = listing.splitlines(), None, r"\t\.loc (\d+) (\d+)"
    for i, line in enumerate(lines):
        jump = re.match(r"\t(?:jmp|b)\t(\.L\w+)$", line)
        back = i - 1
        while jump and back and lines[back].startswith((".", "\t.")) and lines[back] != f"{jump[1]}:":
            place, back = re.match(mark, lines[back]) or place, back - 1
        if jump and lines[back] == f"{jump[1]}:":
            # where the loop has no mark of its own, the last one above it
            place = place or next((found for line in reversed(lines[:back]) if (found := re.match(mark, line))), None)
            file = re.search(rf'\t\.file {place[1]} ".*?([^"/]+)"\n', listing) if place else None
            where = f" at {file[1]}:{place[2]}" if file else ""
            raise KernelError(f"endless: a loop that nothing can end{where}")
        place = None


def runtime(part: str, command: list[str], flags: list[str]) -> Path:
    """fibers.o or trace.o, shared by all kernels."""
    texts = [(KERNELS / name).read_text("utf-8") for name in (f"{part}.cpp", "fibers.h")]
    optimised = ["-O2" if flag == "-O1" else flag for flag in flags]

    def make(aside: Path) -> Path:
        run([*command, *optimised, "-c", KERNELS / f"{part}.cpp", "-o", aside / "part.o"])
        return aside / "part.o"

    return kept(f"kernels/{part}.o", [*texts, *flags, *command, compilers.version(command) or ""], make)


def build_gfx942(path: Path, aside: Path, command: list[str], flags: list[str]) -> Path:
    """Source to listing, listing to object, object to code object: the listing is what students read."""
    run([*command, *flags, "-I", KERNELS, "-S", path, "-o", aside / "kernel.s"])
    run([*command, *ASSEMBLE, aside / "kernel.s", "-o", aside / "kernel.o"])
    run([*compilers.gfx942()[1], "-shared", aside / "kernel.o", "-o", aside / "kernel.hsaco"])
    return aside / "kernel.hsaco"


def build_sm_90(path: Path, aside: Path, command: list[str], flags: list[str]) -> Path:
    run([*command, *flags, "-I", KERNELS, path, "-o", aside / "kernel.cubin"])
    return aside / "kernel.cubin"


def build_all(targets: Iterable[str]) -> dict[tuple[str, str], Path]:
    """Builds every kernel for the targets, as many at a time as there are cores. Returns (name, target) -> file."""
    jobs = [(name, target) for target in targets for name in names()]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(jobs, pool.map(lambda job: build(*job), jobs)))
