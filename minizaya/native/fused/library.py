"""`fused.cpp`, `mix.cpp`, `attend.cpp` and `experts.cpp`, compiled, and how to call them."""

import ctypes
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from .. import compiler

HERE = Path(__file__).parent
# each includes the next
SOURCES = [*(HERE / f"{name}.cpp" for name in ("experts", "attend", "mix", "fused")), HERE.parent / "lanes.cpp"]


@cache
def library() -> ctypes.CDLL | None:
    """Compiled for this machine at first use, or None where that is not possible."""
    file = compiler.shared("native/fused.so", SOURCES)
    try:
        return None if file is None else ctypes.CDLL(str(file))
    except OSError as error:
        compiler.TROUBLE.append(str(error))
        return None


def call(name: str, *args: Tensor | ctypes.Structure | int | float | None) -> None:
    """The function `name` of C++ on `args`: tensors (contiguous, float32 or int64, in the CPU's memory; their address
    is passed), whole numbers (long), floats and None (no address); the number of threads comes last."""
    function = getattr(library(), name)
    function.restype = None
    function(*map(argument, args), ctypes.c_int(torch.get_num_threads()))


def argument(value: Tensor | ctypes.Structure | int | float | None) -> object:
    """As C takes it. trap: C++ reads numbers, not tensors: other strides or another type would be garbage to it."""
    if isinstance(value, Tensor):
        if not value.is_contiguous() or value.dtype not in (torch.float32, torch.int64) or value.device.type != "cpu":
            raise TypeError(f"tensor must be contiguous float32 or int64 on the CPU, got {value.dtype} of strides "
                            f"{value.stride()} on {value.device}")
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, ctypes.Structure):
        return ctypes.byref(value)
    if isinstance(value, int):
        return ctypes.c_long(value)
    return ctypes.c_void_p(None) if value is None else ctypes.c_float(value)
