"""The kernels' machine code, the kernels as operators of torch, the model on them, the command and the page."""

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

pytestmark = needs_compiler
needs_clang = pytest.mark.skipif(not any(shutil.which(f"clang++{v}") for v in ("-19", "-20", "-21", "-22", "")),
                                 reason="no clang for gfx942: apt-get install clang-19 lld-19")

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


@pytest.fixture(autouse=True)
def nothing_said_yet():
    """A reason is said once a process; which test hears it must not depend on their order."""
    ops.warn.cache_clear()


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
    with pytest.warns(ops.Fallback, match="cca_attention is not used, .* no padding"):     # one prompt is shorter
        answers = mz.generate(kernels, prompts, 4, temperature=0)
    assert answers == mz.generate(fast, prompts, 4, temperature=0)


def test_what_has_no_kernel_falls_back_with_one_line():
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
