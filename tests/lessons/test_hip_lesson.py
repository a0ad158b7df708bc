"""Lesson 14's tools: the ladder is one function five times, its figures are what the tracer counts,
the tile is the machine's."""

import pytest
import torch

from kernel_tools import assert_close, needs_compiler
from minizaya import hip
from minizaya.hip import ladder, tile

pytestmark = needs_compiler


@pytest.mark.parametrize("step", ladder.STEPS)
@pytest.mark.parametrize("size", [(1, 4), (5, 300), (3, 2048), (300, 64)], ids=["1x4", "5x300", "3x2048", "300x64"])
def test_every_step_computes_the_same(step, size):
    arguments = ladder.arguments(*size)
    wanted = hip.kernel("residual_norm").reference(*arguments)
    for target in ("cpu", "trace"):
        for got, right in zip(ladder.run(step, *arguments, on=hip.launcher(target)), wanted):
            assert_close(got, right, step)


def test_each_step_is_a_step():
    found = {step: ladder.measure(step) for step in ladder.STEPS}
    ratios = [found[step]["ratio"] for step in ladder.STEPS]
    assert ratios == sorted(ratios, reverse=True) and ratios[0] > 15 and ratios[-1] < 1.1
    assert found["v3"]["instructions"] * 4 == found["v2"]["instructions"]


def test_unknown_steps_are_refused():
    with pytest.raises(ValueError, match="step must be one of v0, v1, v2, v3, v4, got 'v9'"):
        ladder.source("v9")


@pytest.mark.parametrize("wave", [64, 32])
def test_the_tile_is_what_the_kernels_matrix_instruction_does(wave):
    """A kernel of one instruction, fed with `rows_of` and `columns_of`, leaves what `collected` expects."""
    text = ('#include "gpu.h"\nextern "C" __global__ void one(const bf16* a, const bf16* b, float* acc) {\n'
            "  f32x16 d = mfma(*(const bf16x4*)(a + 4 * threadIdx.x), *(const bf16x4*)(b + 4 * threadIdx.x), "
            "mfma_zero());\n"
            "  for (int r = 0; r < 16; r++) acc[threadIdx.x * 16 + r] = d[r];\n}\nLAUNCHABLE(one)\n")
    a, b = torch.randn(32, 8).bfloat16(), torch.randn(8, 32).bfloat16()
    acc = torch.empty(64, 16)
    lanes = tile.rows_of(a).contiguous(), tile.columns_of(b).contiguous()
    hip.launcher("cpu", wave, text)("text", "one", (1,), 64, [*lanes, acc])
    assert_close(tile.collected(acc), a.float() @ b.float())
    assert_close(acc, tile.multiply(*(x.float() for x in lanes)))


def test_a_forgotten_barrier_is_right_in_one_order_and_the_tracer_sees_it_there():
    """What lesson 14 shows: without v1's first barrier the order forward is wrong,
    the order reverse is right, by luck."""
    line = "  sums[t] = squares;\n"
    healthy = ladder.source("v1")
    broken = healthy.replace(line + "  __syncthreads();\n", line)
    assert broken != healthy
    inputs, errors = ladder.arguments(4, 512), {}
    stream, normed = torch.empty(4, 512), torch.empty(4, 512)
    numbers = [*inputs[:7], stream, normed, 4, 512, 1e-5]
    for order in ("forward", "reverse"):
        with hip.order(order):
            hip.launcher("cpu", 64, broken)("v1", "v1", (4,), 256, numbers)
            errors[order] = (normed - hip.kernel("residual_norm").reference(*inputs)[1]).abs().max()
            with pytest.raises(hip.KernelError, match="race in LDS|nobody wrote"):
                hip.launcher("trace", 64, broken)("v1", "v1", (4,), 256, numbers)
    assert errors["forward"] > 0.1 and errors["reverse"] < 1e-5


def test_a_students_kernel_is_checked_on_the_way():
    right = ladder.rms_norm_from(ladder.rms_norm_text())
    x, weight = torch.randn(3, 300), torch.randn(300)
    assert_close(right(x, weight, 1e-5), torch.nn.functional.rms_norm(x, (300,), weight, 1e-5))
    late = ladder.rms_norm_text().replace("  sums[t] = squares;\n  __syncthreads();", "  sums[t] = squares;")
    with pytest.raises(hip.KernelError, match="race in LDS|nobody wrote"):
        ladder.rms_norm_from(late)(x, weight, 1e-5)
