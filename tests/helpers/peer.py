"""The released model as a peer: random `transformers` models of every shape, and the tools to compare with them.

A comparison is worth what its weights are worth. Fresh `transformers` weights have zero key temperature, zero biases
and unit scales, so most mistakes cancel there. Here every parameter and every balancing bias is random.
"""

import random
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import patch

import torch
from torch import Tensor
from transformers import ZayaConfig as PeerConfig
from transformers import ZayaForCausalLM
from transformers.models.zaya import modeling_zaya

import minizaya as mz

ROTARY = [(4, 0.5), (8, 0.25), (6, 1.0), (8, 0.75), (12, 0.5), (4, 1.0), (16, 0.25)]  # head_dim, share that RoPE turns
SMALL = {4: 1e-2, 9: 1e-3, 14: 1e-4, 19: 1e-2, 24: 1e-3, 29: 1e-4, 34: 1e-4}   # seed: size of its stream
VANISHING = (14, 29)   # of those, the ones whose queries and keys are as short as the epsilon that guards their norm
FEEDS_STREAM = ("embed_tokens", "input_hidden_states_bias", "o_proj", "experts.down_proj", "hidden_states_bias",
                "residual_bias", "gate.down_proj")   # what makes the stream and the router's state large or small
FEEDS_HEADS = ("q_proj.", "k_proj.", "conv_qk_depthwise.bias", "conv_qk_grouped.bias")
SEEDS = range(36)


@dataclass
class Case:
    """One model and one batch: `peer` in evaluation mode, tokens int64 (b, t), mask bool (b, t), False is padding."""

    peer: ZayaForCausalLM
    tokens: Tensor
    mask: Tensor

    @property
    def our_mask(self) -> Tensor | None:
        """The mask for our model: None when nothing is padded, so that the path without a mask is tried too."""
        return None if self.mask.all() else self.mask

    @property
    def padding(self) -> int:
        """The longest left padding of the batch."""
        return int((~self.mask).sum(1).max())


def peer_config(seed: int, **changes) -> PeerConfig:
    """The `seed`-th small configuration. Sizes walk through their ranges, switches are drawn."""
    draw = random.Random(seed)
    kv_heads, group = 1 + seed % 4, 1 + seed // 4 % 3
    head_dim, share = ROTARY[seed % len(ROTARY)]
    layers = 1 + seed % 5 % 4
    ropes = {"hybrid": {"rope_type": "default", "rope_theta": draw.choice([5e6, 1e4, 100.0])},
             "hybrid_sliding": {"rope_type": "default", "rope_theta": draw.choice([1e4, 30.0])}}
    for rope in ropes.values():
        rope["partial_rotary_factor"] = share
    fields = dict(
        vocab_size=draw.choice([17, 31, 50]), hidden_size=draw.choice([20, 24, 32]), num_hidden_layers=layers,
        num_attention_heads=kv_heads * group, num_key_value_heads=kv_heads, head_dim=head_dim,
        num_experts=1 + seed % 8, moe_intermediate_size=draw.choice([5, 8, 12]),
        router_hidden_size=draw.choice([6, 16]),
        cca_time0=1 + seed % 3, cca_time1=1 + seed // 3 % 3, rope_parameters=ropes,
        layer_types=[draw.choice(["hybrid", "hybrid_sliding"]) for _ in range(layers)], sliding_window=1 + seed % 6,
        attention_bias=draw.random() < 0.4, lm_head_bias=draw.random() < 0.4, tie_word_embeddings=draw.random() < 0.6,
        rms_norm_eps=draw.choice([1e-5, 1e-6]), pad_token_id=draw.choice([0, 0, 3, None]),
        bos_token_id=1, eos_token_id=2)
    return PeerConfig(**fields | changes)


@torch.no_grad()
def randomise(peer: ZayaForCausalLM, seed: int) -> None:
    """Draws every parameter and every balancing bias.

    For the seeds of `SMALL` the stream is small beside sqrt(rms_norm_eps), and so is the router's state: there the
    epsilons decide. For those of `VANISHING` a head is about as long as finfo.eps, where a clamp and a sum differ most.
    """
    draw = torch.Generator().manual_seed(seed)
    for name, parameter in peer.named_parameters():
        spread = 0.3 if parameter.dim() > 1 else 1.0
        if "router_mlp" in name:
            spread = 0.8   # scores far apart, so that different tokens choose different experts
        if seed in SMALL and any(part in name for part in FEEDS_STREAM):
            spread *= SMALL[seed]
        if seed in VANISHING and any(part in name for part in FEEDS_HEADS):
            spread = torch.finfo(parameter.dtype).eps
        parameter.copy_(torch.randn(parameter.shape, generator=draw, dtype=torch.float64) * spread)
    for name, buffer in peer.named_buffers():
        if name.endswith("balancing_biases"):
            buffer.copy_(torch.randn(buffer.shape, generator=draw, dtype=torch.float64) * 0.2)


def make_peer(seed: int, dtype: torch.dtype = torch.float64, **changes) -> ZayaForCausalLM:
    """The `seed`-th random peer, in evaluation mode.

    trap: `peer.bfloat16()` would also round the rotary frequencies and the balancing biases, which a loaded checkpoint
    keeps in float32. So only its parameters change type, except in float64, where nothing is lost.
    """
    peer = ZayaForCausalLM(peer_config(seed, **changes)).eval()
    peer.set_experts_implementation("eager")   # its grouped experts refuse float64
    if dtype == torch.float64:
        peer = peer.double()
    else:
        for parameter in peer.parameters():
            parameter.data = parameter.data.to(dtype)
    randomise(peer, seed)
    return peer


def make_case(seed: int, dtype: torch.dtype = torch.float64, **changes) -> Case:
    """A random peer and a batch of 1..3 rows of 1..17 tokens, of which every second batch is left-padded."""
    peer = make_peer(seed, dtype, **changes)
    draw = torch.Generator().manual_seed(1000 + seed)
    batch, steps = 1 + seed % 3, (13, 7, 17, 1, 9, 11, 2)[seed % 7]
    tokens = torch.randint(0, peer.config.vocab_size, (batch, steps), generator=draw)
    mask = torch.ones(batch, steps, dtype=torch.bool)
    if seed % 2:
        for row in range(batch):
            mask[row, : min(2 * row + (batch == 1), steps - 1)] = False
    return Case(peer, tokens, mask)


def ours_from(peer: ZayaForCausalLM, backend: str) -> mz.Zaya:
    """Our model with the peer's weights. `hub` builds the fast one; the reference takes its state."""
    fast = mz.hub.from_transformers(peer)
    if backend == "fast":
        return fast
    reference = mz.Zaya(fast.config, backend=backend).to(fast.embed.weight.dtype)
    reference.load_state_dict(fast.state_dict())
    return reference.train(fast.training)


# ---- float32 islands -------------------------------------------------------------------------------------------------


def wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def norm_in_wide(self, x: Tensor) -> Tensor:
    h = x.to(wide(x.dtype))
    h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
    return self.weight * h.to(x.dtype)


@torch.no_grad()
def rotary_in_wide(self, x: Tensor, position_ids: Tensor, layer_type: str) -> tuple[Tensor, Tensor]:
    frequencies = getattr(self, f"{layer_type}_inv_freq").to(wide(x.dtype))
    angles = position_ids[..., None].to(frequencies.dtype) * frequencies
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


@contextmanager
def islands_lifted(peer: ZayaForCausalLM):
    """Inside, the peer is float64 throughout; outside, it is as released.

    The released code casts to float32 in three places whatever the model's type: RMSNorm, the rotary tables and the
    embedding merge. Each loses half of float64's digits. Here all three compute in at least float32 instead.
    """
    model, embedded = peer.model, []

    def keep(module, args, output):
        embedded[:] = [output]

    def merge_again(layer, args):
        x = (embedded[0] + model.input_hidden_states_bias) * model.input_hidden_states_scale
        return (x.to(wide(x.dtype)), *args[1:])

    hooks = [model.embed_tokens.register_forward_hook(keep),
             model.layers[0].register_forward_pre_hook(merge_again)]
    with patch.object(modeling_zaya.ZayaRMSNorm, "forward", norm_in_wide), \
            patch.object(modeling_zaya.ZayaRotaryEmbedding, "forward", rotary_in_wide):
        try:
            yield peer
        finally:
            for hook in hooks:
                hook.remove()


# ---- running and comparing -------------------------------------------------------------------------------------------


@dataclass
class PeerOutput:
    """logits (b, t, vocab); routes int64 (b, t, layers), num_experts = skip; probs (layers, b, t, num_experts + 1)."""

    logits: Tensor
    routes: Tensor
    probs: Tensor
    cache: object


def run_peer(peer: ZayaForCausalLM, tokens: Tensor, mask: Tensor | None = None, **kwargs) -> PeerOutput:
    """The peer's forward pass, with what its routers decided. mask: bool (b, past + t)."""
    seen = []
    hooks = [layer.mlp.gate.register_forward_hook(lambda module, args, out: seen.append(out))
             for layer in peer.model.layers]
    try:
        attention_mask = None if mask is None else mask.long()
        out = peer(tokens, attention_mask=attention_mask, **kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    skip = peer.config.num_experts
    # trap: the peer reports a skipped token as expert 0 with weight exactly 0
    routes = [torch.where(gates == 0, skip, index).view(tokens.shape) for _, gates, index, _ in seen]
    probs = [logits.softmax(-1).view(*tokens.shape, skip + 1) for logits, _, _, _ in seen]
    return PeerOutput(out.logits, torch.stack(routes, -1), torch.stack(probs), out.past_key_values)


def relative(ours: Tensor, theirs: Tensor, mask: Tensor | None = None) -> float:
    """Largest difference over the largest value; with a mask (b, t), over unpadded tokens only."""
    if mask is not None:
        ours, theirs = ours[mask], theirs[mask]
    assert ours.shape == theirs.shape and ours.isfinite().all() and theirs.isfinite().all()
    return float((ours.double() - theirs.double()).abs().max() / theirs.double().abs().max())
