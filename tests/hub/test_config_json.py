"""config.json in three dialects: what is missing, what is wrong, and what `transformers` itself writes."""

import json
import warnings

import pytest
import torch

import minizaya as mz
from minizaya.hub import config_json, config_keys
from minizaya.hub.config_json import config_document, read_config

RELEASED = mz.ZayaConfig.preset("zaya1-8b")
SLIDING = mz.ZayaConfig.preset("nano", layer_types=["hybrid", "hybrid_sliding"] * 2, sliding_window=9,
                               rope_theta_sliding=30.0, tie_word_embeddings=False, attention_bias=True,
                               lm_head_bias=True, pad_token_id=None)
# a download of the 80-stage release: the keys that it has, and those that ports read
ORIGINAL = {
    "model_type": "zaya", "architectures": ["ZayaForCausalLM"], "cca": True, "cca_time0": 2, "cca_time1": 2,
    "clamp_temp": False, "partial_rotary_factor": 0.5, "rope_theta": 5000000, "norm_epsilon": 1e-05,
    "residual_in_fp32": True, "scale_residual_merge": True, "tie_word_embeddings": True, "zaya_high_prec": True,
    "zaya_use_eda": True, "zaya_use_mod": True, "mamba_cache_dtype": "float32", "bos_token_id": 2, "eos_token_id": 106,
    "pad_token_id": 0, "moe_router_topk": 1, "vocab_size": 262272, "hidden_size": 2048, "num_hidden_layers": 80,
    "ffn_hidden_size": 4096, "num_attention_heads": 8, "num_key_value_heads": 2, "num_query_groups": 2, "head_dim": 128,
    "kv_channels": 128, "num_experts": 16, "zaya_mlp_expansion": 256, "activation_func": "swiglu",
    "normalization": "RMSNorm", "gated_linear_unit": True, "add_bias_linear": False, "rope_scaling": False,
    "sliding_window": None, "dtype": "bfloat16",
}


def reading(folder, document):
    (folder / "config.json").write_text(json.dumps(document))
    return read_config(folder)


@pytest.mark.parametrize("layout", ["minizaya", "transformers", "original"])
@pytest.mark.parametrize("config", [RELEASED, SLIDING, mz.ZayaConfig.preset("micro")], ids=["8b", "sliding", "micro"])
def test_there_and_back(tmp_path, layout, config):
    assert reading(tmp_path, config_document(config, layout, torch.bfloat16)) == config


@pytest.mark.parametrize("config", [RELEASED, SLIDING], ids=["8b", "sliding"])
def test_it_is_what_transformers_writes(config):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.ZayaConfig(**config_json.to_transformers(config), architectures=["ZayaForCausalLM"],
                                     dtype="bfloat16")
    wanted = json.loads(theirs.to_json_string())
    wanted.pop("transformers_version")
    assert config_document(config, "transformers", torch.bfloat16) == wanted
    assert config_json.from_transformers(theirs.to_dict()) == config
    theirs = transformers.ZayaConfig(**config_json.to_transformers(RELEASED))
    assert theirs.to_dict() == transformers.ZayaConfig().to_dict()


def test_transformers_is_not_needed(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    for layout in ("transformers", "original"):
        model = mz.hub.load(mz.hub.save(mz.Zaya(mz.ZayaConfig.preset("nano")), tmp_path / layout, layout))
        assert model.config == mz.ZayaConfig.preset("nano")


def test_what_is_missing_is_as_in_the_released_model(tmp_path):
    assert reading(tmp_path, {"model_type": "zaya"}) == RELEASED
    assert reading(tmp_path, {"model_type": "zaya", "norm_epsilon": 1e-5}) == RELEASED
    whole = config_document(RELEASED, "transformers")
    for name in whole.keys() - {"model_type"}:
        assert reading(tmp_path, {key: value for key, value in whole.items() if key != name}) == RELEASED, name
    other = {"layer_types": None, "rope_parameters": None, "id2label": {"0": "x"}, "new": None}
    assert reading(tmp_path, whole | other) == RELEASED
    # as the folder of the release has it: the table, and a key beside the layer types
    typed = {"rope_parameters": whole["rope_parameters"] | {"rope_type": "default"}}
    assert reading(tmp_path, whole | typed) == RELEASED
    typed["rope_parameters"] |= {"rope_theta": RELEASED.rope_theta, "partial_rotary_factor": 0.5, "type": "default"}
    assert reading(tmp_path, whole | typed | {"layer_types": None}) == RELEASED
    no_share = {"hybrid": {"rope_theta": 100.0}}
    read = reading(tmp_path, whole | {"rope_parameters": no_share})
    assert read.partial_rotary_factor == 1.0 and read.rope_theta == 100.0, "in a table, transformers' own default is 1"


def test_several_ends_and_none(tmp_path):
    for dialect in (config_document(RELEASED, "transformers"), ORIGINAL):
        assert reading(tmp_path, dialect | {"eos_token_id": [107, 106]}).eos_token_id == 107
        assert reading(tmp_path, dialect | {"eos_token_id": None, "pad_token_id": None}).eos_token_id is None
        for wrong in ([], ["106"], [True], "106"):
            with pytest.raises(ValueError, match="config.json .*: eos_token_id must be an integer"):
                reading(tmp_path, dialect | {"eos_token_id": wrong})


@pytest.mark.parametrize("name, value, says", [
    ("tie_word_embeddings", "no", "tie_word_embeddings must be true or false, got 'no'"),
    ("tie_word_embeddings", 1, "must be true or false, got 1"),
    ("attention_bias", None, "must be true or false"),
    ("hidden_size", "2048", "hidden_size must be an integer"),
    ("hidden_size", 2048.0, "hidden_size must be an integer"),
    ("hidden_size", None, "hidden_size must be an integer"), ("num_hidden_layers", True, "must be an integer"),
    ("num_hidden_layers", 10**15, "must be an integer up to"),
    ("vocab_size", -4, "vocab_size must be a positive integer"),
    ("rms_norm_eps", float("nan"), "must be a finite number"),
    ("rms_norm_eps", float("inf"), "must be a finite number"),
    ("rms_norm_eps", 10**400, "must be a finite number"), ("rms_norm_eps", "1e-5", "must be a finite number"),
    ("layer_types", "hybrid", "must be a list of texts"), ("layer_types", [1] * 40, "must be a list of texts"),
    ("layer_types", ["full_attention"] * 40, "layer_types may hold"),
    ("layer_types", ["hybrid"], "must name all 40 layers"),
    ("num_experts_per_tok", 2, "num_experts_per_tok must be 1, got 2"),
    ("hidden_act", "gelu", "hidden_act must be 'silu'"),
    ("rope_parameters", [], "rope_parameters must hold a table"),
    ("rope_parameters", {"rope_theta": 1e4}, "must hold a table"),
    ("rope_parameters", {"hybrid": {}}, "rope_theta"),
    ("rope_parameters", {"hybrid": {"rope_theta": "x"}}, "rope_theta must be"),
    ("rope_parameters", {"hybrid": {"rope_theta": 1e4, "partial_rotary_factor": []}}, "partial_rotary_factor must be"),
    ("rope_parameters", {"hybrid": {"rope_theta": 1e4, "rope_type": "yarn"}}, "rope_type must be 'default'"),
    ("rope_parameters", {"hybrid": {"rope_theta": 1e4, "type": "yarn", "factor": 4.0}}, "rope_type must be 'default'"),
    ("rope_parameters", {"hybrid": {"rope_theta": 1e4, "type": ["default"]}}, "rope_type must be 'default'"),
    ("rope_parameters", {"hybrid": {"rope_theta": 1e4, "factor": 4.0}}, "without other keys"),
    ("rope_parameters", {"hybrid": {"rope_theta": 1e4}, "factor": 4.0}, "'factor' beside the tables"),
    ("rope_parameters", {"hybrid": {"rope_theta": 1e4}, "rope_type": "yarn"}, "'rope_type' beside the tables"),
    ("rope_parameters", {"hybrid": {"rope_theta": 1e4}, "rope_theta": 1e5}, "'rope_theta' beside the tables"),
    ("rope_parameters", {"hybrid": {"rope_theta": 1e4}, "partial_rotary_factor": 0.5}, "beside the tables"),
    ("rope_parameters", {"hybrid": {"rope_theta": 1e4}, "full_attention": {"rope_theta": 1e4}}, "beside the tables"),
    ("rope_parameters", {"hybrid": {"rope_theta": 1e4}, "hybrid_sliding": {"factor": 2.0}}, "without other keys"),
    ("rope_parameters", {"hybrid": {"rope_theta": 1e4}, "hybrid_sliding": "x"}, "rope_parameters must hold a table"),
    ("norm_epsilon", 1e-5, "moe_intermediate_size and norm_epsilon are of two releases"),
    ("rope_scaling", {"type": "linear", "factor": 2.0}, "rope_scaling must stand in rope_parameters"),
    ("rope_theta", 1e6, "rope_theta must stand in rope_parameters"),
    ("partial_rotary_factor", 0.25, "partial_rotary_factor must stand in rope_parameters"),
    ("attention_dropout", 0.1, "attention_dropout must be 0.0, got 0.1"),
    ("sliding_window", "9", "sliding_window must be an integer"),
])
def test_a_wrong_value_is_named(tmp_path, name, value, says):
    with pytest.raises(ValueError, match=f"config.json is no config of a ZAYA model: .*{says}"):
        reading(tmp_path, config_document(RELEASED, "transformers") | {name: value})


def test_the_original_release_is_read(tmp_path):
    assert reading(tmp_path, ORIGINAL) == RELEASED
    written = config_document(RELEASED, "original", torch.bfloat16)
    assert all(written[name] == value for name, value in ORIGINAL.items() if name != "sliding_window")
    # an older form of it: 16 heads of the model, 8 of them in the latent; other names for RoPE
    older = {name: value for name, value in ORIGINAL.items()
             if name not in ("rope_theta", "partial_rotary_factor", "head_dim")}
    older |= {"num_attention_heads": 16, "cca_num_q_heads": 8, "rotary_base": 1000000, "rope_pct": 0.25}
    read = reading(tmp_path, older)
    assert (read.num_attention_heads, read.rope_theta, read.partial_rotary_factor, read.head_dim) == (8, 1e6, 0.25, 128)


def test_the_window_of_the_original_leaves_the_token_out(tmp_path):
    document = config_document(SLIDING, "original")
    assert document["swa_layers"] == [0, 0, 8, 0, 0, 0, 8, 0] and document["swa_rotary_base"] == 30.0
    for layer in range(4):      # one layer alone, whichever it is
        kinds = ["hybrid"] * layer + ["hybrid_sliding"] + ["hybrid"] * (3 - layer)
        one = mz.ZayaConfig.preset("nano", layer_types=kinds, sliding_window=9)
        assert list(reading(tmp_path, config_document(one, "original")).layer_types) == kinds
    with pytest.raises(ValueError, match="sliding_window must be at least 2 in the original layout"):
        config_document(mz.ZayaConfig.preset("nano", layer_types=["hybrid_sliding"] * 4, sliding_window=1), "original")


@pytest.mark.parametrize("name, value, says", [
    ("zaya_use_mod", False, "zaya_use_mod must be True, got False"), ("clamp_temp", True, "clamp_temp must be False"),
    ("moe_router_topk", 2, "moe_router_topk must be 1, got 2"), ("normalization", "LayerNorm", "must be 'RMSNorm'"),
    ("num_hidden_layers", 81, "num_hidden_layers must be an even integer, got 81"),
    ("ffn_hidden_size", [4096], "must be an even"),
    ("norm_epsilon", "small", "rms_norm_eps must be a finite number"),
    ("zaya_layers", ["a", 16] * 40, "one value a layer"),
    ("swa_layers", [8, 0], "swa_layers must hold"), ("swa_layers", [8, 0, 9, 0] * 20, "swa_layers must hold"),
    ("swa_layers", [0, 8] * 40, "may hold a window for attention alone"),
    ("swa_layers", [8] * 80, "may hold a window for attention alone"),
    ("swa_layers", "many", "swa_layers must hold"), ("tie_word_embeddings", "no", "must be true or false"),
    ("rotary_base", 77, "rope_theta and rotary_base are two names of one thing, and differ"),
    ("rope_pct", 1.0, "partial_rotary_factor and rope_pct are two names"), ("kv_channels", 64, "are two names"),
    ("num_key_value_heads", 1, "num_query_groups and num_key_value_heads are two names"),
    ("rope_parameters", {"rope_type": "yarn"}, "rope_parameters and .* are of two releases"),
])
def test_what_the_original_must_not_say(tmp_path, name, value, says):
    with pytest.raises(ValueError, match=f"config.json is no config of a ZAYA model: .*{says}"):
        reading(tmp_path, ORIGINAL | {name: value})


@pytest.mark.parametrize("layout", ("transformers", "original"))
def test_a_key_is_read_refused_or_named(tmp_path, layout):
    """What we write needs no warning, and no key that is null, false or empty does; any other one is named."""
    document = config_document(RELEASED, layout, torch.bfloat16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reading(tmp_path, document | {"logit_cap": None, "experts_shared": 0, "notes": {}}) == RELEASED
    with pytest.warns(UserWarning, match="nothing here computes with 'colour', 'fused_router'"):
        assert reading(tmp_path, document | {"fused_router": True, "colour": "red"}) == RELEASED


@pytest.mark.parametrize("layout", ("transformers", "original"))
@pytest.mark.parametrize("name, value", [
    ("quantization_config", {"quant_method": "fp8"}), ("quantization_config", {"quant_method": "bitsandbytes"}),
    ("compression_config", {"format": "dense"}), ("final_logit_softcapping", 30.0), ("attn_logit_softcapping", 50.0),
    ("rope_type", "yarn"), ("rope_local_base_freq", 1e4), ("rope_interleave", True), ("rotary_dim", 32),
    ("rotary_pct", 0.25), ("n_shared_experts", 1), ("shared_experts", True), ("num_experts_per_token", 2),
    ("n_routed_experts", 64), ("logits_scaling", 8.0), ("logit_scale", 0.0625), ("embedding_multiplier", 12),
    ("residual_multiplier", 0.2), ("attention_multiplier", 0.1), ("sliding_window_pattern", 6), ("use_qk_norm", True),
    ("clip_qkv", 8.0), ("mlp_bias", True), ("alibi", True), ("text_config", {"hidden_size": 64}),
    ("router_bias", True), ("use_sliding_window", True)])
def test_what_would_be_computed_otherwise_is_refused(tmp_path, layout, name, value):
    """A warning is read by nobody, and the model answers, badly. Null, false, empty and a factor of 1 say nothing."""
    document = config_document(RELEASED, layout, torch.bfloat16)
    with pytest.raises(ValueError, match=f"no config of a ZAYA model: '{name}' is of something that is computed"):
        reading(tmp_path, document | {name: value})
    for nothing in (None, False, 0, {}):
        assert reading(tmp_path, document | {name: nothing}) == RELEASED


def test_a_factor_of_one_is_named_and_changes_nothing(tmp_path):
    document = config_document(RELEASED, "transformers")
    for name, factor in (("logits_scaling", 1), ("embedding_multiplier", 1.0), ("num_experts_per_token", 1)):
        with pytest.warns(UserWarning, match=name):
            assert reading(tmp_path, document | {name: factor}) == RELEASED


def test_what_is_ignored_is_nowhere_else():
    ignored = [key for keys in config_keys.IGNORED.values() for key in keys]
    elsewhere = {*config_keys.SHARED, *config_keys.FIXED, *config_keys.ORIGINAL_FIXED, *config_keys.ELSEWHERE}
    assert len(ignored) == len(set(ignored)) and not elsewhere & set(ignored)


def test_ours_knows_its_fields(tmp_path):
    with pytest.raises(ValueError, match="'colour' is not one of its fields"):
        reading(tmp_path, {"model_type": "minizaya", "colour": 1})
    with pytest.raises(ValueError, match="qk_mean must be true or false, got 'yes'"):
        reading(tmp_path, {"model_type": "minizaya", "qk_mean": "yes"})
    ablation = mz.ZayaConfig.preset("nano", router="linear", num_convs=1, eda=False)
    assert reading(tmp_path, config_document(ablation, "minizaya")) == ablation


@pytest.mark.parametrize("change", (dict(num_convs=1), dict(qk_mean=False), dict(value_shift=False),
                                    dict(router="linear"), dict(eda=False), dict(residual_scaling=False)))
def test_ablations_have_no_other_words(change):
    for layout in ("transformers", "original"):
        with pytest.raises(ValueError, match=f"only the released form.*{next(iter(change))}="):
            config_document(mz.ZayaConfig.preset("nano", **change), layout)
    with pytest.raises(ValueError, match="layout must be one of"):
        config_document(RELEASED, "zip")


# ---- the tables, key by key ------------------------------------------------------------------------------------------

CHANGE_NOTHING = """architectures auto_map _name_or_path transformers_version dtype torch_dtype zaya_high_prec
    mamba_cache_dtype use_cache max_position_embeddings return_dict output_hidden_states output_attentions
    output_router_logits chunk_size_feed_forward _attn_implementation router_aux_loss_coef router_jitter_noise
    gradient_checkpointing is_encoder_decoder id2label label2id problem_type""".split()


@pytest.mark.parametrize("layout", ("transformers", "original"))
def test_keys_that_change_nothing_are_read_without_a_word(tmp_path, layout):
    document = config_document(RELEASED, layout, torch.bfloat16) | dict.fromkeys(CHANGE_NOTHING, "x")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reading(tmp_path, document) == RELEASED
    for key in CHANGE_NOTHING:      # and no key that is nearly one of them
        with pytest.warns(UserWarning, match=f"nothing here computes with '{key}s'"):
            reading(tmp_path, document | {f"{key}s": "x"})


@pytest.mark.parametrize("layout, name, only, other", [
    ("original", "hidden_act", "silu", "gelu"), ("original", "num_experts_per_tok", 1, 2),
    ("transformers", "zaya_use_mod", True, False), ("transformers", "zaya_use_eda", True, False),
    ("transformers", "cca", True, False), ("transformers", "value_shift", True, False),
    ("transformers", "num_convs", 2, 1), ("original", "eda", True, False), ("original", "router", "mlp", "linear")])
def test_no_word_may_say_that_a_part_is_missing(tmp_path, layout, name, only, other):
    """The other release's words and ours, too: false was taken for a key that says nothing."""
    document = config_document(RELEASED, layout)
    for value in (only, None):
        assert reading(tmp_path, document | {name: value}) == RELEASED
    with pytest.raises(ValueError, match=f"{name} must be {only!r}, got {other!r}"):
        reading(tmp_path, document | {name: other})


@pytest.mark.parametrize("layout, name, only, other", [
    ("transformers", "hidden_act", "silu", "gelu"), ("transformers", "num_experts_per_tok", 1, 2),
    ("transformers", "attention_dropout", 0.0, 0.1),
    ("original", "activation_func", "swiglu", "gelu"), ("original", "add_bias_linear", False, True),
    ("original", "cca", True, False), ("original", "clamp_temp", False, True),
    ("original", "gated_linear_unit", True, False), ("original", "moe_router_topk", 1, 2),
    ("original", "normalization", "RMSNorm", "LayerNorm"), ("original", "residual_in_fp32", True, False),
    ("original", "rope_scaling", False, True), ("original", "scale_residual_merge", True, False),
    ("original", "zaya_use_eda", True, False), ("original", "zaya_use_mod", True, False)])
def test_what_has_one_value_only(tmp_path, layout, name, only, other):
    document = config_document(RELEASED, layout)
    assert document[name] == only and reading(tmp_path, document | {name: only}) == RELEASED
    with pytest.raises(ValueError, match=f"{name} must be {only!r}, got {other!r}"):
        reading(tmp_path, document | {name: other})


@pytest.mark.parametrize("key", ["rope_scaling", "rope_theta", "partial_rotary_factor", "rope_pct", "rotary_base"])
def test_what_other_models_say_of_rope_is_not_read_here(tmp_path, key):
    with pytest.raises(ValueError, match=f"{key} must stand in rope_parameters"):
        reading(tmp_path, config_document(RELEASED, "transformers") | {key: 0.5})


@pytest.mark.parametrize("key", ["zaya_layers", "ffn_hidden_size_list", "num_query_groups_list"])
def test_one_value_a_layer_is_not_understood(tmp_path, key):
    with pytest.raises(ValueError, match=f"{key}: a config with one value a layer"):
        reading(tmp_path, ORIGINAL | {key: [1] * 80})


@pytest.mark.parametrize("ours, theirs", [
    ("hidden_size", "hidden_size"), ("num_experts", "num_experts"), ("rms_norm_eps", "norm_epsilon"),
    ("router_hidden_size", "zaya_mlp_expansion"), ("num_key_value_heads", "num_query_groups"),
    ("num_key_value_heads", "num_key_value_heads"), ("head_dim", "head_dim"), ("head_dim", "kv_channels"),
    ("num_attention_heads", "cca_num_q_heads"), ("num_attention_heads", "num_attention_heads"),
    ("rope_theta", "rope_theta"), ("rope_theta", "rotary_base"), ("rope_theta_sliding", "swa_rotary_base"),
    ("partial_rotary_factor", "partial_rotary_factor"), ("partial_rotary_factor", "rope_pct"),
    ("vocab_size", "vocab_size"), ("cca_time0", "cca_time0"), ("cca_time1", "cca_time1"),
    ("initializer_range", "initializer_range"), ("tie_word_embeddings", "tie_word_embeddings"),
    ("lm_head_bias", "lm_head_bias"), ("attention_bias", "attention_bias"),
    ("pad_token_id", "pad_token_id"), ("bos_token_id", "bos_token_id"), ("eos_token_id", "eos_token_id")])
def test_each_key_of_the_original_is_its_field(tmp_path, ours, theirs):
    """Alone beside a key that tells the dialect: that field is the given one, all others are the release's."""
    value = {bool: lambda x: not x, float: lambda x: x / 2, int: lambda x: 2 * x or 4}[type(getattr(RELEASED, ours))](
        getattr(RELEASED, ours))
    document = {"model_type": "zaya", "zaya_mlp_expansion": 256} | {theirs: value}
    assert reading(tmp_path, document) == mz.ZayaConfig.preset("zaya1-8b", **{ours: value})


def test_numbers_have_a_largest(tmp_path):
    document = config_document(RELEASED, "transformers")
    assert reading(tmp_path, document | {"eos_token_id": 2**24}).eos_token_id == 2**24
    for name in ("eos_token_id", "vocab_size"):
        with pytest.raises(ValueError, match=f"{name} must be an integer up to 16777216"):
            reading(tmp_path, document | {name: 2**24 + 1})
    written = config_document(RELEASED, "original")
    assert (written["max_position_embeddings"], document["max_position_embeddings"]) == (131072, 131072)
    assert (written["zaya_high_prec"], written["mamba_cache_dtype"], document["use_cache"],
            document["output_router_logits"]) == (True, "float32", True, False)
