"""Numbers at which a formula written down naively fails: exp that overflows, 0 / 0, the root of nothing.

Each kernel on the CPU against its reference in float64, at such numbers and beside ordinary ones. Taking a guard out of
the kernel's text makes NaN, infinity or zeros of them, or moves them by more than rounding.
"""

import pytest
import torch
import torch.nn.functional as F

from kernel_tools import WAYS, assert_close, needs_compiler, run
from minizaya import hip

pytestmark = needs_compiler
F32 = torch.float32


def wide(args):
    return [arg.double() if torch.is_tensor(arg) and arg.is_floating_point() else arg for arg in args]


def whole(draw, *shape):
    """Small whole numbers: their products and sums are exact in float32, so only exp and what follows rounds."""
    return torch.randint(-3, 4, shape, generator=draw).float()


def test_router_logits_of_thousands_and_a_state_of_zeros():
    kernel = hip.kernel("router")
    args = list(kernel.example(F32, "cpu", 40, 24, 16, 5))
    args[0][:7] = 0                              # no state at all: x, bias and the state below are zero there
    args[4][:] = 0
    args[1][:7] = 0
    args[8], args[9] = torch.zeros_like(args[8]), torch.full_like(args[9], 3.0)    # each hidden number is gelu(3)
    args[10] = (torch.arange(5.0) * torch.tensor([1, -1, 1, -1, 1]))[:, None].repeat(1, 16) * 64
    got, wanted = run(WAYS[0], kernel.launch, *args), kernel.reference(*wide(args))
    logits = 16 * float(F.gelu(torch.tensor(3.0))) * args[10][:, 0]
    assert logits.max() > 1e4 and logits.min() < -5e3
    assert torch.equal(got[0], wanted[0])
    for name, mine, right in zip(("gates", "probs", "state"), got[1:4], wanted[1:4]):
        assert_close(mine, right, name)


@pytest.mark.parametrize("size", [1e-12, 1e-3])
def test_router_states_near_zero(size):
    """Where the norm's eps decides: without it, a state of 1e-12 would be as long as any other."""
    kernel = hip.kernel("router")
    args = list(kernel.example(F32, "cpu", 40, 24, 16, 5))
    args[0], args[1], args[4] = args[0] * size, args[1] * size, args[4] * 0
    got, wanted = run(WAYS[0], kernel.launch, *args), kernel.reference(*wide(args))
    for mine, right in zip(got[1:4], wanted[1:4]):
        assert_close(mine, right)


@pytest.mark.parametrize("parts", [None, 3])
@pytest.mark.parametrize("sign", [1, -1])
def test_attention_scores_of_hundreds(sign, parts):
    """All scores large and positive, or all negative, and keys after the largest one, and before it."""
    kernel, draw = hip.kernel("cca_attention"), torch.Generator().manual_seed(0)
    steps = 1 if parts else 70
    q, k, v = torch.ones(1, steps, 2, 16) * 8, whole(draw, 1, 70, 1, 16), whole(draw, 1, 70, 1, 16)
    k = k / 16 + sign * 16                       # 16 channels of 8 x 16 / 4: scores of 512, exact
    got = run(WAYS[0], kernel.launch, q, k, v, None, 0, *([parts] if parts else []))
    assert_close(got, kernel.reference(q.double(), k.double(), v.double()))


def test_attention_over_documents_whose_first_keys_are_all_hidden():
    """A row that has seen nothing yet, tile after tile, and large negative scores then."""
    kernel, draw = hip.kernel("cca_attention"), torch.Generator().manual_seed(0)
    q, k, v = torch.ones(1, 100, 2, 16) * 8, whole(draw, 1, 100, 1, 16) / 16 - 16, whole(draw, 1, 100, 1, 16)
    documents = (torch.arange(100) >= 75).int()[None]
    got = run(WAYS[0], kernel.launch, q, k, v, documents, 0)
    assert_close(got, kernel.reference(q.double(), k.double(), v.double(), documents))


def test_mixed_queries_and_keys_of_length_zero():
    """Tokens of zeros and no biases: q and k are zero, and so is what comes back; no 0 / 0, either way."""
    kernel = hip.kernel("cca_mix")
    args = list(kernel.example(F32, batch=1, steps=9, heads=4, kv_heads=2, dim=8))
    args[0] = args[0].clone()
    args[0][:, 3:] = 0
    args[2], args[4] = torch.zeros_like(args[2]), torch.zeros_like(args[4])
    got = run(WAYS[0], kernel.launch, *args)
    for mine, right in zip(got, kernel.reference(*args)):
        assert_close(mine, right)
    assert not got[0][:, 6:].any() and got[0][:, 0].any()
    pulled = [torch.zeros_like(x) for x in got]
    for x in pulled:
        x[:, 6:] = 1e-7       # through 1 / 1.2e-7, the slope at zero
    leaves = [x.clone().requires_grad_() for x in args[:6]]
    out = kernel.reference(*leaves, *args[6:])
    wanted = torch.autograd.grad(sum((x * g).sum() for x, g in zip(out, pulled)), leaves)
    for mine, right in zip(run(WAYS[0], kernel.launch_backward, *pulled, *args), wanted):
        assert_close(mine, right)


def test_a_matrix_of_zeros_stays_zeros():
    kernel = hip.kernel("newton_schulz")
    stack = torch.stack([torch.zeros(9, 5), torch.ones(9, 5), torch.full((9, 5), 1e-9)])
    got = run(WAYS[0], kernel.launch, stack)
    assert_close(got, kernel.reference(stack.double()))
    assert not got[0].any()


@pytest.mark.parametrize("size", [0.0, 1e-4])
def test_a_stream_of_nearly_nothing_is_not_made_long(size):
    """eps is 1e-5, so a row of 1e-4 is divided by its root, not by its own length, and one of zeros stays zeros."""
    kernel, draw = hip.kernel("residual_norm"), torch.Generator().manual_seed(0)
    rows = [torch.randn(3, 21, generator=draw) * size for _ in range(2)]
    vectors = [torch.ones(21), torch.zeros(21), torch.ones(21), torch.zeros(21), torch.ones(21)]
    args = [*rows, *vectors, 1e-5]
    for mine, right in zip(run(WAYS[0], kernel.launch, *args), kernel.reference(*wide(args))):
        assert_close(mine, right)
    pulled = torch.randn(3, 21, generator=draw), torch.randn(3, 21, generator=draw)
    leaves = [x.double().requires_grad_() for x in args[:7]]
    stream, normed = kernel.reference(*leaves, 1e-5)
    wanted = torch.autograd.grad((stream * pulled[0]).sum() + (normed * pulled[1]).sum(), leaves)
    for mine, right in zip(run(WAYS[0], kernel.launch_backward, *pulled, *args), wanted):
        assert_close(mine, right)


def test_gates_of_hundreds():
    """silu at -200 is exp's overflow and still zero; at 200 it is the gate itself."""
    kernel = hip.kernel("moe")
    x, routes = torch.ones(6, 4), torch.tensor([0, 1, 0, 1, 2, 0])
    gate_up = torch.ones(2, 10, 4)
    gate_up[0, :5], gate_up[1, :5] = -50, 50
    args = x, routes, torch.full((6,), 0.5), gate_up, torch.ones(2, 4, 5)
    got = run(WAYS[0], kernel.launch, *args)
    assert_close(got, kernel.reference(*wide(args)))
    assert not got[routes != 1].any() and got[1].tolist() == [2000.0] * 4
