"""Lesson 14's tools: the ladder is one function five times, its figures are what the tracer counts,
the tile is the machine's."""

import re

import pytest
import torch

from kernel_tools import assert_close, needs_compiler
from minizaya import hip, laws
from minizaya.hip import ladder, tile
from minizaya.hip.trace import traced
from minizaya.laws import card
from minizaya.native import compiler

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


def test_the_tile_is_what_the_kernels_matrix_instruction_does():
    """A kernel of one instruction, fed with `rows_of` and `columns_of`, leaves what `collected` expects. MI300's, so in
    waves of 64; NVIDIA's has its own test."""
    text = ('#include "gpu.h"\nextern "C" __global__ void one(const bf16* a, const bf16* b, float* acc) {\n'
            "  f32x16 d = mfma(*(const bf16x4*)(a + 4 * threadIdx.x), *(const bf16x4*)(b + 4 * threadIdx.x), "
            "mfma_zero());\n"
            "  for (int r = 0; r < 16; r++) acc[threadIdx.x * 16 + r] = d[r];\n}\nLAUNCHABLE(one)\n")
    a, b = torch.randn(32, 8).bfloat16(), torch.randn(8, 32).bfloat16()
    acc = torch.empty(64, 16)
    lanes = tile.rows_of(a).contiguous(), tile.columns_of(b).contiguous()
    hip.launcher("cpu", 64, text)("text", "one", (1,), 64, [*lanes, acc])
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


@pytest.mark.parametrize("old, new, why", [
    ("half > 0", "half >= 0", "endless: a block has come by more branches than it may"),
    ("squares = 0.f;\n  for (int c = t; c < width; c += 256)", "squares = 0.f;\n  for (int c = t; c < width;)",
     "endless: .* text.hip:9"),
    ("sums[256]", "sums[200]", r"out of bounds: index 200 of 'float \[200\]' at text.hip:10"),
    ("for (int c = t; c < width; c += 256) squares += x[start + c] * x[start + c]",
     "for (int c = 0; c < width; c++) squares += x[start + c] * x[start + c] / 256", "it moves .* bytes where .* must"),
    ("squares += x[start + c] * x[start + c];",
     "squares += x[start + c] * x[start + c] + 0.f * (x[start + width - 1 - c] + x[start + (7 * c) % width]);",
     "it moves"),
])
def test_a_students_kernel_ends_stays_inside_and_moves_little(old, new, why):
    text = ladder.rms_norm_text()
    assert text.count(old) == 1
    verdict = laws.judge("kernels.rms_norm", lambda: text.replace(old, new), shrink=False)
    assert verdict.attempted and not verdict.passed
    assert re.search(why, verdict.message), verdict.message


def test_without_a_compiler_nobody_is_blamed(monkeypatch):
    monkeypatch.setattr(compiler, "cpp", lambda: None)
    verdict = laws.judge("kernels.rms_norm", ladder.rms_norm_text)
    assert not verdict.attempted and not verdict.passed
    assert str(verdict) == ("○ kernels.rms_norm: it cannot be judged on this machine: no C++ compiler: "
                            "`apt-get install g++`")
    assert "apt-get install g++" in card.html(verdict, laws.get("kernels.rms_norm"), {}, "my_kernel")


def test_a_small_cache_holds_what_is_read_again_and_no_more():
    """Rows twice over, waves far apart, a write: what a cache of 1000 pieces lets pass, counted by hand."""
    text = ('#include "gpu.h"\nextern "C" __global__ void k(const float* x, float* y, int far) {\n'
            "  float sum = 0.f;\n"
            "  for (int turn = 0; turn < 2; turn++)\n"
            "    for (int c = threadIdx.x; c < far; c += 64) sum += x[c];\n"
            "  y[threadIdx.x] = 0.f;\n  __syncthreads();\n  y[threadIdx.x] = sum;\n}\nLAUNCHABLE(k)\n")
    for far, again in ((16 * 900, 1), (16 * 1100, 2)):         # 900 pieces stay, of 1100 none is there when asked again
        with traced(source=text) as seen:
            seen.launcher("text", "k", (1,), 64, [torch.randn(far), torch.zeros(64), far])
        assert seen.behind_cache(64 * 1000) == {(0, 0): 4 * far * again, (0, 1): 256}
        assert seen.moved == 8 * far + 512 and seen.cached == 4 * far + 256     # a unit's share holds both
        assert [row["cached"] for row in seen.table()] == [4 * far, 256]
    with traced(source=text) as seen:                                            # each launch begins with nothing
        for _ in range(2):
            seen.launcher("text", "k", (1,), 64, [torch.randn(64), torch.zeros(64), 64])
    assert seen.cached == 2 * (256 + 256)


def test_the_first_ladder_in_the_model():
    """Behind a cache all but v0 are alike; from v1 on memory's floor is the highest; no step is predicted slower."""
    found = {step: ladder.measure(step) for step in ladder.STEPS}
    assert 1.2 < found["v0"]["cached_ratio"] < 1.3
    assert all(found[step]["cached_ratio"] < 1.05 for step in ladder.STEPS[1:])
    if found["v0"]["us"] is None:
        pytest.skip("no clang for gfx942")
    us = [found[step]["us"] for step in ladder.STEPS]
    assert us == sorted(us, reverse=True) and us[0] > 5 * us[1]
    assert found["v0"]["limit"] == "cache" and {found[step]["limit"] for step in ladder.STEPS[1:]} == {"memory"}
    assert found["v3"]["floors"]["latency"] < found["v2"]["floors"]["latency"] / 2
    assert found["v4"]["floors"]["cache"] < found["v3"]["floors"]["cache"] / 2
