"""Where papers and released weights disagree, or the released code surprises: one test for each, by hand-made numbers.

The docstrings in minizaya/arch name these tests; the last test here checks that every name they give exists.
"""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

import minizaya as mz
from minizaya.arch.attention import locate
from minizaya.arch.cca import CCA, convolve, convolve_taps, qk_mean, qk_norm, value_shift
from minizaya.arch.experts import experts_grouped, experts_loop
from minizaya.arch.residual import ResidualScaling, merge
from minizaya.arch.router import Router, choose, depth_average

SMALL = dict(vocab_size=20, hidden_size=16, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
             head_dim=4, num_experts=3, moe_intermediate_size=8, router_hidden_size=8)


def small_model(**changes):
    torch.manual_seed(0)
    model = mz.Zaya(mz.ZayaConfig(**SMALL | changes)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5)
    return model


# ---- residual scaling ------------------------------------------------------------------------------------------------


def test_residual_adds_the_bias_before_it_scales():
    """(x + b) * s on both streams; the report prints s * x + b, which would give 2 * 1 + 3 + 5 * 7 + 11 = 51."""
    output, scale, bias = torch.tensor([1.0]), torch.tensor([2.0]), torch.tensor([3.0])
    residual, residual_scale, residual_bias = torch.tensor([7.0]), torch.tensor([5.0]), torch.tensor([11.0])
    merged = merge(output, residual, scale, bias, residual_scale, residual_bias)
    assert merged.item() == (1 + 3) * 2 + (7 + 11) * 5 == 98
    module = ResidualScaling(1)
    with torch.no_grad():
        for name, value in (("output_scale", 2), ("output_bias", 3), ("residual_scale", 5), ("residual_bias", 11)):
            getattr(module, name).fill_(value)
    assert module(output, residual).item() == 98


def test_both_streams_are_scaled_after_the_layer_not_its_input():
    """The AMD paper scales what goes into a layer. Here the layer's input does not feel the merge that follows it."""
    model, tokens = small_model(), torch.tensor([[3, 7, 1]])
    block, seen = model.layers[0], []
    block.attention.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model(tokens)
    with torch.no_grad():
        block.attention_merge.output_scale.mul_(3)
        block.attention_merge.residual_scale.mul_(3)
    model(tokens)
    assert torch.equal(seen[0], seen[1])


# ---- router ----------------------------------------------------------------------------------------------------------


def test_eda_scale_is_a_vector():
    """The paper writes one coefficient a layer; the weights hold one a channel."""
    config = mz.ZayaConfig(**SMALL)
    assert Router(config, 1).eda_scale.shape == (config.router_hidden_size,)
    state, below, scale = torch.zeros(1, 1, 2), torch.ones(1, 1, 2), torch.tensor([2.0, -3.0])
    assert depth_average(state, below, scale).flatten().tolist() == [2.0, -3.0]


def test_eda_hands_on_the_sum_before_the_norm():
    model = small_model()
    router, x = model.layers[1].router, torch.randn(1, 2, 16, dtype=torch.float64)
    below = torch.randn(1, 2, 8, dtype=torch.float64)
    state = router(x, below)[-1]
    torch.testing.assert_close(state, router.down_proj(x) + router.eda_scale * below, rtol=0, atol=1e-14)
    assert not torch.allclose(state, router.mlp.norm(state))


def test_first_layer_has_no_eda():
    model = small_model()
    holds = [hasattr(block.router, "eda_scale") for block in model.layers]
    assert holds == [False, True, True]
    router, x = model.layers[0].router, torch.randn(1, 2, 16, dtype=torch.float64)
    assert torch.equal(router(x, None)[-1], router.down_proj(x))


def test_the_choice_is_made_in_float32():
    """Two float64 scores that differ only beyond float32 are a tie, and a tie goes to the lower number."""
    probs = torch.tensor([0.25, 0.25 + 1e-12, 0.5 - 1e-12], dtype=torch.float64)
    bias = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float32)
    assert probs[1] > probs[0] and choose(probs, bias)[0].item() == 0
    route, gate = choose(probs, torch.tensor([0.0, 1.0, 0.0]))
    assert route.item() == 1 and gate.item() == probs[1].item()   # the gate keeps every digit, and no bias


def test_the_balancing_bias_stays_float32_in_a_bfloat16_model():
    model = mz.Zaya(mz.ZayaConfig(**SMALL))
    mz.balance.set_biases(model, torch.full((3, 3), 0.001))
    assert model.bfloat16().layers[0].router.balancing_bias.tolist()[:3] == [torch.tensor(0.001).item()] * 3


@pytest.mark.parametrize("experts", (experts_loop, experts_grouped))
def test_the_skip_route_contributes_zero(experts):
    """Other ports of the model add gate * x for a skipped token; the released weights add nothing."""
    x, gate_up, down = torch.randn(4, 5), torch.randn(2, 6, 5), torch.randn(2, 5, 3)
    routes, gates = torch.tensor([0, 2, 1, 2]), torch.tensor([0.3, 0.9, 0.4, 0.8])
    out = experts(x, routes, gates, gate_up, down)
    assert not out[[1, 3]].any()
    assert out[0].any() and out[2].any()


def test_the_skip_route_starts_at_minus_one():
    bias = Router(mz.ZayaConfig(**SMALL), 0).balancing_bias
    assert bias.tolist() == [0.0, 0.0, 0.0, -1.0]


# ---- CCA -------------------------------------------------------------------------------------------------------------


def test_qk_mean_reads_pre_convolution_values():
    """Other convolutions leave the mean path as it is: what they add is all that changes between two settings."""
    config = mz.ZayaConfig(**SMALL)
    torch.manual_seed(0)
    attention = CCA(config, 0, fast=False).double()
    x = torch.randn(1, 5, config.hidden_size, dtype=torch.float64)
    z = attention.down_proj(x)[..., : config.query_size + config.kv_size]
    with torch.no_grad():   # convolutions that output zero: only the mean path is left
        for parameter in (*attention.conv_depthwise.parameters(), *attention.conv_grouped.parameters()):
            parameter.zero_()
    place = locate(config, 1, 5, 0, torch.float64, None)
    q, k, _ = attention.project(x, place)
    mean_q, mean_k = qk_mean(*attention.heads(z))
    q_first, k_first = qk_norm(mean_q, mean_k, attention.temperature)   # at time 0 RoPE turns nothing
    torch.testing.assert_close(q[:, 0], q_first[:, 0], rtol=0, atol=1e-12)
    torch.testing.assert_close(k[:, 0], k_first[:, 0], rtol=0, atol=1e-12)


def test_qk_mean_by_hand():
    """Two query heads on one KV head: queries 2 and 6, key 4. Each query meets the key, the key meets their mean."""
    mean_q, mean_k = qk_mean(torch.tensor([2.0, 6.0]).view(1, 1, 2, 1), torch.tensor([4.0]).view(1, 1, 1, 1))
    assert mean_q.flatten().tolist() == [3.0, 5.0]
    assert mean_k.flatten().tolist() == [4.0]


def test_key_temperature_is_linear():
    """Keys times t, not exp(t): the CCA paper has the exponential, ZAYA1 has not. Queries stay as they are."""
    q, k = torch.tensor([3.0, 4.0]).view(1, 1, 1, 2), torch.tensor([0.0, 9.0]).view(1, 1, 1, 2)
    for temperature in (0.0, 0.5, 1.0, -2.0):
        unit_q, unit_k = qk_norm(q, k, torch.tensor([temperature]))
        torch.testing.assert_close(unit_q.flatten(), torch.tensor([0.6, 0.8]) * 2 ** 0.5)
        torch.testing.assert_close(unit_k.flatten(), torch.tensor([0.0, temperature]) * 2 ** 0.5)


def test_key_temperature_starts_at_one():
    """The released code starts at zero, right only before loading weights: from scratch all keys would vanish."""
    for block in mz.Zaya(mz.ZayaConfig(**SMALL)).layers:
        assert block.attention.temperature.tolist() == [1.0, 1.0]


def test_the_norm_is_clamped_at_machine_epsilon():
    """norm.clamp_min(eps), not norm + eps: a vector twice as long as eps is already fully normalised."""
    for dtype in (torch.float64, torch.float32):
        eps, temperature = torch.finfo(dtype).eps, torch.ones(1, dtype=dtype)
        direction = torch.tensor([0.0, 1.0], dtype=dtype).view(1, 1, 1, 2)
        for length, expected in ((2 * eps, 1.0), (eps, 1.0), (eps / 2, 0.5), (0.0, 0.0)):
            for unit in qk_norm(direction * length, direction * length, temperature):
                torch.testing.assert_close(unit.flatten()[1].item(), expected * 2 ** 0.5, rtol=1e-6, atol=0)


@pytest.mark.parametrize("convolution", (convolve, convolve_taps))
def test_convolutions_are_padded_once(convolution):
    """At the first token the grouped convolution sees the depthwise bias in its past, not a second pad of zeros."""
    depthwise, grouped = nn.Conv1d(1, 1, 2, groups=1), nn.Conv1d(1, 1, 2)
    with torch.no_grad():
        depthwise.weight.copy_(torch.tensor([[[10.0, 1.0]]]))   # the past times 10, the present times 1
        depthwise.bias.fill_(3.0)
        grouped.weight.copy_(torch.tensor([[[100.0, 1.0]]]))
        grouped.bias.fill_(0.5)
        z = torch.tensor([0.0, 0.0, 2.0, 4.0]).view(1, 4, 1)    # two columns of padding, then 2 and 4
        first, second = convolution(z, depthwise, grouped).flatten().tolist()
    assert first == 100 * (0 + 3) + (2 + 3) + 0.5               # padded twice it would be (2 + 3) + 0.5
    assert second == 100 * (2 + 3) + (10 * 2 + 4 + 3) + 0.5


def test_value_head_0_is_all_current_and_head_1_all_previous():
    """The delay splits the packed channels, not each head: with two KV heads one head never sees its own token."""
    model = small_model()
    attention, config = model.layers[0].attention, model.config
    x = torch.randn(1, 4, config.hidden_size, dtype=torch.float64)
    place = locate(config, 1, 4, 0, torch.float64, None)
    values = attention.down_proj(x)[..., -config.kv_size:]
    _, _, v = attention.project(x, place)
    assert torch.equal(v[:, :, 0], values[..., :4])
    assert torch.equal(v[:, 1:, 1], values[:, :-1, 4:])
    assert not v[:, 0, 1].any()


def test_with_one_kv_head_the_delay_splits_the_head():
    now, then = torch.tensor([[[1.0], [2.0], [3.0]]]), torch.tensor([[[10.0], [20.0], [30.0]]])
    assert value_shift(now, then).tolist() == [[[1, 0], [2, 10], [3, 20]]]


# ---- the whole -------------------------------------------------------------------------------------------------------


def test_the_8b_model_has_40_layers_not_80():
    """The original checkpoint counts attention and experts apart: 80 stages. One layer here holds both."""
    with torch.device("meta"):
        model = mz.Zaya(mz.ZayaConfig.preset("zaya1-8b"))
    assert len(model.layers) == 40
    assert all(hasattr(block, "attention") and hasattr(block, "experts") for block in model.layers)


def test_the_embedding_adds_its_bias_before_it_scales():
    model, seen = small_model(), []
    model.layers[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    tokens = torch.tensor([[3, 7]])
    model(tokens)
    assert torch.equal(seen[0], (model.embed.weight[tokens] + model.embed_bias) * model.embed_scale)


# ---- promises --------------------------------------------------------------------------------------------------------


def test_every_test_and_law_that_the_code_names_exists():
    """They name tests as `test_...`, laws as `component.property` and functions as `module.function`."""
    root = Path(mz.__file__).parent
    files = [*(root / "arch").glob("*.py"),
             *(file for room in ("native", "hub", "plan", "parallel") for file in (root / room).glob("*.py"))]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    tests = "\n".join(path.read_text(encoding="utf-8") for path in Path(__file__).parents[1].rglob("test_*.py"))
    promised = set(re.findall(r"`(test_\w+)`", text))
    assert len(promised) >= 5   # the pattern still finds them
    missing = {name for name in promised if f"def {name}(" not in tests}
    laws = {law.name for law in mz.laws.all()}
    components = "|".join(sorted({name.split(".")[0] for name in laws}))
    for component, what in re.findall(rf"`({components})\.(\w+)`", text):
        home = root / "arch" / f"{component}.py"   # `router.choose` is a function, `cca.padding` a law
        function = home.exists() and f"def {what}(" in home.read_text(encoding="utf-8")
        if not function and f"{component}.{what}" not in laws:
            missing.add(f"{component}.{what}")
    assert not missing
