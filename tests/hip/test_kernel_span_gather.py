"""kernels/span_gather: spans of a buffer in packed rows, equal to the plain loop and to `data.pack.lay_out`."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import planted
from kernel_tools import WAYS, every_way, needs_compiler, run
from minizaya import hip
from minizaya.data.pack import IGNORE, lay_out, pack

pytestmark = needs_compiler
gather = hip.kernel("span_gather")
every_type = pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.float32], ids=["i64", "i32", "f32"])
# tokens in the buffer, rows, capacity, longest span
SIZES = [(1, 1, 1, 1), (50, 3, 7, 3), (900, 2, 1024, 400), (3000, 5, 777, 900), (40, 1, 1500, 1), (10, 0, 5, 3),
         (10, 3, 0, 3), (0, 2, 9, 3)]


def draw_case(size, dtype, seed=0):
    """Spans from anywhere in the buffer with gaps between them, in no order, some of length zero, some rows empty."""
    draw = torch.Generator().manual_seed(seed)
    def below(limit):
        return int(torch.randint(0, max(1, limit), (1,), generator=draw))
    n, rows, capacity, longest = size
    spans = []
    for row in range(rows):
        column = below(3)
        while column < capacity and row % 4 != 3:
            length = min(below(longest + 1), capacity - column, n)
            spans.append((below(n - length + 1), length, row, column, below(100)))
            column += length + (below(3) if row % 2 else 0) + (length == 0)
    spans = torch.tensor(spans, dtype=torch.int64).reshape(-1, 5)
    tokens = torch.randint(-2 ** 31, 2 ** 31, (n,), generator=draw)
    tokens = torch.randn(n, generator=draw) if dtype == torch.float32 else tokens.to(dtype)
    return tokens, spans[torch.randperm(len(spans), generator=draw)], rows, capacity, -7


def check(launcher, size, dtype, seed=0):
    args = draw_case(size, dtype, seed)
    for mine, right, name in zip(gather.launch(launcher, *args), gather.reference(*args), ("tokens", "doc_ids")):
        assert mine.dtype == right.dtype and torch.equal(mine, right), name


@every_way
@every_type
def test_it_is_the_plain_loop(way, dtype):
    for size in SIZES:
        run(way, check, size, dtype)


@settings(max_examples=40, deadline=None)
@given(size=st.tuples(st.integers(0, 300), st.integers(0, 12), st.integers(0, 300), st.integers(0, 60)),
       dtype=st.sampled_from([torch.int64, torch.float32]), seed=st.integers(0, 2 ** 20))
def test_any_size(size, dtype, seed):
    run(("cpu", 64, str(seed)), check, size, dtype, seed)


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(1, 64), min_size=1, max_size=40), spare=st.integers(0, 30))
def test_packing_is_this_gather(lengths, spare):
    """Tokens, document ids, and even the targets: the same spans one token later, without the last token."""
    capacity, launcher = max(lengths) + spare, hip.launcher("cpu")
    documents = list(torch.arange(sum(lengths)).split(lengths))
    bins = pack(lengths, capacity)
    wanted = lay_out(documents, bins, capacity, pad_id=-3)
    spans = gather.packed_spans(lengths, bins)
    tokens, doc_ids = gather.launch(launcher, torch.cat(documents), spans, len(bins), capacity, -3)
    assert torch.equal(tokens, wanted.tokens) and torch.equal(doc_ids, wanted.doc_ids)
    assert torch.equal(doc_ids >= 0, wanted.mask)
    following = spans + torch.tensor([1, -1, 0, 0, 0])
    targets, _ = gather.launch(launcher, torch.cat(documents), following, len(bins), capacity, IGNORE)
    assert torch.equal(targets, wanted.targets)


def test_tails_of_answers_are_this_gather():
    """An aggregation prompt: a question, then the last 6 tokens of each of 4 answers, all one document."""
    answers = [torch.arange(100 * i, 100 * i + n) for i, n in enumerate((3, 6, 40, 17), 1)]
    buffer, spans, column = torch.cat([torch.arange(8), *answers]), [(0, 8, 0, 0, 0)], 8
    start = 8
    for answer in answers:
        kept = min(6, len(answer))
        spans.append((start + len(answer) - kept, kept, 0, column, 0))
        start, column = start + len(answer), column + kept
    out, _ = gather.launch(hip.launcher("cpu"), buffer, torch.tensor(spans), 1, 32, 0)
    wanted = torch.cat([torch.arange(8), *(answer[-6:] for answer in answers)])
    assert torch.equal(out[0, :len(wanted)], wanted) and bool((out[0, len(wanted):] == 0).all())


def test_one_plan_serves_several_buffers():
    tokens, spans, rows, capacity, _ = draw_case((900, 2, 1024, 400), torch.int64)
    table, bounds = gather.plan(tokens, spans, rows, capacity)
    logprobs = torch.randn(len(tokens))
    out, none = gather.launch_planned(hip.launcher("trace"), logprobs, table, bounds, rows, capacity, 0.5, False)
    assert none is None and torch.equal(out, gather.reference(logprobs, spans, rows, capacity, 0.5)[0])


def test_every_position_a_span():
    """The most spans that a block can meet: TILE of them, and one that reaches in from the tile before."""
    size = gather.TILE
    spans = [(5, 2, 0, size - 1, 0), *((i % 7, 1, 0, size + 1 + i, i) for i in range(size - 1)), (0, 1, 0, 2 * size, 1)]
    args = torch.arange(9), torch.tensor(spans), 1, 2 * size + 1, -1
    for way in WAYS:
        out, doc_ids = run(way, gather.launch, *args)
        wanted = gather.reference(*args)
        assert torch.equal(out, wanted[0]) and torch.equal(doc_ids, wanted[1])


@every_type
def test_moves_little_more_than_it_must(dtype):
    """In 64-byte pieces: rows are written in whole ones, and spans begin anywhere in theirs."""
    from minizaya.hip.trace import traced

    with traced() as trace:
        gather.launch(trace.launcher, *gather.example(dtype))
    assert trace.moved <= 1.1 * trace.least, (trace.moved, trace.least)


@pytest.mark.parametrize("span,why", [((-1, 2, 0, 0, 0), "start"), ((9, 2, 0, 0, 0), "start"), ((0, 2, 3, 0, 0), "row"),
                                      ((0, 2, 0, 5, 0), "column"), ((0, 2, 0, -1, 0), "column"),
                                      ((0, -1, 0, 0, 0), "length"), ((0, 2, 0, 0, -1), "document"),
                                      ((0, 2, 1, 2, 0), "overlap")])
def test_bad_spans(span, why):
    good = (0, 3, 1, 0, 0)
    with pytest.raises(ValueError, match=why):
        gather.launch(hip.launcher("cpu"), torch.arange(10), torch.tensor([good, span]), 3, 6, 0)


def test_bad_input():
    with pytest.raises(ValueError, match="int64"):
        gather.plan(torch.arange(10), torch.zeros(2, 4), 3, 6)
    spans = torch.zeros(0, 5, dtype=torch.int64)
    assert gather.supports(torch.arange(10), spans, 3, 6) is None
    assert "float64" in gather.supports(torch.zeros(3).double(), spans, 3, 6)
    assert "positions" in gather.supports(torch.arange(10), spans, 2 ** 16, 2 ** 16)


BUGS = [
    ("  __syncthreads();\n  int first", "  int first", "the range is read before it is there"),
    ("  __syncthreads();\n#pragma", "#pragma", "spans are searched before they are there"),
    ("range[0] > 0 ? range[0] - 1 : 0", "range[0]", "a span that reaches in from the tile before is lost"),
    ("if (position >= positions) continue;", "", "no guard for the tail"),
    ("mine[middle][0] <= position", "mine[middle][0] < position", "a span's first token is taken from the one before"),
    ("position < mine[low - 1][1]", "position <= mine[low - 1][1]", "a span is one token too long"),
    ("i < count; i += THREADS", "i < count && i < THREADS; i += THREADS", "only the first 256 spans are loaded"),
    ("low > 0 && position", "position", "looks for a span before the first"),
    ("mine[low - 1][3] : -1", "mine[low - 1][3] : 0", "padding belongs to document 0"),
]


@planted.each(BUGS)
def test_planted_bugs_are_caught(bug):
    def checks(launcher):
        for size in SIZES:
            check(launcher, size, torch.int64)
    planted.caught("span_gather", BUGS, bug, checks)
