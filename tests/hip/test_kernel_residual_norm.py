"""residual_norm against its reference and the laws of the residual stream, forward and backward."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import planted
from kernel_tools import assert_close, both_types, every_way, needs_compiler, run
from minizaya import hip

pytestmark = needs_compiler
SIZES = [(1, 1), (3, 7), (5, 130), (37, 256), (2, 1023), (3, 2048)]
INPUTS = ("output", "residual", "s1", "b1", "s2", "b2", "weight")


def arguments(rows: int, width: int, dtype, seed: int = 0) -> list:
    torch.manual_seed(seed)
    return [torch.randn(rows, width).to(dtype), torch.randn(rows, width),
            *(torch.randn(width).to(dtype) for _ in range(5)), 1e-5]


@every_way
@both_types
@pytest.mark.parametrize("size", SIZES, ids=["x".join(map(str, size)) for size in SIZES])
def test_equals_its_reference(size, dtype, way):
    args, module = arguments(*size, dtype), hip.kernel("residual_norm")
    stream, normed = run(way, module.launch, *args)
    wanted, wanted_normed = module.reference(*args)
    assert torch.equal(stream, wanted)          # the same operations in the same order
    assert_close(normed, wanted_normed.float(), "normed")


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 9), width=st.integers(1, 300), blocks=st.integers(1, 9), seed=st.integers(0, 99))
def test_any_size_and_any_share_of_rows(rows, width, blocks, seed):
    args, module = arguments(rows, width, torch.float32, seed), hip.kernel("residual_norm")
    for got, wanted in zip(module.launch(hip.launcher("cpu"), *args, blocks=blocks), module.reference(*args)):
        assert_close(got, wanted)


def test_a_row_of_zeros_stays_zero():
    args = arguments(2, 8, torch.float32)
    args[0].zero_(), args[1].zero_(), args[3].zero_(), args[5].zero_()
    stream, normed = hip.kernel("residual_norm").launch(hip.launcher("cpu"), *args)
    assert not stream.any() and not normed.any()


@every_way
@both_types
@pytest.mark.parametrize("size", SIZES, ids=["x".join(map(str, size)) for size in SIZES])
def test_backward_equals_autograd(size, dtype, way):
    """In bfloat16, autograd of PyTorch rounds on its way; ours rounds the gradients once. So the comparison is with a
    float32 stream into which only the forward roundings were put."""
    args, module = arguments(*size, dtype), hip.kernel("residual_norm")
    leaves = [x.float().requires_grad_() for x in args[:7]]
    output, residual, s1, b1, s2, b2, weight = leaves

    def rounded(x):      # forward as in type T, gradient as if nothing had happened
        return x + (x.to(dtype).float() - x).detach()

    stream = rounded(rounded(output + b1) * s1) + (residual + b2) * s2
    x = rounded(stream)
    normed = weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + args[7])
    pulled = torch.randn(size), torch.randn(size).to(dtype)
    wanted = torch.autograd.grad((stream * pulled[0]).sum() + (normed * pulled[1].float()).sum(), leaves)
    got = run(way, module.launch_backward, *pulled, *args)
    for name, g, right in zip(INPUTS, got, wanted):
        assert_close(g, right, name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
def test_moves_little_more_than_it_must(dtype):
    """64 rows in three blocks, 22 a block; at full size a block takes 27, so the vectors weigh even less there."""
    from minizaya.hip.trace import traced

    module = hip.kernel("residual_norm")
    args = module.example(dtype)
    gradients = torch.randn_like(args[1]), torch.randn_like(args[0])
    for call, inputs in ((module.launch, args), (module.launch_backward, (*gradients, *args))):
        with traced() as trace:
            call(trace.launcher, *inputs, **module.TRACED)
        assert trace.moved <= 1.1 * trace.least, (trace.moved, trace.least)
    assert module.shares(16384, module.BLOCKS)[1] >= 22


BUGS = [
    ("forward<false, T>", "forward<true, T>", "missing tail guard", "alone"),
    ("int first = blockIdx.x * rows_each, last = first + rows_each < rows ? first + rows_each : rows;\n  for (int row "
     "= first; row < last; row++) {\n    size_t start = (size_t)row * width;\n    quad x[TURNS], o",
     "int first = blockIdx.x * rows_each, last = first + rows_each;\n  for (int row = first; row < last; row++) {\n    "
     "size_t start = (size_t)row * width;\n    quad x[TURNS], o", "rows past the end"),
    ("rounded<T>(rounded<T>(o[turn][j] + out_bias[turn][j]) * out_scale[turn][j])",
     "rounded<T>(o[turn][j] * out_scale[turn][j] + out_bias[turn][j])", "scale before bias"),
    ("block_sum<THREADS>(squares, scratch) / width + eps);\n#pragma unroll\n    for (int turn = 0; turn < TURNS; "
     "turn++) {\n      quad y;",
     "wave_sum(squares) / width + eps);\n#pragma unroll\n    for (int turn = 0; turn < TURNS; turn++) {\n      quad y;",
     "each wave its own mean"),
    ("unit * mean", "mean", "backward: not along the row"),
    ("* 4 + k) * width, at", "* 4 + 3 - k) * width, at", "backward: sums in the wrong places"),
]


@planted.each(BUGS)
def test_planted_bugs_are_caught(bug):
    module, args = hip.kernel("residual_norm"), arguments(5, 301, torch.float32)
    pulled = (torch.randn(5, 301), torch.randn(5, 301))
    leaves = [x.requires_grad_() for x in arguments(5, 301, torch.float32)[:7]]
    stream, normed = module.reference(*leaves, 1e-5)
    wanted = [stream.detach(), normed.detach(),
              *torch.autograd.grad((stream * pulled[0]).sum() + (normed * pulled[1]).sum(), leaves)]

    def checks(launch):
        got = [*module.launch(launch, *args, blocks=2), *module.launch_backward(launch, *pulled, *args, blocks=2)]
        for mine, right in zip(got, wanted, strict=True):
            assert_close(mine, right)

    planted.caught("residual_norm", BUGS, bug, checks, [("trace", 64, "reverse"), ("cpu", 32, "7")])
