"""A checkpoint folder of random weights, to page from."""

import torch

import minizaya as mz
from minizaya.hub import shards
from minizaya.laws.strategies import randomise

SMALL = dict(vocab_size=300, hidden_size=20, num_hidden_layers=3, num_attention_heads=4, head_dim=6,
             partial_rotary_factor=1 / 3, num_experts=5, moe_intermediate_size=9, router_hidden_size=7, pad_token_id=0,
             bos_token_id=1, eos_token_id=2)
CONFIG = mz.ZayaConfig.preset("nano", **SMALL)


def written(folder, config=CONFIG, layout="minizaya", dtype=torch.bfloat16, seed=3):
    return shards.save(randomise(mz.Zaya(config), seed).float().to(dtype), folder, layout, shard_bytes=30_000)
