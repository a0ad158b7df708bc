"""The kernels' toolchain: what the CPU runtime catches, what the tracer counts, the machine code,
the model on kernels."""

import json
import re
import shutil
import subprocess
import sys
import warnings

import pytest
import torch

import minizaya as mz
from kernel_tools import needs_compiler
from minizaya import hip
from minizaya.hip import ops, report
from minizaya.hip.build import FLAGS, compiler
from minizaya.hip.trace import Tracer, traced

pytestmark = needs_compiler
needs_clang = pytest.mark.skipif(not any(shutil.which(f"clang++{v}") for v in ("-19", "-20", "-21", "-22", "")),
                                 reason="no clang for gfx942: apt-get install clang-19 lld-19")

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


# ---- the machine code ------------------------------------------------------------------------------------------------


@needs_clang
@pytest.mark.parametrize("source", hip.names())
def test_the_list_of_kernels_is_what_the_compiler_found(source):
    listing = hip.build(source, "gfx942").with_suffix(".s").read_text()
    assert sorted(report.declared(source)) == sorted(report.metadata(listing))


@needs_clang
@pytest.mark.parametrize("source", hip.names())
def test_gfx942_needs_no_scratch(source):
    """No scratch, no spills, LDS that fits, and none of the instructions that emulators lack."""
    for row in report.rows(source):
        assert row["scratch"] == 0 and row["spills"] == 0 and 0 <= row["lds"] <= 65536 and row["occupancy"] >= 1, row
        assert row["bytes"] > 0 and row["predicted_us"] > 0 and row["limit"] in row["floors"]
    listing = hip.build(source, "gfx942").with_suffix(".s").read_text()
    for instruction in ("s_setreg", "buffer_atomic", "s_store", "s_buffer_store", "smfmac", "scratch_"):
        assert f"\t{instruction}" not in listing, instruction


@needs_clang
@pytest.mark.parametrize("source", [name for name in hip.names() if name in
                                    ("cca_mix", "cca_attention", "router", "moe", "newton_schulz")])
def test_matrix_products_run_on_the_matrix_cores(source):
    assert any(row["mfma"] for row in report.rows(source))


# ---- as operators of torch -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["residual_norm", "cca_mix", "cca_attention", "router", "moe"])
def test_operators_pass_torchs_own_checks(name):
    """Schema, fake tensors, autograd registration, and AOT with dynamic shapes."""
    args = [x.requires_grad_() if isinstance(x, torch.Tensor) and x.is_floating_point()
            and not (name == "router" and i == 11) else x
            for i, x in enumerate(hip.kernel(name).example(torch.float32))]
    torch.library.opcheck(getattr(torch.ops.minizaya, name), tuple(args),
                          test_utils=("test_schema", "test_faketensor", "test_autograd_registration"))


def test_torch_compile_sees_them():
    module = hip.kernel("residual_norm")
    args = module.example(torch.float32)

    def layer(output, residual, *vectors):
        stream, normed = ops.residual_norm(output * 2, residual, *vectors, 1e-5)
        return stream + 1, normed

    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    for got, wanted in zip(compiled(*args[:7]), layer(*args[:7])):
        assert torch.equal(got, wanted)


# ---- the model -------------------------------------------------------------------------------------------------------

TINY = dict(num_hidden_layers=2, hidden_size=48, head_dim=16, moe_intermediate_size=24, router_hidden_size=20)


def pair(**changes):
    """The same model on PyTorch's fast path and on kernels."""
    cfg = mz.ZayaConfig.preset("nano", **TINY | changes)
    models = []
    for backend in ("fast", "hip"):
        torch.manual_seed(0)
        models.append(mz.Zaya(cfg, backend=backend))
    torch.manual_seed(1)
    for p in models[0].parameters():      # scales and biases away from one and zero, so that they matter
        if p.dim() == 1:
            p.data += 0.1 * torch.randn_like(p)
    models[1].load_state_dict(models[0].state_dict())
    return models


INPUTS = {"plain": {}, "documents": dict(doc_ids=torch.tensor([[1] * 5 + [2] + [1] * 13, [3] * 19])),
          "padding": dict(mask=torch.arange(19)[None] >= torch.tensor([[3], [0]]))}


@pytest.mark.parametrize("what", INPUTS)
def test_the_model_on_kernels_equals_the_model(what):
    """Logits, routes and every gradient, in float32."""
    fast, kernels = pair()
    tokens = torch.randint(1, 100, (2, 19))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ops.Fallback)
        results = [model(tokens, **INPUTS[what]) for model in (fast, kernels)]
    assert torch.equal(results[0].routes, results[1].routes)
    torch.testing.assert_close(results[1].logits, results[0].logits, rtol=1e-5, atol=1e-5)
    for result in results:
        result.logits.square().mean().backward()
    for (name, p), q in zip(fast.named_parameters(), kernels.parameters()):
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-4, atol=1e-6 + 1e-5 * float(p.grad.abs().max()), msg=name)


def test_decoding_with_a_cache_and_replay():
    fast, kernels = pair()
    tokens = torch.randint(1, 100, (2, 9))
    whole = fast(tokens)
    cache = kernels.new_cache(2)
    with torch.no_grad():
        steps = [kernels(tokens[:, :4], cache=cache)] + [kernels(tokens[:, t:t + 1], cache=cache) for t in range(4, 9)]
    torch.testing.assert_close(torch.cat([s.logits for s in steps], 1), whole.logits.detach(), rtol=1e-5, atol=1e-5)
    routes = torch.randint(-1, 5, whole.routes.shape)
    replayed = kernels(tokens, routes=routes)
    assert torch.equal(replayed.routes[routes >= 0], routes[routes >= 0])
    torch.testing.assert_close(replayed.logits, fast(tokens, routes=routes).logits, rtol=1e-5, atol=1e-5)


def test_sliding_layers():
    fast, kernels = pair(layer_types=("hybrid_sliding", "hybrid"), sliding_window=5)
    tokens = torch.randint(1, 100, (1, 17))
    torch.testing.assert_close(kernels(tokens).logits, fast(tokens).logits, rtol=1e-5, atol=1e-5)


def test_generate_and_engine_run_on_kernels():
    fast, kernels = pair()
    prompts = [[5, 6, 7], [8, 9]]
    assert mz.generate(kernels, prompts, 4, temperature=0) == mz.generate(fast, prompts, 4, temperature=0)


def test_what_has_no_kernel_falls_back_with_one_line():
    ops.warn.cache_clear()
    _, kernels = pair()
    tokens = torch.randint(1, 100, (1, 5))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        double = kernels.double()
        first, second = double(tokens).logits, double(tokens).logits
    lines = [str(w.message) for w in said if w.category is ops.Fallback]
    assert any("kernel residual_norm is not used, PyTorch does its work: type torch.float64" in line for line in lines)
    assert len(lines) == len(set(lines)), "each reason is said once"
    assert torch.equal(first, second) and first.dtype == torch.float64


def test_without_compilers_everything_else_works(tmp_path):
    """An empty PATH: the model runs, the command lists what it knows, and both say what is missing."""
    code = ("import warnings, torch, minizaya as mz; warnings.simplefilter('always')\n"
            f"m = mz.Zaya(mz.ZayaConfig.preset('nano', **{TINY}), backend='hip')\n"
            "print(tuple(m(torch.ones(1, 3, dtype=torch.int64)).logits.shape))")
    env = dict(PATH=str(tmp_path), HOME=str(tmp_path), PYTHONPATH=str(hip.KERNELS.parent))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 0 and "(1, 3, 113)" in done.stdout, done.stderr
    assert "no C++ compiler" in done.stderr
    done = subprocess.run([sys.executable, "-m", "minizaya", "kernels", "--json"], capture_output=True, text=True,
                          env=env)
    found = json.loads(done.stdout)
    assert done.returncode == 0 and "no compiler for gfx942" in done.stderr and found[0]["vgpr"] is None


# ---- the command -----------------------------------------------------------------------------------------------------


@needs_clang
def test_the_command_prints_every_kernel(capsys):
    from minizaya.__main__ import main

    assert main(["kernels", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["source"] for row in found} == set(hip.names())
    wanted = {"name", "vgpr", "lds", "scratch", "spills", "occupancy", "bytes", "flops", "predicted_us", "hsaco"}
    assert all(wanted <= set(row) for row in found) and len({row["name"] for row in found}) == len(found)
    assert main(["kernels"]) == 0 and "residual_norm_bf16" in capsys.readouterr().out


def test_the_command_traces(capsys):
    from minizaya.__main__ import main

    assert main(["kernels", "cca_attention", "--trace", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)[0]
    assert found["moved"] > 3 * found["least"] and found["least"] <= found["cached"] < 1.1 * found["least"]
    assert sum(tensor["cached"] for tensor in found["tensors"]) == found["cached"]


def test_flags_pin_what_all_targets_must_share():
    assert "-ffp-contract=off" in FLAGS["cpu"] and "-ffp-contract=off" in FLAGS["gfx942"]
    assert "-fmad=false" in FLAGS["sm_90"]
    assert compiler("cpu")


# ---- the page of gpu.h -----------------------------------------------------------------------------------------------

DECLARED = (r"(?:__device__ __forceinline__|DEVICE) +(?:\w+(?:<[\w, ]+>)?[&*]? )+(\w+)(?:<\w+>)?\(", r"#define (\w+)",
            r"^constexpr \w+ (\w+)", r"^static __device__ const \w+ (\w+)", r"struct alignas\(sizeof.*\) (\w+) ",
            r"^typedef .*?(\w+)(?: __attribute__.*)?;", r"^(?:template <.*> )?struct (\w+)(?:;| \{)")
# what threadIdx.x calls, and mfma off AMD
INSIDE = {"get_x", "get_y", "get_z", "mfma_in_floats", "mma_sync"}


def offered():
    """Functions, types, constants and macros of the headers, but those whose name begins with mz."""
    text = "\n".join((hip.KERNELS / f"{name}.h").read_text() for name in ("gpu", "bare", "numbers", "mfma"))
    found = {name for pattern in DECLARED for name in re.findall(pattern, re.sub("//.*", "", text), re.M)}
    return {name for name in found if not name.lower().startswith("mz")} - INSIDE


def test_the_page_of_gpu_h_names_all_that_it_offers_and_nothing_else():
    page = (hip.KERNELS / "README.md").read_text().split("## What gpu.h offers")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`.*?) \| ", page, re.M)
    told = {re.match(r"\w+", name)[0] for cell in cells for name in re.findall("`([^`]+)`", cell)}
    assert told == offered() and len(told) > 50
