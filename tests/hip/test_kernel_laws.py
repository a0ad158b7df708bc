"""The laws that judge the reference paths judge the kernels.

Laws draw float64. A kernel computes in float32, so inputs are narrowed on the way in, results widened on the way out
(gradients pass through both), and what the law expects is held to float32's 1e-5 instead of 1e-9.
"""

import copy
import warnings

import pytest
import torch

from kernel_tools import needs_compiler
from minizaya import hip, laws
from minizaya.arch.attention import locate
from minizaya.hip import layers, ops
from minizaya.laws import core

pytestmark = needs_compiler


@pytest.fixture(autouse=True)
def float32_is_enough(monkeypatch):
    monkeypatch.setattr(core, "TOLERANCE", {torch.float64: 1e-5, torch.float32: 1e-5})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ops.Fallback)      # ablations and biases go to PyTorch
        yield


def narrow(x):
    return x.float() if isinstance(x, torch.Tensor) and x.dtype == torch.float64 else x


def by_kernel(call):
    """`call` in float32, its results in the type of its first tensor."""
    def judged(*args):
        wide = next(x.dtype for x in args if isinstance(x, torch.Tensor) and x.is_floating_point())
        found = call(*map(narrow, args))
        widened = tuple(x.to(wide) if wide == torch.float64 and x.is_floating_point() else x for x in
                        (found if isinstance(found, tuple) else (found,)))
        return widened if isinstance(found, tuple) else widened[0]
    return judged


@by_kernel
def merge(output, residual, s1, b1, s2, b2):
    flat = output.flatten(0, -2), residual.flatten(0, -2)
    return ops.residual_norm(*flat, s1, b1, s2, b2, torch.ones_like(s1), 1e-5)[0].view_as(residual)


@by_kernel
def rms_norm(x, weight, eps):
    one, zero, rows = torch.ones_like(weight), torch.zeros_like(weight), x.flatten(0, -2)
    nothing = torch.zeros_like(rows).to(weight.dtype)
    return ops.residual_norm(nothing, rows.float(), one, zero, one, zero, weight, eps)[1].view_as(x)


@by_kernel
def moe(x, routes, gates, gate_up, down):
    return ops.moe(x, routes, gates, gate_up, down)


def cca_layer(layer, x):
    module, wide = copy.deepcopy(layer).float(), x
    x = x.float()
    place = locate(module.config, *x.shape[:2], 0, x.dtype, x.device)
    return layers.attend(module, x, place, None).to(wide.dtype)


def router(module, x, below):
    module = copy.deepcopy(module).float()
    _, _, probs, state = layers.route(module, x.float(), narrow(below), None)
    return probs.double(), None if state is None else state.double()


@by_kernel
def newton_schulz(matrix):
    return hip.kernel("newton_schulz").launch(hip.launcher("cpu"), matrix)


JUDGED = {
    merge: ["residual.merge", "residual.identity", "residual.bias_first", "residual.float32"],
    rms_norm: ["residual.rms_norm", "residual.rms_epsilon", "residual.rms_half"],
    moe: ["experts.dispatch", "experts.skip_zero", "experts.crowded", "experts.token_order", "experts.expert_order",
          "experts.gradients"],
    cca_layer: ["cca.layer", "cca.layer_causal", "cca.layer_batch"],
    router: ["router.scores"],
    newton_schulz: ["optim.polynomial", "optim.scale_free", "optim.batched"],
}
PAIRS = [(name, fn) for fn, names in JUDGED.items() for name in names]


@pytest.mark.parametrize("name, fn", PAIRS, ids=[name for name, _ in PAIRS])
def test_the_law_holds_for_the_kernel(name, fn):
    verdict = laws.judge(name, fn, examples=15)
    assert verdict.passed, verdict.message
