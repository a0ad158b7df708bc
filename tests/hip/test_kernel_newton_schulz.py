"""newton_schulz on the CPU: each launch against float64, the whole against Muon's own function, and planted bugs.

A launch rounds once, so it is compared from the very numbers that it was given: float32 to 1e-5, bfloat16 to half a
unit in the last place. The whole in float32: 1e-5 too. The whole in bfloat16 is judged by its singular values: five
rounded steps stretch a rounding error up to 485-fold in the directions that were small, so no number of the result is
sure.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import planted
from kernel_tools import WAYS, assert_close, both_types, every_way, needs_compiler, run
from minizaya import hip
from minizaya.train.muon import COEFFICIENTS, matched

pytestmark = needs_compiler
schulz = hip.kernel("newton_schulz")
SHAPES = [(1, 1, 1), (1, 5, 3), (2, 7, 33), (1, 64, 64), (3, 66, 70), (1, 130, 24), (1, 17, 200)]
TRACED = [(2, 5, 3), (1, 66, 70)]


def matrices(e, m, n, dtype, seed=0):
    return torch.randn(e, m, n, generator=torch.Generator().manual_seed(seed)).to(dtype)


def check_scaled(run, x):
    out, turned = schulz.scaled(run, x)
    assert_close(out, x.double() / x.double().norm(dim=(1, 2), keepdim=True).clamp_min(1e-7), "scaled")
    assert torch.equal(turned, out.mT.contiguous())


def check_products(run, x):
    """The three products of one step, each from what the last one left."""
    a, b, c = COEFFICIENTS
    e, m, n = x.shape
    x = x / (2 * max(m, n) ** 0.5)               # singular values of about one at most, as in the iteration
    turned, gram, poly = x.mT.contiguous(), x.new_empty(e, m, m), x.new_empty(e, m, m)
    schulz.product(run, x, x, None, gram, gram, 0, 1)
    assert_close(gram, x.double() @ x.double().mT, "gram")
    assert torch.equal(gram, gram.mT)
    schulz.product(run, gram, gram, gram, poly, poly, b, c)
    wide = gram.double()
    assert_close(poly, b * wide + c * wide @ wide, "poly")
    out, flipped = torch.empty_like(x), torch.empty_like(turned)
    schulz.product(run, poly, turned, x, out, flipped, a, 1)
    assert_close(out, a * x.double() + poly.double() @ x.double(), "step")
    assert torch.equal(flipped, out.mT.contiguous())


@every_way
@both_types
def test_each_launch(way, dtype):
    for seed, shape in enumerate(TRACED if way[0] == "trace" else SHAPES):
        x = matrices(*shape, dtype, seed)
        run(way, check_scaled, x)
        run(way, check_products, x)


@every_way
def test_equals_muon(way):
    for seed, shape in enumerate(TRACED[:1] if way[0] == "trace" else SHAPES):
        x = matrices(*shape, torch.float32, seed)
        assert_close(run(way, schulz.launch, x), schulz.reference(x.double()))


@settings(max_examples=30)
@given(st.integers(1, 3), st.integers(1, 40), st.integers(1, 40), st.integers(0, 99), st.sampled_from(WAYS[:3]),
       st.integers(0, 5))
def test_any_shape(e, m, n, seed, way, steps):
    x = matrices(e, m, n, torch.float32, seed)
    assert_close(run(way, schulz.launch, x, steps), schulz.reference(x.double(), steps))


@pytest.mark.parametrize("shape", [(40, 100), (100, 40)], ids=["wide", "tall"])
def test_bfloat16_evens_the_singular_values(shape):
    """Muon's own band is 0.68 to 1.21; bfloat16 may add 2 ** -8 a step and number, 0.05 in all."""
    x = matrices(1, *shape, torch.float32)[0]
    for matrix, dtype in ((x, torch.bfloat16), (x.bfloat16(), torch.bfloat16), (x.bfloat16(), None)):
        out = run(WAYS[0], schulz.launch, matrix, 5, dtype)
        assert out.dtype == matrix.dtype and out.shape == shape
        values = torch.linalg.svdvals(out.double())
        assert 0.68 - 0.05 < values.min() and values.max() < 1.21 + 0.05
        # the singular vectors stay: out x^T is positive
        assert torch.linalg.eigvalsh((lambda p: p + p.mT)(out.double() @ x.double().mT)).min() > -1e-2 * shape[0]


def test_zero_stays_zero_and_shapes_stay():
    assert not run(WAYS[0], schulz.launch, torch.zeros(4, 6)).any()
    assert run(WAYS[0], schulz.launch, torch.zeros(2, 0, 6)).shape == (2, 0, 6)
    x = matrices(6, 9, 4, torch.float32)
    stacked = run(WAYS[0], schulz.launch, x.view(2, 3, 9, 4))
    assert stacked.shape == (2, 3, 9, 4)
    for one, alone in zip(stacked.flatten(0, 1), x):         # a stack is done matrix by matrix
        assert torch.equal(one, run(WAYS[0], schulz.launch, alone))


def test_a_sum_of_squares_over_many_blocks():
    x = matrices(1, 300, 1000, torch.float32)
    run(WAYS[0], check_scaled, x)


def test_muons_step_by_the_kernel():
    """`matched` with the kernel's orthogonalisation in place of its own, on two maps stacked by rows."""
    x = matrices(1, 48, 20, torch.float32)[0]
    steps = [0.2 * max(piece.shape) ** 0.5 * run(WAYS[0], schulz.launch, piece) for piece in x.split((30, 18))]
    assert_close(torch.cat(steps), matched(x.double(), (30, 18)))


def test_supports():
    assert schulz.supports(*schulz.example()) is None
    assert "float64" in schulz.supports(torch.zeros(2, 2, dtype=torch.float64))
    assert "over" in schulz.supports(torch.empty(2 ** 16, 2 ** 15, device="meta"))
    assert schulz.supports(torch.zeros(2, 2, dtype=torch.float64), 5, torch.float32) is None
    for dtype in (torch.float32, torch.bfloat16):
        matrix, steps, kind = schulz.example(dtype)
        assert run(WAYS[0], schulz.launch, matrix, steps, kind).dtype == dtype
    assert schulz.work("newton_schulz_product_bf16") == (16 * 5 * 2048 ** 2 * 2, 16 * 2 * 2048 ** 3)


BUGS = [
    ("__syncthreads();   // this stage is read, the other one is there", "", "barrier removed: a stage is overwritten"),
    ("  __syncthreads();\n  for (int k = 0;", "  for (int k = 0;", "barrier removed: the first step is read too early"),
    ("b_at[i] = team % 2 * 32 + mfma_column(i, lane)", "b_at[i] = team % 2 * 32 + lane / 2", "wrong MFMA column"),
    ("a_at[i], MFMA_SHARERS * turn + mfma_part(lane))", "a_at[i], MFMA_SHARERS * turn)",
     "both halves bring the same four numbers"),
    ("piece ^ row / 2 % 4]", "piece ^ row / 2]", "the swizzle leaves the row"),
    ("stage ^= 1)", "stage = 1)", "the second stage for ever"),
    ("k + STEP < inner ? k + STEP : k)", "k)", "the same step over and over"),
    ("mfma_row(r, threadIdx.x % 64)", "r + threadIdx.x % 64 / 32 * 16", "wrong MFMA row"),
    ("k + j < inner ? row[k + j]", "true ? row[k + j]", "no tail guard along the inner axis"),
    ("(k < inner ? k : 0)", "k", "reads whole pieces past the end"),
    ("inside(next[s], ahead < inner)", "inside(next[s], true)", "what came from past the end is not taken away"),
    ("inside(next[s], piece * PIECE < inner)", "inside(next[s], true)", "nor in the first step"),
    ("m * TILE + threadIdx.x / 4, rows - 1)", "m * TILE + threadIdx.x / 4, rows)", "off by one past the last row"),
    ("left < top", "left <= top", "the diagonal is left out"),
    ("!(symmetric && left == top)", "true", "two threads write the diagonal"),
    ("alpha * to_float", "to_float", "alpha forgotten"),
    ("first += (size_t)shares * THREADS * AHEAD", "first += (size_t)THREADS * AHEAD",
     "squares are added more than once"),
    ("row = top + m * TILE + tile_row(4 * four)", "row = top + tile_row(4 * four)", "the lower half over the upper"),
    ("left + n * TILE + tile_column(i)", "left + tile_column(i)", "the right half over the left"),
    ("from_float<T>(tile[x][y])", "from_float<T>(tile[y][x])", "not turned over"),
]


@planted.each(BUGS)
def test_planted_bugs(bug):
    def checks(run):
        check_scaled(run, matrices(1, 70, 66, torch.float32))
        check_products(run, matrices(1, 66, 5, torch.bfloat16))
        check_products(run, matrices(1, 8, 24, torch.float32))
        check_products(run, matrices(1, 140, 70, torch.float32))
    planted.caught("newton_schulz", BUGS, bug, checks, [WAYS[3], WAYS[0]])
