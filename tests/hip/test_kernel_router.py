"""kernels/router: choices, gates, probabilities, state and load as PyTorch's, with bfloat16's roundings too."""

import math

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import planted
from kernel_tools import WAYS, assert_close, both_types, every_way, needs_compiler, run
from minizaya import hip
from minizaya.arch.router import Router, choose
from minizaya.config import ZayaConfig

pytestmark = needs_compiler
router = hip.kernel("router")
NAMES = "routes", "gates", "probs", "state", "load"
# tokens, D, R, C: odd ones, one token, the nano model, every lane and choice in use
SIZES = [(1, 8, 4, 2), (3, 30, 5, 3), (33, 100, 37, 6), (70, 128, 32, 5), (65, 72, 64, 17), (66, 320, 64, 17),
         (34, 40, 250, 64)]


# ---- the truth, and how far a kernel may be from it ---------------------------------------------------------


def bounds(args, state=None):
    """For bfloat16: the state, or from a kernel's own state the probabilities, as (lowest, highest), float64.

    A float32 sum of K terms t is off by at most about 2^-23 sqrt(K) |t| (ten times its spread). Where a rounding to
    bfloat16 could go either way within that, both ends are kept, and what they can do to the next layer is added up at
    its worst. In most rows the ends meet again, and only one answer is right.
    """
    x, below, scale, down, down_bias, gain, fc1, bias1, fc2, bias2, out, bias, eps = args[:13]

    def to_t(wide):
        return wide.bfloat16().double()

    def both(low, high):
        return to_t(low), to_t(high)

    def linear(low, high, weight, add=0.0):
        middle, far, weight = (low + high) / 2, (high - low) / 2, weight.double()
        sums = math.sqrt(weight.shape[1]) * 2.0 ** -23 * (middle.square() @ weight.square().T).sqrt()
        value, far = middle @ weight.T + add, far @ weight.abs().T + sums
        far = far + 2.0 ** -24 * value.abs()
        return both(value - far, value + far)

    def gelu(low, high):
        a, b = F.gelu(low), F.gelu(high)
        least = torch.where((low < -0.7518) & (high > -0.7518), -0.17005, torch.minimum(a, b))
        off = 3e-7 * torch.maximum(low.abs(), high.abs())        # the bound of erf, see test_erf_is_bounded
        return both(least - off, torch.maximum(a, b) + off)

    if state is None:
        low, high = linear(x.double(), x.double(), down, down_bias.double())
        if below is not None:
            add = to_t(scale.double() * below.double())
            low, high = both(low + add, high + add)
        return low, high
    state = state.double()
    unit = state * torch.rsqrt(state.square().mean(-1, keepdim=True) + eps)
    ends = torch.stack(both(unit - 2.0 ** -21 * unit.abs(), unit + 2.0 ** -21 * unit.abs())) * gain.double()
    low, high = both(ends.amin(0), ends.amax(0))
    low, high = gelu(*linear(low, high, fc1, bias1.double()))
    low, high = gelu(*linear(low, high, fc2, bias2.double()))
    low, high = linear(low, high, out)
    top = high.amax(-1, keepdim=True)
    low, high = (low - top).exp(), (high - top).exp()
    least, most = low / (high.sum(-1, keepdim=True) - high + low), high / (low.sum(-1, keepdim=True) - low + high)
    return both(least * (1 - 1e-6), most * (1 + 1e-6))


def check(got, args) -> float:
    """Everything that must hold of a launch's results. Returns the share of rows that allow one answer only."""
    routes, gates, probs, state, load = got
    pinned, counted = (list(args[13:]) + [None, None])[:2]
    if state.dtype == torch.float32:
        wanted = router.reference(*(a.double() if torch.is_tensor(a) and a.is_floating_point() else a for a in args))
        for name, mine, right in zip(NAMES[1:4], got[1:4], wanted[1:4]):
            assert_close(mine, right, name)
        scores = wanted[2] + args[11]
        lost = scores.amax(-1) - scores.gather(-1, routes[:, None])[:, 0]     # another route only at a tie
        replayed = torch.zeros(len(routes), dtype=torch.bool) if pinned is None else pinned >= 0
        assert bool(((routes == wanted[0]) | (~replayed & (lost < 1e-5))).all()), "routes"
    sure = 1.0
    if len(state) and state.dtype == torch.bfloat16:
        for name, mine, (low, high) in (("state", state, bounds(args)), ("probs", probs, bounds(args, state))):
            assert bool(((mine.double() >= low) & (mine.double() <= high)).all()), name
            sure = (low == high).all(-1).double().mean().item()
    # choice, gate and load follow from the kernel's own probabilities without any tolerance
    right, weight = choose(probs, args[11], pinned)
    assert torch.equal(routes, right), "routes"
    assert torch.equal(gates, weight), "gates"
    visits = torch.bincount(routes if counted is None else routes[counted], minlength=len(load))
    assert torch.equal(load.long(), visits), "load"
    assert (routes.dtype, load.dtype) == (torch.int64, torch.int32)
    return sure


def arguments(dtype, size, seed=0):
    """Arguments of one size, drawn anew by `seed`; a third of the tokens is pinned, a third not counted, by chance."""
    draw = torch.Generator().manual_seed(seed)
    n, choices = size[0], size[3]
    args = list(router.example(dtype, "cpu", *size))
    args[0] = torch.randn(args[0].shape, generator=draw).to(dtype)
    pinned = torch.randint(-2 * choices, choices, (n,), generator=draw).clamp(-1)
    return *args, pinned, torch.rand(n, generator=draw) < 0.7


@every_way
@both_types
def test_the_kernel_is_the_router(way, dtype):
    for size in SIZES:
        args = arguments(dtype, size)
        check(run(way, router.launch, *args), args)
        check(run(way, router.launch, *args[:13]), args[:13])


@settings(max_examples=25, deadline=None)
@given(size=st.tuples(st.integers(1, 140), st.integers(1, 150), st.integers(1, 256), st.integers(1, 64)),
       seed=st.integers(0, 2 ** 20), dtype=st.sampled_from([torch.float32, torch.bfloat16]), first=st.booleans())
def test_any_size(size, seed, dtype, first):
    args = list(arguments(dtype, size, seed))
    if first:
        args[1:3] = [None, None]
    check(run(("cpu", 64, str(seed)), router.launch, *args), args)


@both_types
def test_at_the_size_of_8b(dtype):
    args = arguments(dtype, (130, 2048, 256, 17))
    check(run(("cpu", 64, "forward"), router.launch, *args), args)


def test_most_rows_of_bfloat16_allow_one_answer_only():
    args = arguments(torch.bfloat16, (256, 128, 32, 5))
    assert check(run(("cpu", 64, "forward"), router.launch, *args), args) > 0.5


@both_types
def test_no_tokens(dtype):
    args = arguments(dtype, (0, 16, 8, 3))
    routes, gates, probs, state, load = run(WAYS[0], router.launch, *args)
    assert routes.shape == gates.shape == (0,) and probs.shape == (0, 3) and state.shape == (0, 8)
    assert load.tolist() == [0, 0, 0]


@both_types
def test_a_tie_goes_to_the_lower_number(dtype):
    args = list(arguments(dtype, (40, 24, 16, 40)))[:13]
    args[10] = args[10][:1].repeat(40, 1)        # all choices alike
    args[11] = torch.zeros(40)
    args[11][:5] = -1
    assert run(WAYS[2], router.launch, *args)[0].tolist() == [5] * 40


@both_types
def test_bad_numbers_stay_with_their_token(dtype):
    """NaN in one token, and a pinned route that does not exist: NaN gates there, nothing else disturbed."""
    args = list(arguments(dtype, (9, 24, 16, 5)))[:13]
    clean = run(WAYS[0], router.launch, *args)
    args[0] = args[0].clone()
    args[0][3] = math.nan
    pinned = torch.full((9,), -1)
    pinned[6] = 5
    routes, gates, probs, _, load = run(WAYS[3], router.launch, *args, pinned)
    assert routes[3] == 0 and bool(gates[[3, 6]].isnan().all()) and bool(probs[3].isnan().all()) and load.sum() == 8
    others = [0, 1, 2, 4, 5, 7, 8]
    assert torch.equal(routes[others], clean[0][others]) and torch.equal(gates[others], clean[1][others])
    assert torch.equal(probs[6], clean[2][6])


def test_rows_that_do_not_start_at_16_bytes():
    args = list(arguments(torch.float32, (5, 24, 16, 5)))
    whole = torch.randn(5 * 24 + 1)
    args[0] = whole[1:].view(5, 24)
    check(run(WAYS[3], router.launch, *args), args)


def test_a_layer_of_the_model():
    torch.manual_seed(3)
    config = ZayaConfig.preset("nano")
    layer = Router(config, layer=1)
    x, below = torch.randn(2, 19, config.hidden_size), torch.randn(2, 19, config.router_hidden_size)
    mlp = layer.mlp
    args = [x.flatten(0, 1), below.flatten(0, 1), layer.eda_scale, layer.down_proj.weight, layer.down_proj.bias,
            mlp.norm.weight, mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight, mlp.fc2.bias, mlp.out_proj.weight,
            layer.balancing_bias]
    got = run(WAYS[0], router.launch, *(a.detach() for a in args), config.rms_norm_eps)
    with torch.no_grad():
        wanted = layer(x, below)
    assert torch.equal(got[0], wanted[0].flatten())
    for name, mine, right in zip(NAMES[1:], got[1:], wanted[1:]):
        assert_close(mine, right.flatten(0, 1), name)


@both_types
def test_every_activation_moves_once(dtype):
    """In 64-byte pieces. x, below, state, probs, routes and gates; weights come from the cache, once a block, and twice
    where half of the eight waves have no columns and ask for another's, or both tiles' waves for the last layer's."""
    from minizaya.hip.trace import traced

    args = router.example(dtype, "cpu", 192, 256, 128, 32)
    with traced() as trace:
        router.launch(trace.launcher, *args)
    activations = [row for row in trace.table() if row["shape"][0] == 192]
    assert len(activations) == 6
    assert all(row["asked"] == row["least"] for row in activations)
    assert sum(row["moved"] for row in activations) <= 1.1 * sum(row["least"] for row in activations)
    weights = [row for row in trace.table() if len(row["shape"]) == 2 and row["shape"][0] in (32, 128)]
    blocks = 192 // router.TOKENS[dtype]
    assert len(weights) == 4 and all(row["asked"] <= 2 * blocks * row["least"] for row in weights)
    assert trace.conflicts() < 1.5, trace.conflicts()


def test_supports_says_why_not():
    args = arguments(torch.float32, (2, 8, 4, 2))
    assert router.supports(*args) is None
    assert "float64" in router.supports(args[0].double(), *args[1:])
    assert "257" in router.supports(*args[:3], torch.zeros(257, 8), *args[4:])
    assert "65" in router.supports(*args[:10], torch.zeros(65, 4), *args[11:])


# ---- GELU --------------------------------------------------------------------------------------------------------

ERF = """#include "gpu.h"
extern "C" __global__ void __launch_bounds__(256) both(const float* x, float* erf, float* activated, int n) {
  int i = blockIdx.x * 256 + threadIdx.x;
  if (i < n) erf[i] = erf_bounded(x[i]), activated[i] = gelu(x[i]);
}
LAUNCHABLE(both)
"""


def test_erf_is_bounded():
    """erf_bounded: 1.5e-7 of the formula, up to 3.5e-7 of float32 rounding. gelu: half of that times |x|, rounded."""
    small = torch.logspace(-30, 2, 2000)
    x = torch.cat([torch.linspace(-6, 6, 40_001), small, -small, torch.zeros(1)])
    erf, activated = torch.empty_like(x), torch.empty_like(x)
    hip.launcher("cpu")(ERF, "both", (-(-len(x) // 256),), 256, [x, erf, activated, len(x)])
    assert (erf - torch.erf(x.double())).abs().max() <= 5e-7
    assert bool(((activated - F.gelu(x.double())).abs() <= 3e-7 * x.double().abs()).all())


# ---- planted bugs ---------------------------------------------------------------------

BUGS = [
    ("      __syncthreads();   // the step is read, the next one is there\n", "", "no barrier between two steps of x"),
    ("  __syncthreads();\n  if (column < size) fetch(first_weights, hidden2",
     "  if (column < size) fetch(first_weights, hidden2", "written while read"),
    ("row < rows ? row : rows - 1", "row", "whole pieces are read past the last row"),
    ("step(from + STEP, 1, after, coming, true)", "step(from + STEP, 1, coming, after, true)", "a step of x twice"),
    ("(inside || from + 2 * STEP < width)", "true", "x is read past the end of its row"),
    ("    step(from, 0, coming, after, false);\n    if (from + STEP < width) step", "    if (from + STEP < width) step",
     "the first of the last steps left out"),
    ("  multiply<T, COUNT>(acc, tokens + k, Tile<T>::WIDE_ROW, now, lane);   // the last", "  // the last",
     "a layer's last step left out"),
    ("+ (MFMA_SHARERS * c + mfma_part(lane)) * PIECE;", "+ (c + OF_STEP * mfma_part(lane)) * PIECE;",
     "a product's two sides in different orders"),
    ("wide[(32 * tile + mfma_row(r % MFMA_HELD, lane))", "wide[(32 * tile + 16 * mfma_part(lane) + r)",
     "wrong row of a result"),
    ("if (first + token >= tokens) continue;", "", "no guard for the tail of the tokens"),
    ("row >= rows || k >= width", "k >= width", "x is read past its last row"),
    ("k + j < width ? from[j]", "true ? from[j]", "a row's tail is taken from the next row"),
    ("(other == best && its < route)", "(other == best && its > route)", "ties go to the higher number"),
    ("float prob = rounded<T>(score[turn] / sum), biased = prob + bias[e];",
     "float prob = rounded<T>(score[turn] / sum) + bias[e], biased = prob;", "the bias weighs gates", "alone"),
    ("atomicAdd(&visits[route], 1)", "visits[route] += 1", "race in a block's histogram"),
    ("atomicAdd(&load[threadIdx.x], visits[threadIdx.x])", "load[threadIdx.x] = visits[threadIdx.x]",
     "blocks overwrite the load"),
    ("if (threadIdx.x < MOST_ROUTES) visits[threadIdx.x] = 0;", "", "the histogram is never cleared"),
    ("rsqrtf(squares / size + eps)", "rsqrtf(squares / WIDEST + eps)", "mean over the wrong width"),
    ("far = GROUP / 2; far > 0; far /= 2) squares",
     "far = GROUP / 4; far > 0; far /= 2) squares", "half of the squares"),
]


@planted.each(BUGS)
def test_planted_bugs_are_caught(bug):
    def checks(launcher):
        for size in ((70, 150, 37, 17), (66, 320, 64, 17)):                         # piece by piece, and in whole steps
            args = arguments(torch.bfloat16, size)
            args[10][1:16:2], args[11][:] = args[10][0:16:2], 0.5      # ties
            check(router.launch(launcher, *args), args)
    # half to build; no bug lies with a type
    planted.caught("router", BUGS, bug, checks, without=("ROUTER(float, f32)",))
