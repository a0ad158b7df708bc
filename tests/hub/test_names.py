"""Every name of the original layout, one by one, and where a shard ends.

A round trip proves that names are different, not that they are right: two of them exchanged would come back as well.
"""

import json

import pytest
import torch

import minizaya as mz
from minizaya.hub import shards
from minizaya.hub.names import pieces
from minizaya.train.checkpoint import model_state

CONFIG = mz.ZayaConfig.preset("nano", vocab_size=31, hidden_size=12, num_hidden_layers=2, num_attention_heads=4,
                              head_dim=4, num_experts=2, moe_intermediate_size=5, router_hidden_size=6, pad_token_id=0,
                              bos_token_id=1, eos_token_id=2, tie_word_embeddings=False, attention_bias=True,
                              lm_head_bias=True)
EXPERTS = "zaya_block.experts.local_experts."
# ours, inside a layer -> the original's: which half-layer after 2 * layer, and the names in it from the first row on
LAYER = {
    "attention_norm.weight": (0, "input_norm.weight"),
    "attention.temperature": (0, "self_attn.qkv.temp"),
    "attention.down_proj.weight": (0, "self_attn.qkv.linear_q.weight", "self_attn.qkv.linear_k.weight",
                                   "self_attn.qkv.val_proj1.weight", "self_attn.qkv.val_proj2.weight"),
    "attention.down_proj.bias": (0, "self_attn.qkv.linear_q.bias", "self_attn.qkv.linear_k.bias",
                                 "self_attn.qkv.val_proj1.bias", "self_attn.qkv.val_proj2.bias"),
    "attention.conv_depthwise.weight": (0, "self_attn.qkv.conv_qk.0.weight"),
    "attention.conv_depthwise.bias": (0, "self_attn.qkv.conv_qk.0.bias"),
    "attention.conv_grouped.weight": (0, "self_attn.qkv.conv_qk.1.weight"),
    "attention.conv_grouped.bias": (0, "self_attn.qkv.conv_qk.1.bias"),
    "attention.up_proj.weight": (0, "self_attn.o_proj.weight"),
    "attention.up_proj.bias": (0, "self_attn.o_proj.bias"),
    "attention_merge.output_scale": (1, "res_scale.hidden_states_scale"),
    "attention_merge.output_bias": (1, "res_scale.hidden_states_bias"),
    "attention_merge.residual_scale": (1, "res_scale.residual_scale"),
    "attention_merge.residual_bias": (1, "res_scale.residual_bias"),
    "moe_norm.weight": (1, "input_norm.weight"),
    "router.eda_scale": (1, "zaya_block.router.router_states_scale"),
    "router.balancing_bias": (1, "zaya_block.router.balancing_biases"),
    "router.down_proj.weight": (1, "zaya_block.router.down_proj.weight"),
    "router.down_proj.bias": (1, "zaya_block.router.down_proj.bias"),
    "router.mlp.norm.weight": (1, "zaya_block.router.rmsnorm_eda.weight"),
    "router.mlp.fc1.weight": (1, "zaya_block.router.router_mlp.0.weight"),
    "router.mlp.fc1.bias": (1, "zaya_block.router.router_mlp.0.bias"),
    "router.mlp.fc2.weight": (1, "zaya_block.router.router_mlp.2.weight"),
    "router.mlp.fc2.bias": (1, "zaya_block.router.router_mlp.2.bias"),
    "router.mlp.out_proj.weight": (1, "zaya_block.router.router_mlp.4.weight"),
    "experts.gate_up_proj": (1, EXPERTS + "0.linear_fc1.weight", EXPERTS + "1.linear_fc1.weight"),
    "experts.down_proj": (1, EXPERTS + "0.linear_fc2.weight", EXPERTS + "1.linear_fc2.weight"),
    "moe_merge.output_scale": (2, "res_scale.hidden_states_scale"),
    "moe_merge.output_bias": (2, "res_scale.hidden_states_bias"),
    "moe_merge.residual_scale": (2, "res_scale.residual_scale"),
    "moe_merge.residual_bias": (2, "res_scale.residual_bias"),
}
TOP = {"embed.weight": "model.embed_tokens.weight", "embed_scale": "model.layers.0.res_scale.hidden_states_scale",
       "embed_bias": "model.layers.0.res_scale.hidden_states_bias", "norm.weight": "model.final_norm.weight",
       "head.weight": "lm_head.weight", "head.bias": "lm_head.bias"}


def test_every_name_of_the_original_layout():
    wanted = {ours: [theirs] for ours, theirs in TOP.items()}
    for layer in (0, 1):
        for ours, (stage, *theirs) in LAYER.items():
            home = f"model.layers.{2 * layer + stage}" if 2 * layer + stage < 4 else "model"
            wanted[f"layers.{layer}.{ours}"] = [f"{home}.{name}" for name in theirs]
    del wanted["layers.0.router.eda_scale"]     # the first layer has no router below it
    state = model_state(mz.Zaya(CONFIG))
    found = {name: [piece.name for piece in pieces(name, tuple(tensor.shape), CONFIG, "original")]
             for name, tensor in state.items()}
    assert found == wanted


@pytest.mark.parametrize("layout", shards.LAYOUTS)
def test_a_shard_is_full_and_not_fuller(tmp_path, layout):
    """The next tensor would not have fitted; one that is larger than a shard has a shard of its own."""
    model = mz.Zaya(CONFIG)
    sizes = {piece.name: piece.of(tensor).nbytes for name, tensor in model_state(model).items()
             for piece in pieces(name, tuple(tensor.shape), CONFIG, layout)}
    half = sum(list(sizes.values())[: len(sizes) // 2])
    for most in (half, half - 1, 3000):
        folder = shards.save(model, tmp_path / str(most), layout, shard_bytes=most)
        index = json.loads((folder / shards.INDEX).read_text())["weight_map"]
        files = [[name for name in index if index[name] == file] for file in dict.fromkeys(index.values())]
        assert [name for names in files for name in names] == list(sizes)
        weights = [sum(sizes[name] for name in names) for names in files]
        assert all(weight <= most or len(names) == 1 for weight, names in zip(weights, files))
        assert all(weight + sizes[after[0]] > most for weight, after in zip(weights, files[1:]))
    assert torch.equal(shards.load(folder).embed.weight, model.embed.weight)
