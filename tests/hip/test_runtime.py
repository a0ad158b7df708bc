"""The kernels on the CPU: what the runtime and the tracer catch, which input they refuse, what is counted."""

import pytest
import torch

from kernel_tools import needs_compiler
from minizaya import hip
from minizaya.hip.trace import Tracer, traced

pytestmark = needs_compiler

# ---- what the runtime catches ----------------------------------------------------------------------------------------

WRONG = {
    "divergent barrier": ("""
  if (threadIdx.x < 100) __syncthreads();
  else { y[threadIdx.x] = 1.f;
    __syncthreads(); }""", r"divergent barrier.*text.hip:5 and at text.hip:7"),
    "divergent shuffle": ("""
  float v = threadIdx.x;
  if (threadIdx.x % 32 < 16) v = __shfl_xor(v, 1);
  else v = __shfl_xor(v, 2);
  y[threadIdx.x] = v;""", r"divergent wave operation.*text.hip:6 and at text.hip:7"),
    "half a wave": ("""
  float v = threadIdx.x;
  if (threadIdx.x % WAVE < WAVE / 2) v = __shfl_xor(v, 1);
  __syncthreads();
  y[threadIdx.x] = v;""", r"deadlock: .*wait at a wave operation at text.hip:6.*wait at __syncthreads at text.hip:7"),
    "lane that has returned": ("""
  if (threadIdx.x >= 16) return;
  y[threadIdx.x] = __shfl_xor((float)threadIdx.x, 16);""",
  r"shuffle reads lane 16, which is not active, at text.hip:6"),
    "matrix instruction without all lanes": ("""
  if (threadIdx.x % 64 == 3) return;
  vec<float, 4> a[MFMA_ROWS] = {}, b[MFMA_COLUMNS] = {};
  y[threadIdx.x] = mfma(a, b, mfma_zero())[0];""", r"needs all (64|32) lanes.*text.hip:7"),
    "matrix instruction in bfloat16 without all lanes": ("""
  if (threadIdx.x % 64 == 3) return;
  bf16x4 a[MFMA_ROWS] = {}, b[MFMA_COLUMNS] = {};
  y[threadIdx.x] = mfma(a, b, mfma_zero())[0];""", r"needs all (64|32) lanes.*text.hip:7"),
}
# what only the tracer sees: (body, message)
TRACED = {
    "missing barrier": ("""
  __shared__ float s[256];
  s[threadIdx.x] = y[threadIdx.x];
  y[threadIdx.x] = s[(threadIdx.x + 1) % 256];""",
  r"race in LDS: .* at text.hip:[67] and at text.hip:[67]|nobody wrote.*text.hip:7"),
    "read too early": ("""
  __shared__ float s[256];
  if (threadIdx.x) s[threadIdx.x] = y[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x];""", r"reads LDS that nobody wrote: at text.hip:8"),
    "past the end": ("\n  y[threadIdx.x + 1] = 0.f;",
                     r"out of bounds: write of 4 bytes, 4 bytes past the end of tensor #0 at text.hip:5"),
    "before the start": ("\n  if (y[(int)threadIdx.x - 1] > 1e30f) y[0] = 1.f;",
                         r"out of bounds: read of 4 bytes, 4 bytes before the start"),
    "race of two blocks": ("\n  y[0] = blockIdx.x;", r"race in global memory"),
    "histogram without atomics": ("\n  y[threadIdx.x % 3] += 1.f;", r"race in global memory"),
    "misaligned": ("\n  if (threadIdx.x < 9) *(vec<float, 4>*)(y + 128 + 4 * threadIdx.x) = *(vec<float, 4>*)(y + 1 + "
                   "4 * threadIdx.x);", r"misaligned: 16 bytes"),
    "an index that its array does not have, where another array wrote": ("""
  __shared__ float s[256], also[256];
  s[threadIdx.x] = also[threadIdx.x] = 1.f;
  __syncthreads();
  y[threadIdx.x] = s[3] + also[255] + (threadIdx.x ? s[threadIdx.x] : also[256]);""",
  r"out of bounds: index 256 of 'float \[256\]' at text.hip:8"),
    "an index before its array": ("""
  __shared__ float s[256];
  s[threadIdx.x] = 1.f;
  __syncthreads();
  y[threadIdx.x] = s[(int)threadIdx.x - 1];""", r"out of bounds: index -1 of 'float \[256\]' at text.hip:8"),
    "a row of a table that runs into the next": ("""
  __shared__ float s[4][64];
  s[threadIdx.x / 64][threadIdx.x % 64] = 1.f;
  __syncthreads();
  if (threadIdx.x < 128) y[threadIdx.x] = s[0][threadIdx.x];""",
  r"out of bounds: index \d+ of 'float \[64\]' at text.hip:8"),
    "a loop that nothing can end": ("""
  if (y[0] > 1.f) for (;;) {}
  int n = threadIdx.x;
  for (;;) n = 3 * n + 1;
  y[threadIdx.x] = n;""", r"endless: a loop that nothing can end at text.hip:5"),
    "a loop that ends for nobody": ("\n  for (int i = 1; i; i |= 1) y[threadIdx.x] += i;",
                                    r"endless: a block has come by more branches than it may"),
}


def kernel_text(body: str) -> str:
    return f'#include "gpu.h"\n\nextern "C" __global__ void wrong(float* y) {{\n{body}\n}}\nLAUNCHABLE(wrong)\n'


@pytest.mark.parametrize("target", ["cpu", "trace"])
@pytest.mark.parametrize("wave", [64, 32])
@pytest.mark.parametrize("what", WRONG)
def test_the_runtime_catches(what, wave, target):
    body, message = WRONG[what]
    with pytest.raises(hip.KernelError, match=message):
        hip.launcher(target, wave, kernel_text(body))("text", "wrong", (1,), 256, [torch.zeros(256)])


@pytest.mark.parametrize("order", ["forward", "reverse", "5"])
@pytest.mark.parametrize("what", TRACED)
def test_the_tracer_catches(what, order):
    body, message = TRACED[what]
    launch = Tracer(None, kernel_text(body), branches=2**16)
    with pytest.raises(hip.KernelError, match=message), hip.order(order):
        launch("text", "wrong", (2,), 256, [torch.zeros(256)])


def test_right_kernels_are_left_alone():
    """Shuffles, barriers in a loop, atomics on LDS and on global memory, threads that return early:
    none is an error."""
    body = """
  __shared__ int seen[4];
  if (threadIdx.x < 4) seen[threadIdx.x] = 0;
  __syncthreads();
  for (int i = 0; i < 3; i++) { atomicAdd(&seen[threadIdx.x % 4], 1); __syncthreads(); }
  float total = wave_sum(1.f);
  if (threadIdx.x >= 4) return;
  atomicAdd(y + threadIdx.x, seen[threadIdx.x] + total);"""
    for target, wave in (("cpu", 64), ("cpu", 32), ("trace", 64), ("trace", 32)):
        y = torch.zeros(256)
        hip.launcher(target, wave, kernel_text(body))("text", "wrong", (2,), 256, [y])
        assert y[:5].tolist() == [2 * (3 * 64 + wave)] * 4 + [0]


@pytest.mark.parametrize("order, wanted", [("forward", list(range(8))), ("reverse", list(range(7, -1, -1)))])
def test_the_threads_run_in_the_order_asked_for(order, wanted):
    """From the start and again after each barrier, also one that a returning thread opens."""
    text = """#include "gpu.h"
extern "C" __global__ void arrive(int* count, int* seen, int leave) {
  for (int i = 0; i < 3; i++) {
    seen[8 * i + count[i]++] = threadIdx.x;
    if (i == 1 && threadIdx.x == leave) return;
    __syncthreads();
  }
}
LAUNCHABLE(arrive)
"""
    seen = torch.full((3, 8), -1, dtype=torch.int32)
    with hip.order(order):
        hip.launcher("cpu", 64, text)("text", "arrive", (1,), 8, [torch.zeros(3, dtype=torch.int32), seen, wanted[-1]])
    assert seen.tolist() == [wanted, wanted, [*wanted[:-1], -1]]


# ---- bad input -------------------------------------------------------------------------------------------------------


def test_what_the_compiler_refuses_is_said():
    with pytest.raises(hip.KernelError, match="the compiler refused(.|\n)*not_a_type"):
        hip.build(kernel_text("\n  not_a_type x;"), "cpu")


@pytest.mark.parametrize("call, message", [
    (lambda: hip.build("residual_norm", "gfx1100"), "target must be one of cpu, trace, gfx942, sm_90, got 'gfx1100'"),
    (lambda: hip.build("residual_norm", "cpu", wave=16), "wave must be 64, or 32 on other targets than gfx942, got 16"),
    (lambda: hip.kernel("nothing"), "name must be one of residual_norm, .*, got 'nothing'"),
])
def test_wrong_names_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_launch_refuses_what_it_cannot_take():
    launch, source = hip.launcher("cpu", 64, kernel_text("\n  y[0] = 1.f;")), "text"
    with pytest.raises(hip.KernelError, match="argument 0 must be a contiguous tensor"):
        launch(source, "wrong", (1,), 64, [torch.zeros(4, 4).T])
    with pytest.raises(hip.KernelError, match="a block must have 1 to 1024 threads"):
        launch(source, "wrong", (1,), 2000, [torch.zeros(4)])
    with pytest.raises(hip.KernelError, match="at most 65536 bytes of LDS, got 70000"):
        launch(source, "wrong", (1,), 64, [torch.zeros(4)], lds=70000)
    with pytest.raises(hip.KernelError, match="no kernel 'other'"):
        launch(source, "other", (1,), 64, [torch.zeros(4)])


def test_launches_are_recorded():
    module = hip.kernel("residual_norm")
    with hip.recorded() as launches:
        module.launch(hip.launcher("cpu"), *module.example(torch.float32))
    assert [launch.kernel for launch in launches] == ["residual_norm_f32"] and len(launches[0].args) == 13


# ---- what the tracer counts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride, share", [(1, 1), (2, 2), (16, 16), (32, 16)])
def test_strided_reads_move_whole_pieces(stride, share):
    """64 lanes read one float each, `stride` floats apart: of each 64-byte piece, one float in `share` is used."""
    x, y = torch.zeros(64 * stride), torch.zeros(64)
    text = (f'#include "gpu.h"\nextern "C" __global__ void reads(const float* x, float* y) {{ y[threadIdx.x] = '
            f'x[threadIdx.x * {stride}]; }}\n'
            "LAUNCHABLE(reads)\n")
    with traced(source=text) as trace:
        trace.launcher("text", "reads", (1,), 64, [x, y])
    reads = trace.where(tensor=0)
    assert reads.asked == reads.least == 256 and reads.moved == 256 * share
    assert trace.where(tensor=1).moved == 256


@pytest.mark.parametrize("stride, cycles", [(1, 1), (2, 2), (32, 32), (33, 1)])
def test_bank_conflicts(stride, cycles):
    text = ('#include "gpu.h"\nextern "C" __global__ void banks(float* y) { __shared__ float s[64 * 33]; '
            f"s[threadIdx.x * {stride}] = 1.f; __syncthreads(); y[threadIdx.x] = s[(threadIdx.x ^ 1) * {stride}]; }}\n"
            "LAUNCHABLE(banks)\n")
    with traced(source=text) as trace:
        trace.launcher("text", "banks", (1,), 64, [torch.zeros(64)])
    assert trace.conflicts() == cycles
