"""x W^T for weights that stay as they are stored: bfloat16, or int8 with a scale a row.

Two regimes. Few tokens: every weight is read once and hardly used, so reading is the cost; `matmul.cpp` turns a weight
into a float in a register, or multiplies bfloat16 as it is, where the tokens are bfloat16, too, and the CPU can. Many
tokens: arithmetic is the cost; rows are turned into floats a tile at a time, in a buffer that stays in the cache, and
torch multiplies them.

The C++ files are compiled at first use (a second or two) and kept in the user's cache folder. Without a compiler, and
for float64, the tiles do everything: same numbers, slower.
"""

import ctypes
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from . import compiler

HERE = Path(__file__).parent
# each includes the next
SOURCES = [*(HERE / "decode" / f"{name}.cpp" for name in ("step", "past", "model", "matmul")), HERE / "lanes.cpp"]
FEW = 128         # tokens up to which the compiled loop is the faster one (measured on two cores)
FEW_NATIVE, FEW_PAIRS = 4, 64   # the same for bfloat16 tokens, where torch multiplies bfloat16 natively; and we do, too
TILE = 2**19      # numbers in a tile: 2 MiB of floats
KINDS = {torch.bfloat16: "multiply_bfloat16", torch.int8: "multiply_int8", torch.float32: "multiply_float32"}
PAIRS = "multiply_pairs"   # bfloat16 tokens and weights; only where the CPU has an instruction for it


def matmul(x: Tensor, weight: Tensor, scale: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """x @ weight.T, times `scale` row by row.

    Args:
        x: (n, k), float32, float64 or bfloat16. weight: (m, k) of any type that can be converted; int8 needs `scale`.
        scale: float32 (m,) or None. out: (n, m) of x's type with adjacent numbers in a row, or None: a new tensor.
    Returns:
        (n, m) in x's type. Sums are made in float32 at least, also for bfloat16.
    Raises:
        ValueError: shapes that do not fit.
    """
    if x.dim() != 2 or weight.dim() != 2 or x.shape[1] != weight.shape[1]:
        raise ValueError(f"x must be (n, k) and weight (m, k), got {tuple(x.shape)} and {tuple(weight.shape)}")
    if out is None:
        out = x.new_empty(len(x), len(weight))
    pairs = x.dtype == weight.dtype == torch.bfloat16 and scale is None and multiplies_pairs()
    few = FEW_PAIRS if pairs else FEW_NATIVE if x.dtype == torch.bfloat16 and has_bfloat16() else FEW
    on_cpu = x.device.type == weight.device.type == "cpu"   # the compiled loop reads this process's memory
    if on_cpu and len(x) <= few and x.dtype != torch.float64 and weight.dtype in KINDS and library() is not None:
        narrow = x.dtype != torch.float32 or out.stride(-1) != 1
        # trap: C++ reads numbers, not tensors. A type that torch was told to take by default would be garbage to it
        into = torch.empty(out.shape, dtype=torch.float32, device="cpu") if narrow else out
        scale = None if scale is None else scale.float().contiguous()
        compiled((x if pairs else x.float()).contiguous(), weight.contiguous(), scale, into)
        if narrow:
            out.copy_(into)
    elif scale is None and x.dtype == weight.dtype and (x.dtype != torch.bfloat16 or has_bfloat16()):
        out.copy_(F.linear(x, weight))
    else:
        tiles(x, weight, scale, out)
    return out


def compiled(x: Tensor, weight: Tensor, scale: Tensor | None, out: Tensor) -> None:
    """The loop of `matmul.cpp`. x: float32 (n, k), or bfloat16 where `multiplies_pairs` and the weight is, too; out:
    float32 (n, m); weight: (m, k), a type of KINDS."""
    x_at, weight_at, scale_at, out_at = (None if t is None else t.data_ptr() for t in (x, weight, scale, out))
    kind = KINDS[weight.dtype] if x.dtype == torch.float32 else PAIRS
    getattr(library(), kind)(x_at, len(x), weight.shape[1], weight_at, scale_at, len(weight), out_at, out.stride(0),
                             torch.get_num_threads())


def tiles(x: Tensor, weight: Tensor, scale: Tensor | None, out: Tensor) -> None:
    """Rows of the weight become floats tile by tile, in one small buffer."""
    wide = torch.promote_types(x.dtype, torch.float32)
    x = x.to(wide)
    step = max(1, TILE // weight.shape[1])
    buffer = torch.empty(min(step, len(weight)), weight.shape[1], dtype=wide, device=weight.device)
    for start in range(0, len(weight), step):
        rows = weight[start: start + step]
        tile = buffer[: len(rows)].copy_(rows)
        part = x @ tile.T
        out[:, start: start + step] = part if scale is None else part * scale[start: start + step]


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """int8 (m, k) and float32 (m,): each row divided by its largest number / 127, and rounded.

    No number is off by more than half a step, 1/254 of the largest of its row. For normal numbers in rows of 2,048
    (largest about 3.5 times the typical one) that is 0.8% of a typical number, root mean square; bfloat16 itself is off
    by 0.17%.
    """
    small = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
    scale = torch.empty(len(weight), dtype=torch.float32, device=weight.device)
    step = max(1, TILE // weight.shape[1])
    for start in range(0, len(weight), step):
        wide = weight[start: start + step].float()
        scale[start: start + step] = own = wide.abs().amax(-1).clamp_min(1e-30) / 127
        small[start: start + step] = (wide / own[:, None]).round_()
    return small, scale


@cache
def has_bfloat16() -> bool:
    """Does this CPU multiply bfloat16 itself (AVX-512 BF16 or AMX; or ARM's)? torch then does; else it crawls."""
    try:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    except (AttributeError, RuntimeError):
        return False


def multiplies_pairs() -> bool:
    """Was `matmul.cpp` compiled for a CPU with AVX-512 BF16?"""
    return library() is not None and hasattr(library(), PAIRS)


# ---- compiling -------------------------------------------------------------------------------------------------------


@cache
def library() -> ctypes.CDLL | None:
    """`matmul.cpp` and `step.cpp`, compiled for this machine, or None where that is not possible."""
    file = compiler.shared("native/matmul.so", SOURCES)
    try:
        return None if file is None else load(file)
    except OSError as error:
        compiler.TROUBLE.append(str(error))
        return None


def load(path: Path) -> ctypes.CDLL:
    """The compiled file, and what its functions take. Raises OSError when it is none."""
    built, pointer, number = ctypes.CDLL(str(path)), ctypes.c_void_p, ctypes.c_long
    product = [pointer, number, number, pointer, pointer, number, pointer, number, ctypes.c_int]
    takes = dict.fromkeys([*KINDS.values(), *([PAIRS] if hasattr(built, PAIRS) else [])], product)
    takes["widen"] = [pointer, number]
    takes["attend_and_route"] = [pointer, pointer, number, number, *[pointer] * 5, ctypes.c_int]
    takes["visit_and_join"] = [pointer, number, *[pointer] * 4, ctypes.c_int]
    takes["through"] = [pointer, pointer, number, number, *[pointer] * 4, ctypes.c_int]
    for name, types in takes.items():
        function = getattr(built, name)
        function.restype, function.argtypes = None, types
    return built
