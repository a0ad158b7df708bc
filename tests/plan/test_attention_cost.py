"""The CCA paper's cost formulas, against the library's own count and against what is built."""

import pytest

from minizaya import Zaya, ZayaConfig
from minizaya.arch.cca import CCA
from minizaya.plan import account
from minizaya.plan.attention_cost import ccgqa, conv_weights, conv_weights_as_printed, gqa, mha, mla

ZAYA = ZayaConfig.preset("zaya1-8b")


@pytest.mark.parametrize("tokens", [1, 512, 131072])
def test_zaya1_is_the_account_layer_by_layer(tokens):
    formula, layers = ccgqa(2048, tokens, 2, 8), ZAYA.num_hidden_layers
    parts = account.flops(ZAYA, tokens)
    assert formula.forward * layers == parts["attention_projections"] + parts["attention_scores"]
    parts = account.flops(ZAYA, 1, tokens - 1)
    assert formula.decode * layers == parts["attention_projections"] + parts["attention_scores"]
    assert formula.kv * layers * 2 == account.kv_bytes_per_token(ZAYA) * tokens


def test_parameters_and_convolutions_are_those_of_the_built_layer():
    layer = CCA(ZAYA, 0)
    convolutions = layer.conv_depthwise.weight.numel() + layer.conv_grouped.weight.numel()
    assert conv_weights(1280, 10) == convolutions == 330240
    matrices = layer.down_proj.weight.numel() + layer.up_proj.weight.numel()
    assert ccgqa(2048, 1, 2, 8, convolutions).parameters == matrices + convolutions


def test_the_footnote_counts_the_depthwise_filters_twice():
    assert conv_weights_as_printed(1280, 10) - conv_weights(1280, 10) == 2 * 1280
    whole = ccgqa(2048, 1, 2, 8).parameters
    assert 2 * 1280 < 0.01 * whole


def test_a_cache_holds_what_the_formula_says():
    config = ZayaConfig.preset("nano")
    cache = Zaya(config).new_cache(1)
    width, kv = config.hidden_size, config.num_key_value_heads * config.head_dim
    assert cache.bytes_per_token == ccgqa(width, 1, 1, width / kv).kv * config.num_hidden_layers * 4


@pytest.mark.parametrize("tokens", [512, 4096, 131072])
def test_special_cases_agree(tokens):
    assert gqa(2048, tokens, 1) == mha(2048, tokens) == ccgqa(2048, tokens, 1, 1)


def test_the_papers_forward_flops_at_16k():
    """Table II at E = 2048, S = 16,384, in TFLOP (worked out by hand from the printed formulas)."""
    kinds = mha(2048, 16384), gqa(2048, 16384, 4), gqa(2048, 16384, 8), mla(2048, 16384, 2, 4, 16, 64), \
        ccgqa(2048, 16384, 4, 4), ccgqa(2048, 16384, 2, 8)
    assert [round(kind.forward / 1e12, 3) for kind in kinds] == [2.749, 2.543, 2.508, 2.577, 0.687, 1.271]


def test_the_papers_other_columns_at_16k():
    """Parameters and kept numbers in millions, FLOPs of one more token in GFLOP; by hand from the printed formulas."""
    E, S = 2048, 16384
    kinds = mha(E, S), gqa(E, S, 4), gqa(E, S, 8), mla(E, S, 2, 4, 16, 64), ccgqa(E, S, 4, 4), ccgqa(E, S, 2, 8)
    assert [round(kind.parameters / 1e6, 2) for kind in kinds] == [16.78, 10.49, 9.44, 11.53, 4.19, 5.24]
    assert [round(kind.kv / 1e6, 2) for kind in kinds] == [67.11, 16.78, 8.39, 9.44, 16.78, 8.39]
    assert [round(kind.decode / 1e9, 4) for kind in kinds] == [0.1678, 0.1552, 0.1531, 0.5935, 0.0419, 0.0776]
