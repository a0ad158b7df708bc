"""The released model's code, `transformers`' ZayaForCausalLM, under the laws: whole as a black box, and part by part.

    python examples/transformers_zaya.py

The weights are random, every one of them: fresh weights are zeros and ones, behind which most mistakes hide.
"""

import torch
from torch import nn
from transformers import ZayaConfig, ZayaForCausalLM
from transformers.models.zaya import modeling_zaya as released

from minizaya import laws
from minizaya.laws import adapt

TOL = 1e-5     # the released code rounds to float32 in three places of a layer, whatever the type of the model


def model(**changes) -> ZayaForCausalLM:
    """A tiny one in float64, every weight and bias drawn; `changes` are fields of its config."""
    ropes = {kind: {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5}
             for kind in ("hybrid", "hybrid_sliding")}
    sizes = dict(vocab_size=17, hidden_size=12, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                 head_dim=4, num_experts=3, moe_intermediate_size=6, router_hidden_size=6, sliding_window=3,
                 layer_types=["hybrid", "hybrid_sliding"], rope_parameters=ropes)
    made = ZayaForCausalLM(ZayaConfig(**sizes | changes)).double().eval()
    made.set_experts_implementation("eager")     # its grouped experts refuse float64
    return drawn(made)


@torch.no_grad()
def drawn(made: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    for value in made.parameters():
        value.copy_(0.5 * torch.randn(value.shape, generator=generator, dtype=torch.float64))
    return made


def whole(examples: int | None = None, **changes) -> laws.Findings:
    """The black-box laws of a model with these changes; packed: position_ids that start anew, as transformers packs."""
    return laws.causal_lm(adapt.transformers(model(**changes), packed=True), tol=TOL, examples=examples)


# ---- part by part ----------------------------------------------------------------------------------------------------

merge = adapt.module(
    lambda output, *others: released.ZayaResidualScaling(output.shape[-1]),
    {"hidden_states_scale": 2, "hidden_states_bias": 3, "residual_scale": 4, "residual_bias": 5})


def qk_norm(q, k, temperature):
    config = ZayaConfig(num_key_value_heads=len(temperature), num_attention_heads=q.shape[2], head_dim=q.shape[3])
    part = released.ZayaQKNorm(config)
    return torch.func.functional_call(part, {"temp": temperature}, (q, k))


def rope(x, angles):
    cos, sin = (torch.cat([part, part], -1)[None, :, 0] for part in angles)     # (1, t, r)
    return released.apply_rotary_pos_emb(x, x, cos, sin, unsqueeze_dim=2)[0]


def attention(q, k, v, mask=None):
    """Over heads before tokens, with a mask that is added."""
    part = nn.Module().eval()
    part.num_key_value_groups = q.shape[1] // k.shape[1]
    t, s = q.shape[2], k.shape[2]
    seen = torch.ones(t, s, dtype=torch.bool).tril(s - t) if mask is None else mask
    added = torch.zeros(seen.shape, dtype=q.dtype).masked_fill(~seen, float("-inf"))
    return released.eager_attention_forward(part, q, k, v, added, q.shape[-1] ** -0.5)[0].transpose(1, 2)


def experts(x, routes, gates, gate_up, down):
    config = ZayaConfig(hidden_size=x.shape[1], num_experts=len(gate_up), moe_intermediate_size=down.shape[2])
    part = released.ZayaExperts(config).to(x.dtype)
    part.config._experts_implementation = "eager"
    weights = {"gate_up_proj": gate_up, "down_proj": down}
    return torch.func.functional_call(part, weights, (x, routes[:, None], gates[:, None]))


def norm(x, weight, eps):
    part = released.ZayaRMSNorm(len(weight), eps)
    return torch.func.functional_call(part, {"weight": weight}, (x,))


PARTS = {"residual.merge": merge, "residual.identity": merge, "residual.bias_first": merge, "residual.rms_norm": norm,
         "residual.rms_epsilon": norm, "cca.qk_norm": qk_norm, "cca.qk_norm_tiny": qk_norm,
         "cca.score_bound": qk_norm, "cca.rope": rope, "cca.rope_length": rope,
         "cca.attention": adapt.layout(attention, "bhtd"), "cca.gqa_contiguous": adapt.layout(attention, "bhtd"),
         "experts.dispatch": experts, "experts.skip_zero": experts, "experts.expert_order": experts,
         "experts.gradients": experts}


def parts(examples: int | None = None) -> dict[str, laws.Verdict]:
    return {name: laws.judge(name, fn, tol=TOL, examples=examples) for name, fn in PARTS.items()}


if __name__ == "__main__":
    for about, changes in (("as released", {}), ("with attention_bias", {"attention_bias": True}),
                           ("a window of one token", {"sliding_window": 1})):
        print(f"\n{about}\n{whole(**changes)}")
    print("\npart by part", *parts().values(), sep="\n")
