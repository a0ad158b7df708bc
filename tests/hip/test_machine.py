"""An MI300X on paper: what one wave executes is counted, not guessed, and the floors follow from it."""

import json
import shutil

import pytest
import torch

from minizaya import hip
from minizaya.hip import report
from minizaya.hip.build import NoCompiler
from minizaya.hip.machine import mca
from minizaya.hip.machine.floors import FLOORS, counted, floors, loop
from minizaya.hip.machine.listing import kernels_of
from minizaya.hip.machine.memory import FAR, NEAR
from minizaya.hip.machine.wave import Wave

needs_clang = pytest.mark.skipif(not any(shutil.which(f"clang++{v}") for v in ("-19", "-20", "-21", "-22", "")),
                                 reason="no clang for gfx942: apt-get install clang-19 lld-19")
pytestmark = needs_clang


def ran(body, args, block=(0, 0, 0), parameters="float* y, const int* x, int n"):
    """One wave of a kernel with this body."""
    text = (f'#include "gpu.h"\nextern "C" __global__ void __launch_bounds__(256) k({parameters}) {{\n{body}\n}}\n'
            "LAUNCHABLE(k)\n")
    code = kernels_of(hip.build(text, "gfx942").with_suffix(".s").read_text())["k"]
    return code, Wave(code, args, block).run()


def times(code, wave, op):
    return sum(n for at, n in wave.done.items() if code.instructions[at].op == op)


@pytest.mark.parametrize("n, block", [(0, 0), (1, 3), (17, 5), (1000, 2)])
def test_a_loop_runs_as_often_as_it_would(n, block):
    """Its length comes by division, remainder, products and shifts of arguments, blockIdx and memory: none is guessed.
    Barriers count the turns, since no compiler may take one away."""
    x = torch.arange(40, 80, dtype=torch.int32)
    body = ("int turns = (n / 7 + x[blockIdx.x] % 5) * 3 - (n >> 2 & 1);\n"
            "for (int i = 0; i < turns; i++) __syncthreads();\n"
            "int mine = threadIdx.x / (n + 3) + blockIdx.x;\n"
            "for (int i = 0; i < mine; i += 2) __syncthreads();\n  y[threadIdx.x] = 1.f;")
    code, wave = ran(body, [torch.zeros(64), x, n], (block, 0, 0))
    slowest = 63 // (n + 3) + block          # a wave goes on until its last lane is done
    assert times(code, wave, "s_barrier") == (n // 7 + (40 + block) % 5) * 3 - (n >> 2 & 1) + (slowest + 1) // 2


@pytest.mark.parametrize("stride, clocks", [(1, 2), (2, 4), (32, 64), (33, 2)])
def test_banks_of_lds_are_counted_from_addresses(stride, clocks):
    body = ("__shared__ float s[64 * 33];\n"
            f"s[threadIdx.x * {stride}] = n;\n__syncthreads();\ny[threadIdx.x] = s[(threadIdx.x ^ 1) * {stride}];")
    assert ran(body, [torch.zeros(64), None, 3])[1].unit["lds"] == 2 * clocks


def test_a_wait_straight_behind_each_load_is_seen():
    """A chain of four loads takes four round trips; four loads side by side take one."""
    huge = torch.empty(2**26, dtype=torch.int32, device="meta")
    chain = ran("int at = threadIdx.x; for (int i = 0; i < 4; i++) at = x[at & 1023]; y[threadIdx.x] = at;",
                [torch.zeros(64), huge, 4])[1]
    side = ran("int at = threadIdx.x, sum = 0;\n#pragma unroll\nfor (int i = 0; i < 4; i++) sum += x[at + 64 * i];\n"
               "y[at] = sum;", [torch.zeros(64), huge, 4])[1]
    assert chain.unit["vmcnt waits"] == 4 and 4 * FAR - 100 < chain.unit["vmcnt clocks"] <= 4 * FAR
    assert 1 <= side.unit["vmcnt waits"] <= 4 and side.unit["vmcnt clocks"] < FAR + 100
    near = ran("y[threadIdx.x] = x[threadIdx.x];", [torch.zeros(64), torch.zeros(64, dtype=torch.int32), 4])[1]
    assert NEAR - 100 < near.unit["vmcnt clocks"] <= NEAR


def test_matrix_clocks_and_who_waits_for_them():
    body = ("f32x16 acc = mfma_zero(); bf16x4 a;\nfor (int j = 0; j < 4; j++) a[j] = from_float<bf16>(n + j);\n"
            "for (int i = 0; i < n; i++) acc = mfma(a, a, acc);\n"
            "for (int r = 0; r < 16; r++) y[64 * r + threadIdx.x] = acc[r];")
    wave = ran(body, [torch.zeros(1024), None, 9])[1]
    assert wave.unit["mfma"] == 9 * 32 <= wave.clock


def test_what_it_does_not_know_it_says():
    code, _ = ran("y[threadIdx.x] = n;", [torch.zeros(64), None, 3])
    one = next(one for one in code.instructions if one.kind == "vector")
    one.op = "v_of_tomorrow"
    with pytest.raises(hip.KernelError, match="unknown instruction"):
        Wave(code, [torch.zeros(64), None, 3]).run()
    with pytest.raises(hip.KernelError, match="more than 1000 instructions"):
        Wave(ran("for (int i = 0; i < n; i++) __syncthreads();", [torch.zeros(64), None, 1])[0],
             [torch.zeros(64), None, 10**6], most=1000).run()


def test_floors_of_a_kernel_that_only_moves():
    """residual_norm: the least that memory takes is bytes over bandwidth, and few waves take as long as one."""
    row = next(row for row in report.rows("residual_norm") if row["name"] == "residual_norm_bf16")
    us = row["floors"]
    assert us["hbm"] == pytest.approx(row["bytes"] / 4.33e6, rel=1e-6) and us["ceiling"] is None
    assert us["us"] == max(us[name] for name in FLOORS) == us[us["limit"]]
    one = floors("balance", "balance_f32", 10, 8)
    found = counted("balance", "balance_f32")
    assert found["waves"] == 40 and one["vector"] == pytest.approx(found["unit"]["vector"] / 2100)


@pytest.mark.skipif(not shutil.which("clang++-19"), reason="the tables are those of clang 19")
@pytest.mark.parametrize("source", hip.names())
def test_readmes_say_what_the_listing_says(source):
    """Registers, LDS, waves and floors of every kernel, as counted now."""
    text = (hip.KERNELS / source / "README.md").read_text()
    table = report.markdown(source)
    assert table in text, f"kernels/{source}/README.md must hold this table:\n{table}"


MCA = pytest.mark.skipif(mca.analyser() is None or not shutil.which("clang++-19"),
                         reason="no llvm-mca: apt-get install llvm-19")


@MCA
@pytest.mark.parametrize("source, kernel", [*mca.MAIN.items(), ("moe", "moe_hidden_f32"), ("balance", "balance_f32")])
def test_llvm_mca_counts_the_same_but_for_what_takes_sixteen_clocks_here(source, kernel):
    found = mca.beside(source, kernel)
    assert found["ours"]["mfma"] == found["theirs"]["mfma"]
    assert found["ours"]["vector"] - found["theirs"]["vector"] == 12 * found["slow"]


@MCA
def test_the_page_holds_llvm_mcas_table():
    assert mca.markdown() in (hip.KERNELS / "README.md").read_text(), mca.markdown()


def test_without_llvm_mca_it_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(mca.shutil, "which", lambda name: None)
    with pytest.raises(NoCompiler, match="no llvm-mca"):
        mca.beside("moe", "moe_output_bf16")


def test_explain(capsys):
    from minizaya.__main__ import main

    hot = loop("moe", "moe_hidden_bf16")
    assert hot["kinds"]["mfma"] >= 8 and hot["turns"] * hot["kinds"]["mfma"] == 1024    # 2048 / 8 steps, 2 x 2 squares
    assert main(["kernels", "--explain", "moe_hidden_bf16"]) == 0
    said = capsys.readouterr().out
    assert "v_mfma_f32_32x32x8_bf16" in said and "limit: " in said
    assert main(["kernels", "--explain", "moe_hidden_bf16", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["loop"]["turns"] == hot["turns"]
    assert main(["kernels", "--explain", "nothing"]) == 2
    assert "--explain must be one of residual_norm_f32" in capsys.readouterr().err
