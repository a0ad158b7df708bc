"""Numbers in the kernels' pages, compared with the listing, the tracer and the tables of planted bugs.

`said` builds each sentence from what is counted now; the page must hold it, line breaks aside.
"""

import ast
import functools
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch

from minizaya import hip
from minizaya.hip import report
from minizaya.hip.machine.floors import UNITS, counted, loop
from minizaya.hip.machine.listing import kernels_of
from minizaya.hip.machine.memory import FAR
from minizaya.hip.machine.wave import cost_of
from minizaya.hip.trace import traced
from minizaya.train import muon

pytestmark = pytest.mark.skipif(not shutil.which("clang++-19") or not shutil.which("g++"),
                                reason="the numbers are those of clang 19 and of the tracer, which needs g++")
TABLES = ("BUGS", "ANY", "FULL", "EARLY")
TOKENS = report.TOKENS


def page(name: str) -> str:
    return " ".join((hip.KERNELS / name / "README.md").read_text().split())


def row(kernel: str) -> dict:
    source = next(name for name in hip.names() if kernel in report.declared(name))
    return next(row for row in report.rows(source) if row["name"] == kernel)


def planted(name: str) -> list[str]:
    """The bugs that a kernel's tests plant, as text."""
    tree = ast.parse(Path(__file__).with_name(f"test_kernel_{name}.py").read_text())
    return [ast.unparse(bug) for one in tree.body if isinstance(one, ast.Assign) and one.targets[0].id in TABLES
            for bug in one.value.elts]


@functools.cache
def times(name: str, dtype: torch.dtype, which: str = "moved", launch: str = "launch", **more) -> float:
    """What the tracer counts of a kernel's example, over the fewest bytes."""
    module = hip.kernel(name)
    with traced() as found:
        getattr(module, launch)(found.launcher, *module.example(dtype), **more)
    return getattr(found, which) / found.least


def of_activations(sizes: dict) -> float:
    """cca_mix on 64 tokens: q, k, v and the packed row, without weights and angles."""
    module = hip.kernel("cca_mix")
    with traced() as found:
        module.launch(found.launcher, *module.example(torch.bfloat16, steps=64, **sizes))
    rows = [row for row in found.table() if row["shape"][:2] == [1, 64] and row["tensor"] not in (6, 7)]
    return sum(row["moved"] for row in rows) / sum(row["least"] for row in rows)


def share_of_vector(source: str, kernel: str, *ops: str) -> float:
    code = kernels_of(hip.build(source, "gfx942").with_suffix(".s").read_text(), kernel)[kernel].instructions
    spent = Counter()
    for at, n in counted(source, kernel)["done"].items():
        if code[at].kind in ("vector", "transcendental"):
            spent[code[at].op] += n * cost_of(code[at])
    return sum(spent[op] for op in ops) / spent.total()


def residual_norm():
    module, of = hip.kernel("residual_norm"), {"bf16": torch.bfloat16, "f32": torch.float32}
    moved = {name: times("residual_norm", dtype, **module.TRACED) for name, dtype in of.items()}
    yield f"The tracer counts {moved['bf16']:.2f} (bf16) and {moved['f32']:.2f} (f32) on the example"
    yield f"({TOKENS} tokens take {row('residual_norm_bf16')['floors']['blocks']})"
    (blocks,), each = module.shares(TOKENS, module.BLOCKS)
    yield f"At most {module.BLOCKS} blocks, two for each of {UNITS} compute units"
    yield f"a block takes {each} rows: {10 * blocks / (12 * TOKENS):.0%} above the least"
    yield f"In float32 it is 16 n and 20 n: {20 * blocks / (16 * TOKENS):.0%}"
    ops = Counter(one.split()[0] for n, one in loop("residual_norm", "residual_norm_bf16")["lines"])
    assert ops["s_barrier"] == 2 and ops["global_load_dwordx2"] == ops["global_load_dwordx4"] == 2
    yield "and two barriers a row"


def cca_mix():
    weights, each = 10 * 128 * 128 * 2 * 2, 6144
    found, activations = row("cca_mix_bf16"), each * TOKENS
    assert abs(found["bytes"] - activations - weights) < 10_000            # biases and filters
    yield f"{each:,} bytes a token at ZAYA1-8B in bfloat16, {found['bytes'] / 1e6:.0f} MB for {TOKENS} tokens"
    yield f"Weights apart: {weights / 1e3:.0f} KB in bfloat16"
    blocks = found["floors"]["blocks"]
    yield f"{weights / 2e3:.0f} KB), from L2: {blocks} blocks move {blocks * weights / 2e6:.0f} MB"
    yield (f"LDS {found['lds'] / 1e3:.0f} KB (bf16): two blocks on a compute unit. "
           f"In float32 {row('cca_mix_f32')['lds'] / 1e3:.0f} KB")
    share = share_of_vector("cca_mix", "cca_mix_bf16", "v_bfe_u32", "v_add3_u32")
    yield f"rounding to bfloat16 twice, two instructions each, {share:.0%} of its vector clocks"


def cca_attention():
    found, us = row("cca_attention_128_bf16"), row("cca_attention_128_bf16")["floors"]
    yield f"{found['bytes'] / 1e6:.0f} MB, {us['hbm']:.0f} us from HBM, {us['infinity']:.0f} from the Infinity Cache."
    yield f"{found['flops'] / 1e9:.0f} GFLOP under the diagonal, {us['matrix_sheet']:.0f} us at the matrix cores' peak"
    hot = loop("cca_attention", "cca_attention_128_bf16")
    yield f"Of a step of 32 keys ({hot['clocks']['mfma']:,} clocks of the matrix cores)"
    both, tiles = 2 * TOKENS * 2 * 128 * 2, us["blocks"] // 2
    yield f"{tiles} tiles, half of {both / 1e6:.1f} MB each, {tiles * both / 2e9:.1f} GB"
    yield f"{len(planted('cca_attention'))} planted bugs"


def router():
    found = row("router_bf16")
    a_token = (2048 + 2 * 256 + 17 + 1) * 2 + 8
    assert found["bytes"] - a_token * TOKENS < 1.4e6                       # the weights
    yield (f"= {a_token:,} bytes a token, {a_token * TOKENS / 1e6:.0f} MB for {TOKENS:,} tokens: "
           f"{found['floors']['hbm']:.0f} us")
    weights, blocks = found["bytes"] - a_token * TOKENS, found["floors"]["blocks"]
    yield f"Weights are apart: {weights / 1e6:.1f} MB in bfloat16"
    yield f"{blocks} blocks x {weights / 1e6:.1f} MB = {blocks * weights / 1e6:.0f} MB"
    yield f"LDS {found['lds']:,} bytes (bf16), {row('router_f32')['lds']:,} (f32)"
    answers = FAR / 2100                                                   # us
    x = 2 * 64 * 128 * blocks                           # two steps of 128 bytes of 64 tokens
    yield f"at no more than {x / answers / 1e6:.0f} TB/s if memory answers in {answers:.1f} us"


def balance():
    found = row("balance_f32")
    yield f"64 threads are one wave, {found['lds']} bytes of LDS, {found['vgpr']} VGPRs, no scratch"
    yield f"{found['bytes']:,} bytes in all"
    moved, cached = (times("balance", torch.float32, which) for which in ("moved", "cached"))
    yield f"the tracer counts {moved:.2f} times the fewest bytes, behind a small cache {cached:.2f}"


def moe():
    assert row("moe_hidden_bf16")["floors"]["blocks"] == 32 * (TOKENS // 128 + 16)
    assert row("moe_output_bf16")["floors"]["blocks"] == 16 * (TOKENS // 128 + 16 + 1)
    yield f"{len(planted('moe'))} planted bugs"
    at_once = re.search(r"EACH = (\d+);", (hip.KERNELS / "moe/moe.hip").read_text())[1]
    yield f"{at_once} loads of each thread under way at a time"


def route_tape():
    rows = report.rows("route_tape")
    yield f"At most {max(row['vgpr'] for row in rows)} VGPRs, {rows[0]['lds']} bytes of LDS, no scratch"
    yield (f"{rows[0]['bytes'] // TOKENS} in all. For {TOKENS:,} tokens {rows[0]['bytes'] / 1e6:.1f} MB, "
           f"{rows[0]['floors']['hbm']:.1f} us")
    moved = times("route_tape", torch.int64)
    yield f"{moved * rows[0]['bytes'] / TOKENS:.0f} a token, {moved:.3f} times the fewest"
    yield f"With int16 ids ({rows[2]['bytes'] // TOKENS} bytes a token) the tape's unused room weighs more: " \
          f"{times('route_tape', torch.int16):.2f} times"


def span_gather():
    found = row("span_gather_i64")
    blocks = 65536 // found["lds"]
    assert blocks == 7
    yield f"{found['vgpr']} VGPRs, {found['lds'] / 1000:.1f} KB of LDS (static), no scratch: seven blocks of 4 waves"
    yield f"{found['bytes'] / 1e3:.0f} KB, {found['floors']['hbm']:.1f} us"
    yield f"{times('span_gather', torch.int64):.2f} times the fewest for the example"
    yield f"{times('span_gather', torch.float32):.2f} for four-byte numbers"


def newton_schulz():
    hot = loop("newton_schulz", "newton_schulz_product_bf16")
    lines = [line.split()[0] for _, line in hot["lines"]]
    loaded, read = lines.count("global_load_dwordx4") * 256 * 16, lines.count("ds_read_b128") * 256 * 16
    yield (f"{loaded // 1024} KB come into LDS a step and {read // 1024} KB are read from it, for "
           f"{hot['kinds']['mfma']:g} matrix instructions of each team")
    shared = (hip.KERNELS / "gemm.h").read_text()
    of_gemm = sum(ast.literal_eval(bug)[0] in shared for bug in planted("newton_schulz"))
    yield f"{len(planted('newton_schulz'))} planted bugs, {of_gemm} of them in `gemm.h`"
    yield f"up to {muon.COEFFICIENTS[0] ** 5:.0f}-fold"


@pytest.mark.parametrize("said", [residual_norm, cca_mix, cca_attention, router, balance, moe, route_tape, span_gather,
                                  newton_schulz], ids=lambda said: said.__name__)
def test_a_kernels_page_says_what_is_counted(said):
    text = page(said.__name__)
    for sentence in said():
        assert sentence in text, f"kernels/{said.__name__}/README.md must say: {sentence}"


def test_the_page_of_all_kernels_says_what_is_counted():
    text, wide = page("."), {"bf16": torch.bfloat16, "f32": torch.float32}
    rn = {name: times("residual_norm", dtype, **hip.kernel("residual_norm").TRACED) for name, dtype in wide.items()}
    of = {name: times(name, torch.bfloat16) for name in ("cca_attention", "moe", "newton_schulz", "balance")}
    said = [
        f"and {sum(len(planted(name)) for name in hip.names())} planted bugs, all caught",
        f"| residual_norm | {rn['bf16']:.2f} bf16, {rn['f32']:.2f} f32 |",
        f"| cca_mix | {of_activations(dict(heads=4, kv_heads=2, dim=32)):.2f}, heads of 128 "
        f"{of_activations(dict(heads=2, kv_heads=1, dim=128)):.2f} |",
        f"| route_tape | {times('route_tape', torch.int64):.2f} (int64 routes), "
        f"{times('route_tape', torch.int16):.2f} (int16",
        f"| span_gather | {times('span_gather', torch.int64):.2f} (int64), "
        f"{times('span_gather', torch.float32):.2f} (float32) |",
        f"({of['cca_attention']:.1f}, {of['moe']:.1f} and {of['newton_schulz']:.1f} times the fewest), "
        f"balance its few numbers ({of['balance']:.1f})",
        f"32 tokens and one KV head with its queries; {row('cca_mix_bf16')['lds'] / 1e3:.0f} KB of LDS",
        f"matrix cores, {row('router_bf16')['lds'] // 1024 + 1} KB of LDS",
        f"steps of 32, {row('moe_hidden_bf16')['lds'] // 1024} KB of LDS, two stages",
        f"32 keys a step, {row('cca_attention_128_bf16')['lds'] // 1024} KB of LDS",
    ]
    for sentence in said:
        assert sentence in text, f"kernels/README.md must say: {sentence}"
