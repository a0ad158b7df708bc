"""cca_attention on the CPU against attend_reference in float64: odd sizes, pasts, windows, documents; planted bugs.

float32: 1e-5. bfloat16: each weight w was rounded on the way, so it is off by 2 ** -8 of itself at most. They are
divided by their sum as rounded, so they still add up to one, and moving weight between keys moves the output only as
far as the values differ from it: 2 ** -8 sum w |v - out|. Then the output is rounded itself, 2 ** -8 |out|.
"""

import torch
from einops import repeat
from hypothesis import given, settings
from hypothesis import strategies as st

import planted
from kernel_tools import WAYS, both_types, every_way, needs_compiler, run
from minizaya import hip

pytestmark = needs_compiler
attention = hip.kernel("cca_attention")
# b, t, s, h, j, d, window, documents, parts
CASES = [
    (1, 1, 1, 1, 1, 1, 0, 0, None),         # one token
    (2, 5, 5, 4, 2, 7, 0, 0, None),         # an odd head: scalar loads
    (1, 75, 75, 4, 2, 32, 0, 0, None),      # several tiles of rows, several of keys
    (2, 40, 40, 6, 2, 16, 0, 3, None),      # documents in packed rows
    (1, 90, 90, 2, 1, 8, 33, 2, None),      # a window, too
    (1, 70, 133, 3, 3, 20, 40, 0, None),    # a past, one query head a KV head
    (2, 1, 97, 8, 2, 64, 0, 0, None),       # decoding
    (1, 3, 130, 8, 2, 40, 0, 0, 3),         # decoding three tokens, the keys in three parts
    (1, 1, 70, 4, 1, 128, 50, 0, 5),        # more parts than tiles of keys
    (1, 33, 65, 2, 2, 100, 0, 2, None),
]
TRACED = [(1, 5, 5, 4, 2, 7, 0, 2, None), (1, 20, 37, 4, 2, 12, 9, 0, None), (1, 2, 66, 4, 2, 40, 0, 0, 2),
          (1, 9, 40, 4, 1, 100, 0, 0, None)]


def inputs(b, t, s, h, j, d, documents, dtype, seed=0):
    draw = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(b, n, m, d, generator=draw) for n, m in ((t, h), (s, j), (s, j)))
    numbers = None
    if documents:
        numbers = torch.randint(0, documents, (b, s), generator=draw).sort(dim=1).values.int()
    return (2 * q).to(dtype), k.to(dtype), v.to(dtype), numbers


def check(run, q, k, v, documents=None, window=0, parts=None):
    got = attention.launch(run, q, k, v, documents, window, parts).double()
    wanted = attention.reference(q.double(), k.double(), v.double(), documents, window)
    allowed = 1e-5 * (1 + wanted.abs())
    if q.dtype == torch.bfloat16:
        keys, values = (repeat(x.double(), "b s j d -> b s (j g) d", g=q.shape[2] // k.shape[2]) for x in (k, v))
        scores = torch.einsum("bthd,bshd->bhts", q.double(), keys) * q.shape[-1] ** -0.5
        weights = scores.masked_fill(~attention.mask(q, k, documents, window), float("-inf")).softmax(-1)
        apart = (values[:, None] - wanted[:, :, None]).abs()                       # (b, t, s, h, d)
        spread = torch.einsum("bhts,btshd->bthd", weights, apart)
        allowed = allowed + 2.0 ** -8 * (wanted.abs() + 1.01 * spread)             # 1.01: of the sum as rounded
    wrong = ~((got - wanted).abs() <= allowed)
    assert not wrong.any(), f"{int(wrong.sum())} of {wrong.numel()} differ, the first at {wrong.nonzero()[0].tolist()}"


@every_way
@both_types
def test_equals_the_reference(way, dtype):
    for seed, (*sizes, window, documents, parts) in enumerate(TRACED if way[0] == "trace" else CASES):
        run(way, check, *inputs(*sizes, documents, dtype, seed), window, parts)


@settings(max_examples=40)
@given(st.integers(1, 2), st.integers(1, 40), st.integers(0, 70), st.sampled_from([(1, 1), (4, 2), (6, 2), (5, 1)]),
       st.integers(1, 40), st.integers(0, 50), st.integers(0, 3), st.sampled_from([None, 2, 3]), st.integers(0, 99),
       st.sampled_from(WAYS[:3]), st.sampled_from([torch.float32, torch.bfloat16]))
def test_any_shape(b, t, past, heads, d, window, documents, parts, seed, way, dtype):
    run(way, check, *inputs(b, t, t + past, *heads, d, documents, dtype, seed), window, parts)


@both_types
def test_nobody_sees_the_future_or_another_document(dtype):
    """Whatever finite number stands in a key that a query may not see, its bits stay the same."""
    q, k, v, _ = inputs(1, 50, 50, 4, 2, 16, 0, dtype)
    documents = torch.tensor([[1] * 20 + [2] * 30], dtype=torch.int32)
    whole = run(WAYS[0], attention.launch, q, k, v, documents)
    k[:, :20] = 1e4
    k[:, 40:] = -1e4
    v[:, :20] = v[:, 40:] = 1e4
    again = run(WAYS[0], attention.launch, q, k, v, documents)
    assert torch.equal(whole[:, 20:40], again[:, 20:40])


@both_types
def test_equal_values_come_back_exactly(dtype):
    """The weights add up to one as they were rounded: the mean of equal numbers is that number, but for float32."""
    q, k, v, _ = inputs(1, 40, 70, 4, 2, 32, 0, dtype)
    v[:] = 0.7109375
    for parts in (1, 2):
        out = run(WAYS[0], attention.launch, q, k, v, None, 0, parts)
        assert torch.allclose(out, out.new_tensor(0.7109375), rtol=1e-6)


def test_decoding_equals_prefill():
    """The last queries alone, on the same keys, get what they got in the whole row."""
    q, k, v, _ = inputs(1, 80, 80, 4, 2, 24, 0, torch.float32)
    whole = run(WAYS[0], attention.launch, q, k, v)
    for t in (1, 3):
        for parts in (1, 2, 3, 70):                 # 70: more than are loaded at a time, most of them empty
            last = run(WAYS[0], attention.launch, q[:, -t:].contiguous(), k, v, None, 0, parts)
            assert torch.allclose(last, whole[:, -t:], rtol=1e-5, atol=1e-6)


def test_large_scores():
    """Scores of thousands, where exp would overflow, and rows that see nothing in their first tiles of keys.

    Whole numbers and a scale of 1 / 4, so that float32 has the scores exactly.
    """
    q, k, v, documents = inputs(1, 100, 100, 2, 1, 16, 3, torch.float32)
    q, k = (1000 * q).round(), k.round()
    run(WAYS[0], check, q, k, v, None, 3)
    run(WAYS[0], check, -q, k, v, documents)


def test_long_rows_share_out_the_keys():
    q, k, v, _ = inputs(1, 1, 1100, 4, 2, 16, 0, torch.bfloat16)
    with hip.recorded() as launches:
        run(WAYS[0], check, q, k, v)
    assert [(one.kernel, one.grid) for one in launches] == [("cca_attention_few_32_bf16", (17, 2, 1)),
                                                          ("cca_attention_merge_bf16", (4, 1, 1))]


def test_supports():
    q, k, v, documents = attention.example()
    assert attention.supports(q, k, v, documents) is None
    assert "float64" in attention.supports(q.double(), k, v)
    assert "queries" in attention.supports(q, k[:, 1:], v[:, 1:])
    assert "int64" in attention.supports(q, k, v, documents.long())
    assert "over 128" in attention.supports(*(torch.zeros(1, 1, 1, 129) for _ in range(3)))
    assert attention.launch(None, q[:, :0], k, v).shape == (1, 0, 4, 32)
    for dtype in (torch.float32, torch.bfloat16):
        run(WAYS[0], check, *attention.example(dtype))
    assert attention.work("cca_attention_128_bf16", tokens=1) == (20 * 128 * 2, 4 * 8 * 128)


BUGS = [
    ("    __syncthreads();   // everyone has done", "    // everyone has done", "barrier removed: keys overwritten"),
    ("    __syncthreads();   // they are there", "    // they are there", "barrier removed: keys read too early"),
    ("ahead >= 0 &&", "ahead > 0 &&", "a query does not see itself"),
    ("(!window || ahead < window)", "(!window || ahead <= window)", "window off by one"),
    ("tile.document[at] == document", "tile.document[r] == document", "wrong MFMA row for the documents"),
    ("at = mfma_row(r % MFMA_HELD, lane)", "at = r", "wrong MFMA row for the keys"),
    ("at_most(first + piece / (WIDE / 4), keys - 1)", "first + piece / (WIDE / 4)", "keys are read past the end"),
    ("at_most(first + piece % (KEYS / 4) * 4 + j, keys - 1)", "first + piece % (KEYS / 4) * 4 + j",
     "values are read past the end"),
    ("if (!WHOLE && j < left)", "if (!WHOLE && there)", "queries are read past the width"),
    ("row[at_most(channel + j, width - 1)]", "row[channel + j]", "channels are read past the width"),
    ("first + KEYS - 1 <= lowest &&", "first <= lowest &&", "keys that some row may not see are left open"),
    ("past + last_row / group - first < window)", "lowest - first < window)",
     "the window of the last row is left open"),
    ("bool open = !documents &&", "bool open =", "documents are left open"),
    ("* TO_POWERS_OF_2;", ";", "powers of two for powers of e"),
    ("[at * 2];", "[at];", "the merge takes another part's top"),
    ("top = fmaxf(top, share.tops[wave])", "top = share.tops[wave]", "the merge takes the last wave's top"),
    ("for (int other = 1; other < SHARERS", "for (int other = 2; other < SHARERS", "a sharer's parts are left out"),
    ("total += share.total[other];", "total += share.total[0];", "one sharer's weights for all"),
    ("if (channel == 0) share.total[team] = total;\n  __syncthreads();", "if (channel == 0) share.total[team] = total;",
     "sums are read before they are there"),
    ("part + j < parts ? expf", "true ? expf", "the merge adds the last part again"),
    ("higher = column_max(higher);", "", "the two halves of a row use different tops"),
    ("total[i] *= fade[i];", "", "the total is not faded"),
    ("sums[m][r] *= fade[r / MFMA_HELD];", "sums[m][r] *= 1.f;", "the sums are not faded"),
    ("{{value[0][j], value[1][j]", "{{value[1][j], value[0][j]", "values not turned over"),
    ("begin = lowest - window + 1;", "begin = lowest + 1;", "the window's first keys are skipped"),
    ("[m * 32 + mfma_a_row(i, lane)][c * MFMA_SLICE + mfma_part(lane) * 4]",
     "[m * 32 + mfma_a_row(i, lane)][c * MFMA_SLICE + MFMA_SLICE - 4 - mfma_part(lane) * 4]",
     "wrong MFMA input"),
    ("[middle] < documents[position])", "[middle] <= documents[position])", "a document is cut"),
    ("expf(stat[j][0] - top) : 0.f", "1.f : 0.f", "tops left out of the merge"),
]
# only heads of 128 channels in bf16 read early
EARLY = [
    ("key(c + SLICES + i, ", "key(c + i, ", "four keys read early are those of before"),
    ("value(m + 1, i, ", "value(m, i, ", "four values read early are those of before"),
]


def unused(widths, kinds=("float, f32", "bf16, bf16")) -> tuple[str, ...]:
    """The kernels that no check of these widths and types runs."""
    return tuple(f"ATTENTION({kind}, {wide}, {1 + (kind[0] == 'b' or wide < 128)})" for kind in
                 ("float, f32", "bf16, bf16") for wide in (32, 64, 128) if wide not in widths or kind not in kinds)


@planted.each(BUGS)
def test_planted_bugs(bug):
    def checks(run):
        check(run, *inputs(1, 50, 70, 2, 1, 5, 0, torch.float32), 36)
        check(run, *inputs(1, 66, 66, 2, 1, 5, 2, torch.bfloat16))
        check(run, *inputs(1, 1, 70, 2, 1, 5, 0, torch.float32), 40, 2)
        check(run, *inputs(1, 1, 600, 1, 1, 5, 0, torch.float32), 0, 19)        # more parts than one sharer takes
        # a block of four teams, open tiles and a window
        check(run, *inputs(1, 40, 200, 2, 1, 8, 0, torch.float32), 150)
    planted.caught("cca_attention", BUGS, bug, checks, [WAYS[3], WAYS[0]], without=unused((32,)))


@planted.each(EARLY)
def test_planted_bugs_of_128_channels(bug):
    def checks(run):
        check(run, *inputs(1, 33, 65, 2, 2, 100, 2, torch.bfloat16))
    planted.caught("cca_attention", EARLY, bug, checks, [WAYS[3], WAYS[0]], without=unused((128,), ("bf16, bf16",)))
