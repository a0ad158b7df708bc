"""The second ladder: every step is the product, on the CPU and under the tracer; the model says what each buys."""

import json
import shutil

import pytest
import torch

from kernel_tools import needs_compiler
from minizaya import hip
from minizaya.hip import products
from minizaya.native import compiler

pytestmark = needs_compiler
needs_clang = pytest.mark.skipif(compiler.gfx942() is None, reason="no clang for gfx942")


@pytest.mark.parametrize("step", products.STEPS)
def test_every_step_is_the_product_at_any_size(step):
    """bfloat16 results: to half a unit of their last bit, and the order of a sum of k products in float32."""
    draw = torch.Generator().manual_seed(0)
    for m, n, k in ((1, 1, 1), (70, 130, 33), (129, 65, 72), (64, 64, 64)):
        a, b = (torch.randn(rows, k, generator=draw).bfloat16() for rows in (m, n))
        wanted = a.double() @ b.double().T
        for target, wave, order in (("cpu", 64, "reverse"), ("cpu", 32, "7"), ("trace", 64, "3")):
            with hip.order(order):
                got = products.run(step, a, b, hip.launcher(target, wave)).double()
            assert ((got - wanted).abs() <= 2.0 ** -8 * wanted.abs() + 1e-5 * k ** 0.5).all(), (m, n, k, target)


def test_wrong_matrices_are_refused():
    a = torch.ones(2, 3, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"their rows of one length, got \(2, 3\) of torch.bfloat16 and \(2, 4\)"):
        products.run("v3", a, torch.ones(2, 4, dtype=torch.bfloat16))
    with pytest.raises(ValueError, match="a and b must be bfloat16"):
        products.run("v3", a.float(), a)
    with pytest.raises(ValueError, match="step must be one of v0, v1, v2, v3, v4, v5, got 'v6'"):
        products.path("v6")


@needs_clang
def test_no_step_is_predicted_slower_than_the_one_before_and_each_buys_what_its_page_says():
    found = [products.measure(step) for step in products.STEPS]
    us = [step["us"] for step in found]
    assert all(after <= before for before, after in zip(us, us[1:])) and us[0] > 100 * us[-1]
    floors = [step["floors"] for step in found]
    assert floors[1]["cache"] < floors[0]["cache"] / 16                    # tiles
    assert floors[2]["vector"] < floors[1]["vector"] / 8                   # matrix cores
    assert floors[3]["latency"] < floors[2]["latency"] / 8                 # wide loads, a step ahead
    assert floors[4]["lds"] <= floors[3]["lds"] / 3 * 1.01                 # swizzle
    assert floors[5]["lds"] <= floors[4]["lds"] / 2 * 1.01                 # squares used twice
    assert found[5]["limit"] == "matrix" and found[5]["sheet"] > 0.5
    mine = products.path("v5").read_text().replace("v5", "mine")
    assert products.measure_text(mine)["floors"] == floors[5]


@pytest.mark.skipif(not shutil.which("clang++-19"), reason="the table is that of clang 19")
def test_the_page_says_what_the_listing_says():
    assert products.markdown() in (hip.KERNELS / "ladder/gemm/README.md").read_text()


@needs_clang
def test_the_command_prints_both_ladders(capsys):
    from minizaya.__main__ import main

    assert main(["kernels", "--ladder", "gemm"]) == 0
    said = capsys.readouterr().out
    assert "v5" in said and "54.2%" in said or not shutil.which("clang++-19")
    assert main(["kernels", "--ladder", "gemm", "--json"]) == 0
    assert [step["step"] for step in json.loads(capsys.readouterr().out)] == list(products.STEPS)
    assert main(["kernels", "cca_mix", "--ladder", "gemm"]) == 2
