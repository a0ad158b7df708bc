"""NVIDIA's matrix instruction without a GPU: its tables on the CPU, in waves of 32, and its name in sm_90's PTX.

`fibers.cpp` plays `mma.sync.m16n8k16` by the tables of the PTX ISA and by nothing of ours; `mfma.h` says who holds
what.
Here both meet: one slice against a product in torch, and each place of `mfma.h` that may be wrong is made wrong.
"""

import re
import subprocess

import pytest
import torch

from kernel_tools import assert_close, needs_compiler
from minizaya import hip
from minizaya.hip.build import FLAGS, KERNELS
from minizaya.native import compiler

pytestmark = needs_compiler
SLICE = """
extern "C" __global__ void slice(const T* a, const T* b, float* d) {
  int lane = threadIdx.x;
  vec<T, 4> x[MFMA_ROWS], y[MFMA_COLUMNS];
  for (int i = 0; i < MFMA_ROWS; i++)
    x[i] = *(const vec<T, 4>*)(a + mfma_a_row(i, lane) * MFMA_SLICE + mfma_part(lane) * 4);
  for (int i = 0; i < MFMA_COLUMNS; i++)
    y[i] = *(const vec<T, 4>*)(b + mfma_column(i, lane) * MFMA_SLICE + mfma_part(lane) * 4);
  f32x16 acc = mfma_zero();
  for (int r = 0; r < 16; r++) acc[r] = 1.f;
  acc = mfma(x, y, acc);
  for (int i = 0; i < MFMA_COLUMNS; i++)
    for (int r = 0; r < MFMA_HELD; r++)
      d[mfma_row(r, lane) * 32 + mfma_column(i, lane)] = acc[MFMA_HELD * i + r];
}
LAUNCHABLE(slice)
"""
RAW = """#include "gpu.h"
extern "C" __global__ void raw(const unsigned* a, const unsigned* b, float* c) {
  unsigned x[4], y[4][2];
  float d[4][4] = {};
  for (int i = 0; i < 4; i++) x[i] = a[threadIdx.x * 4 + i];
  for (int i = 0; i < 8; i++) y[i / 2][i % 2] = b[threadIdx.x * 8 + i];
  mma_sync(d, x, y);
  for (int i = 0; i < 16; i++) c[threadIdx.x * 16 + i] = d[i / 4][i % 4];
}
LAUNCHABLE(raw)
"""


def slice_of(dtype, layout: str | None = None, wave=32):
    """One slice on the CPU: (D, 1 + A B^T). layout: the text of mfma.h to use in place of the file."""
    types = {torch.float32: "float", torch.bfloat16: "bf16"}
    header = '#include "gpu.h"\n'
    if layout is not None:
        header = (KERNELS / "gpu.h").read_text().replace('#include "mfma.h"', layout.replace("#pragma once", ""))
    text = header + SLICE.replace("T*", f"{types[dtype]}*").replace("vec<T,", f"vec<{types[dtype]},")
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.randn(32, 16 if wave == 32 else 8, generator=draw).to(dtype) for _ in range(2))
    d = torch.full((32, 32), float("nan"))
    hip.launcher("cpu", wave, text)("text", "slice", (1,), 64, [a, b, d])
    return d, 1 + a.double() @ b.double().T


@pytest.mark.parametrize("wave", [64, 32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
def test_a_slice_is_a_product(dtype, wave):
    assert_close(*slice_of(dtype, wave=wave))


def test_the_instruction_is_the_one_of_the_ptx_isa():
    """Registers filled and read in torch by the ISA's formulas, once more and in other words than in fibers.cpp."""
    a, b = torch.randn(16, 16).bfloat16(), torch.randn(16, 32).bfloat16()
    group, pair = torch.arange(32) // 4, torch.arange(32) % 4 * 2
    left, right = torch.empty(32, 8, dtype=torch.bfloat16), torch.empty(32, 4, 4, dtype=torch.bfloat16)
    for i, (down, across) in enumerate([(0, 0), (0, 1), (8, 0), (8, 1), (0, 8), (0, 9), (8, 8), (8, 9)]):
        left[:, i] = a[group + down, pair + across]
    for n in range(4):
        for i, down in enumerate([0, 1, 8, 9]):
            right[:, n, i] = b[pair + down, 8 * n + group]
    c = torch.empty(32, 4, 4)
    hip.launcher("cpu", 32, RAW)("text", "raw", (1,), 32, [left.view(torch.int32), right.view(torch.int32), c])
    wanted = a.float() @ b.float()
    for n in range(4):
        for i, (down, across) in enumerate([(0, 0), (0, 1), (8, 0), (8, 1)]):
            assert_close(c[:, n, i], wanted[group + down, 8 * n + pair + across], f"c{i} of tile {n}")


# what stands in mfma.h, and what would be wrong; (text, instead, what)
BUGS = [
    ("lane % 32 / 8 * 4 + lane / 4 % 2;", "lane % 32 / 4;", "rows as NVIDIA counts its columns, not by fours"),
    ("i / 2 * 16 + i % 2 * 2", "i % 2 * 16 + i / 2 * 2", "tiles of rows exchanged"),
    ("lane / 32 * 16 + i * 8 + lane % 32 / 4", "lane / 32 * 16 + i * 8 + lane % 8", "the lanes of a column apart"),
    ("lane / 32 * 16 + i * 8", "lane / 32 * 8 + i * 8", "a warp's columns over the other's"),
    ("return lane % 4; }", "return 3 - lane % 4; }", "fours of a result from behind"),
    ("r / 4 * MFMA_SLICE + 4", "r / 4 * 8 + 4", "rows of a result as on MI300"),
    ("{left[0], right[0], left[1], right[1]}", "{left[0], left[1], right[0], right[1]}",
     "rows and halves of the inner axis exchanged"),
    ("{left[0], right[0], left[1], right[1]}", "{right[0], left[0], right[1], left[1]}", "its two rows exchanged"),
    ("{left[0], right[0], left[1], right[1]}", "{left[1], right[1], left[0], right[0]}", "one side's pairs exchanged"),
    ("theirs[n][0] = row[0], theirs[n][1] = row[1];", "theirs[n][0] = row[1], theirs[n][1] = row[0];",
     "the other side's pairs exchanged"),
    ("d[n][i] = acc[i / 2 * 8 + n * 2 + i % 2];", "d[n][i] = 0.f;", "what was there is forgotten"),
    ("acc[i / 2 * 8 + n * 2 + i % 2] = d[n][i];", "acc[i % 2 * 8 + n * 2 + i / 2] = d[n][i];", "results turned over"),
    ("acc[i / 2 * 8 + n * 2 + i % 2] = d[n][i];", "acc[n * 4 + i] = d[n][i];", "results in its order, not in ours"),
]
FLOAT_BUGS = [
    ("from(mine + part, 5, j)", "from(mine + part, 4, j)", "one column twice"),
    ("mine = lane / 4 * 4", "mine = lane / 8 * 4", "another lane's column"),
    ("rows = lane % 4 * 8", "rows = lane % 4 * 4", "another lane's rows"),
    ("from(rows + r % 2 * 4 + part, r / 2, j)", "from(rows + r / 4 * 4 + part, r % 4, j)", "rows in another order"),
]


@pytest.mark.parametrize("bug", [*BUGS, *FLOAT_BUGS], ids=lambda bug: bug[2].replace(" ", "_"))
def test_a_wrong_layout_is_no_product(bug):
    """Places that a kernel asks for and the instruction's own must agree; both ways of going wrong are seen."""
    text = (KERNELS / "mfma.h").read_text()
    assert text.count(bug[0]) == 1, f"{bug[0]!r} occurs {text.count(bug[0])} times; the table must follow the code"
    dtype = torch.float32 if bug in FLOAT_BUGS else torch.bfloat16
    with pytest.raises(AssertionError, match="differ"):
        assert_close(*slice_of(dtype, text.replace(*bug[:2])))


# ---- what nvcc makes of it -------------------------------------------------------------------------------------------

needs_nvcc = pytest.mark.skipif(compiler.nvcc() is None, reason="no nvcc")


@needs_nvcc
def test_nvidia_gets_the_same_source():
    assert hip.build("residual_norm", "sm_90").stat().st_size > 1000


# what is compiled of each source: bfloat16 only, since ptxas takes half a minute for float32's attention
PRODUCTS = {
    "moe": r"MOE\(float, .*\)",
    "newton_schulz": r"NEWTON_SCHULZ\(float, .*\)",
    "cca_attention": r"(ATTENTION|MERGE)\(float, .*\)|ATTENTION\(bf16, bf16, (32|64), .*\)",
    "router": r"ROUTER\(float, .*\)",
    "cca_mix": r"CCA_MIX\(float, .*\)",
}
SPILLS = {"router_bf16", "cca_mix_any_bf16"}
ON_THE_PAGE = {      # nvcc 13.0's registers
    "moe": "| moe_hidden, moe_output, newton_schulz_product | `mma.sync` | {moe_hidden_bf16} |",
    "newton_schulz": "| moe_hidden, moe_output, newton_schulz_product | `mma.sync` | {newton_schulz_product_bf16} |",
    "cca_attention": "few_128 | `mma.sync` | {cca_attention_128_bf16}, {cca_attention_few_128_bf16} |",
    "router": "| router | `mma.sync` | {router_bf16}, of 512 threads no more |",
    "cca_mix": "| `mma.sync` | {cca_mix_bf16}, {cca_mix_backward_heads_bf16}, {cca_mix_backward_taps_bf16} |",
}


@needs_nvcc
@pytest.mark.parametrize("source", PRODUCTS)
def test_sm_90_multiplies_bfloat16_on_its_tensor_cores(source, tmp_path):
    """mma.sync in the PTX of every product, and no registers spilled to local memory but where kernels/README.md
    says so."""
    text = (KERNELS / source / f"{source}.hip").read_text()
    file = tmp_path / f"{source}.hip"
    file.write_text(re.sub(rf"^({PRODUCTS[source]})$", "", text, flags=re.M))
    kept = ["-Xptxas", "-v", "--keep", "--keep-dir", tmp_path, "-I", KERNELS, "-o", tmp_path / f"{source}.cubin"]
    done = subprocess.run([*compiler.nvcc(), *FLAGS["sm_90"], *kept, file], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    spilled = {name: int(bytes) for name, bytes in
               re.findall(r"Function properties for (\w+)\n.*?(\d+) bytes spill stores", done.stderr)}
    ptx = re.split(r"\.entry (\w+)\(", next(tmp_path.glob("*.ptx")).read_text())
    instructions = {name: body.count("mma.sync.aligned.m16n8k16") for name, body in zip(ptx[1::2], ptx[2::2])}
    assert set(spilled) == set(instructions) and any(instructions.values())
    used = dict(re.findall(r"Function properties for (\w+)\n.*\n.*Used (\d+) registers", done.stderr))
    if "release 13.0," in (compiler.said(*compiler.nvcc(), "--version")):
        assert ON_THE_PAGE[source].format(**used) in (KERNELS / "README.md").read_text()
    for name, found in instructions.items():
        assert (found > 0) != any(word in name for word in ("group", "squares", "scale", "merge")), (name, found)
        assert (spilled[name] > 0) == (name in SPILLS), f"{name}: {spilled[name]} bytes spilled"
