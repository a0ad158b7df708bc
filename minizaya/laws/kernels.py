"""Laws of kernels: how memory is moved, who holds what in a matrix instruction, and a kernel written by a student."""

import torch
from hypothesis import strategies as st

from ..hip import KernelError, NoCompiler, accesses, ladder, order, tile
from . import strategies as draw_a
from .core import Broken, NotAttempted, expect, law, require


def addresses(draw):
    """Where 64 lanes stand: at a stride, shuffled, or all over the place; always multiples of what each moves."""
    size = draw(st.sampled_from([2, 4, 8, 16]))
    stride, start = draw(st.integers(0, 40)), draw(st.integers(0, 20))
    lanes = torch.arange(64) * stride + start
    if draw(st.booleans()):
        lanes = lanes[torch.randperm(64, generator=torch.Generator().manual_seed(draw(st.integers(0, 99))))]
    return dict(addresses=lanes * size, size=size)


def rows_of_floats():
    """All lanes at one float, neighbours from a piece's first and last float on, and a lane a piece."""
    lanes = torch.arange(64)
    return [dict(addresses=(lanes * stride + start) * 4, size=4)
            for stride, start in ((0, 0), (1, 0), (1, 15), (16, 0))]


@law("kernels.pieces", "a wave instruction moves each 64-byte piece that its lanes touch, once and whole",
     cases=draw_a.cases(addresses), always=rows_of_floats, subjects={"pieces": accesses.pieces},
     guards=[accesses.pieces])
def pieces(fn, addresses, size):
    """fn(addresses, size): int64 (64,), the first byte that each lane touches, a multiple of size; size, the bytes of
    each lane: 2, 4, 8 or 16 -> how many 64-byte pieces travel, an int."""
    wanted = len({byte // 64 for first in addresses.tolist() for byte in range(first, first + size)})
    got = fn(addresses, size)
    require(got == wanted, f"you gave {got}, the law wants {wanted}")


def small(draw):
    # float32, torch's own: the exercise is about places, so that `torch.empty(64, 4)` is of the right type
    return dict(a=draw_a.tensor(draw, 32, 8, dtype=torch.float32), b=draw_a.tensor(draw, 8, 32, dtype=torch.float32))


def fragments(fn, a, b):
    """fn(a, b): A (32, 8) and B (8, 32) -> what 64 lanes bring, (64, 4) of A and (64, 4) of B."""
    got = fn(a, b)
    if not isinstance(got, tuple) or len(got) != 2:
        raise Broken(f"you gave a {type(got).__name__}, the law wants two tensors, (64, 4) each")
    for what, found, matrix in zip(("A", "B"), got, (a, b.T)):
        wanted = torch.empty(64, 4, dtype=a.dtype)
        for lane in range(64):
            for j in range(4):
                wanted[lane, j] = matrix[lane % 32, 4 * (lane // 32) + j]
        expect(found, wanted, "x i", f"lanes of {what}", exact=True)


law("kernels.fragments",
    "lane l brings 4 neighbours of row l % 32 of A and of column l % 32 of B, from place 4 (l // 32) on",
    cases=draw_a.cases(small), subjects={"tile": lambda a, b: (tile.rows_of(a), tile.columns_of(b))},
    guards=[tile.rows_of, tile.columns_of])(fragments)


def product(draw):
    """What the lanes hold after the instruction: all that the judged function sees,
    so all that a counterexample names."""
    matrices = small(draw)
    return dict(acc=tile.multiply(tile.rows_of(matrices["a"]), tile.columns_of(matrices["b"])))


@law("kernels.tile",
     "what 64 lanes hold after the instruction is the product: acc[l, r] lies in row 8 (r // 4) + 4 (l // 32) + "
     "r % 4, column l % 32", cases=draw_a.cases(product), axes=dict(acc="x r"),
     subjects={"tile": tile.collected}, guards=[tile.collected])
def collected(fn, acc):
    """fn(acc): (64, 16), what each lane holds after multiplying A (32, 8) by B (8, 32) -> D (32, 32)."""
    wanted = torch.empty(32, 32, dtype=acc.dtype)
    for lane in range(64):
        for r in range(16):
            wanted[8 * (r // 4) + 4 * (lane // 32) + r % 4, lane % 32] = acc[lane, r]
    expect(fn(acc), wanted, "y z", exact=True)


def rows(draw):
    count, width = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 31, 64, 255, 256, 257, 300, 700]))
    numbers = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    return dict(x=torch.randn(count, width, generator=numbers), weight=torch.randn(width, generator=numbers),
                eps=draw(st.sampled_from([1e-5, 0.5])), wave=draw(st.sampled_from([64, 32])),
                turn=draw(st.sampled_from(["forward", "reverse", "7"])))


def wide():
    """Widths beyond what a kernel that holds a fixed number of channels a thread has room for."""
    numbers = torch.Generator().manual_seed(0)
    return [dict(x=torch.randn(1, width, generator=numbers), weight=torch.randn(width, generator=numbers), eps=1e-5,
                 wave=64, turn="forward") for width in (700, 2049, 4097)]


@law("kernels.rms_norm",
     "a kernel that norms its rows: right at any width, in any order of its threads, without a race, and moving at "
     "most twice the bytes there are",
     cases=draw_a.cases(rows), always=wide, axes=dict(x="y c", weight="c"), subjects={"text": ladder.rms_norm_text},
     guards=[ladder.rms_norm_text], examples=15)
def rms_norm(fn, x, weight, eps, wave, turn):
    """fn(): the text of a kernel rms_norm(const float* x, const float* weight, float* y, int width, float eps), which
    is launched with a block of 256 threads for each row: y = x / sqrt(mean of squares + eps) * weight. It may read a
    row twice, not more often."""
    text = fn()
    if not isinstance(text, str):
        if text is Ellipsis:
            raise NotAttempted
        raise Broken(f"you gave a {type(text).__name__}, the law wants the kernel's text")
    require("block_sum" not in text, "it calls block_sum, which is the exercise; add up the squares yourself")
    moved = [] if len(x) == 1 and x.shape[-1] > 699 else None     # pieces cut at a row's ends count for nothing then
    try:
        with order(turn):
            got = ladder.rms_norm_from(text, wave, moved)(x, weight, eps)
    except NoCompiler as missing:
        raise NotAttempted(f"it cannot be judged on this machine: {missing}") from None
    except KernelError as error:
        raise Broken(str(error)[-1500:]) from error
    wanted = x.double() * torch.rsqrt(x.double().square().mean(-1, keepdim=True) + eps) * weight.double()
    expect(got, wanted.float(), "y c")
    least = 4 * (2 * x.numel() + weight.numel())
    for count in moved or ():
        require(count <= 2 * least, f"it moves {count} bytes where {least} must travel, and at most twice as many may. "
                                    "Do all lanes read the same numbers, or each far from its neighbour?")
