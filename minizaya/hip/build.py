"""Building a kernel: one HIP source, four targets.

    cpu      g++       every GPU thread a fiber; really runs, anywhere
    trace    g++       the same, and every access to memory is written down and checked (`trace.py`)
    gfx942   clang     MI300's machine code, a `.hsaco`; needs no ROCm and no GPU: `apt-get install clang-19 lld-19`, or
                       `pip install ziglang`, or ROCm's own hipcc where there is one
    sm_90    nvcc      NVIDIA H100

What was built is kept in `~/.cache/minizaya/kernels` (or under MINIZAYA_CACHE), under a name made from everything that
went into it: sources, flags, compiler, and for this machine's own code its kind of processor.
"""

import functools
import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

KERNELS = Path(__file__).resolve().parents[2] / "kernels"     # beside the package; absent in a wheel
TARGETS = ("cpu", "trace", "gfx942", "sm_90")

CPU = ["-std=c++17", "-fPIC", "-fvisibility=hidden", "-pthread", "-Wno-unknown-pragmas", "-DMZ_CPU"]
# trap: without -ffp-contract=off a compiler fuses a * b + c where it likes, and no two targets round alike
FLAGS = {
    "cpu": [*CPU, "-O3", "-march=native", "-ffp-contract=off"],
    "trace": [*CPU, "-O1", "-g", "-ffp-contract=off", "-DMZ_TRACE"],
    "gfx942": ["-x", "hip", "--offload-arch=gfx942", "--cuda-device-only", "-nogpuinc", "-nogpulib", "-nostdinc",
               "-std=c++17", "-O3", "-ffp-contract=off", "-fno-math-errno", "-mcode-object-version=5", "-DMZ_BARE"],
    "sm_90": ["-x", "cu", "-std=c++17", "-O3", "-fmad=false", "-arch=sm_90", "-cubin"],
}
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


def amd_tools() -> tuple[list[str], list[str]]:
    """The commands (compiler, linker) that make code for AMD. Raises NoCompiler."""
    for version in ("-19", "-20", "-21", "-22", ""):
        if shutil.which(f"clang++{version}") and shutil.which(f"ld.lld{version}"):
            return [f"clang++{version}"], [f"ld.lld{version}"]
    if (rocm := Path("/opt/rocm/llvm/bin")).is_dir():
        return [str(rocm / "clang++")], [str(rocm / "ld.lld")]
    if importlib.util.find_spec("ziglang"):
        zig = [sys.executable, "-m", "ziglang"]
        return [*zig, "clang"], [*zig, "ld.lld"]
    raise NoCompiler("no compiler for gfx942: `apt-get install clang-19 lld-19` or `pip install ziglang`")


def compiler(target: str) -> list[str]:
    """The compiler's command for a target. Raises NoCompiler, or ValueError for an unknown target."""
    if target not in TARGETS:
        raise ValueError(f"target must be one of {', '.join(TARGETS)}, got {target!r}")
    if target == "gfx942":
        return amd_tools()[0]
    if target == "sm_90":
        found = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
        if not found:
            raise NoCompiler("no compiler for sm_90: nvcc of the CUDA toolkit is not on the path")
        return [found]
    found = shutil.which(os.environ.get("CXX", "g++"))
    if not found:
        raise NoCompiler("no C++ compiler: `apt-get install g++`")
    return [found]


@functools.cache
def fingerprint(command: tuple[str, ...]) -> str:
    """Which compiler this is, and on which processor."""
    version = subprocess.run([*command, "--version"], capture_output=True, text=True).stdout
    processor = platform.machine()
    if Path("/proc/cpuinfo").exists():   # trap: -march=native code from another machine dies of illegal instructions
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor += "".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    return version + processor


def cache() -> Path:
    root = Path(os.environ.get("MINIZAYA_CACHE") or Path.home() / ".cache" / "minizaya")
    return root / "kernels"


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
    command = compiler(target)
    name, text = read_source(source)
    flags = FLAGS[target] + ([f"-DMZ_WAVE={wave or 64}"] if target in ("cpu", "trace") else [])
    headers = "".join(path.read_text() for path in sorted(KERNELS.glob("*.[hc]*")))
    key = hashlib.sha256("\0".join([text, headers, *flags, fingerprint(tuple(command))]).encode()).hexdigest()[:16]
    suffix = {"gfx942": "hsaco", "sm_90": "cubin"}.get(target, "so")
    out = cache() / f"{name}-{target}-{wave or 64}-{key}.{suffix}"
    if out.exists():
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:   # built aside, then renamed: never half a library
        aside = Path(folder)
        path = source_file(source, name, text, aside)
        make = {"gfx942": build_gfx942, "sm_90": build_sm_90}.get(target, build_cpu)
        made = make(path, aside, command, flags, target)
        if target == "gfx942":
            made.with_suffix(".s").replace(out.with_suffix(".s"))
        made.replace(out)
    return out


def read_source(source: str | Path) -> tuple[str, str]:
    if "\n" in str(source):
        return "text", str(source)
    path = Path(source) if str(source).endswith(".hip") else KERNELS / source / f"{source}.hip"
    if not path.is_file():
        raise KernelError(f"no kernel {source!r}: {path} is not there; there are {', '.join(names()) or 'none'}")
    return path.stem, path.read_text()


def source_file(source, name: str, text: str, aside: Path) -> Path:
    """The file to compile: the kernel's own, so that messages name it, or the text written down."""
    if "\n" not in str(source):
        return Path(source) if str(source).endswith(".hip") else KERNELS / source / f"{source}.hip"
    path = aside / f"{name}.hip"
    path.write_text(text)
    return path


def build_cpu(path: Path, aside: Path, command: list[str], flags: list[str], target: str) -> Path:
    traced = target == "trace"
    objects = [aside / "kernel.o"]
    # only the kernel's own code calls the tracer, and we link without the flag, so the calls arrive at trace.cpp
    run([*command, *flags, *(["-fsanitize=thread"] if traced else []), "-I", KERNELS, "-x", "c++", "-c", path, "-o", objects[0]])
    for part in ("fibers", "trace")[: 2 if traced else 1]:
        objects.append(runtime(part, command, flags))
    run([*command, "-shared", "-pthread", *objects, "-o", aside / "kernel.so"])
    return aside / "kernel.so"


def runtime(part: str, command: list[str], flags: list[str]) -> Path:
    """fibers.o or trace.o, shared by all kernels."""
    text = "".join((KERNELS / name).read_text() for name in (f"{part}.cpp", "fibers.h"))
    key = hashlib.sha256("\0".join([text, *flags, fingerprint(tuple(command))]).encode()).hexdigest()[:16]
    out = cache() / f"{part}-{key}.o"
    if not out.exists():
        with tempfile.TemporaryDirectory(dir=out.parent) as folder:
            made = Path(folder) / "part.o"
            optimised = ["-O2" if flag == "-O1" else flag for flag in flags]
            run([*command, *optimised, "-c", KERNELS / f"{part}.cpp", "-o", made])
            made.replace(out)
    return out


def build_gfx942(path: Path, aside: Path, command: list[str], flags: list[str], target: str) -> Path:
    """Source to listing, listing to object, object to code object: the listing is what students read."""
    run([*command, *flags, "-I", KERNELS, "-S", path, "-o", aside / "kernel.s"])
    run([*command, *ASSEMBLE, aside / "kernel.s", "-o", aside / "kernel.o"])
    run([*amd_tools()[1], "-shared", aside / "kernel.o", "-o", aside / "kernel.hsaco"])
    return aside / "kernel.hsaco"


def build_sm_90(path: Path, aside: Path, command: list[str], flags: list[str], target: str) -> Path:
    run([*command, *flags, "-I", KERNELS, path, "-o", aside / "kernel.cubin"])
    return aside / "kernel.cubin"


def run(command: list) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        raise KernelError(f"the compiler refused: {' '.join(map(str, command))}\n{done.stderr.strip()}")


def build_all(targets=("cpu", "gfx942"), workers: int | None = None) -> dict[tuple[str, str], Path]:
    """Builds every kernel for the targets, as many at a time as there are cores. Returns (name, target) -> file."""
    jobs = [(name, target) for target in targets for name in names()]
    for target in targets:
        compiler(target)
        if target in ("cpu", "trace") and jobs:
            build(jobs[0][0], target)     # makes the shared runtime once, before the others ask for it together
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        return dict(zip(jobs, pool.map(lambda job: build(*job), jobs)))
