"""cca_mix against its reference, forward and backward: odd sizes, documents, carried state,
both waves, three orders."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel_tools import assert_caught, assert_close, both_types, every_way, needs_compiler, run
from minizaya import hip
from minizaya.arch.attention import document_starts

pytestmark = needs_compiler

# batch, time, query heads, KV heads, channels of a head
SIZES = [(1, 1, 2, 1, 2), (2, 37, 4, 2, 32), (1, 33, 3, 1, 10), (2, 70, 2, 2, 6), (1, 65, 8, 2, 128)]
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
    args, module = arguments(*size, dtype), hip.kernel("cca_mix")
    for position in (None, documents(*size[:2], 2)):
        leaves = [x.float().requires_grad_() for x in args[:6]]
        out = module.reference(*leaves, *args[6:], position, dtype=dtype)
        pulled = [torch.randn(x.shape).to(dtype) for x in out]
        wanted = torch.autograd.grad(sum((x * g.float()).sum() for x, g in zip(out, pulled)), leaves)
        got = run(way, module.launch_backward, *pulled, *args, position)
        for name, x, right in zip(INPUTS, got, wanted):
            if dtype == torch.float32:
                assert_close(x, right, name)
            else:
                off = (x.float() - right).abs()
                assert (off <= 2.0 ** -8 * (right.abs() + right.abs().max()) + 1e-5).all(), name
                assert (off > 2.0 ** -8 * right.abs() + 1e-5).float().mean() < 0.01, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
def test_every_activation_moves_once(dtype):
    """With 64 tokens in two tiles of 32 and a halo of two, as the tracer counts it; weights come from the cache."""
    from minizaya.hip.trace import traced

    with traced() as trace:
        hip.kernel("cca_mix").launch(trace.launcher, *hip.kernel("cca_mix").example(dtype, steps=64))
    activations = [row for row in trace.table() if row["shape"][:2] == [1, 64] and row["tensor"] not in (6, 7)]
    assert len(activations) == 4    # packed, q, k, v
    assert sum(row["moved"] for row in activations) <= 1.1 * sum(row["least"] for row in activations)
    assert trace.conflicts() < 1.5


BUGS = [
    ("    load_head<WHOLE>(lds, in, s, batch, first, channel);\n    __syncthreads();\n    depthwise(lds, in, s, "
     "channel);\n    __syncthreads();\n    f32x16 x = grouped<WHOLE>(lds, in, s, channel);\n    if (member < 0) {",
     "    load_head<WHOLE>(lds, in, s, batch, first, channel);\n    depthwise(lds, in, s, channel);\n    "
     "__syncthreads();\n    f32x16 x = grouped<WHOLE>(lds, in, s, channel);\n    if (member < 0) {",
     "no barrier between loading z and convolving it"),
    ("token = first - HALO + row;", "token = first - 1 + row;", "halo one token short"),
    ("in.past + ((size_t)batch * HALO + HALO + token)", "in.past + ((size_t)batch * HALO + HALO - 1 + token)",
     "past off by one"),
    ("if (token >= 0 && token < s.steps) from = in.packed", "if (token >= 0) from = in.packed",
     "no guard at the end of a row"),
    ("lds.u[lds.alone[row + 1] ?", "lds.u[lds.alone[row] ?", "the wrong token's border"),
    ("u += tap0 * (lds.alone[row] ?", "u += tap0 * (false ?", "a filter that reaches over a border"),
    ("    acc = mfma(at_before, w0, acc);\n  }\n  float bias", "    acc = mfma(at_before, w1, acc);\n  }\n  float bias",
     "one tap twice"),
    ("int i = k + PER * half;", "int i = k + PER * (1 - half);", "halves of the matrix instruction swapped, in step"),
    ("keys[r] += (queries[r] / group + own_keys[r]) / 2.f;", "keys[r] += (queries[r] + own_keys[r]) / 2.f;",
     "sum instead of mean"),
    ("y * to_float(in.cosine[angle]) + (c < half ? -other : other)",
     "y * to_float(in.cosine[angle]) + (c < half ? other : -other)", "turned backwards"),
    ("bool starts = token == 0 || (in.position && in.position[at] == 0);", "bool starts = token == 0;",
     "values cross a border"),
    ("now[j] = lds.dy[row][o + j];\n", "now[j] = lds.dy[row + 1][o + j];\n", "backward: the next token's gradient"),
    ("lds.joined[i] ? tap0 * lds.du[i + 1][c] : 0.f", "tap0 * lds.du[i + 1][c]", "backward: gradient over a border"),
    ("constexpr int ADVANCE = ROWS - 1;", "constexpr int ADVANCE = ROWS;", "backward: no halo"),
]


def test_planted_bugs_are_caught():
    module = hip.kernel("cca_mix")
    args = arguments(1, 40, 4, 2, 8, torch.float32)
    position, state = documents(1, 40, 3), (torch.randn(1, 2, 48), torch.randn(1, 8))
    pulled = [torch.randn(1, 40, n, 8) for n in (4, 2, 2)]
    leaves = [x.clone().requires_grad_() for x in args[:6]]
    out = module.reference(*leaves, *args[6:], position)
    wanted = [*module.reference(*args, position), *module.reference(*args, None, *state),
              *torch.autograd.grad(sum((x * g).sum() for x, g in zip(out, pulled)), leaves)]

    def everything(launch):
        return [*module.launch(launch, *args, position), *module.launch(launch, *args, None, *state),
                *module.launch_backward(launch, *pulled, *args, position)]

    # swapping the halves of A and of B together changes nothing: the one change of the list that is no bug
    harmless = assert_caught("cca_mix", BUGS, everything, wanted)
    assert harmless == ["halves of the matrix instruction swapped, in step"]
