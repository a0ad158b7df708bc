"""The plan's figures are counted again on the built model: its tensors, its cache, its matrix products."""

import re

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from minizaya import Zaya, ZayaConfig
from minizaya.arch.attention import causal_mask
from minizaya.config import PRESETS
from minizaya.plan import account


@st.composite
def configs(draw):
    """Small models with every size and switch drawn, ablations included."""
    kv_heads, layers = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    size, switch = st.integers(2, 12), st.booleans()
    return ZayaConfig(
        vocab_size=draw(st.integers(3, 40)), hidden_size=draw(size), num_hidden_layers=layers,
        num_attention_heads=kv_heads * draw(st.integers(1, 3)), num_key_value_heads=kv_heads,
        head_dim=4 * draw(st.integers(1, 3)), cca_time0=draw(st.integers(1, 3)), cca_time1=draw(st.integers(1, 3)),
        num_experts=draw(st.integers(1, 5)), moe_intermediate_size=draw(size), router_hidden_size=draw(size),
        layer_types=[draw(st.sampled_from(["hybrid", "hybrid_sliding"])) for _ in range(layers)],
        sliding_window=draw(st.integers(1, 6)), tie_word_embeddings=draw(switch), lm_head_bias=draw(switch),
        attention_bias=draw(switch), num_convs=draw(st.integers(0, 2)), qk_mean=draw(switch), value_shift=draw(switch),
        router=draw(st.sampled_from(["mlp", "linear"])), eda=draw(switch), residual_scaling=draw(switch),
        pad_token_id=None)


def without_memory(config):
    """The model on the meta device: shapes, no numbers."""
    with torch.device("meta"):
        return Zaya(config)


PARTS = {  # a parameter's name -> its part; the first pattern that fits
    r"embed\.": "embedding", r"embed_": "embedding_scale", r"head\.": "head", r".*experts\.": "experts",
    r".*router\.": "router", r".*(attention|moe)_merge\.": "residual_scaling", r".*temperature": "key_temperature",
    r".*conv_": "attention_convolutions", r".*(down|up)_proj": "attention_projections", r".*norm\.": "norms",
}


def built_parameters(model):
    found = dict.fromkeys(account.parameters(model.config), 0)
    for name, parameter in model.named_parameters():
        found[next(part for pattern, part in PARTS.items() if re.match(pattern, name))] += parameter.numel()
    return found


@pytest.mark.parametrize("preset", PRESETS)
def test_parameters_of_every_preset(preset):
    model = without_memory(ZayaConfig.preset(preset))
    assert account.parameters(model.config) == built_parameters(model)
    assert account.plan(preset)["parameters"]["total"] == sum(p.numel() for p in model.parameters())


@settings(max_examples=60)
@given(configs())
def test_parameters_of_any_config(config):
    assert account.parameters(config) == built_parameters(without_memory(config))


@settings(max_examples=15)
@given(configs(), st.integers(0, 2 ** 20))
def test_one_token_uses_one_expert_a_layer(config, seed):
    """Backward from one token: expert matrices with a gradient, counted, are the ones called active."""
    torch.manual_seed(seed)
    model = Zaya(config).double()
    for parameter in model.parameters():
        parameter.data.normal_()
    model(torch.zeros(1, 1, dtype=torch.int64)).logits.square().sum().backward()
    idle = 0
    for block in model.layers:
        experts = block.experts
        for gate_up, down in zip(experts.gate_up_proj.grad, experts.down_proj.grad, strict=True):
            idle += 0 if down.any() else gate_up.numel() + down.numel()
    assert account.active_parameters(config) == sum(p.numel() for p in model.parameters()) - idle


def test_the_released_model():
    figures = account.plan("zaya1-8b")
    counts = figures["parameters"]
    assert counts["total"] == 8_840_488_784
    assert counts["without_embeddings"] == 8_303_355_728
    assert counts["active"] == 1_290_741_584
    assert counts["active_without_embeddings"] == 753_608_528
    assert figures["kv_bytes_per_token"] == 40_960
    assert figures["weight_bytes"] == 2 * counts["total"]


# ---- the cache -------------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(configs(), st.sampled_from(["bfloat16", "float32"]), st.integers(1, 9))
def test_cache_bytes_are_what_the_cache_holds(config, dtype, tokens):
    model = Zaya(config).to(getattr(torch, dtype))
    cache = model.new_cache(1)
    with torch.no_grad():
        model(torch.zeros(1, tokens, dtype=torch.int64), cache=cache)
    kept = sum(kv[:, :, : cache.length].nbytes for kv in cache.kv)
    assert account.kv_bytes_per_token(config, dtype) * tokens == kept
    assert account.kv_bytes_per_token(config, dtype) == cache.bytes_per_token
    state = sum(tensor.nbytes for tensor in (*cache.columns, *cache.delayed))
    assert account.state_bytes_per_sequence(config, dtype) == state


# ---- arithmetic ------------------------------------------------------------------------------------------------------


def counted(run):
    """torch's own counter around run(): {module or "Global": {operator: FLOPs}}."""
    with FlopCounterMode(display=False) as counter:
        run()
    return {place: {str(op).removeprefix("aten."): n for op, n in ops.items()}
            for place, ops in counter.get_flop_counts().items()}


def tokens_for(config, count):
    return torch.randint(config.vocab_size, (1, count), generator=torch.Generator().manual_seed(count))


@settings(max_examples=30)
@given(configs(), st.integers(1, 9), st.integers(0, 9))
def test_forward_flops_of_any_config(config, tokens, past):
    """The reference path does every product where torch's counter sees it, so the sums are equal to the last one.

    trap: with a single key, `einsum` has nothing to sum over and multiplies elementwise, which the counter leaves out.
    """
    assume(tokens + past > 1)
    model, text = Zaya(config, backend="reference"), tokens_for(config, past + tokens)
    with torch.no_grad():
        cache = model.new_cache(1)
        if past:
            model(text[:, :past], cache=cache)
        found = counted(lambda: model(text[:, past:], cache=cache))
    assert sum(account.flops(config, tokens, past).values()) == sum(found["Global"].values())


WIDE = dict(num_hidden_layers=1, vocab_size=512, num_experts=2)  # the 8B's widths in a model that fits a test


@pytest.mark.parametrize("config", [ZayaConfig.preset("nano"), ZayaConfig.preset("micro"),
                                    ZayaConfig.preset("zaya1-8b", **WIDE)], ids=["nano", "micro", "one wide layer"])
def test_forward_flops_by_part(config):
    model, text = Zaya(config, backend="reference"), tokens_for(config, 24)
    with torch.no_grad():
        found = counted(lambda: model(text))

    def of(pattern, *operators):
        return sum(n for place, ops in found.items() if re.fullmatch(r"Zaya\." + pattern, place)
                   for op, n in ops.items() if not operators or op in operators)

    assert account.flops(config, 24) == {
        "attention_projections": of(r"layers\.\d+\.attention\.(down|up)_proj"),
        "attention_convolutions": of(r"layers\.\d+\.attention", "convolution"),
        "attention_scores": of(r"layers\.\d+\.attention", "bmm"),
        "router": of(r"layers\.\d+\.router"),
        "experts": of(r"layers\.\d+\.experts"),
        "head": of(r"head"),
    }


def test_fast_path_multiplies_the_same_matrices():
    """What the fast path does otherwise is attention: on the CPU the counter sees neither its fused kernel nor the
    depthwise taps, which are elementwise there. Everything else is the same, to the last FLOP."""
    config = ZayaConfig.preset("nano")
    model, text = Zaya(config), tokens_for(config, 24)
    found = counted(lambda: model(text))
    ours = account.flops(config, 24)
    for part, pattern in {"attention_projections": r"layers\.\d+\.attention\.(down|up)_proj",
                          "router": r"layers\.\d+\.router", "experts": r"layers\.\d+\.experts", "head": "head"}.items():
        assert ours[part] == sum(sum(ops.values()) for place, ops in found.items()
                                 if re.fullmatch(r"Zaya\." + pattern, place)), part


def test_backward_is_twice_forward():
    """Each product y = x w has two in backward: for x and for w.

    Convolutions are compared apart: the counter prices the weight gradient of a grouped convolution as if it had one
    group, which is far too much.
    """
    config = ZayaConfig.preset("nano")
    model, text = Zaya(config, backend="reference"), tokens_for(config, 24)
    logits = model(text).logits
    found = counted(lambda: logits.sum().backward())["Global"]
    ours = account.flops(config, 24)
    convolutions = 2 * ours["attention_convolutions"]
    assert found.pop("convolution_backward") > convolutions
    assert sum(found.values()) == 2 * sum(ours.values()) - convolutions


@given(st.integers(1, 20), st.integers(0, 20), st.integers(1, 25))
def test_seen_keys_counts_the_mask(tokens, past, window):
    config = ZayaConfig.preset("nano", sliding_window=window, layer_types=["hybrid_sliding"] * 4)
    keys = torch.arange(past + tokens)
    for kind, seen in (("hybrid", None), ("hybrid_sliding", window)):
        assert account.seen_keys(config, kind, tokens, past) == causal_mask(keys[past:], keys, seen).sum()


@pytest.mark.parametrize("context", [1, 2, 1000])
def test_plan_divides_a_sequence_by_its_length(context):
    config, costs = ZayaConfig.preset("micro"), account.plan("micro", context)["flops_per_token"]
    whole = account.flops(config, context)
    assert costs["forward"] == sum(whole.values()) / context
    assert costs["backward"] == 2 * costs["forward"]
    assert costs["decode"] == sum(account.flops(config, 1, context - 1).values())
    # the sum over visible keys only is (N + 1) / 2N of the square
    saved = whole["attention_scores"] * (1 - (context + 1) / (2 * context)) / context
    assert costs["forward"] - costs["forward_causal"] == pytest.approx(saved, rel=1e-12, abs=1e-6)


def test_decoding_every_token_costs_the_visible_keys():
    """Token by token, attention scores add up to one causal forward: the cache repeats none of them."""
    config = ZayaConfig.preset("nano")
    steps = sum(account.flops(config, 1, past)["attention_scores"] for past in range(50))
    assert steps == account.flops(config, 50, causal=True)["attention_scores"]


@pytest.mark.parametrize("call, message", [
    (lambda: account.plan("huge"), "unknown preset 'huge'"),
    (lambda: account.plan("nano", context=0), "context must be at least 1 token, got 0"),
    (lambda: account.plan("nano", dtype="int8"), "dtype must be one of bfloat16, float32, got 'int8'"),
    (lambda: account.flops(ZayaConfig.preset("nano"), 0), "tokens must be at least 1"),
    (lambda: account.flops(ZayaConfig.preset("nano"), 1, -1), "past at least 0"),
])
def test_wrong_input(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
