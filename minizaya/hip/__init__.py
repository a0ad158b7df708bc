"""The HIP kernels: building, launching, tracing, measuring, and using them inside the model (`Zaya(backend="hip")`)."""

import importlib.util
from functools import cache
from types import ModuleType

from .build import KERNELS, KernelError, NoCompiler, build, names
from .launch import Launcher, launcher, order, recorded


@cache
def kernel(name: str) -> ModuleType:
    """The Python half of a kernel, `kernels/NAME/NAME.py`: `reference`, `launch`, `supports`, `example`, `work`.

    Raises ValueError for an unknown kernel.
    """
    if name not in names():
        raise ValueError(f"name must be one of {', '.join(names()) or '(no kernels here)'}, got {name!r}")
    # loaded by path: a top-level Python package called `kernels` would shadow a well-known one
    spec = importlib.util.spec_from_file_location(f"minizaya_kernel_{name}", KERNELS / name / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


__all__ = ["KERNELS", "KernelError", "Launcher", "NoCompiler", "build", "kernel", "launcher", "names", "order", "recorded"]
