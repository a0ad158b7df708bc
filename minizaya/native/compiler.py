"""The compilers of this machine, and what they made: the one place that looks for them and keeps their files.

`native.matmul` compiles C++ for this CPU through it, `hip.build` the kernels for four targets. What was made is kept in
`~/.cache/minizaya` (or under MINIZAYA_CACHE), under a name made from everything that went into it: sources, flags, the
compiler's own version, and the processor. Ours and not `torch.utils.cpp_extension`: this is plain C through ctypes,
which needs neither ninja nor the headers of Python and torch, and the kernels go through it too.

trap: `doctor` runs where nothing is installed, so this module imports only the standard library.
"""

import functools
import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

NO_COMPILER = "there is no C++ compiler (CXX may name one)"
TROUBLE = [NO_COMPILER]     # why C++ is not used, in one line; the latest reason is the last


class CompilerError(RuntimeError):
    """The compiler refused, and its own words follow; or what it made cannot be kept."""


# ---- finding ---------------------------------------------------------------------------------------------------------


def cpp() -> list[str] | None:
    """The C++ compiler that torch would use, as the words of a command: $CXX, else c++, g++ or clang++; or None."""
    try:
        chosen = shlex.split(os.environ.get("CXX", ""))
    except ValueError:  # a quote that is not closed
        chosen = []
    return next((command for command in (chosen, ["c++"], ["g++"], ["clang++"]) if command and version(command)), None)


def gfx942() -> tuple[list[str], list[str]] | None:
    """The commands (compiler, linker) that make MI300's machine code, or None. They need no GPU and no ROCm."""
    found = [([f"clang++{number}"], [f"ld.lld{number}"]) for number in ("-19", "-20", "-21", "-22", "")]
    found.append((["/opt/rocm/llvm/bin/clang++"], ["/opt/rocm/llvm/bin/ld.lld"]))
    if importlib.util.find_spec("ziglang"):
        zig = [sys.executable, "-m", "ziglang"]
        found.append(([*zig, "clang"], [*zig, "ld.lld"]))
    # trap: without -nogpulib clang first looks for ROCm's library, and tells nothing where there is none
    asked = ["--target=amdgcn-amd-amdhsa", "-nogpulib", "--print-supported-cpus"]
    return next(((compiler, linker) for compiler, linker in found
                 if version(linker) and "gfx942" in said(*compiler, *asked)), None)


def nvcc() -> list[str] | None:
    """The command of NVIDIA's compiler, or None."""
    path = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    return [path] if path else None


def version(command: list[str]) -> str | None:
    """The first line of what `command --version` prints, or None where it does not run."""
    return next(iter(said(*command, "--version").splitlines()), None)


def said(*command: str) -> str:
    """What a command prints, "" where it does not run. Asked once for each PATH: compilers take their time."""
    return _said(command, os.environ.get("PATH", ""))


@functools.cache
def _said(command: tuple[str, ...], path: str) -> str:
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=20,
                              encoding="utf-8", errors="replace")
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


@functools.cache
def processor() -> str:
    """Which CPU this is, and what it can do. trap: -march=native code of another one dies of illegal instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    wanted = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
    return "\n".join([platform.machine(), *sorted(wanted)])


# ---- making and keeping ----------------------------------------------------------------------------------------------


def home() -> Path:
    """Where this user's compiled files and large folders are kept. It need not be there.

    Raises OSError for a user without a home, such as a container's number that no list of users knows.
    """
    if chosen := os.environ.get("MINIZAYA_CACHE"):
        return Path(chosen)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "minizaya"
    except RuntimeError as error:
        raise OSError(f"{error} MINIZAYA_CACHE may name a folder to keep what is compiled") from None


def writable() -> str | None:
    """`home`, where something can be put there; else None, and nothing is compiled."""
    try:
        folder = home()
        while not folder.exists():
            folder = folder.parent
        return str(home()) if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK) else None
    except OSError:
        return None


def run(command: Iterable[str | Path]) -> None:
    """Runs a compiler. Raises CompilerError when it fails or cannot be started: why, in one line, then the command and
    all that it said."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, capture_output=True, encoding="utf-8", errors="replace")
    except OSError as error:
        raise CompilerError(f"the compiler did not start: {error}") from None
    if done.returncode:
        said = done.stderr.strip()
        errors = [line for line in said.split("\n") if "error" in line.lower()]     # a warning may stand before it
        why = errors[0] if errors else said.rpartition("\n")[2]
        raise CompilerError(f"the compiler refused: {why.strip() or words[0]}\n{' '.join(words)}\n{said}")


def shared(name: str, sources: list[Path]) -> Path | None:
    """The first of `sources`, C++ that includes the others, as a library for this CPU; None where that is not possible:
    TROUBLE ends with the reason, then.

    name: as for `kept`.
    """
    command = cpp()
    if command is None:
        TROUBLE.append(NO_COMPILER)
        return None
    # torch's own switch, to see an older CPU on this one
    machine = "x86-64-v3" if os.environ.get("ATEN_CPU_CAPABILITY") == "avx2" else "native"
    flags = ["-O3", f"-march={machine}", "-fopenmp", "-shared", "-fPIC", "-std=c++17"]

    def make(aside: Path) -> Path:
        run([*command, *flags, sources[0], "-o", aside / "made.so"])
        return aside / "made.so"

    try:
        texts = [source.read_text("utf-8") for source in sources]
        return kept(name, [*texts, *flags, *command, version(command) or ""], make)
    except (OSError, CompilerError) as error:
        TROUBLE.append(str(error).splitlines()[0])
        return None


def kept(name: str, ingredients: Iterable[str], make: Callable[[Path], Path], beside: tuple[str, ...] = ()) -> Path:
    """The file NAME-KEY.suffix in the cache, made now if it is not there.

    Args:
        name: "kernels/router-cpu.so", say: a folder of the cache, what to call it, and its suffix.
        ingredients: everything that decides what comes out (sources, flags, compiler); the key is made of it.
        make: given an empty folder, returns the file it made there. It is renamed into the cache, so there is never
            half of one. beside: suffixes of further files to keep next to it.

    One process makes it while others wait. Raises what `make` raises; CompilerError where the cache cannot be written.
    """
    from filelock import FileLock  # late: `doctor` runs without it

    text = "\0".join([*ingredients, processor()])
    try:
        wanted = home() / name
    except OSError as error:
        raise CompilerError(str(error)) from error
    out = wanted.with_name(f"{wanted.stem}-{hashlib.sha256(text.encode()).hexdigest()[:16]}{wanted.suffix}")
    if out.exists():
        return out
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(out.with_suffix(".lock")), tempfile.TemporaryDirectory(dir=out.parent) as folder:
            if not out.exists():  # or somebody made it while we waited
                made = make(Path(folder))
                for suffix in beside:
                    made.with_suffix(suffix).replace(out.with_suffix(suffix))
                made.replace(out)
    except OSError as error:
        reason = f"cannot write into {out.parent} ({error.strerror}); MINIZAYA_CACHE names another folder"
        raise CompilerError(reason) from error
    return out
