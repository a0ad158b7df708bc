"""Launching a kernel: the same call on a CPU, on an MI300X and on an H100.

    launch = launcher()                                         # for this machine
    launch("residual_norm", "residual_norm_f32", grid=(8,), block=256, args=[x, y, rows, width, 1e-5])

Tensors become pointers, int becomes int32, float becomes float32. GPUs take the prebuilt binary through the driver of
the torch that is in use: `hipModuleLoadData`, `hipModuleGetFunction`, `hipModuleLaunchKernel`, or CUDA's calls of the
same form. The ROCm side follows its documentation; no MI300X has been at hand to run it. Four calls of either driver by
ctypes: `cuda-python` and `hip-python` would be two more packages, of other versions than torch's own library.
"""

import ctypes
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .build import KernelError, build

DYNAMIC_LDS = 8   # hipFuncAttributeMaxDynamicSharedMemorySize, and CUDA's number for it


@dataclass(frozen=True)
class Launch:
    """One launch, as it was made. grid: blocks along x, y, z. block: threads. lds: dynamic bytes."""

    source: str
    kernel: str
    grid: tuple[int, int, int]
    block: int
    args: tuple
    lds: int


RECORDS: list[list[Launch]] = []


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """`with recorded() as launches:` collects every `Launch` made inside, arguments included, after it ran.

    What a checker needs to run the same launch elsewhere, in an emulator of MI300 for instance.
    """
    launches: list[Launch] = []
    RECORDS.append(launches)
    try:
        yield launches
    finally:
        RECORDS.remove(launches)


def this_target() -> str:
    """The target of the torch in use: a GPU if there is one, else "cpu"."""
    if not torch.cuda.is_available():
        return "cpu"
    return "gfx942" if torch.version.hip else "sm_90"


class Launcher:
    """Builds kernels when they are first needed, and launches them on one target.

    Args:
        target: see `build`. wave: for the CPU, 64 or 32. source: text of a kernel to use in place of the file (planted
            bugs, exercises).
    """

    def __init__(self, target: str, wave: int | None = None, source: str | None = None):
        self.target, self.wave_wanted, self.source = target, wave, source
        self.wave = 32 if target == "sm_90" else wave or 64
        self.loaded: dict = {}

    def __call__(self, source: str, kernel: str, grid: Sequence[int], block: int, args: Sequence, lds: int = 0) -> None:
        """Runs `kernel` of `source`. grid: 1 to 3 block counts; block: threads along x; lds: dynamic LDS bytes.

        Raises KernelError: what the CPU runtime found (a divergent barrier, a deadlock, ...) or the driver's code.
        """
        grid = tuple(grid) + (1,) * (3 - len(grid))
        if 0 in grid:
            return                       # nothing to do; GPUs refuse an empty grid
        self.check(args)
        self.run(source, kernel, grid, block, args, lds)
        for launches in RECORDS:
            launches.append(Launch(str(source), kernel, grid, block, tuple(args), lds))

    def check(self, args: Sequence) -> None:
        wanted = "cpu" if self.target in ("cpu", "trace") else "cuda"
        for number, arg in enumerate(args):
            if isinstance(arg, Tensor) and (arg.device.type != wanted or not arg.is_contiguous()):
                raise KernelError(f"argument {number} must be a contiguous tensor on {wanted}, "
                                  f"got {tuple(arg.shape)} with strides {arg.stride()} on {arg.device}")

    def function(self, source: str, kernel: str) -> Callable:
        if (source, kernel) not in self.loaded:
            path = build(self.source or source, self.target, self.wave_wanted)
            load = load_cpu if self.target in ("cpu", "trace") else load_gpu
            self.loaded[source, kernel] = load(path, kernel)
        return self.loaded[source, kernel]

    def run(self, source: str, kernel: str, grid: Sequence[int], block: int, args: Sequence, lds: int) -> None:
        function = self.function(source, kernel)
        values, pointers = packed(args)
        if self.target in ("cpu", "trace"):
            error, three = ctypes.create_string_buffer(1000), ctypes.c_uint * 3
            if function(three(*grid), three(block, 1, 1), ctypes.c_size_t(lds), pointers, error, 1000):
                raise KernelError(f"{kernel}: {error.value.decode()}")
            return
        calls = driver()
        if lds > 32 * 1024:     # CUDA's limit of 48 KiB counts static LDS too
            accept(calls["attribute"](function, DYNAMIC_LDS, lds), kernel)
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        accept(calls["launch"](function, *grid, block, 1, 1, lds, stream, pointers, None), kernel)


def packed(args: Sequence) -> tuple[list, ctypes.Array]:
    """The arguments as ctypes values, and the array of pointers to them that every launch interface takes."""
    def value(arg: Tensor | int | float | None) -> ctypes._SimpleCData:
        if arg is None:
            return ctypes.c_void_p(0)
        if isinstance(arg, Tensor):
            return ctypes.c_void_p(arg.data_ptr())
        return ctypes.c_int32(arg) if isinstance(arg, int) else ctypes.c_float(arg)

    values = [value(arg) for arg in args]
    return values, (ctypes.c_void_p * len(values))(*(ctypes.cast(ctypes.byref(v), ctypes.c_void_p) for v in values))


@functools.cache
def load_cpu(path: Path, kernel: str) -> Callable:
    library = ctypes.CDLL(str(path))
    try:
        function = getattr(library, f"mz_{kernel}")
    except AttributeError:
        raise KernelError(f"{path.name} has no kernel {kernel!r}; is LAUNCHABLE({kernel}) missing?") from None
    function.restype = ctypes.c_int
    return function


@functools.cache
def driver() -> dict:
    """The four driver calls, from the library that torch itself has loaded."""
    torch.zeros(1, device="cuda")         # makes the context
    hip, cuda = torch.version.hip, ("libcuda.so.1", "cu", "cuLaunchKernel")
    file, prefix, launch = ("libamdhip64.so", "hip", "hipModuleLaunchKernel") if hip else cuda
    library = ctypes.CDLL(file)
    names = dict(load=f"{prefix}ModuleLoadData", get=f"{prefix}ModuleGetFunction", launch=launch,
                 attribute=f"{prefix}FuncSetAttribute")
    return {what: getattr(library, name) for what, name in names.items()}


def accept(code: int, kernel: str) -> None:
    if code:
        raise KernelError(f"{kernel}: the GPU's driver answered with error {code}")


@functools.cache
def load_gpu(path: Path, kernel: str) -> ctypes.c_void_p:
    calls, module, function = driver(), ctypes.c_void_p(), ctypes.c_void_p()
    accept(calls["load"](ctypes.byref(module), path.read_bytes()), kernel)
    accept(calls["get"](ctypes.byref(function), module, kernel.encode()), kernel)
    return function


@contextmanager
def order(name: str | int) -> Iterator[None]:
    """Runs the threads of each block "forward", "reverse", or shuffled by a number, while inside. For the CPU."""
    before = os.environ.get("MZ_ORDER")
    os.environ["MZ_ORDER"] = str(name)
    try:
        yield
    finally:
        os.environ.pop("MZ_ORDER") if before is None else os.environ.__setitem__("MZ_ORDER", before)
