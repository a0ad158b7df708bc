"""kernels/balance: the balancer's AdamW step equals the class, step after step."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import planted
from kernel_tools import assert_close, every_way, needs_compiler, run
from minizaya import hip
from minizaya.arch.balance import AdamWBalancer

pytestmark = needs_compiler
balance = hip.kernel("balance")


def compare(launch, layers, experts, steps=12, seed=0, **settings):
    """Several steps of the class and of the kernel from the same start, on loads that change."""
    draw = torch.Generator().manual_seed(seed)
    truth = AdamWBalancer(experts, num_layers=layers, **settings)
    bias, mean = torch.full((layers, experts + 1), -1.0), torch.zeros(layers, experts)
    bias[:, :-1], square = 0, torch.zeros(layers, experts)
    for step in range(1, steps + 1):
        visits = torch.randint(0, 10 ** (step % 5), (layers, experts + 1), generator=draw).int()
        visits[:, step % experts] = 0                  # an empty expert
        if step == 1:
            visits[0] += 10_000                        # nearly even: errors so small that eps shows
        if step == 3:
            visits[0] = 0                              # a batch without tokens
        if step == 4:
            visits[-1, :-1] = 0                        # every token skipped
        truth.update(visits[:, :-1].double() / visits.sum(-1, keepdim=True).clamp_min(1))
        launch(visits, bias, mean, square, step, **settings)
        assert_close(bias[:, :-1], truth.bias, f"bias after step {step}")
        assert_close(mean, truth.mean, f"mean after step {step}")
        assert_close(square, truth.square, f"square after step {step}")
        # these are small numbers, so relative differences count too, beside what the largest one's rounding leaves
        for mine, right in ((bias[:, :-1], truth.bias), (mean, truth.mean), (square, truth.square)):
            assert torch.allclose(mine, right, rtol=1e-4, atol=1e-6 * float(right.abs().max())), f"step {step}"
        assert bool((bias[:, -1] == -1).all()), "the skip route's bias moved"


@every_way
def test_it_is_the_class(way):
    for layers, experts in ((1, 1), (2, 3), (40, 16), (3, 63), (1, 64), (2, 65), (1, 200)):
        run(way, lambda launcher, sizes=(layers, experts): compare(partial(balance.launch, launcher), *sizes))


@settings(max_examples=60, deadline=None)
@given(layers=st.integers(1, 6), experts=st.integers(1, 70), seed=st.integers(0, 999), lr=st.sampled_from([1e-3, 0.1]),
       betas=st.sampled_from([(0.9, 0.999), (0.0, 0.0), (0.5, 0.95)]), weight_decay=st.sampled_from([0.0, 0.1]))
def test_any_setting(layers, experts, seed, lr, betas, weight_decay):
    launcher = hip.launcher("cpu")
    compare(lambda *a, **k: balance.launch(launcher, *a, **k), layers, experts, 5, seed, lr=lr, betas=betas,
            weight_decay=weight_decay)


def test_the_reference_is_the_class():
    compare(balance.reference, 3, 5)


def test_bad_input():
    visits, bias, mean, square, steps = balance.example()
    assert balance.supports(visits, bias, mean, square, steps) is None
    assert "bfloat16" in balance.supports(visits, bias.bfloat16(), mean, square, steps)
    assert "int64" in balance.supports(visits.long(), bias, mean, square, steps)
    with pytest.raises(ValueError, match="visits must have shape"):
        balance.launch(hip.launcher("cpu"), visits[:, 1:].contiguous(), bias, mean, square, steps)
    with pytest.raises(ValueError, match="steps"):
        balance.launch(hip.launcher("cpu"), visits, bias, mean, square, 0)


BUGS = [
    ("  __syncthreads();\n  int total", "  int total", "no barrier before the sum is read"),
    ("  __syncthreads();\n  float shared", "  float shared", "no barrier before the biases are summed"),
    ("bias[e] -= shared / experts", "bias[e] -= shared", "the sum instead of the mean"),
    ("bias += (size_t)layer * (experts + 1);", "bias += (size_t)layer * experts;", "rows without the skip route"),
    ("total += visits[experts];", "", "skipped tokens left out of the whole"),
    ("e < experts; e += THREADS) sum", "e <= experts; e += THREADS) sum", "skipped tokens count in the goal"),
    ("e < experts; e += THREADS) {", "e <= experts; e += THREADS) {", "the skip route is steered too"),
    ("total > 0 ? (float)total : 1.f", "(float)total", "a batch without tokens divides by zero"),
    ("(m / fade1)", "m", "the first moment is not corrected"),
    ("sqrtf(s / fade2) + eps", "sqrtf(s / fade2 + eps)", "eps under the root"),
]


@planted.each(BUGS)
def test_planted_bugs_are_caught(bug):
    planted.caught("balance", BUGS, bug, lambda launcher: compare(partial(balance.launch, launcher), 3, 5))
