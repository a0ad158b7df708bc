"""What a launch does to memory, access by access, checked and written down.

    with traced() as trace:
        kernel.launch(launcher("trace"), *arguments)
    trace.moved, trace.cached, trace.least          # bytes
    trace.table()                                   # the same for each tensor

`accesses` has what is counted from it.
"""

import ctypes
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from . import launch
from .accesses import Trace, repeats
from .build import KernelError

BRANCHES = 2**27      # of a block's threads together, before it is called endless; our examples stay below 2**24


class Tracer(launch.Launcher):
    """A `Launcher` that checks every access and, given a `Trace`, writes it down there.

    most: accesses that it writes down. branches: that the threads of a block may come by, before the kernel is called
    endless.

    Raises KernelError for the first access that is out of bounds or misaligned, that races with another, or that reads
    LDS before anyone wrote it, for an index that its array does not have, and for a kernel that does not end (a loop
    that nothing can end is refused before it runs); the message names file and line.
    """

    def __init__(self, trace: Trace | None, source: str | None = None, wave: int | None = None, most: int = 20_000_000,
                 branches: int = BRANCHES):
        super().__init__("trace", trace.wave if trace else wave, source)
        self.trace, self.most, self.branches = trace, most if trace else 0, branches

    def run(self, source: str, kernel: str, grid: Sequence[int], block: int, args: Sequence, lds: int) -> None:
        self.function(source, kernel)
        path = launch.build(self.source or source, "trace", self.wave_wanted)
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        library, count = ctypes.CDLL(str(path)), len(tensors)
        start = (ctypes.c_size_t * count)(*(x.data_ptr() for x in tensors))
        size = (ctypes.c_size_t * count)(*(x.numel() * x.element_size() for x in tensors))
        library.mz_trace_begin(count, start, size, ctypes.c_size_t(self.most), ctypes.c_uint64(self.branches))
        try:
            super().run(source, kernel, grid, block, args, lds)
        except KernelError as error:
            raise KernelError(located(str(error), path)) from None
        finally:
            first = ctypes.c_void_p()
            library.mz_trace_end.restype = ctypes.c_long
            found = library.mz_trace_end(ctypes.byref(first))
        if not self.trace:
            return
        number = len(self.trace.kernels)
        self.trace.kernels.append(kernel)
        for index, tensor in enumerate(tensors):
            self.trace.shapes[number, index] = tensor.dtype, tuple(tensor.shape)
        if found < 0:
            raise KernelError(f"{kernel}: more than {self.most} accesses; trace a smaller launch")
        if found:
            raw = (ctypes.c_int64 * (4 * found)).from_address(first.value)
            self.keep(torch.frombuffer(bytearray(raw), dtype=torch.int64).view(found, 4), number, path)

    def keep(self, raw: Tensor, number: int, path: Path) -> None:
        """Unpacks trace.cpp's 32-byte records: offset, instruction, block | thread, epoch | range | bytes | kind."""
        half = 0xFFFFFFFF
        thread, block = raw[:, 2] >> 32 & half, raw[:, 2] & half
        columns = [torch.full_like(block, number), block, thread, raw[:, 3] & half, raw[:, 3] >> 32 & 0xFFFF, raw[:, 0],
                   raw[:, 3] >> 48 & 0xFF, raw[:, 3] >> 56 & 0xFF, raw[:, 1]]
        events = torch.stack(columns + [repeats(torch.stack([block, thread, raw[:, 1]], 1))], 1)
        self.trace.events = torch.cat([self.trace.events, events])
        self.trace.lines.update(source_lines(path, torch.unique(raw[:, 1]).tolist()))


def source_lines(path: Path, instructions: list[int]) -> dict[int, str]:
    """instruction -> "file:line", by binutils' addr2line; {} where it is missing."""
    if not instructions or not shutil.which("addr2line"):
        return {}
    asked = ["addr2line", "-e", str(path), *map(hex, instructions)]
    done = subprocess.run(asked, capture_output=True, encoding="utf-8")
    lines = [line.split(" ")[0].rsplit("/", 1)[-1] for line in done.stdout.splitlines()]
    return dict(zip(instructions, lines))


def located(message: str, path: Path) -> str:
    """The message with `<hex>` turned into file and line."""
    places = [int(found, 16) for found in re.findall(r"<([0-9a-f]+)>", message)]
    lines = source_lines(path, places)
    return re.sub(r"<([0-9a-f]+)>", lambda found: lines.get(int(found[1], 16), f"+0x{found[1]}"), message)


@contextmanager
def traced(wave: int = 64, source: str | None = None) -> Iterator[Trace]:
    """`with traced() as trace:` gives a `Trace` whose `.launcher` writes down every launch made with it."""
    trace = Trace(wave)
    trace.launcher = Tracer(trace, source)
    yield trace
