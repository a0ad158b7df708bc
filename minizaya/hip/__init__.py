"""How the model runs on a GPU: the Python half of the HIP kernels in `kernels/`.

In reading order: `build` (one source, four targets), `launch` (the same call on a CPU, an MI300X and an H100),
`accesses` and `trace` (what a launch does to memory, counted and checked access by access), `machine` (an MI300X on
paper: the machine code run for one wave, and the time that each unit needs at least), `report` (what the machine code
says of its cost), `ops` (the kernels as operators of torch, with gradients), `layers` (`Zaya(backend="hip")`),
`ladder`, `products` and `tile` (lesson 14's steps, those of a matrix product, and one matrix instruction by hand),
`told` (a loop and a ladder in words), `timing` (on a GPU, beside torch's own libraries).
"""

import importlib.util
from functools import cache
from types import ModuleType

from .build import AWAY, KERNELS, KernelError, NoCompiler, build, names
from .launch import Launcher, order, recorded, this_target
from .trace import Tracer


@cache
def kernel(name: str) -> ModuleType:
    """The Python half of a kernel, `kernels/NAME/NAME.py`: `reference`, `launch`, `supports`, `example`, `work`.

    Raises ValueError for an unknown kernel, and where there are none.
    """
    if name not in names():
        raise ValueError(f"name must be one of {', '.join(names())}, got {name!r}" if names() else AWAY)
    # loaded by path: a top-level Python package called `kernels` would shadow a well-known one
    spec = importlib.util.spec_from_file_location(f"minizaya_kernel_{name}", KERNELS / name / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def launcher(target: str | None = None, wave: int | None = None, source: str | None = None) -> Launcher:
    """The `Launcher` for a target (None: this machine's), kept. "trace" checks every access and keeps none."""
    if target == "trace":
        return Tracer(None, source, wave)
    return Launcher(target or this_target(), wave, source)


__all__ = ["KERNELS", "KernelError", "Launcher", "NoCompiler", "build", "kernel", "launcher", "names", "order",
           "recorded"]
