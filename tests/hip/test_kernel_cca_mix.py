"""cca_mix against its reference, forward and backward: odd sizes, documents, carried state,
both waves, three orders."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import planted
from kernel_tools import assert_close, both_types, every_way, needs_compiler, run
from minizaya import hip
from minizaya.arch.attention import document_starts

pytestmark = needs_compiler

# batch, time, query heads, KV heads, channels of a head
SIZES = [(1, 1, 2, 1, 2), (2, 37, 4, 2, 32), (1, 33, 3, 1, 10), (2, 70, 2, 2, 6), (1, 65, 8, 2, 128)]
SMALL = {(1, 65, 8, 2, 128): (1, 65, 2, 1, 128)}      # under the tracer, which takes ten times as long: three tiles yet
INPUTS = ("packed", "depthwise", "depthwise_bias", "grouped", "grouped_bias", "temperature")


def arguments(batch, steps, heads, kv_heads, dim, dtype, seed=0) -> list:
    torch.manual_seed(seed)
    return list(hip.kernel("cca_mix").example(dtype, batch=batch, steps=steps, heads=heads, kv_heads=kv_heads, dim=dim))


def documents(batch: int, steps: int, count: int, seed: int = 0) -> torch.Tensor:
    """Places in `count` documents a row, cut at random."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.stack([torch.sort(torch.randint(0, count, (steps,), generator=draw)).values for _ in range(batch)])
    return document_starts(ids)[1].int()


@every_way
@both_types
@pytest.mark.parametrize("size", SIZES, ids=["x".join(map(str, size)) for size in SIZES])
def test_equals_its_reference(size, dtype, way):
    size = SMALL.get(size, size) if way[0] == "trace" else size
    args, module = arguments(*size, dtype), hip.kernel("cca_mix")
    batch, steps, heads, kv_heads, dim = size
    state = torch.randn(batch, 2, (heads + kv_heads) * dim).to(dtype), torch.randn(batch, kv_heads * dim // 2).to(dtype)
    cases = {"plain": (None, None, None), "carried state": (None, *state)}
    cases |= {f"{n} documents": (documents(batch, steps, n), None, None) for n in (2, 3)}
    for what, rest in cases.items():
        for name, got, wanted in zip("qkv", run(way, module.launch, *args, *rest), module.reference(*args, *rest)):
            assert_close(got, wanted, f"{what}, {name}")


@settings(max_examples=25, deadline=None)
@given(steps=st.integers(1, 40), kv_heads=st.integers(1, 3), group=st.integers(1, 3),
       dim=st.sampled_from([2, 4, 6, 14, 24]),
       count=st.integers(1, 3), seed=st.integers(0, 99))
def test_any_size(steps, kv_heads, group, dim, count, seed):
    args = arguments(1, steps, kv_heads * group, kv_heads, dim, torch.float32, seed)
    position, module = documents(1, steps, count, seed), hip.kernel("cca_mix")
    for got, wanted in zip(module.launch(hip.launcher("cpu"), *args, position), module.reference(*args, position)):
        assert_close(got, wanted)


def test_decoding_token_by_token_equals_the_whole():
    """The carried state of `arch/cache.py`, by hand: columns of the two tokens before,
    and the delayed half of the value."""
    args, module, launch = arguments(1, 7, 4, 2, 8, torch.float32), hip.kernel("cca_mix"), hip.launcher("cpu")
    packed, channels = args[0], 6 * 8
    whole = module.launch(launch, *args)
    past, before = torch.zeros(1, 2, channels), torch.zeros(1, 8)
    for t in range(7):
        step = packed[:, t:t + 1].contiguous()
        got = module.launch(launch, step, *args[1:6], *(x[:, t:t + 1].contiguous() for x in args[6:8]), None, past,
                            before)
        for x, wanted in zip(got, whole):
            assert_close(x, wanted[:, t:t + 1])
        past, before = torch.cat([past[:, 1:], step[..., :channels]], 1), step[:, 0, -8:].contiguous()


@every_way
@both_types
@pytest.mark.parametrize("size", SIZES, ids=["x".join(map(str, size)) for size in SIZES])
def test_backward_equals_autograd_of_the_reference(size, dtype, way):
    """float32 to 1e-5. bfloat16: dy is rounded on its way to the matrix cores, and where float32 sums in another order
    put it on the other side of a tie, its neighbours move by a unit of dy times a weight. Such values are few, and
    small beside the tensor's largest."""
    size = SMALL.get(size, size) if way[0] == "trace" else size
    args, module = arguments(*size, dtype), hip.kernel("cca_mix")
    exact = torch.float64 if dtype == torch.float32 else torch.float32    # sums over all tokens cancel
    for position in (None, documents(*size[:2], 2)):
        leaves = [x.to(exact).requires_grad_() for x in args[:6]]
        out = module.reference(*leaves, *args[6:], position, dtype=dtype)
        pulled = [torch.randn(x.shape).to(dtype) for x in out]
        wanted = torch.autograd.grad(sum((x * g.to(exact)).sum() for x, g in zip(out, pulled)), leaves)
        got = run(way, module.launch_backward, *pulled, *args, position)
        for name, x, right in zip(INPUTS, got, wanted):
            if dtype == torch.float32:
                assert_close(x, right, name)
            else:
                off = (x.float() - right).abs()
                assert (off <= 2.0 ** -8 * (right.abs() + right.abs().max()) + 1e-5).all(), name
                assert (off > 2.0 ** -8 * right.abs() + 1e-5).float().mean() < 0.01, name


@both_types
@pytest.mark.parametrize("sizes", [dict(heads=4, kv_heads=2, dim=32), dict(heads=2, kv_heads=1, dim=128)],
                         ids=["any", "full"])
def test_every_activation_moves_once(dtype, sizes):
    """With 64 tokens in two tiles of 32 and a halo of two, as the tracer counts it; weights come from the cache."""
    from minizaya.hip.trace import traced

    with traced() as trace:
        hip.kernel("cca_mix").launch(trace.launcher, *hip.kernel("cca_mix").example(dtype, steps=64, **sizes))
    activations = [row for row in trace.table() if row["shape"][:2] == [1, 64] and row["tensor"] not in (6, 7)]
    assert len(activations) == 4    # packed, q, k, v
    assert sum(row["moved"] for row in activations) <= 1.1 * sum(row["least"] for row in activations)
    assert trace.conflicts() < 1.5


# in the kernels for any head, and in those for heads of 128 channels; what both have stands in one of the lists
ANY = [
    ("    __syncthreads();                            // z is there, and everyone has done with turned\n", "",
     "no barrier between loading z and convolving it"),
    ("token = first - HALO + row;", "token = first - 1 + row;", "halo one token short"),
    ("in.past + ((size_t)batch * HALO + HALO + token)", "in.past + ((size_t)batch * HALO + HALO - 1 + token)",
     "past off by one"),
    ("token >= 0 && token < s.steps) from = in.packed", "token >= 0) from = in.packed", "no guard at the end of a row"),
    ("begins ? bias[j] : late[j]", "late[j]", "the token before, from another document"),
    ("if (!begins) u = fma_of(tap0, z_before, u);", "u = fma_of(tap0, z_before, u);",
     "a filter that reaches over a border"),
    ("rows[i] + at_most(k + mfma_part(lane) * PIECE + 2 * j", "rows[i] + at_most(k + 2 * j",
     "both halves bring the same weights"),
    ("queries * (1.f / group) + half_key", "queries + half_key", "sum instead of mean"),
    ("y_a = x_a * along - x_b * over, y_b = x_b * along + x_a * over;",
     "y_a = x_a * along + x_b * over, y_b = x_b * along - x_a * over;", "turned backwards"),
    ("    __syncthreads();\n#pragma unroll 1\n    for (int i = 0; i < EACH * 2; i++) {        // whole",
     "    for (int i = 0; i < EACH * 2; i++) {        // whole", "rows stored while others finish them"),
    ("own == 0 && mine < rows.count ? dot", "own == 0 ? dot", "backward: rows that are not there"),
    ("borders | (s.steps == 1 ? -1 : first + top == 0 ? 2 : 0);",
     "s.steps == 1 ? -1 : first + top == 0 ? 2 : 0;", "values cross a border"),
    ("dot * inverse * inverse : 0.f", "0.f : 0.f", "backward: the norm is taken for a constant"),
    ("joined >> row & 1 ? own[part][row + 1][j]", "true ? own[part][row + 1][j]", "backward: dy over a border"),
    ("if (joined >> i & 1) dz = ", "dz = ", "backward: gradient over a border"),
    ("constexpr int ADVANCE = ROWS - 1;", "constexpr int ADVANCE = ROWS;", "backward: no halo", "alone"),
]
FULL = [
    ("bool inner = FULL && first >= HALO &&", "bool inner = FULL &&", "a first tile that looks for tokens before it"),
    ("first + ROWS <= s.steps, works", "first <= s.steps, works", "a last tile that looks for tokens behind it"),
    ("      if (row + i * AT_ONCE < ROWS + HALO) *(vec", "      *(vec", "z put past its place"),
    ("    if (works) add_half(x, lds, half);\n", "", "no mean path for queries"),
    ("(unsigned)mfma_part(threadIdx.x % 64)) * Gemm", "(MFMA_SHARERS - 1 - mfma_part(threadIdx.x % 64))) * Gemm",
     "the other half's weights"),
    ("fma_of(y[1], over * -1.f, first * at)", "first * at - y[1]", "half of a rotation"),
    ("  __syncthreads();                              // everyone has read z, whose place the next one takes\n", "",
     "the first query's z over the key's"),
    ("  __syncthreads();                              // everyone has read mixed, whose place this takes\n", "",
     "results over u"),
    ("own == 0 && mine < rows.count ? dot", "mine < rows.count ? dot",
     "backward: eight times the temperature's gradient"),
    ("0.5f / group : 0.5f", "0.5f : 0.5f", "backward: the key's gradient whole for each query"),
]


def checks_of(dim, bug):
    """What notices: a launch with documents, one with a carried state, and the way back, one after another, since most
    bugs are seen in the first. What is wrong on the way back alone is looked for there alone."""
    back = bug is not None and bug[2].startswith("backward")
    module = hip.kernel("cca_mix")
    steps, heads, kv_heads = (40, 4, 2) if dim == 8 else (66, 2, 1)
    args, channels = arguments(1, steps, heads, kv_heads, dim, torch.float32), (heads + kv_heads) * dim
    position, state = documents(1, steps, 3), (torch.randn(1, 2, channels), torch.randn(1, kv_heads * dim // 2))
    pulled = [torch.randn(1, steps, n, dim) for n in (heads, kv_heads, kv_heads)]
    leaves = [x.clone().requires_grad_() for x in args[:6]]
    out = module.reference(*leaves, *args[6:], position)
    wanted = [*([] if back else [*module.reference(*args, position), *module.reference(*args, None, *state)]),
              *torch.autograd.grad(sum((x * g).sum() for x, g in zip(out, pulled)), leaves)]

    def everything(launch):
        if not back:
            yield from module.launch(launch, *args, position)
            yield from module.launch(launch, *args, None, *state)
        yield from module.launch_backward(launch, *pulled, *args, position)

    def checks(launch):
        for got, right in zip(everything(launch), wanted, strict=True):
            assert_close(got, right)
    return checks


SEEN_BY = [("trace", 64, "reverse"), ("cpu", 32, "7")]
BFLOATS = ("CCA_MIX(bf16, bf16, true)", "CCA_MIX(bf16, any_bf16, false)")


@planted.each(ANY)
def test_planted_bugs_are_caught_in_any_head(bug):
    planted.caught("cca_mix", ANY, bug, checks_of(8, bug), SEEN_BY, (*BFLOATS, "CCA_MIX(float, f32, true)"))


@planted.each(FULL)
def test_planted_bugs_are_caught_in_heads_of_128(bug):
    planted.caught("cca_mix", FULL, bug, checks_of(128, bug), SEEN_BY, (*BFLOATS, "CCA_MIX(float, any_f32, false)"))
