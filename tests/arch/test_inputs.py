"""Wrong input: one clear ValueError each, naming what was given and what is allowed.

A call that fails changes nothing: neither the cache nor a balancer.
"""

import pytest
import torch

import minizaya as mz
from minizaya.arch.balance import AdamWBalancer, PIDBalancer, SignBalancer
from minizaya.arch.cache import Cache

CONFIG = dict(vocab_size=20, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
              head_dim=4, num_experts=3, moe_intermediate_size=8, router_hidden_size=8)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return mz.Zaya(mz.ZayaConfig(**CONFIG)).eval()


def tokens(*shape):
    return torch.ones(shape, dtype=torch.int64)


# ---- configurations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes, message", [
    (dict(num_attention_heads=5), "num_attention_heads must be a multiple of num_key_value_heads, got 5 and 2"),
    (dict(num_experts=0), "num_experts must be a positive integer, got 0"),
    (dict(hidden_size=16.0), "hidden_size must be a positive integer, got 16.0"),
    (dict(num_hidden_layers=True), "num_hidden_layers must be a positive integer, got True"),
    (dict(num_attention_heads=1, num_key_value_heads=1, head_dim=5, partial_rotary_factor=0.4),
     r"num_key_value_heads \* head_dim must be even .*, got 1 \* 5"),
    (dict(partial_rotary_factor=0.25), r"partial_rotary_factor \* head_dim must be even and within the head, got 0.25"),
    (dict(partial_rotary_factor=1.5), r"partial_rotary_factor \* head_dim must be even and within the head, got 1.5"),
    (dict(layer_types=["hybrid"]), "layer_types must name all 2 layers, got 1"),
    (dict(layer_types=["hybrid", "mamba"]), "layer_types may hold .*hybrid_sliding.*, got 'mamba'"),
    (dict(layer_types=["hybrid", "hybrid_sliding"]), "sliding_window must be a positive integer .*, got None"),
    (dict(layer_types=["hybrid", "hybrid_sliding"], sliding_window=0), "sliding_window must be .*, got 0"),
    (dict(layer_types=["hybrid", "hybrid_sliding"], sliding_window=2.5), "sliding_window must be .*, got 2.5"),
    (dict(rms_norm_eps=-1.0), "rms_norm_eps must be positive, got -1.0"),
    (dict(rope_theta=0.0), "rope_theta must be positive, got 0.0"),
    (dict(pad_token_id=20), "pad_token_id must be None or in 0..19, got 20"),
    (dict(num_convs=3), "num_convs must be 0, 1 or 2, got 3"),
    (dict(num_convs=True), "num_convs must be 0, 1 or 2, got True"), (dict(num_convs=2.0), "num_convs must.*got 2.0"),
    (dict(tie_word_embeddings="false"), "tie_word_embeddings must be True or False, got 'false'"),
    (dict(qk_mean=None), "qk_mean must be True or False, got None"), (dict(eda=1), "eda must be True or False, got 1"),
    (dict(partial_rotary_factor="0.5"), "partial_rotary_factor must be a finite number, got '0.5'"),
    (dict(rope_theta=float("inf")), "rope_theta must be a finite number, got inf"),
    (dict(rms_norm_eps=float("nan")), "rms_norm_eps must be a finite number, got nan"),
    (dict(rms_norm_eps="x"), "rms_norm_eps must be a finite number, got 'x'"),
    (dict(pad_token_id=1.5), "pad_token_id must be None or an integer, got 1.5"),
    (dict(eos_token_id="</s>"), "eos_token_id must be None or an integer, got '</s>'"),
    (dict(layer_types=["hybrid", "hybrid_sliding"], sliding_window=True), "sliding_window must be .*, got True"),
    (dict(router="tree"), "router must be 'mlp' or 'linear', got 'tree'"),
])
def test_config(changes, message):
    with pytest.raises(ValueError, match=message):
        mz.ZayaConfig(**CONFIG | changes)


def test_unknown_preset_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown preset 'pico'; choose from nano, micro, .*zaya1-8b"):
        mz.ZayaConfig.preset("pico")


def test_unknown_backend():
    with pytest.raises(ValueError, match="backend must be 'fast', 'reference' or 'hip', got 'cuda'"):
        mz.Zaya(mz.ZayaConfig(**CONFIG), backend="cuda")


# ---- tokens and their companions -------------------------------------------------------------------------------------

WRONG_CALLS = [
    (dict(tokens=torch.tensor([[1, -1]])), r"tokens must lie in 0..19 \(the vocabulary\), got -1..1"),
    (dict(tokens=torch.tensor([[1, 20]])), r"tokens must lie in 0..19 \(the vocabulary\), got 1..20"),
    (dict(tokens=tokens(2, 3).int()), r"tokens must be int64 \(batch, seq\),.* got torch.int32 \(2, 3\)"),
    (dict(tokens=tokens(2, 3).float()), "tokens must be int64 .*, got torch.float32"),
    (dict(tokens=tokens(3)), r"tokens must be int64 \(batch, seq\),.* got torch.int64 \(3,\)"),
    (dict(tokens=tokens(1, 2, 3)), r"tokens must be int64 \(batch, seq\),.* got torch.int64 \(1, 2, 3\)"),
    (dict(tokens=tokens(2, 0)), r"tokens must be int64 \(batch, seq\), both at least 1, got torch.int64 \(2, 0\)"),
    (dict(tokens=tokens(0, 2)), r"tokens must be int64 \(batch, seq\), both at least 1, got torch.int64 \(0, 2\)"),
    (dict(mask=torch.ones(2, 4, dtype=torch.bool)), r"mask must have shape \(2, 3\), got \(2, 4\)"),
    (dict(mask=torch.ones(2, 3)), "mask must be bool, got torch.float32"),
    (dict(mask=torch.ones(2, 3, dtype=torch.int64)), "mask must be bool, got torch.int64"),
    (dict(routes=torch.zeros(2, 3, dtype=torch.int64)), r"routes must have shape \(2, 3, 2\), got \(2, 3\)"),
    (dict(routes=torch.zeros(2, 3, 1, dtype=torch.int64)), r"routes must have shape \(2, 3, 2\), got \(2, 3, 1\)"),
    (dict(routes=torch.zeros(2, 3, 2)), "routes must be an integer tensor, got torch.float32"),
    (dict(routes=torch.full((2, 3, 2), 4)), "routes must lie in -1..3 .*, got 4..4"),
    (dict(routes=torch.full((2, 3, 2), -2)), "routes must lie in -1..3 .*, got -2..-2"),
]


@pytest.mark.parametrize("arguments, message", WRONG_CALLS)
def test_forward(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        model(**dict(tokens=tokens(2, 3)) | arguments)


@pytest.mark.parametrize("doc_ids, message", [
    (torch.zeros(3, 3, dtype=torch.int64), r"doc_ids must have shape \(2, 3\), got \(3, 3\)"),
    (torch.zeros(2, 3), "doc_ids must be an integer tensor, got torch.float32"),
    (torch.zeros(2, 3, dtype=torch.bool), "doc_ids must be an integer tensor, got torch.bool"),
])
def test_doc_ids(model, doc_ids, message):
    with pytest.raises(ValueError, match=message):
        model(tokens(2, 3), doc_ids=doc_ids)


# ---- the cache -------------------------------------------------------------------------------------------------------


def contents(cache):
    """Everything a cache holds, copied: what a failed call must leave as it was."""
    own = {name: getattr(cache, name) for name in ("batch", "length", "valid", "columns", "delayed")}
    own["kv"] = [kv[:, :, : cache.length] for kv in cache.kv]   # what lies beyond is room, never written
    flat = {}
    for name, value in own.items():
        for place, item in enumerate(value if isinstance(value, list) else [value]):
            flat[name, place] = item.clone() if isinstance(item, torch.Tensor) else item
    return flat


def same(one, other):
    return one.keys() == other.keys() and all(
        torch.equal(value, other[key]) if isinstance(value, torch.Tensor) else value == other[key]
        for key, value in one.items())


WITH_CACHE = [
    (dict(tokens=tokens(3, 1)), "cache was made for batch 2, tokens have batch 3"),
    (dict(doc_ids=torch.zeros(2, 3, dtype=torch.int64)), "doc_ids cannot be used with a cache"),
]


@torch.no_grad()
@pytest.mark.parametrize("used", (False, True))
@pytest.mark.parametrize("arguments, message", WRONG_CALLS + WITH_CACHE)
def test_a_failed_call_leaves_the_cache_as_it_was(model, arguments, message, used):
    cache = model.new_cache(2)
    if used:
        model(tokens(2, 5), cache=cache, mask=torch.tensor([[False, True, True, True, True], [True] * 5]))
    before = contents(cache)
    with pytest.raises(ValueError, match=message):
        model(**dict(tokens=tokens(2, 3), cache=cache) | arguments)
    assert same(before, contents(cache))


@torch.no_grad()
def test_that_comparison_of_caches_sees_one_more_token(model):
    cache = model.new_cache(2)
    model(tokens(2, 1), cache=cache)
    before = contents(cache)
    assert same(before, contents(cache))
    model(tokens(2, 1), cache=cache)
    assert not same(before, contents(cache))


def test_a_cache_of_another_model_is_refused(model):
    other = mz.Zaya(mz.ZayaConfig.preset("nano", head_dim=2 * model.config.head_dim))
    with pytest.raises(ValueError, match="cache was made for a model of another config"):
        model(tokens(2, 3), cache=other.new_cache(2))
    same_shapes = mz.Zaya(mz.ZayaConfig(**model.config.to_dict() | {"rope_theta": 123.0}))
    with pytest.raises(ValueError, match="cache was made for a model of another config"):
        model(tokens(2, 3), cache=same_shapes.new_cache(2))


@pytest.mark.parametrize("batch", (0, -1, 2.0, "2"))
def test_a_cache_for_no_batch(model, batch):
    with pytest.raises(ValueError, match=f"batch must be a positive integer, got {batch!r}"):
        Cache(model.config, batch, torch.float32)


# ---- balancers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", (SignBalancer, PIDBalancer, AdamWBalancer))
@pytest.mark.parametrize("load, message", [
    ([0.5, 0.5], r"load must have shape \(3,\), got \(2,\)"),
    ([[0.2, 0.3, 0.5]], r"load must have shape \(3,\), got \(1, 3\)"),
    ([-0.1, 0.6, 0.5], "load must hold fractions of tokens .*, got .*-0.1"),
    ([float("nan"), 0.5, 0.5], "load must hold fractions of tokens .*, got .*nan"),
    ([float("inf"), 0.0, 0.0], "load must hold fractions of tokens .*, got .*inf"),
    ([10.0, 20.0, 30.0], "load must hold fractions of tokens .*, got .*10.0"),   # counts, not fractions
])
def test_balancer_load(make, load, message):
    balancer = make(3)
    balancer.update(torch.tensor([0.2, 0.3, 0.5]))
    before = {name: value.clone() for name, value in balancer.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        balancer.update(torch.tensor(load))
    assert all(torch.equal(value, before[name]) for name, value in balancer.state_dict().items())


def test_a_balancers_borders():
    """One expert is allowed; loads may sum to a little more than one by rounding, not by more."""
    assert SignBalancer(1).update(torch.tensor([1.0])).tolist() == [0.0]
    for total, taken in ((1 + 9e-5, True), (1 + 1.1e-4, False)):
        balancer, load = SignBalancer(2), torch.tensor([0.5, total - 0.5], dtype=torch.float64)
        if taken:
            balancer.update(load)
        else:
            with pytest.raises(ValueError, match="summing to at most 1"):
                balancer.update(load)


def test_balancer_sizes_and_states():
    with pytest.raises(ValueError, match="num_experts must be at least 1, got 0"):
        SignBalancer(0)
    with pytest.raises(ValueError, match="balancer state must hold .*'bias'"):
        AdamWBalancer(3).load_state_dict(AdamWBalancer(4).state_dict())
    with pytest.raises(ValueError, match="balancer state must hold .*'integral'.*, got .*'mean'"):
        PIDBalancer(3).load_state_dict(AdamWBalancer(3).state_dict())
    one, other = SignBalancer(3), SignBalancer(3)
    other.load_state_dict(one.state_dict())
    one.update(torch.tensor([1.0, 0, 0]))
    assert one.bias.any() and not other.bias.any(), "a state that was read is nobody else's"
