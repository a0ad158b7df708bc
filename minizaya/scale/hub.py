"""Checkpoints in and out: `transformers`' ZAYA to ours and back, bit for bit.

The two state dicts hold the same numbers under other names; the only difference of shape is that our down-projection
stacks q, k and both halves of v in one matrix.
"""

import torch
from torch import Tensor

from ..arch.model import Zaya
from ..config import ZayaConfig

# ours -> transformers', inside one layer
LAYER_NAMES = {
    "attention_norm.weight": "input_layernorm.weight",
    "attention.conv_depthwise.weight": "self_attn.qkv_proj.conv_qk_depthwise.weight",
    "attention.conv_depthwise.bias": "self_attn.qkv_proj.conv_qk_depthwise.bias",
    "attention.conv_grouped.weight": "self_attn.qkv_proj.conv_qk_grouped.weight",
    "attention.conv_grouped.bias": "self_attn.qkv_proj.conv_qk_grouped.bias",
    "attention.temperature": "self_attn.qk_norm.temp",
    "attention.up_proj.weight": "self_attn.o_proj.weight",
    "attention.up_proj.bias": "self_attn.o_proj.bias",
    "attention_merge.output_scale": "post_attention_residual_scale.hidden_states_scale",
    "attention_merge.output_bias": "post_attention_residual_scale.hidden_states_bias",
    "attention_merge.residual_scale": "post_attention_residual_scale.residual_scale",
    "attention_merge.residual_bias": "post_attention_residual_scale.residual_bias",
    "moe_norm.weight": "post_attention_layernorm.weight",
    "router.down_proj.weight": "mlp.gate.down_proj.weight",
    "router.down_proj.bias": "mlp.gate.down_proj.bias",
    "router.eda_scale": "mlp.gate.router_states_scale",
    "router.mlp.norm.weight": "mlp.gate.router_mlp.norm.weight",
    "router.mlp.fc1.weight": "mlp.gate.router_mlp.fc1.weight",
    "router.mlp.fc1.bias": "mlp.gate.router_mlp.fc1.bias",
    "router.mlp.fc2.weight": "mlp.gate.router_mlp.fc2.weight",
    "router.mlp.fc2.bias": "mlp.gate.router_mlp.fc2.bias",
    "router.mlp.out_proj.weight": "mlp.gate.router_mlp.out_proj.weight",
    "router.balancing_bias": "mlp.gate.balancing_biases",
    "experts.gate_up_proj": "mlp.experts.gate_up_proj",
    "experts.down_proj": "mlp.experts.down_proj",
    "moe_merge.output_scale": "post_mlp_residual_scale.hidden_states_scale",
    "moe_merge.output_bias": "post_mlp_residual_scale.hidden_states_bias",
    "moe_merge.residual_scale": "post_mlp_residual_scale.residual_scale",
    "moe_merge.residual_bias": "post_mlp_residual_scale.residual_bias",
}
TOP_NAMES = {
    "embed.weight": "model.embed_tokens.weight",
    "embed_scale": "model.input_hidden_states_scale",
    "embed_bias": "model.input_hidden_states_bias",
    "norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
    "head.bias": "lm_head.bias",
}
PACKED = ("q_proj", "k_proj", "v_proj_current", "v_proj_delayed")  # rows of our down-projection, top to bottom


def rename(tensors: dict[str, Tensor], config: ZayaConfig) -> dict[str, Tensor]:
    """Our names to `transformers`', splitting the packed down-projection. Works for weights and for gradients."""
    half = config.kv_size // 2
    sizes = (config.query_size, config.kv_size, half, half)
    renamed = {}
    for name, tensor in tensors.items():
        if name in TOP_NAMES:
            renamed[TOP_NAMES[name]] = tensor
            continue
        _, layer, part = name.split(".", 2)
        if part.startswith("attention.down_proj."):
            kind = part.rsplit(".", 1)[1]
            for projection, rows in zip(PACKED, tensor.split(sizes)):
                renamed[f"model.layers.{layer}.self_attn.qkv_proj.{projection}.{kind}"] = rows
        else:
            renamed[f"model.layers.{layer}.{LAYER_NAMES[part]}"] = tensor
    return renamed


def unrename(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """`transformers`' names to ours: the inverse of `rename`. Raises ValueError on a name that is not ZAYA's."""
    top = {theirs: ours for ours, theirs in TOP_NAMES.items()}
    inside = {theirs: ours for ours, theirs in LAYER_NAMES.items()}
    renamed = {}
    for name, tensor in tensors.items():
        if name in top:
            renamed[top[name]] = tensor
            continue
        _, _, layer, part = name.split(".", 3) if name.startswith("model.layers.") else (0, 0, 0, name)
        if part in inside:
            renamed[f"layers.{layer}.{inside[part]}"] = tensor
        elif part.startswith("self_attn.qkv_proj.q_proj."):
            kind = part.rsplit(".", 1)[1]
            stack = [tensors[name.replace("q_proj." + kind, f"{other}.{kind}")] for other in PACKED]
            renamed[f"layers.{layer}.attention.down_proj.{kind}"] = torch.cat(stack)
        elif not any(part.startswith(f"self_attn.qkv_proj.{other}.") for other in PACKED):
            raise ValueError(f"{name!r} is not a tensor of a ZAYA model")
    return renamed


def config_from_transformers(theirs) -> ZayaConfig:
    """A `transformers.ZayaConfig` as ours. Raises ValueError for a feature that no released ZAYA uses."""
    if theirs.hidden_act != "silu":
        raise ValueError(f"hidden_act must be 'silu', got {theirs.hidden_act!r}")
    ropes = {kind: theirs.rope_parameters[kind] for kind in set(theirs.layer_types)}
    shares = {rope.get("partial_rotary_factor", 1.0) for rope in ropes.values()}
    kinds = {rope.get("rope_type", "default") for rope in ropes.values()}
    if kinds != {"default"} or len(shares) > 1:
        raise ValueError(f"rope_type must be 'default' and partial_rotary_factor the same in all layers, got {ropes}")
    same = ("vocab_size", "hidden_size", "num_hidden_layers", "rms_norm_eps", "tie_word_embeddings", "lm_head_bias",
            "initializer_range", "num_attention_heads", "num_key_value_heads", "head_dim", "cca_time0", "cca_time1",
            "attention_bias", "layer_types", "sliding_window", "num_experts", "moe_intermediate_size",
            "router_hidden_size", "pad_token_id", "bos_token_id", "eos_token_id")
    thetas = {name: float(theirs.rope_parameters[kind]["rope_theta"]) for name, kind in
              (("rope_theta", "hybrid"), ("rope_theta_sliding", "hybrid_sliding")) if kind in theirs.rope_parameters}
    return ZayaConfig(**{name: getattr(theirs, name) for name in same}, partial_rotary_factor=shares.pop(), **thetas)


def config_to_transformers(config: ZayaConfig):
    """Our config as a `transformers.ZayaConfig`. Raises ValueError for an ablation, which the released model lacks."""
    from transformers import ZayaConfig as Theirs

    fields = config.to_dict()
    for name, released in (("num_convs", 2), ("qk_mean", True), ("value_shift", True), ("router", "mlp"),
                           ("eda", True), ("residual_scaling", True)):
        if fields.pop(name) != released:
            raise ValueError(f"transformers' ZAYA has no {name}={getattr(config, name)!r}: only the released form")
    share = fields.pop("partial_rotary_factor")
    ropes = {kind: {"rope_type": "default", "rope_theta": fields.pop(name), "partial_rotary_factor": share}
             for kind, name in (("hybrid", "rope_theta"), ("hybrid_sliding", "rope_theta_sliding"))}
    return Theirs(**fields, rope_parameters=ropes)


def from_transformers(theirs) -> Zaya:
    """A `transformers.ZayaForCausalLM` -> `Zaya` with the same weights (copied), type and device."""
    weight = next(theirs.parameters())
    model = Zaya(config_from_transformers(theirs.config)).to(weight.device, weight.dtype)
    model.load_state_dict(unrename(theirs.state_dict()))
    return model.train(theirs.training)


def to_transformers(model: Zaya):
    """`Zaya` -> a `transformers.ZayaForCausalLM` with the same weights, bit for bit. Needs `transformers`."""
    from transformers import ZayaForCausalLM

    theirs = ZayaForCausalLM(config_to_transformers(model.config)).to(model.embed.weight.device)
    # trap: theirs.to(torch.bfloat16) would also round the rotary tables and the balancing biases, which are float32.
    # Assigning copies lets every tensor bring its own type.
    weights = {name: tensor.clone() for name, tensor in rename(model.state_dict(), model.config).items()}
    theirs.load_state_dict(weights, assign=True)
    theirs.tie_weights()
    return theirs.train(model.training)
