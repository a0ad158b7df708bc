"""What each dialect of config.json calls a field, and what becomes of every other key: read, refused, or ignored.

`config_json` reads and writes with these tables.
"""

ROPES = (("hybrid", "rope_theta"), ("hybrid_sliding", "rope_theta_sliding"))  # layer type -> our field

# what only the released form has a name for
RELEASED = {"num_convs": 2, "qk_mean": True, "value_shift": True, "router": "mlp", "eda": True,
            "residual_scaling": True}
# `transformers`: the same names as ours, and what has one value only
SHARED = ("vocab_size", "hidden_size", "num_hidden_layers", "rms_norm_eps", "tie_word_embeddings", "lm_head_bias",
          "initializer_range", "num_attention_heads", "num_key_value_heads", "head_dim", "cca_time0", "cca_time1",
          "attention_bias", "layer_types", "sliding_window", "num_experts", "moe_intermediate_size",
          "router_hidden_size", "pad_token_id", "bos_token_id", "eos_token_id")
FIXED = {"hidden_act": "silu", "num_experts_per_tok": 1, "attention_dropout": 0.0}
# what a table may hold -> the usual value; "type" is what `rope_type` was called once
ROPE_KEYS = {"rope_theta": None, "partial_rotary_factor": 1.0, "rope_type": "default", "type": "default"}
ELSEWHERE = ("rope_scaling", "rope_theta", "partial_rotary_factor", "rope_pct", "rotary_base")  # other models' places
# the original: ours -> its keys, of which the first one that is there counts; others must say the same
ORIGINAL = {
    "num_attention_heads": ("cca_num_q_heads", "num_attention_heads"), "head_dim": ("head_dim", "kv_channels"),
    "num_key_value_heads": ("num_query_groups", "num_key_value_heads"), "rms_norm_eps": ("norm_epsilon",),
    "router_hidden_size": ("zaya_mlp_expansion",), "rope_theta": ("rope_theta", "rotary_base"),
    "partial_rotary_factor": ("partial_rotary_factor", "rope_pct"), "rope_theta_sliding": ("swa_rotary_base",),
} | {name: (name,) for name in ("vocab_size", "hidden_size", "tie_word_embeddings", "lm_head_bias", "initializer_range",
                                "cca_time0", "cca_time1", "attention_bias", "num_experts")}
ORIGINAL_FIXED = {"activation_func": "swiglu", "add_bias_linear": False, "cca": True, "clamp_temp": False,
                  "gated_linear_unit": True, "moe_router_topk": 1, "normalization": "RMSNorm", "residual_in_fp32": True,
                  "rope_scaling": False, "scale_residual_merge": True, "zaya_use_eda": True, "zaya_use_mod": True}
# parts that every released model has, by the names of either release and ours: neither may say that one is missing
ALWAYS = RELEASED | FIXED | {name: only for name, only in ORIGINAL_FIXED.items() if only is True}
ORIGINAL_ONLY = {"norm_epsilon", "ffn_hidden_size", "zaya_mlp_expansion", "zaya_layers"}  # one tells the dialect
NEW_ONLY = {"rope_parameters", "router_hidden_size", "moe_intermediate_size"}                # and these the other one
OLDEST = ("rotary_base", "rope_pct")  # read, never written
IGNORED = {
    "how it was written": ("architectures", "auto_map", "_name_or_path", "transformers_version", "model_type"),
    "the type of the weights, which the files themselves say": ("dtype", "torch_dtype", "zaya_high_prec",
                                                                "mamba_cache_dtype"),
    "how to serve": ("use_cache", "max_position_embeddings", "return_dict", "output_hidden_states",
                     "output_attentions", "output_router_logits", "chunk_size_feed_forward", "_attn_implementation"),
    "how to train": ("router_aux_loss_coef", "router_jitter_noise", "gradient_checkpointing"),
    "other kinds of model": ("is_encoder_decoder", "id2label", "label2id", "problem_type"),
}
# parts of a key that tell of something computed otherwise, if no part tells of speed, types or training
OF_OTHERS = ("quantization_config", "compression_config", "rope", "rotary", "alibi", "softcap", "multiplier",
             "logit_scal", "logits_scal", "expert", "router", "window", "qk_norm", "clip_qkv",
             "text_config", "vision_config", "audio_config", "lora_config")
HARMLESS = ("fus", "dtype", "store", "kernel", "output", "aux", "loss", "coef", "jitter", "dropout", "init")
FACTORS = ("multiplier", "scal", "per_tok")   # a 1 changes nothing
IDS = ("pad_token_id", "bos_token_id", "eos_token_id")


def unread_keys(document: dict, original: bool) -> list[str]:
    """The keys that mean nothing to us, and something to somebody: not null, false or empty."""
    if original:
        known = {key for theirs in ORIGINAL.values() for key in theirs}
        known |= {*ORIGINAL_FIXED, *ORIGINAL_ONLY, "swa_layers", "num_hidden_layers"}
    else:
        known = {*SHARED, *FIXED, *ELSEWHERE, "rope_parameters"}
    known |= {*IDS, *ALWAYS, *(key for keys in IGNORED.values() for key in keys)}
    return sorted(name for name, value in document.items() if name not in known and value)


def of_others(name: str, value: object) -> bool:
    """Does a key that nobody reads speak of something computed otherwise than here?"""
    told = any(part in name for part in OF_OTHERS) or name.endswith("_bias")
    neutral = any(part in name for part in FACTORS) and value == 1 and value is not True
    return told and not neutral and not any(part in name for part in HARMLESS)
