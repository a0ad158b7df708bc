"""span_gather: pieces of a token buffer laid into packed rows, with document ids (`minizaya.data.pack.lay_out`).

A span is five numbers: start and length in the buffer, row and column where it goes, number of its document. Packing,
trimming, and collecting the tails of an aggregation prompt's answers are different spans, one gather.
"""

import struct
from collections.abc import Callable
from itertools import accumulate

import torch
from torch import Tensor

from minizaya.data.pack import pack

BLOCK, TILE, MOST = 256, 512, 2 ** 31 - 1
DTYPES = {torch.int64: "i64", torch.int32: "i32", torch.float32: "i32"}     # four bytes are four bytes


def reference(tokens: Tensor, spans: Tensor, rows: int, capacity: int, pad: float) -> tuple[Tensor, Tensor]:
    """The plain loop.

    Args:
        tokens: (n,), int64, int32 or float32. spans: int64 (S, 5): start, length, row, column, document. In the buffer
            they may overlap, in the rows they must not; any order; a length of zero is nothing.
        rows, capacity: of the result. pad: what fills the rest.
    Returns:
        (rows, capacity) of the tokens' type, and document ids int64 (rows, capacity), -1 on padding.
    Raises:
        ValueError: a span leaves the buffer or its row, two spans overlap in a row, a wrong shape or type.
    """
    plan(tokens, spans, rows, capacity)
    out = torch.full((rows, capacity), pad, dtype=tokens.dtype, device=tokens.device)
    doc_ids = torch.full((rows, capacity), -1, device=tokens.device)
    for start, length, row, column, document in spans.tolist():
        out[row, column:column + length] = tokens[start:start + length]
        doc_ids[row, column:column + length] = document
    return out, doc_ids


def supports(tokens: Tensor, spans: Tensor, rows: int, capacity: int, *rest) -> str | None:
    """None, or why the kernel cannot take these inputs."""
    if tokens.dtype not in DTYPES:
        return f"type {tokens.dtype}"
    return f"over {MOST} positions" if max(rows * capacity, len(tokens)) > MOST else None


def plan(tokens: Tensor, spans: Tensor, rows: int, capacity: int) -> tuple[Tensor, Tensor]:
    """What the kernel needs to know of the spans; good for every buffer of the same length (tokens, log-probs, ...).

    Returns (int32 (S', 4): begin and end on the line of all positions, shift to the buffer, document, sorted; int32
    (tiles + 1,): how many spans begin before each tile). Raises ValueError as `reference`.
    """
    if spans.dtype != torch.int64 or spans.dim() != 2 or spans.shape[1] != 5:
        raise ValueError(f"spans must be int64 (S, 5), got {spans.dtype} {tuple(spans.shape)}")
    start, length, row, column, document = spans.unbind(1)
    for name, bad, allowed in (("length", length < 0, "at least 0"),
                               ("start", (start < 0) | (start + length > len(tokens)), f"inside {len(tokens)} tokens"),
                               ("row", (row < 0) | (row >= rows), f"in 0..{rows - 1}"),
                               ("column", (column < 0) | (column + length > capacity), f"inside {capacity} columns"),
                               ("document", (document < 0) | (document > MOST), f"in 0..{MOST}")):
        if bool(bad.any()):
            raise ValueError(f"spans: {name} must lie {allowed}, got {spans[bad.nonzero()[0, 0]].tolist()}")
    begin = row * capacity + column
    table = torch.stack([begin, begin + length, start - begin, document], 1)[length > 0]
    table = table[table[:, 0].argsort()]
    if bool((table[1:, 0] < table[:-1, 1]).any()):
        raise ValueError("spans must not overlap in the rows, got two for one position")
    edges = torch.arange(-(-rows * capacity // TILE) + 1, device=spans.device) * TILE
    return table.int(), torch.searchsorted(table[:, 0].contiguous(), edges).int()


def launch(run: Callable, tokens: Tensor, spans: Tensor, rows: int, capacity: int, pad: float) -> tuple[Tensor, Tensor]:
    """As `reference`, by the kernel. run: a `minizaya.hip.launch.Launcher`."""
    return launch_planned(run, tokens, *plan(tokens, spans, rows, capacity), rows, capacity, pad)


def launch_planned(run: Callable, tokens: Tensor, table: Tensor, bounds: Tensor, rows: int, capacity: int, pad: float,
                   with_documents: bool = True) -> tuple[Tensor, Tensor | None]:
    """`launch` with the results of `plan`, for the second buffer and those after; document ids only if wanted."""
    out = torch.empty(rows, capacity, dtype=tokens.dtype, device=tokens.device)
    doc_ids = torch.empty(rows, capacity, dtype=torch.int64, device=tokens.device) if with_documents else None
    if tokens.dtype == torch.float32:
        pad = struct.unpack("i", struct.pack("f", pad))[0]
    run("span_gather", f"span_gather_{DTYPES[tokens.dtype]}", (len(bounds) - 1,), BLOCK,
        [tokens, table, bounds, out, doc_ids, rows * capacity, int(pad)])
    return out, doc_ids


def packed_spans(lengths: list[int], bins: list[list[int]]) -> Tensor:
    """The spans of `minizaya.data.pack.lay_out`: documents of these lengths, joined in one buffer."""
    starts = list(accumulate(lengths, initial=0))
    spans = []
    for row, members in enumerate(bins):
        column = 0
        for i in members:
            spans.append((starts[i], lengths[i], row, column, i))
            column += lengths[i]
    return torch.tensor(spans, dtype=torch.int64).reshape(-1, 5)


def example(dtype: torch.dtype = torch.int64, device: str = "cpu") -> tuple:
    """Arguments of `launch`: 12 documents packed into rows of 1024."""
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randint(100, 1000, (12,), generator=draw).tolist()
    bins = pack(lengths, 1024)
    tokens = torch.randint(0, 1000, (sum(lengths),), generator=draw).to(dtype if dtype in DTYPES else torch.int64)
    return tokens.to(device), packed_spans(lengths, bins).to(device), len(bins), 1024, 0


def full(run: Callable, kernel: str, tokens: int = 16384, length: int = 512) -> None:
    """The launch of `kernel` on full rows of documents of `length` tokens."""
    buffer = torch.zeros(tokens, dtype=torch.int64 if kernel.endswith("i64") else torch.float32)
    launch(run, buffer, packed_spans([length] * (tokens // length), [list(range(tokens // length))]), 1, tokens, 0)


def work(kernel: str, tokens: int = 16384, length: int = 512) -> tuple[int, int]:
    """(fewest bytes, 0 operations) of one launch: full rows of documents of `length` tokens, ids of documents too."""
    each = 8 if kernel.endswith("i64") else 4
    return tokens * (2 * each + 8) + tokens // length * 16 + (tokens // TILE + 1) * 4, 0
